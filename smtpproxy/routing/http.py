"""The mapping that asks a web service: one GET for each recipient.

What is asked and how the answer is read is a `Dialect`'s (`http_json`, `http_nginx`);
`http_client` gets it there and back.  An answer may depend on sender and client, so none
is remembered here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.routing.answers import (
    Answer,
    Found,
    NoRoute,
    Question,
    Refused,
    Route,
    Row,
    TryAgain,
)
from smtpproxy.routing.http_client import Response, WebService
from smtpproxy.routing.http_url import Url
from smtpproxy.values import value

TIMEOUT = 5.0
"""Seconds for a look-up: to wait for a free connection, to connect, to ask, and to read."""

CONNECTIONS = 10
"""Look-ups under way at once; a further one waits for its turn."""

_SHOWN = 300  # characters of what is wrong, since the service has its part in it


@value
class Asked:
    """What a request says: the parameters of its query, and its headers.

    Parameters may hold any text; headers hold printable ASCII alone.
    """

    parameters: Mapping[str, str]
    headers: Mapping[str, str]


class Dialect(Protocol):
    """What is spoken with a service.  Pure: no state, no waiting."""

    def ask(self, question: Question) -> Asked:
        """The request."""

    def read(self, response: Response) -> Row | Refused | None:
        """The row, or None where there is none; `ValueError` where it is no answer."""


class HttpMapping:
    """Asks the service at `url`, and adds `headers` to each request.

    All that goes wrong, and an answer not there in time, is `TryAgain`.  `context`, of
    `tls.client_context`, is needed for https, whose certificate must always verify.
    """

    lists_all = False

    def __init__(
        self,
        name: str,
        url: Url,
        dialect: Dialect,
        reactor: Any,
        deadlines: Deadlines,
        context: SSL.Context | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        connections: int = CONNECTIONS,
    ) -> None:
        self.name = name
        self._server = str(url)
        self._dialect = dialect
        self._service = WebService(url, reactor, context, timeout, connections)
        self._deadlines = deadlines
        self._headers = {"User-Agent": "smtpproxy", **(headers or {})}
        self._timeout = timeout

    def keys(self, question: Question) -> tuple[str, ...]:
        """The address, or `postmaster`: the service knows what belongs together."""
        return question.keys[:1]

    async def lookup(self, question: Question) -> Answer:
        keys = self.keys(question)
        if not keys:
            return NoRoute()
        try:
            asked = self._dialect.ask(question)
            work = self._service.get(asked.parameters, {**self._headers, **asked.headers})
            said = self._dialect.read(await self._deadlines.limit(work, self._timeout))
        except CancelledError:  # by whoever waits for this; a deadline's would be `TimedOut`
            raise
        except TimedOut as error:
            return TryAgain(f"{self._server}: no answer within {error.seconds:g} s")
        except Exception as error:
            return TryAgain(f"{self._server}: {str(error)[:_SHOWN]}")
        if isinstance(said, Row):
            route = Route(said, self.name, keys[0])
            return Found(route) if said.is_for(question) else NoRoute((route,))
        return said or NoRoute()

    def listed(self) -> Iterable[Row]:
        """None that it could name without being asked."""
        return ()

    def close(self) -> Deferred[None]:
        """Close the connections that nothing is asked over; fires once they are closed."""
        return self._service.close()
