"""What is in the tarball, and the tarball: the same bytes from the same files."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from release.wheels import REQUIREMENTS, ROOT, TOOLS, NotMade, fetch, own_wheel, sha256

Contents = Mapping[str, bytes]  # by name in the tarball's one folder

# Where nothing is said, nobody can talk to the running program; on a server, root can.
NO_CONTROL, CONTROL = '\n#control = ""\n', '\ncontrol = "/run/smtpproxy/control"\n'

_EXECUTABLE = "install.sh"
_OLDEST = 315532800  # 1980, where the times in wheels begin


def make_tarball(cache: Path, to: Path) -> Path:
    """dist/smtpproxy-VERSION.tar.gz; `cache` has the wheels that were fetched before."""
    version = _version()
    epoch = source_date_epoch()
    with tempfile.TemporaryDirectory() as name:
        tools = fetch(TOOLS, cache)
        own = own_wheel(Path(name), tools, epoch)
        taken = [own, *fetch(REQUIREMENTS, cache), *(each for each in tools if _is_pip(each))]
        wheels = {path.name: path.read_bytes() for path in taken}
        requirements = REQUIREMENTS.read_text(encoding="utf-8")
        requirements += f"smtpproxy=={version} --hash=sha256:{sha256(own)}\n"
    contents = {
        **{f"wheels/{name}": octets for name, octets in wheels.items()},
        **dict(_files()),
        "requirements.txt": requirements.encode(),
        "VERSION": f"{version}\n".encode(),
        "etc/smtpproxy.toml": example(),
    }
    to.mkdir(exist_ok=True)
    tarball = to / f"smtpproxy-{version}.tar.gz"
    tarball.write_bytes(packed(f"smtpproxy-{version}", contents, epoch))
    return tarball


def example() -> bytes:
    """The annotated configuration, with a control socket: what a new installation begins with."""
    text = (ROOT / "etc" / "smtpproxy.toml").read_text(encoding="utf-8")
    if text.count(NO_CONTROL) != 1:
        raise NotMade("etc/smtpproxy.toml: the line of `control` is not as it was")
    return text.replace(NO_CONTROL, CONTROL).encode()


def packed(folder: str, contents: Contents, epoch: int) -> bytes:
    """A tar.gz with `contents` and their SHA256SUMS in one `folder`."""
    sums = "".join(
        f"{hashlib.sha256(octets).hexdigest()}  {name}\n"
        for name, octets in sorted(contents.items())
    )
    made = io.BytesIO()
    # The name and the time of a gzip file stand in it: neither does here.
    with (
        gzip.GzipFile(fileobj=made, mode="wb", filename="", mtime=0, compresslevel=6) as octets,
        tarfile.open(fileobj=octets, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, text in sorted({**contents, "SHA256SUMS": sums.encode()}.items()):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime = len(text), epoch
            member.mode = 0o755 if name == _EXECUTABLE else 0o644
            tar.addfile(member, io.BytesIO(text))
    return made.getvalue()


def source_date_epoch() -> int:
    """Seconds since 1970: SOURCE_DATE_EPOCH, else the last commit, else the newest file."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return max(int(given), _OLDEST)
    try:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)  # noqa: S603
    except (OSError, ValueError, subprocess.CalledProcessError):
        return int(max(path.stat().st_mtime for path in ROOT.glob("smtpproxy/**/*.py")))


def _files() -> Iterator[tuple[str, bytes]]:
    """What is taken as it is."""
    taken = [ROOT / name for name in ("install.sh", "LICENSE", "NEWS", "README.md")]
    taken += [path for top in ("etc", "contrib") for path in (ROOT / top).rglob("*")]
    for path in taken:
        if path.is_file():
            yield str(path.relative_to(ROOT)), path.read_bytes()
    for path in (ROOT / "docs").iterdir():
        if path.suffix in (".md", ".svg", ".png") and not path.name.startswith("man-"):
            yield f"docs/{path.name}", path.read_bytes()
    for path in (ROOT / "release" / "host").glob("*.py"):
        yield f"host/{path.name}", path.read_bytes()
    for path in (ROOT / "build" / "docs" / "man").glob("*.[1578]"):  # by `make docs`
        yield f"man/{path.name}", path.read_bytes()


def _is_pip(wheel: Path) -> bool:
    return wheel.name.startswith("pip-")


def _version() -> str:
    text = (ROOT / "smtpproxy" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise NotMade("smtpproxy/__init__.py: there is no __version__")
    return found[1]
