"""The proxies that are measured: how each is set up, and what it cannot do.

Each gets one listening port and one upstream, on loopback, and is set up as its documentation has
it for this work, with one process or thread that does it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

from bench.accounts import members
from bench.quota import Quota
from smtpproxy import __version__
from tests.support.certificates import Certificate
from tests.support.ports import free_port
from tests.support.processes import Process, greeting
from tests.support.proxy import DOMAIN, TWISTD, toml

PARTS = Path("build/bench").resolve()
OURS = PARTS / "smtpproxy"
RELAY = Path(__file__).with_name("aiosmtpd_relay.py")
START = 120.0  # seconds until a proxy must greet, with a file of a million rows
MANY = 100_000


@dataclass(frozen=True, slots=True)
class Way:
    """What a proxy does between client and upstream.

    `certificate`: for STARTTLS from clients.  `upstream_tls`: STARTTLS to the upstream.
    `xclient`: tells the upstream who the client is.
    """

    upstream: int
    certificate: Certificate | None = None
    upstream_tls: bool = False
    xclient: bool = False


Command = list[str | Path]


@dataclass(frozen=True, slots=True)
class Rival:
    """`missing`: why it cannot run here, "" where it can.  `cannot`: why it cannot go a way.

    `command` writes the configuration into a folder and gives what to start.  `share`: of one
    processor, the most that each of its processes may take; 0 for all of it.
    """

    name: str
    version: str
    missing: str
    cannot: Callable[[Way], str]
    command: Callable[[Way, Path, int], Command]
    environment: Mapping[str, str] = field(default_factory=dict)
    share: float = 0.0


class Running:
    """A rival that was started, or no proxy at all: then the port is the upstream's."""

    def __init__(self, rival: Rival, way: Way, folder: Path) -> None:
        self.rival = rival
        self.port = free_port()
        folder.mkdir()
        command = rival.command(way, folder, self.port)
        if rival.environment:
            settings = [f"{name}={value}" for name, value in rival.environment.items()]
            command = ["env", *settings, *command]
        self._process = Process(command, folder / "output.log")
        self.session = self._process.pid
        self._quota = Quota(rival.share)
        try:
            self._process.wait_for(
                lambda: greeting(self.port).startswith(b"220"), f"{rival.name}'s greeting", START
            )
            if rival.share:
                self._quota.limit(members(self.session))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self._process.stop(seconds=5)
        self._quota.end()


# Each of them


def haproxy() -> Rival:
    program = _program("haproxy")

    def cannot(way: Way) -> str:
        if way.certificate or way.upstream_tls:
            return "in TCP mode it lets TLS pass and does none"
        return "in TCP mode it knows no XCLIENT" if way.xclient else ""

    def command(way: Way, folder: Path, port: int) -> Command:
        file = _write(
            folder / "haproxy.cfg",
            f"""
            global
                nbthread 1
                maxconn 2000
            defaults
                mode tcp
                timeout connect 30s
                timeout client 10m
                timeout server 10m
            listen mail
                bind 127.0.0.1:{port}
                server upstream 127.0.0.1:{way.upstream}
            """,
        )
        return [program or "", "-db", "-f", file]

    return Rival(
        "HAProxy tcp",
        _said([program, "-v"], r"version (\d[\d.]*)"),
        "" if program else "HAProxy is not installed",
        cannot,
        command,
        _LIBRARIES,
    )


def nginx() -> Rival:
    program = _program("nginx")
    module = _first(
        PARTS / "debian/usr/lib/nginx/modules/ngx_mail_module.so",
        Path("/usr/lib/nginx/modules/ngx_mail_module.so"),
    )

    def cannot(way: Way) -> str:
        return "its mail proxy knows no STARTTLS to upstreams" if way.upstream_tls else ""

    def command(way: Way, folder: Path, port: int) -> Command:
        questions = free_port()
        tls = "starttls off;"
        if way.certificate:
            tls = (
                f"starttls on; ssl_certificate {way.certificate.chain};"
                f" ssl_certificate_key {way.certificate.key}; ssl_protocols TLSv1.2 TLSv1.3;"
            )
        temporary = " ".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file = _write(
            folder / "nginx.conf",
            f"""
            {f"load_module {module};" if module else ""}
            daemon off;
            {"user nobody nogroup;" if os.getuid() == 0 else ""}
            pid {folder}/nginx.pid;
            error_log {folder}/error.log error;
            worker_processes 1;
            worker_rlimit_nofile 65536;
            events {{ worker_connections 50000; }}
            http {{
                access_log off; {temporary}
                server {{
                    listen 127.0.0.1:{questions};
                    add_header Auth-Status OK always;
                    add_header Auth-Server 127.0.0.1 always;
                    add_header Auth-Port {way.upstream} always;
                    location / {{ return 204; }}
                }}
            }}
            mail {{
                server_name {DOMAIN};
                auth_http 127.0.0.1:{questions}/;
                server {{
                    listen 127.0.0.1:{port};
                    protocol smtp; smtp_auth none; timeout 10m; proxy_timeout 10m;
                    smtp_capabilities PIPELINING 8BITMIME ENHANCEDSTATUSCODES;
                    xclient {"on" if way.xclient else "off"}; {tls}
                }}
            }}
            """,
        )
        return [program or "", "-p", folder, "-e", folder / "error.log", "-c", file]

    return Rival(
        "nginx",
        _said([program, "-v"], r"nginx/(\d[\d.]*)"),
        "" if program else "nginx is not installed",
        cannot,
        command,
        _LIBRARIES,
    )


def haraka() -> Rival:
    module = PARTS / "haraka/node_modules/Haraka"
    there = (module / "bin/haraka").exists() and shutil.which("node")

    def command(way: Way, folder: Path, port: int) -> Command:
        config = folder / "config"
        config.mkdir()
        (folder / "plugins").mkdir()
        plugins = ["name", *(["tls"] if way.certificate else [])]
        tls = "enable_tls=true" if way.upstream_tls else ""
        texts = {
            "me": DOMAIN,
            "host_list": "example.com",
            "plugins": "\n".join([*plugins, "rcpt_to.in_host_list", "queue/smtp_proxy"]),
            "smtp.ini": f"listen=127.0.0.1:{port}\nnodes=0",
            "smtp_proxy.ini": f"host=127.0.0.1\nport={way.upstream}\n{tls}",
            "log.ini": "[main]\nlevel=error",
        }
        for name, text in texts.items():
            _write(config / name, text)
        shutil.copy(module / "config/connection.ini", config)
        # As with the others here, nobody asks DNS for the name of the client.
        name = "exports.hook_lookup_rdns = (next) => next(OK, 'localhost')"
        _write(folder / "plugins/name.js", name)
        if way.certificate:
            (config / "tls_cert.pem").write_bytes(way.certificate.chain.read_bytes())
            (config / "tls_key.pem").write_bytes(way.certificate.key.read_bytes())
        return ["node", module / "bin/haraka", "-c", folder]

    version = re.search(r'"version": "(.*?)"', _text(module / "package.json"))
    return Rival(
        "Haraka smtp_proxy",
        f"{version[1] if version else ''} (node {_said(['node', '-v'], r'v(.*)')})",
        "" if there else "Haraka is not installed",
        lambda way: "",
        command,
    )


def aiosmtpd() -> Rival:
    python = PARTS / "aiosmtpd/bin/python"
    names = "aiosmtpd", "aiosmtplib"
    wanted = f"import importlib.metadata as m; print(*(m.version(n) for n in {names}))"
    versions = _said([python, "-c", wanted], r"(.*)")

    def command(way: Way, folder: Path, port: int) -> Command:
        files = [way.certificate.chain, way.certificate.key] if way.certificate else []
        tls = "yes" if way.upstream_tls else "no"
        return [python, RELAY, str(port), str(way.upstream), tls, *files]

    return Rival(
        "aiosmtpd relay",
        f"{versions.replace(' ', ' with aiosmtplib ')} ({_python(python)})",
        "" if versions else "aiosmtpd and aiosmtplib are not installed",
        lambda way: "it knows no XCLIENT" if way.xclient else "",
        command,
    )


def smtpproxy(
    variant: str = "",
    settings: Mapping[str, Any] | None = None,
    missing: str = "",
    share: float = 0.0,
) -> Rival:
    """`settings` are laid over the usual ones; those of a listener are under `listener`."""

    def command(way: Way, folder: Path, port: int) -> Command:
        changed = dict(settings or {})
        listener: dict[str, Any] = {"listen": f"127.0.0.1:{port}"}
        if way.certificate:
            listener |= {"tls_cert": way.certificate.chain, "tls_key": way.certificate.key}
        mapping = {
            "type": "static",
            "server": f"127.0.0.1:{way.upstream}",
            "tls": "encrypt" if way.upstream_tls else "none",
            "identity": "xclient" if way.xclient else "none",
        }
        configuration = {
            "domain": DOMAIN,
            "listeners": [listener | changed.pop("listener", {})],
            "mappings": [mapping],
            "dns": {"reverse": False},
            "upstreams": {"ask_every": "0s", "keep_idle": "0s"},
            "limits": {"max_connections": MANY, "max_connections_per_address": MANY},
            **changed,
        }
        text = "".join(f"{key} = {toml(value)}\n" for key, value in configuration.items())
        file = _write(folder / "smtpproxy.toml", text)
        return [twistd, "-n", "--pidfile=", "smtpproxy", "--config", file]

    # The system's Python, where there is one (see install-parts), else that of the tests.
    twistd = OURS / "bin/twistd" if (OURS / "python").exists() else TWISTD
    return Rival(
        f"smtpproxy, {variant}" if variant else "smtpproxy",
        f"{__version__} ({_python(twistd.with_name('python'))})",
        missing,
        lambda way: "",
        command,
        share=share,
    )


RIVALS: Mapping[str, Callable[[], Rival]] = {
    "haproxy": haproxy,
    "nginx": nginx,
    "haraka": haraka,
    "aiosmtpd": aiosmtpd,
    "smtpproxy": smtpproxy,
}


# What they share

_LIBRARIES = {"LD_LIBRARY_PATH": ":".join(map(str, PARTS.glob("debian/usr/lib/*-linux-gnu*")))}


_BUILT = """
import platform, sys, sysconfig
fast = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
built = "built with optimizations" if fast else "built without optimizations"
whose = "the system's" if sys.base_prefix == "/usr" else built
print(f"Python {platform.python_version()}, {whose}")
"""


def _python(program: Path) -> str:
    """Its version, and how it was built, which makes a difference; of its own, a system is trusted.

    Debian's, say, is built with optimizations, but does not tell.
    """
    return _said([program, "-c", _BUILT], r"(Python .*)")


def _program(name: str) -> Path | None:
    unpacked = PARTS / "debian/usr/sbin" / name
    installed = shutil.which(name)
    return unpacked if unpacked.exists() else Path(installed) if installed else None


def _first(*files: Path) -> Path | None:
    return next((file for file in files if file.exists()), None)


def _write(file: Path, text: str) -> Path:
    file.write_text(f"{dedent(text)}\n")
    return file


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _said(command: Sequence[str | Path | None], pattern: str) -> str:
    """What the program says of its version, "" where it is not there."""
    try:
        done = subprocess.run(  # noqa: S603 (programs that are named here)
            [each for each in command if each is not None],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_LIBRARIES},
            text=True,
        )
    except OSError:
        return ""
    found = re.search(pattern, done.stdout)
    return found[1].strip() if found and done.returncode == 0 else ""
