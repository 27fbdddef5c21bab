"""`smtpproxy upstream`: has a server drain, puts it in maintenance, or enables it again."""

from __future__ import annotations

from argparse import Namespace

from smtpproxy.cli.asking import ask
from smtpproxy.cli.wording import harmless

SAID, CONCERNS_NONE, ERROR = 0, 1, 2

PATIENCE = 10.0  # seconds

_STANDINGS = {"drain": "drain", "maintenance": "maintenance", "enable": "enabled"}
_SAID = {
    "drain": "drains: no new connections; sessions that have one go on with it",
    "maintenance": "is in maintenance: no new messages; those in hand go on to their end",
    "enabled": "is enabled",
}


def run(options: Namespace) -> int:
    """0 where it is said, 1 where no known upstream is meant by it, 2 where nobody heard it."""
    standing = _STANDINGS[options.action]
    answer = ask(options, "upstream", PATIENCE, standing=standing, name=options.name)
    if answer is None:
        return ERROR
    name, said = harmless(answer["name"]), _SAID[answer["standing"]]
    if not answer["upstreams"]:
        near = f": did you mean {harmless(answer['near'])}?" if answer.get("near") else ""
        print(f"no upstream that is known has {name}{near}")
        print(f"  one that comes up later {said}")
        if answer["standing"] != "enabled":
            print(f"  smtpproxy upstream enable {name} takes that back")
        return CONCERNS_NONE
    print(f"{name} {said}")
    for upstream in answer["upstreams"]:
        print(f"  upstream {harmless(upstream)}")
    return SAID
