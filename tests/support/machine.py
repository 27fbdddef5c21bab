"""A machine in a folder, for install.sh: a root, a systemd that only says it does, and tarballs.

The tarballs have a small stand-in for smtpproxy and for pip, so that a release is built
in a moment; tests/test_release.py has the real ones.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from release.tarball import packed
from tests.support.layers import ROOT

OPT = "opt/smtpproxy"
EXAMPLE = "# the example of"  # a version

# A configuration is refused where it says so: "refused", "refused by 2.0".
_COMMAND = """
import sys
from smtpproxy import __version__
config = open(sys.argv[sys.argv.index("--config") + 1]).read()
refused = [line for line in config.splitlines() if line in ("refused", f"refused by {__version__}")]
print(*refused, sep=chr(10))
sys.exit(bool(refused))
"""
_SMOKE = """
import sys
config = open(sys.argv[1]).read()
sys.exit("handshake failed" if "no TLS" in config else print("STARTTLS works"))
"""
_PORTS = """
import sys
held = "held" in open(sys.argv[1]).read()
print("port 25 on 0.0.0.0 is held by master (pid 812)" if held else "")
sys.exit(held)
"""
# Takes what the real one is to be told, and holds the wheel to its hash.
_PIP = """
import hashlib, pathlib, sys, sysconfig, zipfile
arguments = sys.argv[1:]
assert {"--isolated", "install", "--no-index", "--require-hashes"} <= set(arguments), arguments
folder = pathlib.Path(arguments[arguments.index("--find-links") + 1])
text = open(arguments[arguments.index("--requirement") + 1]).read()
wheel, = folder.glob("smtpproxy-*.whl")
if hashlib.sha256(wheel.read_bytes()).hexdigest() not in text:
    sys.exit("pip: hashes do not match")
zipfile.ZipFile(wheel).extractall(sysconfig.get_path("purelib"))
script = pathlib.Path(sys.prefix, "bin", "twistd")
script.write_text(f"#!{sys.executable}\\n")
script.chmod(0o755)
"""
_SYSTEMCTL = """#!/bin/sh
# State is files: UNIT.active, UNIT.enabled; `failing` has the releases that do not get ready.
state=$(dirname "$0")/../state
echo "$*" >>"$state/log"
for last; do :; done
case $1 in
    is-active) [ -e "$state/$last.active" ] ;;
    is-enabled) [ -e "$state/$last.enabled" ] ;;
    enable) : >"$state/$last.enabled" ;;
    disable) rm -f "$state/$last.enabled" "$state/$last.active" ;;
    stop) rm -f "$state/$last.active" ;;
    restart)
        rm -f "$state/$last.active"
        release=$(basename "$(readlink "$ROOT/opt/smtpproxy/current")")
        ! grep -qsx "$release" "$state/failing" || exit 1
        : >"$state/$last.active" ;;
    show) cat "$state/pid" ;;
esac
"""


def _wheel(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # of 1980: the same bytes each time
    return made.getvalue()


def tarball(version: str, note: str = "") -> bytes:
    """A release of the stand-in; `note` makes it another one of that version."""
    own = _wheel(
        {
            "smtpproxy/__init__.py": f'__version__ = "{version}"\n# {note}\n',
            "smtpproxy/__main__.py": _COMMAND,
            "twisted/__init__.py": "",
            "twisted/plugin.py": "IPlugin = None\ndef getPlugins(interface): return []\n",
        }
    )
    contents = {
        "VERSION": f"{version}\n",
        "requirements.txt": f"smtpproxy=={version} --hash=sha256:{sha256(own).hexdigest()}\n",
        "etc/smtpproxy.toml": f"{EXAMPLE} {version}\n",
        "etc/mapping.csv": "pattern;server\n",
        "etc/mysql-schema.sql": "-- a table\n",
        "etc/systemd/smtpproxy.service": f"# unit of {version}\n",
        "etc/systemd/smtpproxy.socket": "# socket\n",
        "man/smtpproxy.8": f"manual of {version}\n",
        "docs/failures.md": f"failures of {version}\n",
        "install.sh": (ROOT / "install.sh").read_text(encoding="utf-8"),
        "host/service_user.py": (ROOT / "release/host/service_user.py").read_text(encoding="utf-8"),
        "host/smoke.py": _SMOKE,
        "host/ports.py": _PORTS,
    }
    octets = {name: text.encode() for name, text in contents.items()}
    octets[f"wheels/smtpproxy-{version}-py3-none-any.whl"] = own
    octets["wheels/pip-1.0-py3-none-any.whl"] = _wheel({"pip/__main__.py": _PIP})
    return packed(f"smtpproxy-{version}", octets, 0)


@dataclass(frozen=True, slots=True)
class Said:
    status: int
    text: str


class Machine:
    """`root` is the root of its file system, and `programs` come first in PATH."""

    def __init__(self, folder: Path, systemd: bool = True) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.programs = folder / "programs"
        self.state = folder / "state"
        for each in (self.root / "etc", self.root / "run", self.programs, self.state):
            each.mkdir(parents=True)
        (self.root / "etc/passwd").write_text(
            "smtpproxy:x:990:990::/:/usr/sbin/nologin\nroot:x:0:0::/:\n"
        )
        (self.root / "etc/group").write_text("smtpproxy:x:990:\nroot:x:0:\n")
        (self.programs / "python3").symlink_to(Path(sys.executable).resolve())
        self.program("journalctl", "#!/bin/sh\necho the journal\n")
        self.program("systemctl", _SYSTEMCTL)
        if systemd:
            (self.root / "run/systemd/system").mkdir(parents=True)

    def copy(self, folder: Path) -> Machine:
        """The same machine again, as far as it is."""
        shutil.copytree(self.folder, folder, symlinks=True)
        again = Machine.__new__(Machine)
        again.folder, again.root = folder, folder / "root"
        again.programs, again.state = folder / "programs", folder / "state"
        return again

    def program(self, name: str, text: str) -> None:
        file = self.programs / name
        file.write_text(text)
        file.chmod(0o755)

    def unpack(self, version: str, note: str = "") -> Path:
        """The folder of an unpacked tarball."""
        folder = self.folder / f"unpacked{note}"
        folder.mkdir(exist_ok=True)
        command = ["tar", "-xzf", "-", "-C", str(folder)]
        subprocess.run(command, input=tarball(version, note), check=True, timeout=20)
        return folder / f"smtpproxy-{version}"

    def run(self, script: Path, *options: str, shell: Sequence[str] = ("sh",)) -> Said:
        """install.sh, on this machine."""
        environment = {
            "PATH": f"{self.programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ROOT": str(self.root),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        }
        done = subprocess.run(
            [*shell, script, "--root", self.root, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            timeout=60,
        )
        return Said(done.returncode, done.stdout)

    def install(self, version: str, *options: str, note: str = "") -> Said:
        return self.run(self.unpack(version, note) / "install.sh", *options)

    def again(self, *options: str) -> Said:
        """The install.sh that was installed."""
        return self.run(self.root / OPT / "install.sh", *options)

    def configure(self, text: str = "edited\n") -> None:
        (self.root / "etc/smtpproxy").mkdir(exist_ok=True)
        (self.root / "etc/smtpproxy/smtpproxy.toml").write_text(text)

    def link(self, name: str) -> str:
        """The release that `current` or `previous` is, "" where there is none."""
        path = self.root / OPT / name
        return path.readlink().name if path.is_symlink() else ""

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def releases(self) -> set[str]:
        return {each.name for each in (self.root / OPT / "releases").iterdir()}

    def active(self) -> bool:
        return (self.state / "smtpproxy.service.active").exists()

    def enabled(self) -> bool:
        return (self.state / "smtpproxy.service.enabled").exists()

    def fail(self, *releases: str) -> None:
        """These do not get ready from now on."""
        (self.state / "failing").write_text("".join(f"{each}\n" for each in releases))

    def asked(self) -> list[str]:
        """What systemctl was told since the last time."""
        log = self.state / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def everything(self) -> dict[str, str]:
        """Each file and link of the machine, to see that nothing has changed."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_file() and "/lib/python" not in name:
                found[name] = sha256(path.read_bytes()).hexdigest()
        return found
