"""Fixtures for all tests: folders and certificates, and a private Postfix where one is needed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.certificates import Authority, Certificate
from tests.support.needs import need
from tests.support.postfix import Postfix, Settings
from tests.support.processes import short_folder
from tests.support.proxy import Proxy, row

# How long one example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

# A shell ignores it for what runs in the background, and what is started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of this test, with a short path that every user may enter."""
    with short_folder() as path:
        yield path


@pytest.fixture(scope="session")
def authority() -> Iterator[Authority]:
    with short_folder() as path:
        yield Authority(path)


@pytest.fixture(scope="session")
def proxy_certificate(authority: Authority) -> Certificate:
    return authority.certificate("mx.example.net", "127.0.0.1")


@pytest.fixture(scope="session")
def upstream_certificate(authority: Authority) -> Certificate:
    return authority.certificate("mx1.test", "localhost", "127.0.0.1")


@pytest.fixture(scope="session")
def running_postfix(upstream_certificate: Certificate) -> Iterator[Postfix]:
    need("postfix", root=True)
    with short_folder() as path, Postfix(path, Settings(certificate=upstream_certificate)) as it:
        yield it


@pytest.fixture
def postfix(running_postfix: Postfix) -> Postfix:
    """A Postfix with STARTTLS and XCLIENT, and empty mailboxes."""
    for mailbox in running_postfix.settings.mailboxes:
        running_postfix.empty(mailbox)
    return running_postfix


@pytest.fixture(scope="session")
def proxy(
    running_postfix: Postfix, proxy_certificate: Certificate, authority: Authority
) -> Iterator[Proxy]:
    """smtpproxy with STARTTLS before that Postfix, whose certificate it verifies."""
    rows = [row("example.com", running_postfix.server, verify=True)]
    with (
        short_folder() as path,
        Proxy(path, rows, proxy_certificate, tls_ca=authority.file) as it,
    ):
        yield it
