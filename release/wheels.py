"""Wheels: those of the dependencies, each known by its hash, and our own."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "release" / "requirements.txt"  # what is installed
TOOLS = ROOT / "release" / "requirements-tools.txt"  # setuptools makes our wheel, pip installs it

EXTRAS = ("redis",)  # of setup.cfg, which the tarball has, too
PYTHONS = ("3.11", "3.12", "3.13")  # CPython; install.sh looks for the same
MACHINES = ("x86_64", "aarch64")
GLIBC = ("2_28", "2_17")  # at most the first: RHEL 8 has it, Debian 12 is newer

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_SOURCE = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


class NotMade(Exception):
    """The release cannot be made; the text says why."""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pinned(requirements: Path) -> set[str]:
    """The hashes that are asked for."""
    return set(_HASH.findall(requirements.read_text(encoding="utf-8")))


def pip(*arguments: str | Path, env: dict[str, str] | None = None) -> None:
    """Raises `NotMade` with what pip says."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(  # noqa: S603  # our own words
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env
    )
    if done.returncode:
        raise NotMade(f"pip {arguments[0]} failed:\n{done.stderr or done.stdout}")


def targets() -> Iterable[Sequence[str]]:
    """pip's options for each Python on each machine."""
    for machine in MACHINES:
        platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in GLIBC]
        for python in PYTHONS:
            yield [f"--python-version={python}", "--implementation=cp", *platforms]


def fetch(requirements: Path, cache: Path) -> list[Path]:
    """The files with the hashes in `requirements`, by name; the network is asked for what `cache`
    lacks."""
    cache.mkdir(parents=True, exist_ok=True)
    wanted = pinned(requirements)
    if missing(wanted, cache):
        for options in targets():
            chosen = ("--no-deps", "--only-binary=:all:", "--require-hashes", *options)
            pip("download", *chosen, f"--dest={cache}", "--requirement", requirements)
    if lost := missing(wanted, cache):
        raise NotMade(f"{requirements}: no wheel has these hashes: {', '.join(sorted(lost))}")
    return sorted(path for path in cache.glob("*.whl") if sha256(path) in wanted)


def missing(wanted: set[str], cache: Path) -> set[str]:
    return wanted - {sha256(path) for path in cache.glob("*.whl")}


def own_wheel(folder: Path, builders: Sequence[Path], epoch: int) -> Path:
    """Our own wheel, in `folder`, made by nothing but `builders`; its files are of `epoch` (seconds
    since 1970).

    It is made of a copy: what an earlier build left in the source must not get into it.
    """
    with tempfile.TemporaryDirectory() as name:
        source, tools = Path(name, "source"), Path(name, "tools")
        _copy_source(source)
        tools.mkdir()
        for each in builders:
            shutil.copy(each, tools)
        pip(
            *("wheel", "--no-deps", "--no-index", "--no-cache-dir"),
            *(f"--find-links={tools}", f"--wheel-dir={folder}", source),
            env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)},
        )
    (wheel,) = folder.glob("smtpproxy-*.whl")
    return wheel


def _copy_source(to: Path) -> None:
    to.mkdir()
    for name in _SOURCE:
        shutil.copy(ROOT / name, to)
    shutil.copytree(
        ROOT / "smtpproxy", to / "smtpproxy", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    plugins = to / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    shutil.copy(ROOT / "twisted" / "plugins" / "smtpproxy_plugin.py", plugins)
    for path in to.rglob("*"):  # whatever umask the checkout was made with
        path.chmod(0o755 if path.is_dir() else 0o644)
