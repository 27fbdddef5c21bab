"""Where it ran: what the figures hang on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from bench.rivals import Rival


def about(rivals: Iterable[Rival]) -> dict[str, str]:
    """Machine and versions, for people."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "processor": f"{os.cpu_count()} \u00d7 {_processor()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB",
        "system": f"{_system()}, Linux {platform.release().partition('-')[0]}",
        "Postfix": _postfix(),
        **{rival.name: rival.missing or rival.version for rival in rivals},
    }


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _postfix() -> str:
    try:
        command = ["postconf", "-dh", "mail_version"]  # -d: the defaults, whatever main.cf says
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()  # noqa: S603
    except OSError:
        return "not installed"
