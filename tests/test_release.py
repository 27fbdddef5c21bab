"""The tarball, and the programs in it that install.sh runs on the machine."""

from __future__ import annotations

import configparser
import io
import os
import re
import runpy
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from release import wheels
from release.host import ports, service_user, smoke
from release.tarball import _files, example, packed, source_date_epoch
from smtpproxy import __version__
from smtpproxy.config import load
from tests.support.certificates import Authority
from tests.support.layers import ROOT
from tests.support.machine import Machine
from tests.support.needs import missing, need
from tests.support.ports import free_port
from tests.support.processes import Process, greeting

# The tarball.


def test_the_same_files_make_the_same_bytes():
    contents = {"b": b"2", "a": b"1", "install.sh": b"#!/bin/sh\n"}
    made = packed("folder", contents, 1_790_000_000)
    assert made == packed("folder", dict(reversed(contents.items())), 1_790_000_000)
    with tarfile.open(fileobj=io.BytesIO(made)) as tar:
        found = [(each.name, each.uid, each.mtime, each.mode) for each in tar]
    names = ["folder/SHA256SUMS", "folder/a", "folder/b", "folder/install.sh"]
    assert found == [
        (name, 0, 1_790_000_000, 0o755 if name.endswith(".sh") else 0o644) for name in names
    ]


def test_the_time_of_it_can_be_given(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    assert source_date_epoch() == 1_790_000_000


def test_the_example_has_a_control_socket(tmp_path):
    (tmp_path / "smtpproxy.toml").write_bytes(example())
    assert str(load(tmp_path / "smtpproxy.toml", {}).control) == "/run/smtpproxy/control"


def test_every_page_that_a_file_of_the_tarball_names_is_in_it():
    contents = dict(_files())
    for name, octets in contents.items():
        if name.startswith(("etc/", "contrib/")) or name == "README.md":
            for page in re.findall(r"(?<![\w./])docs/[\w-]+\.md", octets.decode(errors="replace")):
                assert page in contents, name
    for page in [name for name in contents if name.startswith("docs/")]:
        for other in re.findall(r"\]\(([\w-]+\.\w+)[#)]", contents[page].decode(errors="replace")):
            assert f"docs/{other}" in contents, page
    assert {"docs/failures.md", "docs/logs.md"} <= set(contents)
    assert "docs/conf.py" not in contents


def pins(file):
    return dict(re.findall(r"^([\w.-]+)==(\S+)", file.read_text(), re.MULTILINE))


def test_all_that_is_needed_is_pinned():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    texts = [parser["options"]["install_requires"]]
    texts += [parser["options.extras_require"][each] for each in wheels.EXTRAS]
    found = pins(wheels.REQUIREMENTS)
    for line in "\n".join(texts).splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, least = line.strip().partition(">=")
            assert name in found
            assert numbers(found[name]) >= numbers(least or "0"), line


def numbers(version):
    return [int(each) for each in re.findall(r"\d+", version)]


def test_a_wheel_with_another_hash_is_not_taken(tmp_path):
    pinned = tmp_path / "requirements.txt"
    pinned.write_text("thing==1 --hash=sha256:" + "0" * 64 + "\n")
    (tmp_path / "thing-1-py3-none-any.whl").write_bytes(b"another")
    assert wheels.missing(wheels.pinned(pinned), tmp_path) == {"0" * 64}


# The real one, installed.


@pytest.fixture(scope="module")
def tarball():
    """The one that `make release` makes of these sources."""
    file = ROOT / "dist" / f"smtpproxy-{__version__}.tar.gz"
    sources = [*ROOT.glob("smtpproxy/**/*.py"), *ROOT.glob("release/**/*.*"), ROOT / "install.sh"]
    newest = max(each.stat().st_mtime for each in sources if "__pycache__" not in each.parts)
    if not file.exists() or file.stat().st_mtime < newest:
        made = subprocess.run(["make", "release"], cwd=ROOT, capture_output=True, text=True)
        if made.returncode:
            missing(f"needs `make release`, which failed:\n{made.stdout}{made.stderr}")
    return file


@pytest.mark.timeout(600)  # with what the tarball is made of, from the network
def test_the_tarball_installs_and_takes_mail(tarball, tmp_path):
    need("unshare", root=True)
    machine = Machine(tmp_path / "machine", systemd=False)
    subprocess.run(["tar", "-xzf", tarball, "-C", tmp_path], check=True, timeout=60)
    script = tmp_path / f"smtpproxy-{__version__}" / "install.sh"
    # Without network.
    said = machine.run(
        script, shell=("unshare", "-n", "sh", "-c", 'ip link set lo up; sh "$@"', "-")
    )
    assert said.status == 0, said.text
    assert "STARTTLS with a certificate of its own making: TLSv1.3" in said.text

    config = machine.root / "etc/smtpproxy/smtpproxy.toml"
    port = free_port()
    config.write_text(config.read_text().replace('listen = ":25"', f'listen = "127.0.0.1:{port}"'))
    python = machine.root / "opt/smtpproxy/current/bin/python"
    twistd = "from twisted.scripts.twistd import run; run()"
    command: list[str | Path] = [
        python,
        "-I",
        "-c",
        twistd,
        "-n",
        "--pidfile=",
        "smtpproxy",
        "--config",
        config,
    ]
    with Process(command, tmp_path / "log") as proxy:
        proxy.wait_for(lambda: greeting(port).startswith(b"220"), "its greeting")
    assert "/smtpproxy/releases/" in machine.read("opt/smtpproxy/current/bin/smtpproxy")


# By ssh.

_SSH = """#!/bin/sh
# No network: the command is run here.
[ "$1" != -T ] || shift
echo "ssh $1" >>"$LOG"
shift
exec sh -c "$*"
"""
_SCP = """#!/bin/sh
echo "scp $3" | sed 's|:.*||' >>"$LOG"
exec cp "$2" "${3#*:}"
"""


@pytest.fixture
def by_ssh(tmp_path):
    """install-on, with an ssh that goes nowhere; install.sh of its tarball says what it gets."""
    machine = Machine(tmp_path / "machine", systemd=False)
    machine.program("ssh", _SSH)
    machine.program("scp", _SCP)
    machine.program("id", "#!/bin/sh\necho ${REMOTE_ID:-0}\n")
    machine.program("sudo", '#!/bin/sh\necho sudo\nexec "$@"\n')
    script = b'printf "<%s>" "$@"; echo; exit ${REMOTE_STATUS:-0}\n'
    (tmp_path / "smtpproxy-9.tar.gz").write_bytes(packed("smtpproxy-9", {"install.sh": script}, 0))
    (tmp_path / "remote").mkdir()

    def run(*options: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                ROOT / "release/install-on",
                "admin@mx.example.net",
                tmp_path / "smtpproxy-9.tar.gz",
                *options,
            ],
            env={
                "PATH": f"{machine.programs}:/usr/bin:/bin",
                "LOG": str(tmp_path / "log"),
                "TMPDIR": str(tmp_path / "remote"),
                **more,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=20,
        )

    return run


def test_install_on_another_host(by_ssh, tmp_path):
    done = by_ssh("--dry-run", "--root", "/a 'b' $c")
    assert done.returncode == 0, done.stdout
    assert done.stdout == "<--dry-run><--root></a 'b' $c>\n"
    log = (tmp_path / "log").read_text().splitlines()
    assert log == [
        "ssh admin@mx.example.net",
        "scp admin@mx.example.net",
        "ssh admin@mx.example.net",
    ]
    assert not list((tmp_path / "remote").iterdir())


def test_install_on_another_host_by_sudo(by_ssh):
    assert by_ssh(REMOTE_ID="1000").stdout.startswith("sudo\n")


def test_install_on_another_host_says_how_it_ended(by_ssh, tmp_path):
    assert by_ssh(REMOTE_STATUS="1").returncode == 1
    assert not list((tmp_path / "remote").iterdir())


def test_make_install_wants_a_host():
    done = subprocess.run(
        ["make", "install", "TARGET_HOST="], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert "make install TARGET_HOST=" in done.stdout


# As the service.


def test_variables_of_the_environment_file():
    text = (
        "# comment\n; too\nA=1\n B = two words \nC=\"quoted # text\"\nD='x'\nE=\nnothing\nF=a=b\n"
    )
    assert service_user.variables(text) == {
        "A": "1",
        "B": "two words",
        "C": "quoted # text",
        "D": "x",
        "E": "",
        "F": "a=b",
    }


def as_service(user, file, *command):
    script = service_user.__file__
    return subprocess.run(
        [sys.executable, "-I", script, user, file, *command],
        env={"PATH": os.environ["PATH"], "SMTPPROXY_DOMAIN": "ours.test", "TMPDIR": "/root"},
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_a_command_has_the_environment_of_the_service(tmp_path):
    file = tmp_path / "environment"
    file.write_text("SMTPPROXY_BARE_NEWLINE=reject\n")
    said = as_service("", file, "env").stdout
    assert "SMTPPROXY_BARE_NEWLINE=reject" in said
    assert "SMTPPROXY_DOMAIN" not in said
    assert "TMPDIR" not in said


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_a_command_is_run_by_the_user_of_the_service():
    assert as_service("nobody", "/nonexistent", "id", "-un").stdout == "nobody\n"


# Ports.


def configuration(folder, *addresses, more=""):
    file = folder / "smtpproxy.toml"
    listeners = "".join(f'[[listeners]]\nlisten = "{each}"\n{more}' for each in addresses)
    mapping = '[[mappings]]\ntype = "static"\nserver = "192.0.2.1"\n'
    file.write_text(f'domain = "mx.example.net"\n{listeners}{mapping}')
    return file


def test_the_owner_of_a_port_is_named(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f":{port}"):
            assert ports.main(configuration(tmp_path, address), "/opt/smtpproxy") == 1
            assert f"port {port} on 127.0.0.1 is held by" in (said := capsys.readouterr().out)
            assert f"(pid {os.getpid()})" in said


def test_an_ipv6_port(tmp_path, capsys):
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("needs IPv6 on this machine")
    with taken:
        port = taken.getsockname()[1]
        assert ports.main(configuration(tmp_path, f"[::1]:{port}"), "/opt/smtpproxy") == 1
        assert f"port {port} on ::1 is held by" in capsys.readouterr().out


def test_ports_that_are_free_and_addresses_that_are_not_ours_to_ask(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = (f"127.0.0.2:{port}", "unix:/run/x", "systemd:mx", f"127.0.0.1:{free_port()}")
        assert ports.main(configuration(tmp_path, *addresses), "/opt/smtpproxy") == 0
    assert capsys.readouterr().out == ""


def test_what_runs_from_our_folder_is_ours(tmp_path, capsys):
    program = "import socket, sys; s = socket.create_server(('127.0.0.1', 0));"
    program += "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, "/opt/smtpproxy/current/bin/twistd"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        port = int(child.stdout.readline())
        file = configuration(tmp_path, f"127.0.0.1:{port}")
        assert ports.main(file, "/opt/smtpproxy") == 0
        assert ports.main(file, "/opt/another") == 1
        child.communicate(b"")


# TLS.


def test_the_smoke_test_speaks_tls_with_the_site_s_certificate(tmp_path, capsys):
    certificate = Authority(tmp_path).certificate("mx.example.net")
    more = f'tls_cert = "{certificate.chain}"\ntls_key = "{certificate.key}"\n'
    assert smoke.main(configuration(tmp_path, ":25", more=more)) == 0
    assert capsys.readouterr().out == f"STARTTLS with {certificate.chain}: TLSv1.3\n"


def test_the_smoke_test_makes_a_certificate_where_there_is_none(tmp_path, capsys):
    assert smoke.main(configuration(tmp_path, ":25")) == 0
    assert "a certificate of its own making: TLSv1.3" in capsys.readouterr().out


def test_the_smoke_test_fails_with_what_cannot_be_used(tmp_path, capsys):
    (tmp_path / "cert.pem").write_text("nothing\n")
    more = 'tls_cert = "cert.pem"\ntls_key = "cert.pem"\n'
    assert smoke.main(configuration(tmp_path, ":25", more=more)) == 1
    assert "cert.pem" in capsys.readouterr().err


def test_a_wrong_word_for_the_release(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["release", "frobnicate"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("release", run_name="__main__")
    assert ended.value.code == 2
