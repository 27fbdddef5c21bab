"""`smtpproxy lookup`: which upstream a recipient's mail goes to, and why.

The running program is asked, since it knows what is in force and in its caches; else the
files and databases themselves are.  It starts fast, since scripts ask it often.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

from smtpproxy.chain import Loop, open_chain
from smtpproxy.cli import explaining
from smtpproxy.cli.waiting import wait_for
from smtpproxy.cli.wording import complain
from smtpproxy.config import Config, config_file, load, load_control
from smtpproxy.explain import explained, recipient_of
from smtpproxy.request import ControlError, NobodyAnswers, request
from smtpproxy.smtp.paths import Path

FOUND, NO_ROUTE, ERROR = 0, 1, 2

PATIENCE = 30.0  # seconds for the running program to answer

STATUS = {"found": FOUND, "no_route": NO_ROUTE, "refused": NO_ROUTE, "try_again": ERROR}


def run(options: Namespace) -> int:
    """0 for a route, 1 for none, 2 where the mappings cannot say."""
    try:
        recipient = recipient_in(options.address)
    except ValueError as error:
        complain(f"{options.address!r} {error}")
        return ERROR
    file = config_file(options.config, os.environ)
    try:
        said = _asked(file, recipient, options.offline)
    except ControlError as error:
        complain(f"the running program does not look it up: {error}; --offline does without it")
        return ERROR
    status = STATUS[said["answer"]]
    if options.json:
        print(json.dumps(said, indent=2))
    else:
        _print(said)
    if status == ERROR:
        complain(explaining.outcome(said))
    return status


def recipient_in(text: str) -> Path:
    """The recipient that an administrator means; angle brackets, as in a log, may be around it.

    Raises `ValueError` with what `text` is instead.
    """
    text = text.strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    return recipient_of(text)


def _asked(file: FilePath, recipient: Path, offline: bool) -> dict[str, Any]:
    """The plain values, and who gave them: `answered_by` "program" or "files", `because`.

    A running program answers whatever the configuration says by now; else that is to be right.
    """
    if offline:
        because = "--offline"
    elif not (control := load_control(file, os.environ)):
        because = "control is not set"
    else:
        try:
            said = request(FilePath(control), "lookup", PATIENCE, address=str(recipient))
            return {**said, "answered_by": "program", "because": ""}
        except NobodyAnswers as error:
            because = str(error)
    config = load(file, os.environ)
    said = wait_for(config, lambda loop: _explained(config, recipient, loop))
    return {**said, "answered_by": "files", "because": because}


async def _explained(config: Config, recipient: Path, loop: Callable[[], Loop]) -> dict[str, Any]:
    chain = open_chain(config, loop)
    try:
        return explained(await chain.router.explain(recipient))
    finally:
        chain.stop()


def _print(said: dict[str, Any]) -> None:
    if said["answered_by"] == "program":
        print("answered by the running program")
    else:
        print(f"answered by the files and databases themselves ({said['because']})")
    for line in explaining.steps(said):
        print(line)
    if said["answer"] != "try_again":
        print(explaining.outcome(said))
    if said["answer"] == "found":
        for line in explaining.details(said):
            print(line)
