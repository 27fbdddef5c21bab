"""`smtpproxy reload`: has the running program read everything anew."""

from __future__ import annotations

from argparse import Namespace

from smtpproxy.cli.asking import ask
from smtpproxy.cli.wording import harmless

TAKEN, NOT_TAKEN, ERROR = 0, 1, 2

PATIENCE = 600.0  # seconds for all files to be read

_HINT = "If it runs, SIGHUP (systemctl reload smtpproxy) does the same, but for --force"


def run(options: Namespace) -> int:
    """0 where all of it was taken, 1 where nothing was, 2 where nobody could be asked."""
    answer = ask(options, "reload", PATIENCE, _HINT, force=options.force)
    if answer is None:
        return ERROR
    for line in answer["lines"]:
        print(harmless(line))
    return TAKEN if answer["taken"] else NOT_TAKEN
