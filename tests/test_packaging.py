"""What is installed is complete, and twistd finds it."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from smtpproxy.config import load, settings
from tests.support.layers import ROOT, imports
from tests.support.mariadb import PASSWORD, MariaDb
from tests.support.needs import need
from tests.support.ports import free_port
from tests.support.processes import short_folder


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def listed(section: str, option: str) -> set[str]:
    return set(setup_cfg()[section][option].split())


def test_every_package_is_listed():
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("smtpproxy/**/*.py")
    }
    assert listed("options", "packages") == folders | {"twisted.plugins"}


def test_every_folder_of_modules_is_a_package():
    for path in ROOT.glob("smtpproxy/**/*.py"):
        assert (path.parent / "__init__.py").exists(), f"{path.parent} lacks __init__.py"


def test_the_plugin_folder_stays_twisted_s_own():
    assert not list(ROOT.glob("twisted/**/__init__.py"))


def test_what_is_imported_is_declared():
    declared = {
        "OpenSSL": "pyopenssl",
        "cryptography": "pyopenssl",
        "pydantic": "pydantic",
        "pydantic_core": "pydantic",
        "pymysql": "pymysql",
        "regex": "regex",
        "txredisapi": "txredisapi",
        "service_identity": "service-identity",
        "idna": "twisted",
        "twisted": "twisted",
        "zope": "twisted",
    }
    required = {each.partition(">=")[0] for each in listed("options", "install_requires")}
    required |= {each.partition(">=")[0] for each in listed("options.extras_require", "redis")}
    for path in ROOT.glob("smtpproxy/**/*.py"):
        for line, name in imports(path.read_text(encoding="utf-8"), "", package=False):
            first = name.partition(".")[0]
            if first not in sys.stdlib_module_names and first != "smtpproxy":
                assert declared.get(first) in required, f"{path}:{line}: {first} is not declared"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder outside the source, so that nothing is found only because it lies there."""
    return tmp_path_factory.mktemp("elsewhere")


def run(folder, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_twistd_lists_the_plugin(elsewhere):
    assert "A transparent, recipient-routed MX proxy" in run(elsewhere, "twisted", "--help")


def test_twistd_takes_our_options(elsewhere):
    assert "--config" in run(elsewhere, "twisted", "smtpproxy", "--help")


def test_the_plugin_file_loads_nothing_of_ours(elsewhere):
    """It is loaded for every `twistd --help` of the machine."""
    program = (
        "import sys; from twisted.application.service import IServiceMaker;"
        "from twisted.plugin import getPlugins;"
        "assert 'smtpproxy' in [maker.tapname for maker in getPlugins(IServiceMaker)];"
        "sys.exit('smtpproxy.service' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=elsewhere, check=True, timeout=60)


# The units.

SERVICE = ROOT / "etc/systemd/smtpproxy.service"


def unit(name: str) -> dict[str, list[str]]:
    """Its lines by their names; a name may be there more than once."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "etc/systemd" / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_tls_works_under_the_unit():
    """Callbacks of TLS are in memory that is written and run: this would end all TLS sessions."""
    assert "MemoryDenyWriteExecute" not in SERVICE.read_text()


def test_the_unit_gives_it_time_to_stop_and_files_to_open():
    lines = unit("smtpproxy.service")
    defaults = {each.path: each.default for each in settings()}
    drain = float(defaults["timeouts.drain"].strip('"s'))
    assert float(lines["TimeoutStopSec"][0]) > drain
    assert int(lines["LimitNOFILE"][0]) > 2 * int(defaults["limits.max_connections"])
    assert lines["Type"] == ["notify"]
    assert float(lines["WatchdogSec"][0]) > 0


def test_the_unit_is_locked_down(tmp_path):
    need("systemd-analyze")
    shutil.copy(SERVICE, tmp_path)
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15"]
    done = subprocess.run(
        [*command, "--no-pager", tmp_path / SERVICE.name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= 1.5
    assert done.returncode == 0


def test_systemd_understands_the_units(tmp_path):
    need("systemd-analyze")
    for name in ("smtpproxy.service", "smtpproxy.socket"):
        text = (SERVICE.parent / name).read_text()
        # Its programs are not there before it is installed.
        text = re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
    files = [tmp_path / "smtpproxy.service", tmp_path / "smtpproxy.socket"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = [line for line in done.stderr.splitlines() if "smtpproxy" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


def test_the_socket_has_the_name_that_the_documentation_has():
    name = unit("smtpproxy.socket")["FileDescriptorName"][0]
    assert f'listen = "systemd:{name}"' in (ROOT / "docs/operation.md").read_text()


# The container.

CONTAINER = ROOT / "contrib/container"


def dockerfile() -> list[list[str]]:
    """Its instructions, in words."""
    text = re.sub(r"^#.*\n", "", (CONTAINER / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [
        line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line.strip()
    ]


def instruction(name: str) -> str:
    """What stands behind the last of that name."""
    return [words[1] for words in dockerfile() if words[0] == name][-1]


def container_environment() -> dict[str, str]:
    return dict(word.split("=", 1) for word in instruction("ENV").split())


def compose() -> dict[str, Any]:
    return yaml.safe_load((CONTAINER / "compose.yaml").read_text())


def test_the_container_does_not_run_as_root():
    user, _, group = instruction("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_container_is_configured_by_variables_alone():
    service = compose()["services"]["smtpproxy"]
    environment = container_environment() | service["environment"]
    config = load(Path(environment["SMTPPROXY_CONFIG"]), environment)
    assert [str(each.listen) for each in config.listeners] == [":2525"]
    assert [each.type for each in config.mappings] == ["mysql"]
    assert service["ports"] == ["2525:2525"]
    assert instruction("EXPOSE") == "2525"


def test_the_container_is_given_time_to_stop():
    grace = compose()["services"]["smtpproxy"]["stop_grace_period"]
    drain = next(each.default for each in settings() if each.path == "timeouts.drain")
    assert float(grace.strip("s")) > float(drain.strip('"s'))


def test_the_files_that_the_containers_mount_are_there():
    for service in compose()["services"].values():
        for each in service.get("volumes", ()):
            source = each.partition(":")[0]
            assert not source.startswith(".") or (CONTAINER / source).exists(), source


def test_the_health_check_wants_a_greeting():
    words = json.loads(instruction("HEALTHCHECK").partition("CMD")[2])
    port = free_port()
    command = [sys.executable, *(each.replace("2525", str(port)) for each in words[1:])]
    assert "2525" in words[-1]
    assert subprocess.run(command, capture_output=True, timeout=20).returncode == 1
    with socket.create_server(("127.0.0.1", port)) as server:
        thread = Thread(target=_greet, args=[server], daemon=True)
        thread.start()
        assert subprocess.run(command, capture_output=True, timeout=20).returncode == 0
        thread.join(10)


def _greet(server: socket.socket) -> None:
    client, _ = server.accept()
    with client:
        client.sendall(b"220 mx.example.net ESMTP\r\n")
        client.recv(100)
        client.sendall(b"221 bye\r\n")


def test_the_routes_of_the_compose_file_are_found():
    routes = (CONTAINER / "routes.sql").read_text()
    environment = container_environment() | compose()["services"]["smtpproxy"]["environment"]
    with short_folder() as folder, MariaDb(folder) as database:
        for statement in filter(str.strip, routes.split(";\n")):
            database.sql(statement)
        environment |= {
            "SMTPPROXY_MAPPINGS__0__HOST": "127.0.0.1",
            "SMTPPROXY_MAPPINGS__0__PORT": str(database.port),
            "SMTPPROXY_MAPPINGS__0__PASSWORD": PASSWORD,
        }
        for recipient, server in (
            ("alice+x@example.com", "new:1025"),
            ("b@example.com", "old:1025"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "smtpproxy", "lookup", "--json", "--offline", recipient],
                env=environment,
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 0, done.stderr
            assert server in done.stdout
