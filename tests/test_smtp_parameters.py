"""What is let through of the parameters of MAIL and RCPT: what was announced, in its form."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.smtp.commands import Mail, Rcpt, parse_command
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.parameters import UNKNOWN_PARAMETER, check_mail, check_rcpt
from smtpproxy.smtp.replies import Reply

ALL = Extensions(
    dict.fromkeys(
        [
            "SIZE", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8", "DSN", "REQUIRETLS",
            "MT-PRIORITY", "DELIVERBY", "FUTURERELEASE", "PRDR",
        ],
        (),
    )
)  # fmt: skip


def announced(*lines: str) -> Extensions:
    return Extensions.of(Reply.of(250, "", "mx", *lines))


def refused(command: str, extensions: Extensions = ALL) -> Reply | None:
    """The refusal that the parameters of `command` get, as a client writes them."""
    parsed = parse_command(command.encode())
    if isinstance(parsed, Mail):
        return check_mail(parsed.parameters, extensions)
    assert isinstance(parsed, Rcpt)
    return check_rcpt(parsed.parameters, extensions)


def mail(parameters: str, extensions: Extensions = ALL) -> Reply | None:
    return refused(f"MAIL FROM:<s@example.org> {parameters}", extensions)


def rcpt(parameters: str, extensions: Extensions = ALL) -> Reply | None:
    return refused(f"RCPT TO:<r@example.com> {parameters}", extensions)


MAIL_GOOD = [
    "",
    "SIZE=0",
    "size=1000",
    "SIZE=99999999999999999999",
    "BODY=7BIT",
    "BODY=8BITMIME",
    "body=8bitmime",
    "BODY=BINARYMIME",
    "BODY=BinaryMime",
    "SMTPUTF8",
    "RET=FULL",
    "RET=hdrs",
    "ENVID=a",
    "ENVID=QQ314159",
    "ENVID=a+2Bb+3Dc+20d",
    "ENVID=" + 100 * "x",
    "REQUIRETLS",
    "MT-PRIORITY=-9",
    "MT-PRIORITY=0",
    "mt-priority=9",
    "BY=1;R",
    "BY=+120;RT",
    "BY=-60;N",
    "BY=0;nt",
    "BY=999999999;R",
    "HOLDFOR=1",
    "HOLDFOR=999999999",
    "HOLDUNTIL=2031-02-28T23:59:59Z",
    "HOLDUNTIL=2031-02-28t23:59:59.25z",
    "HOLDUNTIL=2031-02-28T23:59:59+05:30",
    "PRDR",
    "SIZE=5 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=x REQUIRETLS BY=9;R HOLDFOR=9 PRDR",
]

MAIL_BAD = [
    "SIZE",
    "SIZE=-1",
    "SIZE=1k",
    "SIZE=100000000000000000000",
    "SIZE=\u0661",
    "BODY",
    "BODY=8BIT",
    "BODY=8BITMIME,7BIT",
    "BODY=BINARYM\u0131ME",  # its upper case is BINARYMIME
    "SMTPUTF8=YES",
    "RET",
    "RET=FULL,HDRS",
    "RET=HDR\u017f",  # its upper case is HDRS
    "ENVID",
    "ENVID=a+b",
    "ENVID=a+2",
    "ENVID=a+2G",
    "ENVID=\u00e9",
    "ENVID=" + 101 * "x",
    "REQUIRETLS=1",
    "MT-PRIORITY",
    "MT-PRIORITY=10",
    "MT-PRIORITY=-10",
    "MT-PRIORITY=+1",
    "MT-PRIORITY=-0",
    "MT-PRIORITY=01",
    "BY",
    "BY=60",
    "BY=60;",
    "BY=;R",
    "BY=60;X",
    "BY=60;RR",
    "BY=60;TR",
    "BY=1000000000;N",
    "BY=0;R",  # RFC 2852 section 4: R wants a time to come
    "BY=-1;RT",
    "HOLDFOR",
    "HOLDFOR=0",
    "HOLDFOR=-1",
    "HOLDFOR=1000000000",
    "HOLDFOR=1h",
    "HOLDUNTIL",
    "HOLDUNTIL=tomorrow",
    "HOLDUNTIL=2031-02-28",
    "HOLDUNTIL=2031-02-28T23:59:59",
    "HOLDUNTIL=2031-02-29T00:00:00Z",
    "HOLDUNTIL=2031-02-28T24:00:01Z",
    "HOLDUNTIL=2031-02-28T23:59:59+24:00",
    "HOLDUNTIL=20310228T235959Z",
    "HOLDFOR=60 HOLDUNTIL=2031-02-28T23:59:59Z",  # RFC 4865 section 4: one of the two
    "PRDR=1",
    "SIZE=5 RET=SOME",
]

RCPT_GOOD = [
    "",
    "NOTIFY=NEVER",
    "notify=never",
    "NOTIFY=SUCCESS",
    "NOTIFY=Failure",
    "NOTIFY=DELAY,FAILURE,SUCCESS",
    "ORCPT=rfc822;a@example.com",
    "orcpt=RFC822;a+2Btag@example.com",
    "ORCPT=x400;/C+3Dde/",
    "ORCPT=rfc822;" + 493 * "x",
    "ORCPT=utf-8;a@example.com",
    "ORCPT=UTF-8;g\\x{E9}rard@example.com",
    "ORCPT=utf-8;a\\x{2B}tag@example.com",
    "ORCPT=utf-8;g\u00e9rard@example.com",
    "ORCPT=utf-8;\U0001f600@example.com",
    "NOTIFY=NEVER ORCPT=rfc822;a@example.com",
]

RCPT_BAD = [
    "NOTIFY",
    "NOTIFY=ALWAYS",
    "NOTIFY=NEVER,SUCCESS",
    "NOTIFY=SUCCESS,NEVER",
    "NOTIFY=SUCCESS,",
    "NOTIFY=,SUCCESS",
    "NOTIFY=\u017fUCCESS",
    "ORCPT",
    "ORCPT=a@example.com",
    "ORCPT=;a@example.com",
    "ORCPT=rfc822;",
    "ORCPT=rfc_822;a@example.com",
    "ORCPT=rfc822;a+tag@example.com",
    "ORCPT=rfc822;g\u00e9rard@example.com",
    "ORCPT=rfc822;" + 494 * "x",
    "ORCPT=utf-8;",
    "ORCPT=utf-8;a+2Btag@example.com",
    "ORCPT=utf-8;a\\tag@example.com",
    "ORCPT=utf-8;a\\x{1}",
    "ORCPT=utf-8;a\\x{1234567}",
    "ORCPT=utf-8;a\x85b",
    "ORCPT=utf-8;a\u2028b",
    "ORCPT=rfc822;a@example.com NOTIFY=SOMETIMES",
]


@pytest.mark.parametrize("parameters", MAIL_GOOD)
def test_good_parameters_of_mail(parameters: str) -> None:
    assert mail(parameters) is None


@pytest.mark.parametrize("parameters", RCPT_GOOD)
def test_good_parameters_of_rcpt(parameters: str) -> None:
    assert rcpt(parameters) is None


@pytest.mark.parametrize("parameters", MAIL_BAD)
def test_bad_values_of_mail(parameters: str) -> None:
    reply = mail(parameters)
    assert reply is not None and (reply.code, reply.enhanced) == (501, "5.5.4")


@pytest.mark.parametrize("parameters", RCPT_BAD)
def test_bad_values_of_rcpt(parameters: str) -> None:
    reply = rcpt(parameters)
    assert reply is not None and (reply.code, reply.enhanced) == (501, "5.5.4")


def test_a_refusal_names_the_parameter() -> None:
    assert str(mail("RET=FULL SIZE=x")) == "501 5.5.4 The value of SIZE is not valid"
    assert str(mail("AUTH=<>")) == "555 5.5.4 Parameter not recognised"
    both = "HOLDFOR=60 HOLDUNTIL=2031-02-28T23:59:59Z"
    assert str(mail(both)) == "501 5.5.4 HOLDFOR and HOLDUNTIL exclude each other"
    assert mail(both, Extensions()) is UNKNOWN_PARAMETER


# What must be announced for a parameter, with a value that is good.
NEEDED = {
    "SIZE=1": "SIZE",
    "BODY=7BIT": "8BITMIME",
    "BODY=8BITMIME": "8BITMIME",
    "BODY=BINARYMIME": "BINARYMIME",
    "SMTPUTF8": "SMTPUTF8",
    "RET=FULL": "DSN",
    "ENVID=x": "DSN",
    "REQUIRETLS": "REQUIRETLS",
    "MT-PRIORITY=1": "MT-PRIORITY",
    "BY=1;R": "DELIVERBY",
    "HOLDFOR=1": "FUTURERELEASE",
    "HOLDUNTIL=2031-02-28T23:59:59Z": "FUTURERELEASE",
    "PRDR": "PRDR",
}


@pytest.mark.parametrize(("parameter", "keyword"), NEEDED.items())
def test_a_parameter_of_mail_needs_its_extension(parameter: str, keyword: str) -> None:
    others = Extensions({other: () for other in ALL.keywords if other != keyword})
    assert mail(parameter, announced(keyword)) is None
    assert mail(parameter, others) is UNKNOWN_PARAMETER
    assert mail(parameter, Extensions()) is UNKNOWN_PARAMETER  # as after HELO


@pytest.mark.parametrize("parameter", ["NOTIFY=NEVER", "ORCPT=rfc822;a@example.com"])
def test_a_parameter_of_rcpt_needs_its_extension(parameter: str) -> None:
    others = Extensions({other: () for other in ALL.keywords if other != "DSN"})
    assert rcpt(parameter, announced("DSN")) is None
    assert rcpt(parameter, others) is UNKNOWN_PARAMETER
    assert rcpt(parameter, Extensions()) is UNKNOWN_PARAMETER


def test_an_orcpt_outside_ascii_needs_smtputf8() -> None:
    """RFC 6533 section 3: without it, the form with escapes is the one to use."""
    reply = rcpt("ORCPT=utf-8;g\u00e9rard@example.com", announced("DSN"))
    assert str(reply) == "501 5.5.4 The value of ORCPT is not valid"
    assert rcpt("ORCPT=utf-8;g\\x{E9}rard@example.com", announced("DSN")) is None


@pytest.mark.parametrize(
    "parameter", ["AUTH=<>", "X", "SIZE-=1", "NOTIFY=NEVER", "ORCPT=rfc822;a", "SIZE=1 X=1"]
)
def test_what_no_extension_of_mail_has(parameter: str) -> None:
    assert mail(parameter) is UNKNOWN_PARAMETER


@pytest.mark.parametrize("parameter", ["SIZE=1", "BODY=8BITMIME", "RET=FULL", "PRDR", "X=1"])
def test_what_no_extension_of_rcpt_has(parameter: str) -> None:
    assert rcpt(parameter) is UNKNOWN_PARAMETER


FUTURE = "FUTURERELEASE 3600 2031-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("line", "parameter", "taken"),
    [
        ("DELIVERBY 120", "BY=120;R", True),
        ("DELIVERBY 120", "BY=119;R", False),
        ("DELIVERBY 120", "BY=119;r", False),
        ("DELIVERBY 120", "BY=119;N", True),
        ("DELIVERBY 0", "BY=0;R", False),
        ("DELIVERBY nonsense", "BY=1;R", True),
        (FUTURE, "HOLDFOR=3600", True),
        (FUTURE, "HOLDFOR=3601", False),
        (FUTURE, "HOLDUNTIL=2031-01-01T00:00:00Z", True),
        (FUTURE, "HOLDUNTIL=2031-01-01T00:00:01Z", False),
        (FUTURE, "HOLDUNTIL=2031-01-01T01:00:00+01:00", True),
        (FUTURE, "HOLDUNTIL=2030-12-31T23:30:00-01:00", False),
        (FUTURE, "HOLDUNTIL=0001-01-01T00:00:00+23:59", True),
        (FUTURE, "HOLDUNTIL=9999-12-31T23:59:59-23:59", False),
        ("FUTURERELEASE 3600", "HOLDUNTIL=2031-01-01T00:00:00Z", True),
        ("FUTURERELEASE nonsense nonsense", "HOLDFOR=3601", True),
        ("FUTURERELEASE nonsense nonsense", "HOLDUNTIL=2031-01-01T00:00:00Z", True),
    ],
)
def test_a_value_against_what_was_announced_with_the_keyword(
    line: str, parameter: str, taken: bool
) -> None:
    reply = mail(parameter, announced(line))
    keyword = parameter.partition("=")[0]
    expected = None if taken else f"501 5.5.4 The value of {keyword} is not valid"
    assert (reply and str(reply)) == expected


values = st.one_of(
    st.text(max_size=12),
    st.sampled_from([*MAIL_GOOD, *MAIL_BAD, *RCPT_GOOD, *RCPT_BAD]).flatmap(
        lambda known: st.text(max_size=2).map(known.partition("=")[2].__add__)
    ),
)
KEYWORDS = sorted({name.partition("=")[0] for name in [*NEEDED, "NOTIFY", "ORCPT", "X"]})


@given(st.sampled_from(KEYWORDS), values)
def test_no_value_is_too_odd_and_what_passes_is_one_word(keyword: str, value: str) -> None:
    for check in (check_mail, check_rcpt):
        reply = check({keyword: value}, ALL)
        if reply is None:
            assert re.fullmatch(r"[!-~\u00a0-\U0010ffff]*", value)
            assert value.isascii() or value.lower().startswith("utf-8;")
        else:
            assert reply.code in (501, 555) and len(reply.encode()) < 80
