"""`smtpproxy shadows`: how often shadow servers differed from the real ones."""

from __future__ import annotations

from argparse import Namespace

from smtpproxy.cli.asking import ask
from smtpproxy.cli.wording import counted, harmless

NONE_DIFFERED, SOME_DIFFERED, ERROR = 0, 1, 2

PATIENCE = 10.0  # seconds


def run(options: Namespace) -> int:
    """0 where no shadow differed, 1 where one did, 2 where nobody could be asked."""
    answer = ask(options, "shadows", PATIENCE)
    if answer is None:
        return ERROR
    for each in answer["shadows"]:
        asked = counted(each["asked"], "recipient")
        skipped = each.get("not_asked")  # an older program does not count them
        not_asked = f", {skipped} not asked" if skipped else ""
        said = f"asked of {asked}, {each['differed']} differed{not_asked}"
        print(f"{harmless(each['shadow'])}: {said}")
    if not answer["shadows"]:
        print("no shadow was asked since the start")
    differed = any(each["differed"] for each in answer["shadows"])
    return SOME_DIFFERED if differed else NONE_DIFFERED
