"""The configuration file: what is taken, and what is said about what is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from smtpproxy.config import (
    Address,
    Config,
    CsvMapping,
    Faults,
    Limits,
    Listener,
    StaticMapping,
    Timeouts,
    load,
)

SMALLEST = """\
domain = "mx.example.net"
recipient_delimiter = "+"

[[listeners]]
listen = "127.0.0.1:2525"          # also "[::1]:2525", ":25", "unix:/path"
tls_cert = "cert.pem"
tls_key = "key.pem"

[[mappings]]
type = "csv"
file = "mapping.csv"               # relative to this file

[[mappings]]
type = "static"
server = "127.0.0.1:2600"
tls_verify = false
"""

NEEDED = '[[listeners]]\nlisten = ":25"\n[[mappings]]\ntype = "csv"\nfile = "mapping.csv"\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, where we are: places in faults are then short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str | bytes, **environ: str) -> Config:
    path = Path("smtpproxy.toml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path, environ)


def faults(text: str | bytes, **environ: str) -> list[str]:
    with pytest.raises(Faults) as caught:
        read(text, **environ)
    return [str(fault) for fault in caught.value.faults]


def test_the_smallest_configuration(folder):
    config = read(SMALLEST)
    assert config.domain == "mx.example.net"
    assert config.recipient_delimiter == "+"
    assert config.listeners == (
        Listener(
            listen=Address("127.0.0.1", 2525),
            tls_cert=str(folder / "cert.pem"),
            tls_key=str(folder / "key.pem"),
        ),
    )
    assert config.mappings == (
        CsvMapping(type="csv", file=str(folder / "mapping.csv")),
        StaticMapping(type="static", server="127.0.0.1:2600", tls_verify=False),
    )


def test_defaults(folder):
    config = read(NEEDED)
    assert config.timeouts.model_dump() == {
        "client_command": 300.0,
        "client_data": 180.0,
        "proxy_header": 5.0,
        "client_session": 14400.0,
        "upstream_connect": 30.0,
        "upstream_reply": 300.0,
        "upstream_final": 600.0,
        "recipient": 240.0,
        "drain": 30.0,
    }
    assert config.limits.model_dump() == {
        "max_message_bytes": 50 * 1024 * 1024,
        "max_header_bytes": 1024 * 1024,
        "max_command_bytes": 2048,
        "max_recipients": 1000,
        "max_errors": 20,
        "max_junk": 100,
        "max_commands": 100_000,
        "max_session_messages": 1000,
        "max_session_recipients": 50_000,
        "min_data_rate": 500,
        "max_connections": 10000,
        "max_waiting": 5000,
        "max_connections_per_address": 100,
        "max_connections_per_minute": 3000,
        "max_messages_per_minute": 0,
        "max_recipients_per_minute": 0,
        "ipv4_prefix": 32,
        "ipv6_prefix": 64,
        "exempt": ("127.0.0.0/8", "::1"),
        "shared": "",
        "shared_password_file": "",
        "shared_tls_ca": "",
    }
    assert config.dns.model_dump() == {"servers": (), "timeout": 5.0, "reverse": True}
    assert config.log.model_dump() == {"format": "text", "level": "info", "file": ""}
    assert (config.recipient_delimiter, config.tls_ca, config.bare_newline) == ("", "", "normalize")
    assert config.control == ""
    assert (config.listeners[0].tls_cert, config.listeners[0].tls_key) == ("", "")


def test_the_domain_is_the_hosts_name_by_default(folder, monkeypatch):
    monkeypatch.setattr("socket.getfqdn", lambda: "host.example.com")
    assert read(NEEDED).domain == "host.example.com"
    monkeypatch.setattr("socket.getfqdn", lambda: "build_1")
    assert faults(NEEDED) == [
        'smtpproxy.toml: domain: this host has no usable name ("build_1"): set domain'
    ]


def test_built_in_code_without_a_file():
    config = Config(
        domain="mx.test",
        listeners=(Listener(listen=Address("127.0.0.1", 0)),),
        mappings=(StaticMapping(type="static", server="127.0.0.1:2600"),),
        timeouts=Timeouts(client_command=0.5),
        limits=Limits(max_message_bytes=2000),
    )
    assert config.timeouts.client_command == 0.5
    assert config.timeouts.client_data == 180.0
    assert config.place("mappings", 0) == "mappings[0]"
    with pytest.raises(ValidationError):
        config.domain = "other.test"


def test_a_setting_knows_where_it_is_written(folder):
    config = read(SMALLEST, SMTPPROXY_LIMITS__MAX_ERRORS="3", SMTPPROXY_MAPPINGS__1__SERVER="a")
    assert config.place("mappings", 0, "file") == "smtpproxy.toml:11: mappings[0].file"
    assert config.place("mappings", 1) == "smtpproxy.toml:13: mappings[1]"
    assert config.place("mappings", 1, "tls") == "smtpproxy.toml:13: mappings[1].tls"
    assert config.place("mappings", 1, "server") == "SMTPPROXY_MAPPINGS__1__SERVER"
    assert config.place("limits", "max_errors") == "SMTPPROXY_LIMITS__MAX_ERRORS"
    assert config.place("dns", "timeout") == "smtpproxy.toml: dns.timeout"
    assert read("\n\n" + SMALLEST) == read(SMALLEST)


def test_file_names_begin_in_the_folder_of_the_file(folder, monkeypatch):
    (folder / "etc").mkdir()
    (folder / "etc" / "smtpproxy.toml").write_text(
        'tls_ca = "/srv/ca.pem"\n'
        '[[listeners]]\nlisten = "unix:run/smtp"\ntls_cert = "../cert.pem"\ntls_key = "key.pem"\n'
        '[[mappings]]\ntype = "csv"\nfile = "mapping.csv"\n'
    )
    config = load(Path("etc/smtpproxy.toml"), {"SMTPPROXY_LOG__FILE": "log"})
    assert config.tls_ca == "/srv/ca.pem"
    assert config.listeners[0].listen == Address(path=f"{folder}/etc/run/smtp")
    assert config.listeners[0].tls_cert == f"{folder}/etc/../cert.pem"
    assert config.listeners[0].tls_key == f"{folder}/etc/key.pem"
    assert config.mappings[0] == CsvMapping(type="csv", file=f"{folder}/etc/mapping.csv")
    assert config.log.file == f"{folder}/etc/log"


def test_every_fault_is_reported_at_once_by_line_then_the_environment(folder):
    text = """\
domian = "mx.example.net"
max_errors = 3
[timeouts]
client_command = 30
recipient = "-5s"
[limits]
max_errors = 0
max_conections = 5
[[mappings]]
type = "sql"
[[mappings]]
type = "static"
server = "mail.example.com:x"
[[listeners]]
listen = ":25"
tls_cert = "cert.pem"
[[listeners]]
listen = "127.0.0.1:25"
"""
    top = ", ".join(Config.model_fields)
    limits = ", ".join(Limits.model_fields)
    assert faults(text, SMTPPROXY_DNS__TIMEOUT="5", SMTPPROXY_LOG__FROMAT="json") == [
        "smtpproxy.toml:1: domian: there is no such setting here; did you mean domain? "
        f"Known here: {top}",
        "smtpproxy.toml:2: max_errors: there is no such setting here; it belongs under [limits]. "
        f"Known here: {top}",
        "smtpproxy.toml:4: timeouts.client_command: 30 has no unit: "
        'write "30s" for seconds or "30m" for minutes',
        'smtpproxy.toml:5: timeouts.recipient: "-5s" is too short: '
        "a duration must be longer than zero",
        "smtpproxy.toml:7: limits.max_errors: must be at least 1, not 0",
        "smtpproxy.toml:8: limits.max_conections: there is no such setting here; "
        f"did you mean max_connections? Known here: {limits}",
        'smtpproxy.toml:10: mappings[0].type: must be one of "csv", "regex", "mysql", "sqlite", '
        '"http", "static", not "sql"',
        "smtpproxy.toml:13: mappings[1].server: 'x' is not a port; give a number from 1 to 65535",
        "smtpproxy.toml:14: listeners[0].tls_key: is missing: "
        "tls_cert needs the key that belongs to it",
        'smtpproxy.toml:18: listeners[1].listen: "127.0.0.1:25" is taken by the listener on ":25"',
        "SMTPPROXY_LOG__FROMAT: there is no such setting: did you mean SMTPPROXY_LOG__FORMAT?",
        'SMTPPROXY_DNS__TIMEOUT: 5 has no unit: write "5s" for seconds or "5m" for minutes',
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("domain = 3", "domain: must be a text in quotes, not 3"),
        ('domain = "a b"', 'domain: "a b" is no domain name: write it as in "mx.example.net"'),
        ('domain = "a\\nb"', 'domain: "a\\nb" is no domain name: write it as in "mx.example.net"'),
        ('bare_newline = "x"', 'bare_newline: must be "normalize" or "reject", not "x"'),
        ("limits.max_errors = true", None),
        ("limits.max_errors = -1", "limits.max_errors: must be at least 1, not -1"),
        ("limits.min_data_rate = -1", "limits.min_data_rate: must be at least 0, not -1"),
        ("limits.max_command_bytes = 5", "limits.max_command_bytes: must be at least 512, not 5"),
        ("limits.ipv4_prefix = 64", "limits.ipv4_prefix: must be from 1 to 32, not 64"),
        ("limits.ipv6_prefix = 0", "limits.ipv6_prefix: must be from 1 to 128, not 0"),
        (
            'http.listen = "9025"',
            'http.listen: "9025" has no port: write it as in "127.0.0.1:9025"',
        ),
        (
            "http.listen = 9025",
            'http.listen: must be an address in quotes, such as "127.0.0.1:9025"',
        ),
        ("limits.max_message_bytes = 0", None),
        ("limits.max_message_bytes = 1.5", None),
        (
            "limits.max_message_bytes = true",
            "limits.max_message_bytes: must be a size in octets, "
            'or in quotes with a unit, such as "50MiB"',
        ),
        ("limits = 3", "limits: must be a table, not 3"),
        ("limits.max_errors = 1979-05-27", None),
        ("[[limits]]", "limits: is there only once: write [limits], with one bracket on each side"),
        ("timeouts.recipient = inf", None),
        (
            "timeouts.recipient = true",
            'timeouts.recipient: must be a duration in quotes, such as "30s" or "5m"',
        ),
        ('timeouts.recipient = "8d"', 'timeouts.recipient: "8d" is too long: at most "7d"'),
        ("dns.servers = 3", "dns.servers: must be a list, not 3"),
        ('dns.servers = ["192.0.2.1", 5]', "dns.servers[1]: must be a text in quotes, not 5"),
        ('dns.reverse = "no"', 'dns.reverse: must be true or false, without quotes, not "no"'),
        ('log.level = "INFO"', None),
        ('tls_ca = "\\u0000"', "tls_ca: a file name must not hold control characters"),
        ('recipient_delimiter = "plus"', None),
        ("control = 3", "control: must be a text in quotes, not 3"),
        (f'control = "/{"x" * 107}"', None),
        ('recipient_delimiter = "@"', None),
        ('"a.b\\n" = 1', None),
        ("[tls]\nx = 1", None),
    ],
)
def test_one_wrong_line_is_one_fault_in_one_line(folder, line, fault):
    found = faults(NEEDED.replace("[[listeners]]", f"{line}\n[[listeners]]", 1))
    assert len(found) == 1
    assert "\n" not in found[0]
    assert found[0].startswith("smtpproxy.toml:1: ")
    if fault:
        assert found[0] == f"smtpproxy.toml:1: {fault}"
    for word in ("Input", "valid dictionary", "pydantic", "https:"):
        assert word not in found[0]


def test_a_setting_in_the_wrong_table_is_told_where_it_belongs(folder):
    assert faults(f'{NEEDED}tls_verify = true\n[dns]\ndomain = "mx.test"\nfile = ""\n') == [
        "smtpproxy.toml:6: mappings[0].tls_verify: there is no such setting here; "
        "known: type, file, parent_domains, max_shrink",
        "smtpproxy.toml:8: dns.domain: there is no such setting here; "
        "it belongs at the top, before the first [table]. Known here: servers, timeout, reverse",
        "smtpproxy.toml:9: dns.file: there is no such setting here; "
        "known: servers, timeout, reverse",
    ]


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        ("[[listeners]]\n", '2: listeners[0].listen: is missing: add listen = ":25"'),
        ("[listeners]\n", "2: listeners: can be several: write [[listeners]], with two brackets"),
        ("listeners = [3]\n", "2: listeners[0]: must be a table, not 3"),
        ("listeners = []\n", "2: listeners: at least one is needed"),
        ("", ': listeners: is missing: add [[listeners]] and listen = ":25"'),
        ('[[listeners]]\nlisten = ":25"\ntls_key = "k"\n', "4: listeners[0].tls_key: stands alone"),
        (
            '[[listeners]]\nlisten = ":25"\nprotocol = "lmtp"\n',
            '4: listeners[0].protocol: "lmtp" is never on port 25',
        ),
        (
            '[[listeners]]\nlisten = ":25"\nextensions = ["+DSN", "SMTPUTF8"]\n',
            "4: listeners[0].extensions: 'SMTPUTF8' has no sign",
        ),
        (
            '[[listeners]]\nlisten = ":25"\nextensions = ["+REQUIRETLS", "-DSN"]\n',
            '4: listeners[0].extensions: "+REQUIRETLS" cannot work without tls_cert and tls_key',
        ),
        (
            '[[listeners]]\nlisten = ":24"\nextensions = ["+PRDR"]\nprotocol = "lmtp"\n',
            '4: listeners[0].extensions: "+PRDR" is not for "lmtp"',
        ),
        (
            '[upstreams]\nkeep_idle = "0s"\nready_connections = 1\n[[listeners]]\nlisten = ":25"\n',
            "4: upstreams.ready_connections: none is kept: set keep_idle",
        ),
        (
            '[upstreams]\nready_connections = 21\n[[listeners]]\nlisten = ":25"\n',
            "3: upstreams.ready_connections: is more than keep_connections (20)",
        ),
        ("listeners = [\n{listen = 25}]\n", "2: listeners[0].listen: must be an address"),
    ],
)
def test_listeners(folder, tables, fault):
    text = f'\n{tables}[[mappings]]\ntype = "csv"\nfile = "mapping.csv"\n'
    [found] = faults(text)
    assert found.removeprefix("smtpproxy.toml").removeprefix(":").startswith(fault.lstrip(":"))


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        (
            "[[mappings]]\n",
            '3: mappings[0].type: is missing: add type = "csv", or another of "csv", "regex", '
            '"mysql", "sqlite", "http", "static"',
        ),
        (
            '[[mappings]]\ntype = "csv"\n',
            '3: mappings[0].file: is missing: add file = "mapping.csv"',
        ),
        ('[[mappings]]\ntype = "csv"\nfile = ""', "5: mappings[0].file: must not be empty"),
        (
            '[[mappings]]\ntype = "static"\n',
            '3: mappings[0].server: is missing: add server = "mail.example.com"',
        ),
        (
            '[[mappings]]\ntype = "csv"\nfile = "a"\ntls_verify = false',
            "6: mappings[0].tls_verify: there is no such setting here; "
            "known: type, file, parent_domains, max_shrink",
        ),
        (
            '[[mappings]]\ntype = "static"\nserver = "a"\nfile = "b"',
            "6: mappings[0].file: there is no such setting here; "
            "known: type, server, tls_verify, tls, identity",
        ),
    ],
)
def test_mappings(folder, tables, fault):
    assert faults(f'[[listeners]]\nlisten = ":25"\n{tables}') == [f"smtpproxy.toml:{fault}"]


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (":25", ":25", True),
        (":25", "127.0.0.1:25", True),
        ("[::1]:25", ":25", True),
        ("0.0.0.0:25", "127.0.0.1:25", True),
        ("[::]:25", "[0::1]:25", True),
        ("[::1]:25", "[0:0::1]:25", True),
        ("unix:a", "unix:a", True),
        ("127.0.0.1:25", "127.0.0.2:25", False),
        ("127.0.0.1:25", "127.0.0.1:26", False),
        ("127.0.0.1:25", "[::1]:25", False),
        ("0.0.0.0:25", "[::1]:25", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:a", "unix:b", False),
        ("unix:a", ":25", False),
    ],
)
def test_two_listeners_cannot_have_one_address(folder, first, second, clash):
    text = NEEDED + f'[[listeners]]\nlisten = "{second}"\n'
    text = text.replace('":25"', f'"{first}"', 1)
    if clash:
        [fault] = faults(text)
        assert fault.startswith(f'smtpproxy.toml:7: listeners[1].listen: "{second}" is taken by')
    else:
        assert len(read(text).listeners) == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "\ndomain = mx.example.net\n",
            "smtpproxy.toml:2: is not valid TOML in column 10: "
            "this is no value (a text needs quotes)",
        ),
        (
            'domain = "a"\ndomain = "b"\n',
            "smtpproxy.toml:2: domain is there twice, in line 1 first: keep one of the two",
        ),
        (
            "[[mappings]]\ntype = 1\n[[mappings]]\ntype = [\n]\nfile = 1\ntype = 2\n",
            "smtpproxy.toml:7: mappings[1].type is there twice, in line 4 first: keep one of",
        ),
        (
            "[limits]\n[log]\n[limits]\n",
            "smtpproxy.toml:3: limits is there twice, in line 1 first: keep one of the two",
        ),
        (
            "limits = 1\n[limits.x]\n",
            "smtpproxy.toml:2: is not valid TOML in column 10: Cannot overwrite a value",
        ),
        ("[[listeners]\n", "smtpproxy.toml:1: is not valid TOML in column "),
        ("servers = [1,", "smtpproxy.toml: is not valid TOML at its end: "),
        (b'\n\ndomain = "\xff"\n', "smtpproxy.toml:3: is not UTF-8: save the file as UTF-8"),
    ],
)
def test_what_is_not_toml_is_reported_with_the_environment(folder, text, fault):
    found = faults(text, SMTPPROXY_LIMITS__MAX_ERRORS="none", SMTPPROXY_X="1")
    assert found[0].startswith(fault)
    assert found[1:] == [
        "SMTPPROXY_X: there is no such setting",
        'SMTPPROXY_LIMITS__MAX_ERRORS: must be a whole number, without quotes, not "none"',
    ]


def test_a_byte_order_mark_and_crlf_do_no_harm(folder):
    assert read(b"\xef\xbb\xbf" + SMALLEST.replace("\n", "\r\n").encode()) == read(SMALLEST)


def test_files_that_cannot_be_read(folder):
    with pytest.raises(Faults) as caught:
        load(Path("missing.toml"), {"SMTPPROXY_X": "1"})
    assert [fault.place for fault in caught.value.faults] == ["missing.toml", "SMTPPROXY_X"]
    with pytest.raises(Faults, match="cannot be read: Is a directory"):
        load(folder, {})


def test_no_pydantic_settings_no_twisted():
    code = "import sys, smtpproxy.config; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert not {"twisted", "pydantic_settings", "asyncio"} & set(result.stdout.split())
