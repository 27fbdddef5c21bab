"""Addresses: strict as safety asks, lenient as mail in use needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.smtp.paths import NULL_PATH, Path, parse_path


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("", "", ""),
        ("a@example.com", "a", "example.com"),
        ("A.b+c@Example.COM", "A.b+c", "Example.COM"),
        ("!#$%&'*+-/=?^_`{|}~@example.com", "!#$%&'*+-/=?^_`{|}~", "example.com"),
        ("a@localhost", "a", "localhost"),
        ("a@example.com.", "a", "example.com."),
        ("a@xn--bcher-kva.example", "a", "xn--bcher-kva.example"),
        ("a@192.0.2.1", "a", "192.0.2.1"),
        ("a@[192.0.2.1]", "a", "[192.0.2.1]"),
        ("a@[IPv6:2001:db8::1]", "a", "[IPv6:2001:db8::1]"),
        # In use, whatever RFC 5321 says: dots anywhere, underscores, long local parts.
        (".a..b.@example.com", ".a..b.", "example.com"),
        ("a@_dmarc.under_score.example", "a", "_dmarc.under_score.example"),
        ("SRS0=abc=de=example.org=a@example.com", "SRS0=abc=de=example.org=a", "example.com"),
        ("a" * 300 + "@example.com", "a" * 300, "example.com"),
        # Quoted: as it came.
        ('"a b"@example.com', '"a b"', "example.com"),
        ('"a@b"@example.com', '"a@b"', "example.com"),
        ('"<>,;"@example.com', '"<>,;"', "example.com"),
        (r'"a\"b\\"@example.com', r'"a\"b\\"', "example.com"),
        ('""@example.com', '""', "example.com"),
        # RFC 5321 4.1.1.3, the only local part that stands alone.
        ("postmaster", "postmaster", ""),
        ("PostMaster", "PostMaster", ""),
        # RFC 5321 appendix C: source routes are taken and ignored.
        ("@relay.example:a@example.com", "a", "example.com"),
        ("@one.example,@[192.0.2.1]:a@example.com", "a", "example.com"),
        ("@relay.example:postmaster", "postmaster", ""),
        # RFC 6531
        ("grüße@bücher.example", "grüße", "bücher.example"),
        ('"grüße an"@example.com', '"grüße an"', "example.com"),
        ("用户@例子.example", "用户", "例子.example"),
    ],
)
def test_addresses_in_use_are_taken(text: str, local: str, domain: str) -> None:
    path = parse_path(text)
    assert path == Path(local, domain)
    assert path.ascii is text.isascii()
    assert path.null is (text == "")


@pytest.mark.parametrize(
    "text",
    [
        "a", "root", "@", "a@", "@example.com", "a@b@example.com", " ", " a@example.com",
        "a@example.com ", "a b@example.com", "a@exam ple.com", "a,b@example.com", "a:b@example.com",
        "a;b@example.com", "a<b@example.com", "a>b@example.com", "(x)a@example.com",
        r"a\b@example.com", "a[b@example.com", "<a@example.com>",
        # Quotes that do not balance, or are not all of the local part.
        '"a@example.com', 'a"@example.com', '"a"b"@example.com', '"a"b@example.com',
        'a."b"@example.com', '"a\\"@example.com', '"a"', '"postmaster"',
        # Domains.
        "a@.example.com", "a@example..com", "a@.", "a@-example.com", "a@example-.com",
        "a@example.com/", "a@example.com:25", "a@[]", "a@[192.0.2.1", "a@192.0.2.1]", "a@[a[b]",
        "a@[192.0.2.1]x", "a@[192.0.2.1 ]", 'a@"example.com"', "a@%65xample.com",
        # Routes.
        "@relay.example:", "@relay.example,:a@example.com", "@relay.example a@example.com",
        "relay.example:a@example.com", "@relay.example:@example.com",
        # Control characters, also those of Unicode, and where a line could end.
        "a\r\n@example.com", "a@example.com\r\n", "a@example.com\n", "a\x00@example.com",
        "a@exam\x7fple.com", '"a\tb"@example.com', '"a\\\nb"@example.com', "a\x85@example.com",
        "a@example\u2028.com", '"a\u2029"@example.com', "@relay\x9f.example:a@example.com",
    ],
)  # fmt: skip
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_path(text) is None


def test_the_null_path() -> None:
    assert parse_path("") == NULL_PATH
    assert NULL_PATH.null and NULL_PATH.ascii and str(NULL_PATH) == ""


dangerous = st.text(
    st.sampled_from('ab.@<>"\\[]:,-_ é\r\n\t\0\x7f\x85\u2028') | st.characters(), max_size=24
)


@given(dangerous)
def test_a_path_reads_as_it_is_written(text: str) -> None:
    path = parse_path(text)
    if path is not None:
        assert parse_path(str(path)) == path
        assert str(path).splitlines() in ([], [str(path)])
        assert text.endswith(str(path))  # as it came, without the route


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "text",
    [
        "a@" + "a-" * 1000 + "!",
        "a@" + "a." * 1000 + "!",
        "@a," * 600 + "!",
        '"' + "\\a" * 1000,
        "." * 2000,
        "a@[" + "a" * 2000,
        "@" + "a" * 2000 + ":",
    ],
)
def test_no_address_takes_long(text: str) -> None:
    for _ in range(100):
        assert parse_path(text) is None
