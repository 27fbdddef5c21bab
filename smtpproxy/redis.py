"""A server of Redis or Valkey, as the store of what processes count together.

A client has one key there, a hash: a field for each process, with the sessions that it said it has
and until when that counts, and the field `minute`, with what all of them counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from txredisapi import RedisError, RedisFactory, RedisProtocol

from smtpproxy.store import LASTING, MINUTE, Known, News, Place, StoreFailed

OPEN_TIME = 2.0  # seconds for each step of connecting: TCP, logging in, choosing the database

# KEYS: the clients.  ARGV: this process, the seconds that its sessions count for, the seconds of a
# minute, and for each client its sessions here and the connections, messages and recipients to be
# added.  Gives for each client its sessions elsewhere, those three, and the milliseconds that are
# left of the minute.  Times are those of the server: the machines' own may differ.
_EXCHANGE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local me, lasting, minute = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local answer = {}
for n, key in ipairs(KEYS) do
  local at = 4 * n
  local elsewhere, ending, counts = 0, 0, {0, 0, 0}
  local fields = redis.call('HGETALL', key)
  for f = 1, #fields, 2 do
    local words = {}
    for word in string.gmatch(fields[f + 1], '%S+') do words[#words + 1] = tonumber(word) end
    if fields[f] == 'minute' then
      if words[1] > now then ending, counts = words[1], {words[2], words[3], words[4]} end
    elseif fields[f] ~= me then
      if words[1] > now then elsewhere = elsewhere + words[2]
      else redis.call('HDEL', key, fields[f]) end
    end
  end
  if tonumber(ARGV[at]) > 0 then
    redis.call('HSET', key, me, string.format('%.3f %d', now + lasting, ARGV[at]))
  else
    redis.call('HDEL', key, me)
  end
  local added = 0
  for c = 1, 3 do
    counts[c] = counts[c] + ARGV[at + c]
    added = added + ARGV[at + c]
  end
  if added > 0 then
    if ending == 0 then ending = now + minute end
    local text = string.format('%.3f %d %d %d', ending, counts[1], counts[2], counts[3])
    redis.call('HSET', key, 'minute', text)
  end
  redis.call('PEXPIRE', key, math.ceil(math.max(lasting, ending - now) * 1000))
  for _, each in ipairs({elsewhere, counts[1], counts[2], counts[3]}) do
    answer[#answer + 1] = each
  end
  answer[#answer + 1] = math.max(0, math.floor((ending - now) * 1000))
end
return answer
"""


class _Connection(RedisProtocol):  # type: ignore[misc]
    """One to the server, which says why it was lost."""

    def connectionLost(self, why: Failure) -> None:
        error = why.value
        if isinstance(error, VerificationError):
            self.factory.tls_fault = "TLS fails: the certificate is for another host"
        elif isinstance(error, SSL.Error):
            reasons = error.args[0] if error.args else ()
            self.factory.tls_fault = f"TLS fails: {'; '.join(each[-1] for each in reasons)}"
        super().connectionLost(why)


class _Connections(RedisFactory):  # type: ignore[misc]
    protocol = _Connection
    reconnect = False
    tls_fault = ""


class RedisStore:
    """A connection to the server at `place`; `me` names this process among all."""

    def __init__(self, reactor: Any, place: Place, me: str) -> None:
        self._reactor = reactor
        self._place = place
        self._first = (me, f"{LASTING:g}", f"{MINUTE:g}")
        self._factory: _Connections | None = None
        self._server: Any = None

    def __str__(self) -> str:
        return str(self._place)

    async def open(self) -> None:
        """Connect and log in; raises `StoreFailed`."""
        place = self._place
        self._factory = factory = _Connections(
            str(place),
            place.database or None,
            1,
            password=place.password or None,
            username=place.user or None,
            replyTimeout=OPEN_TIME,
        )
        factory.startConnecting(self._endpoint())
        try:
            self._server = await factory.deferred
        except ValueError as error:  # so it says whatever went wrong
            text = factory.tls_fault or str(error).removeprefix("Redis error: ")
            raise StoreFailed(text) from None

    async def exchange(self, news: Sequence[News]) -> list[Known]:
        """Tell of some clients, and hear of them; raises `StoreFailed`."""
        names = [f"smtpproxy:{each.client}" for each in news]
        numbers = [number for each in news for number in (each.sessions, *each.added)]
        try:
            said = await self._server.eval(_EXCHANGE, names, [*self._first, *numbers])
        except RedisError as error:
            assert self._factory is not None
            raise StoreFailed(self._factory.tls_fault or str(error)) from None
        rows = (said[at : at + 5] for at in range(0, len(said), 5))
        return [Known(row[0], (row[1], row[2], row[3]), row[4] / 1000) for row in rows]

    def close(self) -> None:
        """Be connected no more, at once."""
        factory, self._factory = self._factory, None
        if factory is not None:
            for connection in tuple(factory.pool):
                connection.transport.abortConnection()
            factory.disconnect()

    def _endpoint(self) -> Any:
        place = self._place
        if place.path:
            return UNIXClientEndpoint(self._reactor, place.path, OPEN_TIME)  # type: ignore[no-untyped-call]
        endpoint = HostnameEndpoint(self._reactor, place.host, place.port, timeout=OPEN_TIME)
        return wrapClientTLS(_options(place), endpoint, self._reactor) if place.tls else endpoint


def _options(place: Place) -> Any:
    """TLS whose certificate must verify."""
    if not place.authorities:
        return optionsForClientTLS(place.host)
    end = b"-----END CERTIFICATE-----"
    blocks = Path(place.authorities).read_bytes().split(end)[:-1]
    certificates = [Certificate.loadPEM(block + end) for block in blocks]
    trusted = trustRootFromCertificates(certificates)  # type: ignore[no-untyped-call]
    return optionsForClientTLS(place.host, trusted)
