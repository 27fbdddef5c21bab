"""`smtpproxy reload`: has the running program read its files now."""

from __future__ import annotations

from argparse import Namespace

from smtpproxy.cli.asking import ask
from smtpproxy.cli.wording import harmless

TAKEN, NOT_TAKEN, ERROR = 0, 1, 2

PATIENCE = 600.0  # seconds for all files to be read

_HINT = (
    "SIGHUP has the files read too, as by systemctl reload smtpproxy; "
    "only --force needs the control socket"
)


def run(options: Namespace) -> int:
    """0 where all files were taken, 1 where one was not, 2 where nobody could be asked."""
    answer = ask(options, "reload", PATIENCE, _HINT, force=options.force)
    if answer is None:
        return ERROR
    for line in answer["lines"]:
        print(harmless(line))
    if not answer["lines"]:
        print("no mapping has a file of rows; what databases said is forgotten")
    return TAKEN if answer["taken"] else NOT_TAKEN
