"""What there is at which path, and who may have it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from time import monotonic
from typing import Any, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from smtpproxy.control import ControlError
from smtpproxy.metrics import CONTENT_TYPE, exposition
from smtpproxy.tasks import start
from smtpproxy.values import value
from smtpproxy.web.access import Access
from smtpproxy.web.page import lookup_page, status_page

FRESH = 1.0  # seconds for which an answer is given to all who ask

TEXT, HTML, JSON = "text/plain; charset=utf-8", "text/html; charset=utf-8", "application/json"

log = Logger()


class Ask(Protocol):
    """Asks the running program, as through its control socket; raises `ControlError`."""

    def __call__(self, command: str, /, **members: Any) -> Awaitable[Mapping[str, Any]]: ...


@value
class Answer:
    body: bytes
    kind: str = TEXT
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Path = Callable[[Any], Awaitable[Answer]]  # given twisted.web's request, which has no types


class Denied(Exception):
    """The request is not for whoever makes it; `answer` says so."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def refusal(status: int, text: str, **headers: str) -> Answer:
    return Answer(f"{text}\n".encode(), status=status, headers=headers)


class Paths(Resource):
    """All of them.  `access` may be another one later."""

    isLeaf = True

    def __init__(self, ask: Ask, access: Access) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.access = access
        self._ask = ask
        self._fresh: dict[str, tuple[float, Answer]] = {}
        self._read: Mapping[str, Path] = {
            "/": self._page,
            "/status.json": self._status,
            "/metrics": self._metrics,
            "/lookup": self._lookup,
            "/lookup.json": self._lookup_json,
        }
        self._open: Mapping[str, Path] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }
        self._changes: Mapping[str, frozenset[str]] = {
            "/reload": frozenset({"force"}),
            "/upstream": frozenset({"standing", "name"}),
        }

    def render(self, request: Any) -> int:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)
        start(self._serve(request, gone)).addErrback(
            lambda failure: log.failure("an answer by HTTP failed", failure=failure)
        )
        return NOT_DONE_YET

    async def _serve(self, request: Any, gone: list[Failure]) -> None:
        try:
            answer = await self._answer(request)
        except Denied as denied:
            answer = denied.answer
        except ControlError as error:
            answer = refusal(503, str(error))
        except Exception:
            log.failure("an answer by HTTP failed")
            answer = refusal(500, "a fault of smtpproxy: its log has more")
        if gone:
            return
        request.setResponseCode(answer.status)
        request.setHeader("server", "smtpproxy")
        request.setHeader("content-type", answer.kind)
        request.setHeader("content-length", str(len(answer.body)))
        for name, text in answer.headers.items():
            request.setHeader(name.replace("_", "-"), text)
        if request.method != b"HEAD":
            request.write(answer.body)
        request.finish()

    async def _answer(self, request: Any) -> Answer:
        host = request.getHeader("host")
        if host is not None and not self.access.named(host):
            raise Denied(refusal(421, "not asked for by this name: see http.hosts"))
        path = request.path.decode("ascii", "replace")
        authorization = request.getHeader("authorization") or ""
        if path in self._changes:
            return await self._change(request, path, authorization)
        found = self._open.get(path) or self._read.get(path)
        if found is None:
            return refusal(404, "there is nothing here")
        if request.method not in (b"GET", b"HEAD"):
            return refusal(405, "only GET and HEAD", allow="GET, HEAD")
        if path in self._read and not self.access.may_read(authorization):
            challenge = 'Basic realm="smtpproxy: the token is the password", charset="UTF-8"'
            return refusal(401, "the token is needed", www_authenticate=challenge)
        return await found(request)

    # What is read.

    async def _page(self, request: Any) -> Answer:
        async def make() -> Answer:
            return Answer(await status_page(await self._report()), HTML)

        return await self._shared("page", make)

    async def _status(self, request: Any) -> Answer:
        async def make() -> Answer:
            return _json(await self._report())

        return await self._shared("status", make)

    async def _metrics(self, request: Any) -> Answer:
        async def make() -> Answer:
            return Answer(exposition(await self._ask("metrics")), CONTENT_TYPE)

        return await self._shared("metrics", make)

    async def _lookup(self, request: Any) -> Answer:
        address = _argument(request, "address").strip()
        try:
            said = await self._ask("lookup", address=address)
        except ControlError as error:
            return Answer(await lookup_page(address, None, str(error)), HTML, 400)
        return Answer(await lookup_page(address, said, ""), HTML)

    async def _lookup_json(self, request: Any) -> Answer:
        try:
            return _json(await self._ask("lookup", address=_argument(request, "address").strip()))
        except ControlError as error:
            return _json({"error": str(error)}, 400)

    async def _healthz(self, request: Any) -> Answer:
        """The process is alive, and its loop turns."""
        return Answer(b"ok\n")

    async def _readyz(self, request: Any) -> Answer:
        """Clients are let in; not while it stops."""

        async def make() -> Answer:
            said = await self._ask("status")
            if said["ready"]:
                return Answer(b"ready\n")
            return refusal(503, "stopping" if said["stopping"] else "not listening")

        return await self._shared("readyz", make)

    async def _report(self) -> Mapping[str, Any]:
        return {**await self._ask("status"), **await self._ask("upstreams")}

    async def _shared(self, name: str, make: Callable[[], Awaitable[Answer]]) -> Answer:
        """One answer for all who ask within a second: nobody can keep the program busy by it."""
        made = self._fresh.get(name)
        if made is None or monotonic() - made[0] >= FRESH:
            made = self._fresh[name] = monotonic(), await make()
        return made[1]

    # What is changed.

    async def _change(self, request: Any, path: str, authorization: str) -> Answer:
        """A command with members in a form or a JSON object, by whoever has the token."""
        if request.method != b"POST":
            return refusal(405, "only POST", allow="POST")
        if not self.access.token:
            return refusal(403, "nothing can be changed here: http.token is not set")
        if not self.access.may_change(authorization):
            return refusal(401, "the token is needed", www_authenticate="Bearer")
        members = _members(request)
        if not members.keys() <= self._changes[path]:
            return refusal(400, f"it takes these: {', '.join(sorted(self._changes[path]))}")
        try:
            return _json(await self._ask(path[1:], **members))
        except ControlError as error:
            return _json({"error": str(error)}, 400)
        finally:
            self._fresh.clear()  # who asks now is to see it


def _argument(request: Any, name: str) -> str:
    values: list[bytes] = (request.args or {}).get(name.encode(), [b""])
    return values[0].decode("utf-8", "replace")


def _members(request: Any) -> dict[str, Any]:
    """What stands in the body; raises `Denied` where that is no object."""
    if "json" not in (request.getHeader("content-type") or ""):
        names = [name.decode("utf-8", "replace") for name in request.args or {}]
        found: dict[str, Any] = {name: _argument(request, name) for name in names}
        return {**found, "force": found["force"] == "true"} if "force" in found else found
    try:
        said = json.loads(request.content.read() or b"{}")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise Denied(refusal(400, "the body is no JSON object"))
    return said


def _json(said: Mapping[str, Any], status: int = 200) -> Answer:
    return Answer(json.dumps(said, indent=1).encode() + b"\n", JSON, status)
