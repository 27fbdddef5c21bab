"""What a process holds, by the kernel's account."""

from __future__ import annotations

import os
from pathlib import Path


def held(pid: int | None = None) -> tuple[int, int]:
    """Octets of memory in use now, and at most since the start (or since `forget_peak`)."""
    lines = Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    now, most = (int(sizes[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most
