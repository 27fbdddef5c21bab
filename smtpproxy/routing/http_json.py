"""The dialect of our own: parameters in the query, and a row in JSON.

A request is `GET /route?recipient=alice%40example.com&sender=...`, and an answer
`{"server": "mx.example.net:25", "tls_verify": true}`, with any further column of `rows`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smtpproxy.routing.answers import Question, Row
from smtpproxy.routing.http import Asked
from smtpproxy.routing.http_client import Response
from smtpproxy.routing.keys import address_key
from smtpproxy.routing.rows import COLUMNS, BadRow, parse_row

_OK = 200
_NOBODY = (204, 404)
_REDIRECTS = range(300, 400)


class JsonDialect:
    """Each column of a row is a field of the answer; without a server there is no route."""

    def ask(self, question: Question) -> Asked:
        """Addresses are as all keys are: in lower case, their domain in ASCII.

        What is not known is left out, so that `sender=` is the null reverse-path.
        """
        parameters = {"recipient": address_key(question.recipient)}
        if question.sender is not None:
            parameters["sender"] = address_key(question.sender)
        if question.client is not None:
            parameters["client"] = question.client.peer.address
            parameters["helo"] = question.client.helo
        return Asked(parameters, {"Accept": "application/json"})

    def read(self, response: Response) -> Row | None:
        if response.status in _NOBODY:
            return None
        if response.status != _OK:
            hint = "; redirects are not followed" if response.status in _REDIRECTS else ""
            raise ValueError(f"its answer has status {response.status}{hint}")
        fields = {name: _text(name, value) for name, value in _object(response.body).items()}
        if not fields.get("server", "").strip():
            return None
        try:
            return parse_row(fields)
        except BadRow as error:
            raise ValueError(f"its answer is not right: {error}") from None


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its answer is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("its answer is not an object in JSON")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two servers none is the right one."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _text(name: str, value: object) -> str:
    """The field as a row in a file would have it."""
    if name not in COLUMNS:
        raise ValueError(f"its answer has the unknown field {name!r}; known: {', '.join(COLUMNS)}")
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) and name == "tls_verify":
        return "true" if value else "false"
    if isinstance(value, int) and not isinstance(value, bool) and name in ("percent", "tls_verify"):
        return str(value)
    raise ValueError(f"its answer has a {name} of the wrong type; it is for {COLUMNS[name]}")
