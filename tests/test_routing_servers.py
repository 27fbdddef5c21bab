"""Servers and upstreams, as administrators write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.routing import Identity, Server, Tls, Upstream, parse_server, parse_servers


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("mx.example.net", "mx.example.net", 25),
        ("mx.example.net:2525", "mx.example.net", 2525),
        (" MX.Example.NET. ", "mx.example.net", 25),
        ("mx.example.net.:26", "mx.example.net", 26),
        ("localhost:1", "localhost", 1),
        ("mail_store.test:65535", "mail_store.test", 65535),
        ("192.0.2.1", "192.0.2.1", 25),
        ("192.0.2.1:2600", "192.0.2.1", 2600),
        ("[2001:db8::1]", "2001:db8::1", 25),
        ("[2001:DB8:0::1]:26", "2001:db8::1", 26),
        ("2001:db8::1", "2001:db8::1", 25),
        ("::1", "::1", 25),
        ("bücher.example:26", "xn--bcher-kva.example", 26),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example", 25),
    ],
)
def test_a_server_is_host_and_port(text, host, port):
    assert parse_server(text) == (host, port)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "give host, host:port, [IPv6] or [IPv6]:port"),
        ("  ", "no server"),
        (":25", "is not a server"),
        ("mx.example.net:", "'' is not a port"),
        ("mx.example.net:smtp", "'smtp' is not a port; give a number from 1 to 65535"),
        ("mx.example.net:0", "'0' is not a port"),
        ("mx.example.net:65536", "'65536' is not a port"),
        ("mx.example.net:-1", "'-1' is not a port"),
        ("mx.example.net:٢٥", "is not a port"),
        ("mx.example.net:25:25", "is not an IPv6 address"),
        ("smtp://mx.example.net", "is not a port"),
        ("[mx.example.net]:25", "'mx.example.net' is not an IPv6 address"),
        ("[2001:db8::1", "is not a server"),
        ("[2001:db8::1]25", "is not a server"),
        ("[]", "'' is not an IPv6 address"),
        ("fe80::1%eth0", "has a zone"),
        ("192.0.2.300", "is not an IPv4 address"),
        ("192.0.2", "is not an IPv4 address"),
        ("mx example.net", "is not a host name"),
        ("mx..example.net", "is not a host name"),
        ("-mx.example.net", "is not a host name"),
        ("user@mx.example.net", "is not a host name"),
        ("mx.example.net\r\nQUIT", "is not a host name"),
        ("a" * 64 + ".test", "is not a host name"),
        ("a." * 127 + "test", "is not a host name"),
    ],
)
def test_what_is_no_server_is_told_what_one_is(text, hint):
    with pytest.raises(ValueError) as caught:
        parse_server(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.text(max_size=40) | st.from_regex(r"\[?[0-9a-f:.]{1,20}\]?(:[0-9]{0,6})?", fullmatch=True)
)
def test_any_text_is_a_server_or_a_value_error(text):
    try:
        host, port = parse_server(text)
    except ValueError:
        return
    assert parse_server(str(Server(host, port))) == (host, port)


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("one.test", (Server("one.test"),)),
        ("one.test:26", (Server("one.test", 26),)),
        ("b.test:26 , A.test", (Server("b.test", 26), Server("a.test"))),
        ("[2001:db8::1]:26,::1", (Server("2001:db8::1", 26), Server("::1"))),
        ("a:25*3,b*1", (Server("a", weight=3), Server("b", weight=1))),
        ("a*1000", (Server("a", weight=1000),)),
        ("[::1]:26*2,192.0.2.1*1", (Server("::1", 26, weight=2), Server("192.0.2.1", weight=1))),
        ("mx:Example.com", (Server("example.com", mx=True),)),
        ("MX: bücher.example.:26", (Server("xn--bcher-kva.example", 26, mx=True),)),
        ("mx:a.test*2,mx:b.test*1", (Server("a.test", 25, True, 2), Server("b.test", 25, True, 1))),
        ("mx:a.test,a.test", (Server("a.test", mx=True), Server("a.test"))),
        ("mx", (Server("mx"),)),
        ("lmtp:store.test", (Server("store.test", 24, lmtp=True),)),
        ("LMTP: Store.test:2424", (Server("store.test", 2424, lmtp=True),)),
        ("lmtp:[2001:db8::1]:2424", (Server("2001:db8::1", 2424, lmtp=True),)),
        ("lmtp:::1", (Server("::1", 24, lmtp=True),)),
        ("unix:/run/smtp", (Server("", 0, path="/run/smtp"),)),
        ("lmtp:unix:/run/Lmtp:1", (Server("", 0, lmtp=True, path="/run/Lmtp:1"),)),
        (
            "lmtp:unix:/a*3,lmtp:b*1",
            (
                Server("", 0, weight=3, lmtp=True, path="/a"),
                Server("b", 24, weight=1, lmtp=True),
            ),
        ),
        ("lmtp:a,a", (Server("a", 24, lmtp=True), Server("a"))),
        ("lmtp.:24,unix.:25", (Server("lmtp", 24), Server("unix", 25))),
        ("lmtp", (Server("lmtp"),)),
    ],
)
def test_several_servers_in_order_or_with_weights(text, servers):
    assert parse_servers(text) == servers


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "no server; give host"),
        ("a,,b", "no server"),
        ("a,", "no server"),
        ("a b,c", "'a b' is not a host name"),
        ("a:25,A.", "a:25 is there twice; keep one"),
        ("a*1,b*1,a*2", "a:25*2 is there twice; keep one"),
        ("a*2,b", "give every server a weight, as in a:25*3,b:25*1, or none"),
        ("a*", "'' is not a weight; give a number from 1 to 1000"),
        ("a*0,b*1", "'0' is not a weight"),
        ("a*1001,b*1", "'1001' is not a weight"),
        ("a*-1", "is not a weight"),
        ("a*1.5", "is not a weight"),
        ("a*٣", "is not a weight"),
        ("a*2:25", "'2:25' is not a weight"),
        ("*3", "no server"),
        ("mx:", "no server"),
        ("mx:192.0.2.1", "MX records belong to a domain; give mx:example.com"),
        ("mx:[2001:db8::1]", "MX records belong to a domain"),
        ("mx:mx:a.test", "is not a port"),
        ("a,smtp://b.test:25", "no smtp:// stands in front; give host, host:port"),
        ("SMTP://b.test", "no SMTP:// stands in front"),
        ("lmtp://b.test*2", "no lmtp:// stands in front"),
        ("lmtp:", "no server"),
        ("lmtp:24", "'lmtp:24' has no host; give lmtp:host:24, or lmtp.:24 for a host that is"),
        ("lmtp:a:25", "LMTP is never on port 25; its own is 24"),
        ("lmtp:mx:a.test", "the hosts of MX records do not speak LMTP; name a host"),
        ("lmtp:lmtp:a", "is not a port"),
        ("lmtp:a,lmtp:A:24", "lmtp:a:24 is there twice"),
        ("unix:", "'' is no full path of a Unix socket; give unix:/run/"),
        ("unix:run/smtp", "'run/smtp' is no full path"),
        ("unix:25", "'25' is no full path"),
        ("lmtp:unix:lmtp", "'lmtp' is no full path"),
        ("unix:/", "the path of a Unix socket can have letters, digits and ._:@+~/-"),
        ("unix:/run/", "the path of a Unix socket"),
        ("unix:/run/a b", "the path of a Unix socket"),
        ("unix:/run/a\nb", "the path of a Unix socket"),
        ("unix:/run/a[b]", "the path of a Unix socket"),
        ("unix:/run/ü", "the path of a Unix socket"),
        ("unix:/" + "a" * 107, "the path of a Unix socket has at most 107 octets"),
        ("unix:/a*b", "'b' is not a weight"),
        ("unix:/a,/b", "'/b' is not a host name"),
        ("unix:/a*1,unix:/a*2", "unix:/a*2 is there twice"),
    ],
)
def test_what_is_no_list_of_servers(text, hint):
    with pytest.raises(ValueError) as caught:
        parse_servers(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


PARTS = [
    *("a", "B.test.", "mx", "lmtp", "unix", "192.0.2.1", "[::1]:26", "d:99999", "", "*", "e*"),
    *("mx:c", "lmtp:a", "lmtp:a:25", "unix:/a", "lmtp:unix:/a/B", "unix:a"),
]


@given(
    st.lists(
        st.sampled_from(PARTS),
        max_size=4,
    ).map(",".join)
    | st.from_regex(
        r"(mx:|lmtp:|lmtp:unix:/)?[a-b.:\[\]0-9]{0,12}(\*[0-9]{0,5})?(,[a-b*0-9]{0,5})?",
        fullmatch=True,
    )
)
def test_any_text_is_servers_that_are_written_as_they_are_read_or_a_value_error(text):
    try:
        servers = parse_servers(text)
    except ValueError:
        return
    assert parse_servers(str(Upstream(servers))) == servers


def test_an_upstream_is_written_as_it_is_read():
    assert str(Upstream((Server("mx.example.net"),))) == "mx.example.net:25"
    assert str(Upstream((Server("2001:db8::1", 26),))) == "[2001:db8::1]:26"
    assert str(Upstream(parse_servers("a*3,mx:b:26*1"))) == "a:25*3,mx:b:26*1"
    assert str(Upstream(parse_servers("lmtp:a,lmtp:::1"))) == "lmtp:a:24,lmtp:[::1]:24"
    assert str(Upstream(parse_servers("lmtp:unix:/a*3,unix:/b*1"))) == "lmtp:unix:/a*3,unix:/b*1"
    assert str(Upstream(parse_servers("mx,lmtp,unix"))) == "mx.:25,lmtp.:25,unix.:25"


def test_upstreams_are_equal_by_servers_tls_ways_and_identity():
    upstream = Upstream(parse_servers("mx.example.net,mx2.example.net"))
    assert upstream == Upstream(parse_servers("MX.example.net.:25, mx2.example.net"))
    assert upstream != Upstream(parse_servers("mx2.example.net,mx.example.net"))
    assert upstream != Upstream(parse_servers("mx.example.net"))
    assert upstream != Upstream(parse_servers("mx.example.net*1,mx2.example.net*1"))
    assert upstream != Upstream(upstream.servers, Tls.MAY)
    assert upstream != Upstream(upstream.servers, identity=Identity.XCLIENT)
    assert Upstream(parse_servers("unix:/a")) == Upstream(parse_servers("UNIX:/a"))
    assert Upstream(parse_servers("unix:/a")) != Upstream(parse_servers("unix:/A"))
    assert Upstream(parse_servers("unix:/a")) != Upstream(parse_servers("lmtp:unix:/a"))
    assert Upstream(parse_servers("a:24")) != Upstream(parse_servers("lmtp:a"))


def test_no_certificate_is_for_a_unix_socket():
    servers = parse_servers("a.test,lmtp:unix:/run/lmtp")
    with pytest.raises(ValueError, match="lmtp:unix:/run/lmtp: no certificate can be for a Unix"):
        Upstream(servers, Tls.VERIFY)
    for tls in (Tls.NONE, Tls.MAY, Tls.OFFERED, Tls.ENCRYPT):
        assert Upstream(servers, tls).tls is tls


@pytest.mark.parametrize(
    ("tls", "required", "verified"),
    [
        (Tls.NONE, False, False),
        (Tls.MAY, False, False),
        (Tls.OFFERED, False, True),
        (Tls.ENCRYPT, True, False),
        (Tls.VERIFY, True, True),
    ],
)
def test_what_each_way_of_tls_asks(tls, required, verified):
    assert (tls.required, tls.verified) == (required, verified)
