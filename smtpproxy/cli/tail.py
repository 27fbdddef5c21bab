"""`smtpproxy tail`: the dialogues of sessions, while they go on."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smtpproxy.cli.asking import control_of
from smtpproxy.cli.wording import complain, counted, harmless
from smtpproxy.request import ControlError, follow

ALL, SOME_LOST, ERROR = 0, 1, 2

PATIENCE = 10.0  # seconds for the first answer

Line = Mapping[str, Any]


def run(options: Namespace) -> int:
    """0 once the program has stopped, 1 where lines were lost, 2 where nobody could be asked."""
    control = control_of(options)
    if control is None:
        return ERROR
    lost = 0
    try:
        for line in _lines(Path(control), options):
            lost += line.get("lost", 0)
            if options.json:
                print(json.dumps(line), flush=True)
            elif "lost" in line:
                complain(f"{counted(line['lost'], 'line')} lost: more is said than is read here")
            else:
                print(_text(line), flush=True)
    except ControlError as error:
        complain(str(error))
        return ERROR
    return SOME_LOST if lost else ALL


def _lines(control: Path, options: Namespace) -> Any:
    return follow(
        control,
        "tail",
        PATIENCE,
        client=options.client or "",
        recipient=options.recipient or "",
        upstream=options.upstream or "",
        redact=options.redact,
    )


def _text(line: Line) -> str:
    """`12:01:07.250 06F1… mail.example.com[192.0.2.7] C: EHLO mail.example.com`."""
    seconds = line["time"]
    clock = time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1000):03}"
    who = line["who"]
    if not who:
        said = f"-- {line['client']} {line['text']}"
    elif "upstream" in line:
        said = f"{who}: {line['text']}  ({_place(line)})"
    else:
        said = f"{who}: {line['text']}"
    return f"{clock} {line['session']} {harmless(said)}"


def _place(line: Line) -> str:
    server, address = line["server"], line["address"]
    return f"{server} at {address}" if address and address not in server else str(server)
