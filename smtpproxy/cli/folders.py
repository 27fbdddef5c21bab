"""Whether there is room for what smtpproxy makes when it starts: its log file and its sockets."""

from __future__ import annotations

import os
from pathlib import Path

from smtpproxy.config import Config
from smtpproxy.faults import Fault

BOOTED = Path("/run/systemd/system")  # is there where systemd runs; sd_booted(3)
OURS = (Path("/run/smtpproxy"), Path("/var/log/smtpproxy"))
"""What our unit has systemd make before each start."""


def unwritable_log(config: Config) -> list[Fault]:
    """Why the log file cannot be opened: smtpproxy would not start."""
    name = config.log.file
    if not name:
        return []
    file = Path(name)
    if not file.exists():
        text = _no_room(file)
    elif file.is_dir():
        text = "is a folder: name a file"
    else:
        text = "" if os.access(file, os.W_OK) else "this user may not write to it"
    return [Fault(f"{config.place('log', 'file')}: {name}", text)] if text else []


def unwritable_sockets(config: Config) -> list[Fault]:
    """Why Unix sockets cannot be made by the user who asks, who need not be that of smtpproxy."""
    sockets = [(config.place("control"), config.control)]
    if config.http.listen is not None:
        sockets.append((config.place("http", "listen"), config.http.listen.path))
    for number, listener in enumerate(config.listeners):
        sockets.append((config.place("listeners", number, "listen"), listener.listen.path))
    told = [(f"{place}: {path}", _no_room(Path(path))) for place, path in sockets if path]
    return [Fault(place, text) for place, text in told if text]


def _no_room(file: Path) -> str:
    """Why `file` cannot be made in its folder, "" where it can."""
    folder = file.parent
    if not folder.is_dir():
        ours = folder in OURS and BOOTED.is_dir()
        return "" if ours else f"there is no folder {folder}: make it"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"this user may not write in {folder}"
    return ""
