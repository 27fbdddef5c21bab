"""The layers hold, and the check that says so sees when they do not."""

from __future__ import annotations

import pytest

from tests.support.layers import check, faults_of


def test_each_layer_imports_only_what_is_below_it():
    assert list(check()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("smtpproxy.smtp.server", "from twisted.internet import defer"),
        ("smtpproxy.smtp.server", "import pydantic"),
        ("smtpproxy.smtp.server", "from smtpproxy.mail import Peer"),
        ("smtpproxy.smtp.server", "from smtpproxy import tls"),
        ("smtpproxy.smtp.server", "from ..tls import server_context"),
        ("smtpproxy.mail", "from smtpproxy.routing import Upstream"),
        ("smtpproxy.events", "from smtpproxy.upstream import Connection"),
        ("smtpproxy.routing.csv", "import smtpproxy.config"),
        ("smtpproxy.relay.transaction", "from smtpproxy import listener"),
        ("smtpproxy.relay.transaction", "from smtpproxy.service import makeService"),
        ("smtpproxy.upstream.dial", "from twisted.internet import reactor"),
        ("smtpproxy.upstream.dial", "def late():\n    from ..relay import delivery"),
        ("smtpproxy.odds", "import os"),
    ],
)
def test_a_wrong_import_is_seen(module, source):
    assert list(faults_of(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("smtpproxy.smtp.server", "import re\nfrom . import errors"),
        (
            "smtpproxy.smtp.server",
            "from smtpproxy.smtp import paths",
        ),
        ("smtpproxy.events", "from smtpproxy.mail import Client"),
        ("smtpproxy.routing.csv", "from smtpproxy.faults import Fault"),
        ("smtpproxy.listener.session", "from smtpproxy import __version__, relay, tls"),
        ("smtpproxy.service", "from twisted.internet import reactor\nfrom smtpproxy import config"),
    ],
)
def test_a_right_import_is_let_pass(module, source):
    assert list(faults_of(source, module)) == []
