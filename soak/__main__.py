"""`python -m soak`: runs for so many seconds, prints a table, and exits 1 if anything is wrong."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

from soak.run import Soak, say
from soak.upstreams import missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 if anything was wrong, and then all files are kept."""
    asked = _asked(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is stopped that runs
    workers = f" SOAK_WORKERS={asked.workers}" if asked.workers > 1 else ""
    say(f"SOAK_SEED={asked.seed} SOAK_SECONDS={asked.seconds:g}{workers}, {asked.clients} clients")
    if why := missing():
        if os.environ.get("CI") or os.environ.get("REQUIRE_INTEGRATION"):
            raise SystemExit(f"the soak {why}")
        say(f"servers of our own in the place of Postfix and Exim: {why}")
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))  # a socket's path is short
    folder.chmod(0o755)  # servers have users of their own
    try:
        failed = Soak(folder, asked.seed, asked.seconds, asked.clients, asked.workers).run()
    except BaseException:
        say(f"not ended; what there is lies in {folder}")
        raise
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


def _asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m soak", description=main.__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=600, help="of load")
    add("--clients", type=int, default=40, help="at a time")
    add("--workers", type=int, default=1, help="of the proxy; some of them are killed")
    add("--seed", type=int, help="as an earlier run printed it")
    asked = parser.parse_args(arguments)
    if asked.seed is None:
        asked.seed = SystemRandom().randrange(10**6)
    return asked


if __name__ == "__main__":
    sys.exit(main())
