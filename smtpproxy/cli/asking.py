"""Asking the running program, and what to say where it does not answer."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from smtpproxy.cli.wording import complain
from smtpproxy.config import config_file, load
from smtpproxy.request import ControlError, request


def ask(
    options: Namespace, command: str, seconds: float, hint: str = "", **members: Any
) -> dict[str, Any] | None:
    """The answer; None where nobody could be asked, which then was said, with `hint` behind."""
    file = config_file(options.config, os.environ)
    config = load(file, os.environ)
    if not config.control:
        complain(
            f'{file}: control is not set: add control = "/run/smtpproxy/control" at the top, and '
            f"start smtpproxy anew. {hint}".rstrip()
        )
        return None
    try:
        return request(Path(config.control), command, seconds, **members)
    except ControlError as error:
        complain(f"{error}. {hint}".rstrip())
        return None
