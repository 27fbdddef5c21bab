"""Settings from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtpproxy.config import (
    Address,
    Config,
    Faults,
    StaticMapping,
    load,
    load_control,
    settings,
)
from smtpproxy.config.environment import variables

FILE = """\
[[listeners]]
listen = "127.0.0.1:25"
[[listeners]]
listen = "127.0.0.2:25"
[[mappings]]
type = "static"
server = "mail.example.com"
[limits]
max_errors = 3
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("smtpproxy.toml").write_text(FILE)
    return Path("smtpproxy.toml")


def faults(path: Path, environ: dict[str, str]) -> list[str]:
    with pytest.raises(Faults) as caught:
        load(path, environ)
    return [str(fault) for fault in caught.value.faults]


def test_each_setting_has_its_variable():
    names = {"SMTPPROXY_LISTENERS", "SMTPPROXY_MAPPINGS"}
    for setting in settings():
        name = setting.path.upper().replace("[]", "__0").replace(".", "__")
        names.add(f"SMTPPROXY_{name}")
    assert set(variables()) == names


def test_a_variable_counts_more_than_the_file(path):
    config = load(
        path,
        {
            "SMTPPROXY_DOMAIN": "mx.example.net",
            "SMTPPROXY_LIMITS__MAX_ERRORS": "7",
            "SMTPPROXY_LIMITS__MAX_MESSAGE_BYTES": "1024",
            "SMTPPROXY_TIMEOUTS__RECIPIENT": "4m",
            "SMTPPROXY_DNS__REVERSE": "false",
            "SMTPPROXY_DNS__SERVERS": '["192.0.2.53"]',
            "SMTPPROXY_LOG__FORMAT": "json",
            "SMTPPROXY_MAPPINGS__0__TLS_VERIFY": "false",
            "SMTPPROXY_CONFIG": "elsewhere.toml",
            "PATH": "/bin",
        },
    )
    assert config.domain == "mx.example.net"
    assert (config.limits.max_errors, config.limits.max_message_bytes) == (7, 1024)
    assert config.timeouts.recipient == 240.0
    assert (config.dns.reverse, config.dns.servers) == (False, ("192.0.2.53",))
    assert config.log.format == "json"
    assert config.mappings == (
        StaticMapping(type="static", server="mail.example.com", tls_verify=False),
    )
    assert len(config.listeners) == 2


def test_one_name_in_several_kinds_of_mapping(path):
    """`tls` is a word to a static mapping, and true or false to a database."""
    config = load(path, {"SMTPPROXY_MAPPINGS__0__TLS": "encrypt"})
    assert config.mappings[0].tls == "encrypt"
    database = {
        "TYPE": "mysql",
        "DATABASE": "smtpproxy",
        "QUERY": "SELECT server FROM routes WHERE pattern = ?",
        "TLS": "true",
        "PASSWORD": "12345",
        "CACHE_SIZE": "10",
    }
    environ = {f"SMTPPROXY_MAPPINGS__1__{name}": value for name, value in database.items()}
    mapping = load(path, environ).mappings[1]
    assert (mapping.tls, mapping.password, mapping.cache_size) == (True, "12345", 10)
    assert faults(path, environ | {"SMTPPROXY_MAPPINGS__0__TLS": "true"}) == [
        'SMTPPROXY_MAPPINGS__0__TLS: must be "", "none", "may", "encrypt" or "verify", not true'
    ]


def test_headers(path):
    environ = {
        "SMTPPROXY_MAPPINGS__1__TYPE": "http",
        "SMTPPROXY_MAPPINGS__1__URL": "http://127.0.0.1:8080/route",
        "SMTPPROXY_MAPPINGS__1__HEADERS": '{X-Auth-Key = "secret"}',
    }
    assert load(path, environ).mappings[1].headers == {"X-Auth-Key": "secret"}


def test_a_secret_is_not_repeated(path):
    for name, value in [("PASSWORD", "'hunter2'"), ("HEADERS", "hunter2"), ("URL", '"hunter2"')]:
        (found,) = faults(path, {f"SMTPPROXY_MAPPINGS__0__{name}": value})[:1]
        assert found.startswith(f"SMTPPROXY_MAPPINGS__0__{name}: ")
        assert "hunter2" not in found


def hosts(config: Config) -> list[Address]:
    return [listener.listen for listener in config.listeners]


def test_lists(path):
    first, second = Address("127.0.0.1", 25), Address("127.0.0.2", 25)
    assert hosts(load(path, {"SMTPPROXY_LISTENERS": '[{listen = ":26"}]'})) == [Address("", 26)]
    assert hosts(load(path, {"SMTPPROXY_LISTENERS__1__LISTEN": ":26"})) == [first, Address("", 26)]
    added = load(path, {"SMTPPROXY_LISTENERS__2__LISTEN": ":26"})
    assert hosts(added) == [first, second, Address("", 26)]
    # A whole list first, then its elements, whatever the order of the variables.
    both = {"SMTPPROXY_LISTENERS__0__LISTEN": ":27", "SMTPPROXY_LISTENERS": '[{listen = ":26"}]'}
    assert hosts(load(path, both)) == [Address("", 27)]


def test_more_than_ten_elements(path):
    environ = {f"SMTPPROXY_LISTENERS__{n}__LISTEN": f":{n + 1000}" for n in range(12)}
    assert [each.port for each in hosts(load(path, environ))] == list(range(1000, 1012))


def test_the_environment_alone():
    environ = {
        "SMTPPROXY_LISTENERS__0__LISTEN": ":25",
        "SMTPPROXY_MAPPINGS__0__TYPE": "static",
        "SMTPPROXY_MAPPINGS__0__SERVER": "mail.example.com",
        "SMTPPROXY_DOMAIN": "",
    }
    assert load(Path("/dev/null"), environ).limits.max_errors == 20


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("LIMITS__MAX_ERORS", "3", "there is no such setting: did you mean SMTPPROXY_LIMITS__MAX_"),
        ("LIMITS", "{}", "there is no such setting: did you mean SMTPPROXY_LIMITS__MAX_MESSAGE_B"),
        (
            "LIMITS_MAX_ERRORS",
            "3",
            "there is no such setting: did you mean SMTPPROXY_LIMITS__MAX_E",
        ),
        ("domain", "a", "there is no such setting"),
        ("DOMAIN__X", "a", "there is no such setting"),
        ("LISTENERS__0", "{}", "there is no such setting: did you mean SMTPPROXY_LISTENERS__0__LI"),
        ("LISTENERS__X__LISTEN", "a", "there is no such setting"),
        ("LISTENERS__3__LISTEN", ":1", "there are 2 of these: the next is number 2"),
        ("LISTENERS", '[{listen = ":25"}', "must be a list as in TOML: "),
        ("LISTENERS", ":25", "must be a list as in TOML: "),
        ("LISTENERS", "3", "must be a list, not 3"),
        ("LISTENERS", "[{listen = 3}]", "listeners[0].listen: must be an address in quotes"),
        ("LISTENERS__0__LISTEN", "25", '"25" has no port: write it as in ":25"'),
        ("LISTENERS__2__TLS_KEY", "k", "listeners[2].listen: is missing"),
        ("LIMITS__MAX_ERRORS", "0", "must be at least 1, not 0"),
        ("LIMITS__MAX_ERRORS", "", 'must be a whole number, without quotes, not ""'),
        ("LIMITS__MAX_ERRORS", "3\nx = 1", "must be a whole number, without quotes, not "),
        ("DNS__REVERSE", "no", 'must be true or false, without quotes, not "no"'),
        ("DNS__SERVERS", "192.0.2.53", "must be a list as in TOML: "),
        ("DOMAIN", '"mx.example.net"', "is a text: write it without quotes"),
        ("TIMEOUTS__RECIPIENT", "4", '4 has no unit: write "4s"'),
    ],
)
def test_faults_name_the_variable(path, name, value, fault):
    found = faults(path, {f"SMTPPROXY_{name}": value})
    assert found[0].startswith(f"SMTPPROXY_{name}: {fault}")
    assert all("smtpproxy.toml" not in each for each in found)


def test_faults_of_the_file_keep_their_line(path):
    assert faults(path, {"SMTPPROXY_LISTENERS__1__TLS_CERT": "cert.pem"}) == [
        "smtpproxy.toml:3: listeners[1].tls_key: is missing: "
        "tls_cert needs the key that belongs to it"
    ]


def test_the_environment_repairs_the_file(path):
    path.write_text(FILE.replace("max_errors = 3", "max_errors = 0"))
    assert len(faults(path, {})) == 1
    assert load(path, {"SMTPPROXY_LIMITS__MAX_ERRORS": "5"}).limits.max_errors == 5


def test_what_is_in_the_way_is_a_fault_of_the_file(path):
    path.write_text(
        FILE.replace("[limits]\nmax_errors = 3", "").replace("[[l", "limits = 3\n[[l", 1)
    )
    assert faults(path, {"SMTPPROXY_LIMITS__MAX_ERRORS": "5"}) == [
        "smtpproxy.toml:1: limits: must be a table, not 3"
    ]


def test_variables_of_kubernetes_are_left_alone(path):
    environ = {
        "SMTPPROXY_SERVICE_HOST": "10.0.0.1",
        "SMTPPROXY_SERVICE_PORT": "25",
        "SMTPPROXY_SERVICE_PORT_SMTP": "25",
        "SMTPPROXY_PORT": "tcp://10.0.0.1:25",
        "SMTPPROXY_PORT_25_TCP": "tcp://10.0.0.1:25",
        "SMTPPROXY_PORT_25_TCP_PROTO": "tcp",
        "SMTPPROXY_PORT_25_TCP_PORT": "25",
        "SMTPPROXY_PORT_25_TCP_ADDR": "10.0.0.1",
    }
    assert load(path, environ) == load(path, {})
    assert not any(name.startswith(("SMTPPROXY_SERVICE", "SMTPPROXY_PORT")) for name in variables())


def test_control_alone_whatever_is_wrong_with_all_else(path):
    here = Path.cwd()
    variable = {"SMTPPROXY_CONTROL": "run/control", "SMTPPROXY_NO_SUCH": "1"}
    assert load_control(path, {}) == ""
    path.write_text('control = "ours"\ndomain = 7\nunknown = 1\nlisteners = "none"\n')
    assert load_control(path, {"SMTPPROXY_LIMITS": "7"}) == f"{here}/ours"
    assert load_control(path, variable) == f"{here}/run/control"
    path.write_text("no TOML")
    assert load_control(path, variable) == f"{here}/run/control"
    with pytest.raises(Faults, match=r"smtpproxy.toml:1: is not valid TOML"):
        load_control(path, {})
    path.write_text("domain = 7\ncontrol = 7\n")
    with pytest.raises(Faults, match=r"smtpproxy.toml:2: control: must be a "):
        load_control(path, {})
    with pytest.raises(Faults, match=r"^SMTPPROXY_CONTROL: is a text: write it without quotes"):
        load_control(path, {"SMTPPROXY_CONTROL": '"x"'})
