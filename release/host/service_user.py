"""Runs a command as the service is run: its user, and the variables of its environment file.

    python3 service_user.py USER FILE COMMAND...

USER may be "" (whoever runs this), and FILE need not be there. Without rights to become that user,
the command is run as who runs this.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path


def variables(text: str) -> dict[str, str]:
    """Those of an EnvironmentFile= (systemd.exec(5)), without its escapes in quotes."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith(("#", ";")):
            continue
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name.strip()] = value
    return found


def main(user: str, file: str, *command: str) -> None:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": "/"}
    if Path(file).exists():
        environment |= variables(Path(file).read_text(encoding="utf-8"))
    if user and os.getuid() == 0:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    os.chdir("/")
    os.execvpe(command[0], command, environment)  # noqa: S606  # there is no shell in it


if __name__ == "__main__":
    main(*sys.argv[1:])
