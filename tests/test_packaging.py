"""What is installed is complete, and twistd finds it."""

from __future__ import annotations

import configparser
import subprocess
import sys

import pytest

from tests.support.layers import ROOT, imports


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
        "service_identity": "service-identity",
        "idna": "twisted",
        "twisted": "twisted",
        "zope": "twisted",
    }
    required = {each.partition(">=")[0] for each in listed("options", "install_requires")}
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
