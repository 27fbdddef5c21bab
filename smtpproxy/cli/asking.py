"""Asking the running program, and what to say where it does not answer."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from smtpproxy.cli.wording import complain
from smtpproxy.config import config_file, load_control
from smtpproxy.request import ControlError, NobodyAnswers, request


def control_of(options: Namespace, hint: str = "") -> str | None:
    """The control socket; None where there is none, which then was said, with `hint` behind.

    Whatever else the file says is for the running program to judge.
    """
    file = config_file(options.config, os.environ)
    if control := load_control(file, os.environ):
        return control
    complain(
        f'{file}: control is not set: add control = "/run/smtpproxy/control" at the top; '
        f"SIGHUP (systemctl reload smtpproxy) has it in force. {hint}".rstrip()
    )
    return None


def ask(
    options: Namespace, command: str, seconds: float, hint: str = "", **members: Any
) -> dict[str, Any] | None:
    """The answer; None where nobody could be asked, which then was said, with `hint` behind."""
    control = control_of(options, hint)
    if control is None:
        return None
    try:
        answer = request(Path(control), command, seconds, **members)
    except NobodyAnswers as error:
        complain(f"{error}. {hint}".rstrip())
        return None
    except ControlError as error:
        complain(str(error))
        return None
    for worker in answer.get("silent", ()):
        complain(f"{worker} does not answer: the others say this")
    return answer
