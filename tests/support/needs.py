"""What a test needs of the machine, and what to do when it is not there."""

from __future__ import annotations

import os
import shutil

import pytest

# The tests run as any user, whose PATH may lack the folders of the system's programs.
os.environ["PATH"] += ":/usr/sbin:/sbin"

_PACKAGES = {
    "dovecot": "dovecot-lmtpd",
    "man": "man-db",
    "ip": "iproute2",
    "mariadb": "mariadb-client-core",
    "mariadb-install-db": "mariadb-server-core",
    "mariadbd": "mariadb-server-core",
    "smtp-sink": "postfix",
    "smtp-source": "postfix",
}


def need(*programs: str, root: bool = False) -> None:
    """Skip the test, with a line that says what to install, unless all is there.

    Fail it instead where CI or REQUIRE_INTEGRATION is set in the environment.
    """
    packages = [_PACKAGES.get(name, name) for name in programs if shutil.which(name) is None]
    if packages:
        missing(f"needs {', '.join(programs)}: apt-get install {' '.join(packages)}")
    if root and os.getuid() != 0:
        missing(f"needs root, to start a private {' '.join(programs)}")


def missing(text: str) -> None:
    """Skip the test, or fail it where everything has to run."""
    if os.environ.get("CI") or os.environ.get("REQUIRE_INTEGRATION"):
        pytest.fail(text, pytrace=False)
    pytest.skip(text)
