"""What `smtpproxy check` says on a machine that smtpproxy is not installed on."""

from __future__ import annotations


def without_folder(errors: str) -> str:
    """But for the folder that our unit has systemd make."""
    lines = errors.splitlines(keepends=True)
    return "".join(line for line in lines if "no folder /run/smtpproxy: make it" not in line)
