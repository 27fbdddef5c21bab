"""Asking the running program through its control socket, as `smtpproxy reload` does.

What can be asked is in `control`; this side needs no reactor.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any


class ControlError(Exception):
    """A request that cannot be carried out; the text says why."""


class NobodyAnswers(ControlError):
    """There is no program to carry it out, or none that talks to us."""


def request(path: Path, command: str, seconds: float, **members: Any) -> dict[str, Any]:
    """Ask the program that listens at `path`; waits up to `seconds` in all.

    Raises `ControlError` where it refuses, `NobodyAnswers` where it does not run or answer.
    """
    line = json.dumps({"command": command, **members}).encode() + b"\n"
    try:
        answer = json.loads(_exchange(path, line, monotonic() + seconds))
    except OSError as error:
        raise NobodyAnswers(_wording(path, error, seconds)) from None
    except ValueError:
        raise NobodyAnswers(f"{path}: the answer was cut short") from None
    if not isinstance(answer, dict) or "ok" not in answer:
        raise NobodyAnswers(f"{path}: whatever answers there is not smtpproxy")
    if not answer.pop("ok"):
        raise ControlError(str(answer.get("error", "refused")))
    return answer


def follow(path: Path, command: str, seconds: float, **members: Any) -> Iterator[dict[str, Any]]:
    """As `request`, for a command whose answer goes on: each object of it, as it comes.

    `seconds` are those until the first one; it ends when the program does.
    """
    line = json.dumps({"command": command, **members}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(seconds)
            connection.connect(str(path))
            connection.sendall(line)
            with connection.makefile("rb") as lines:
                begun = json.loads(lines.readline() or b"{}")
                if not (isinstance(begun, dict) and begun.get("ok")):
                    said = isinstance(begun, dict) and begun.get("error")
                    error = ControlError if said else NobodyAnswers
                    raise error(str(said or f"{path}: whatever answers there is not smtpproxy"))
                connection.settimeout(None)
                for each in lines:
                    yield json.loads(each)
        except OSError as error:
            raise NobodyAnswers(_wording(path, error, seconds)) from None
        except ValueError:
            raise NobodyAnswers(f"{path}: the answer was cut short") from None


def _wording(path: Path, error: OSError, seconds: float) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return f"{path}: smtpproxy does not run, or has no control socket"
    if isinstance(error, TimeoutError):
        return f"{path}: no answer within {seconds:g} s"
    return f"{path}: {error.strerror or error}"


def _exchange(path: Path, line: bytes, until: float) -> bytes:
    """Send `line`, and give all that comes until the other side closes."""
    answer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _wait_until(connection, until)
        connection.connect(str(path))
        connection.sendall(line)
        while True:
            _wait_until(connection, until)
            if not (data := connection.recv(65536)):
                return bytes(answer)
            answer += data


def _wait_until(connection: socket.socket, until: float) -> None:
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
