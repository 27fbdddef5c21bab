"""CSV tables: their format, their faults, and look-ups in them."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.faults import Faults
from smtpproxy.routing import (
    Answer,
    CsvTable,
    Found,
    Identity,
    KeyedMapping,
    NoRoute,
    Question,
    Route,
    Row,
    Server,
    Tls,
    Upstream,
    upstreams_in,
)
from smtpproxy.routing.csv import MAX_FAULTS
from smtpproxy.smtp.paths import parse_path

HEADER = "pattern;server;tls_verify\n"


def to(host: str, port: int = 25, tls: Tls = Tls.OFFERED) -> Upstream:
    return Upstream((Server(host, port),), tls)


@pytest.fixture
def load(tmp_path):
    def load(content: str | bytes) -> CsvTable:
        file = tmp_path / "mapping.csv"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return CsvTable.load(file, "mapping.csv")

    return load


@pytest.fixture
def faults(load):
    """The faults of a file, one line each."""

    def faults(content: str | bytes) -> list[str]:
        with pytest.raises(Faults) as caught:
            load(content)
        return str(caught.value).split("\n")

    return faults


def lookup(table: CsvTable, address: str, parent_domains: bool = False) -> Answer:
    path = parse_path(address)
    assert path is not None
    mapping = KeyedMapping("csv mapping.csv", table, parent_domains)
    coroutine = mapping.lookup(Question(path, "+", "mx.example.net"))
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    answer: Answer = caught.value.value
    return answer


def route(table: CsvTable, address: str, parent_domains: bool = False) -> Route:
    answer = lookup(table, address, parent_domains)
    assert isinstance(answer, Found)
    return answer.route


def host(table: CsvTable, address: str, parent_domains: bool = False) -> str:
    (server,) = route(table, address, parent_domains).upstream.servers
    return server.host


def test_rows_comments_and_blank_lines(load):
    table = load(
        "# who goes where\n"
        "\n"
        + HEADER
        + "alice@example.com;one.test\n"
        + "  # bob moved\n"
        + " bob@example.com ; two.test:26 ; false \n"
        + "\t\n"
        + "example.com;[2001:db8::1];\n"
        + "postmaster;[2001:db8::2]:27;true"
    )
    assert table.name == "mapping.csv"
    assert len(table) == 4
    assert route(table, "alice@example.com") == Route(
        Row(to("one.test")), "csv mapping.csv", "alice@example.com", "mapping.csv:4"
    )
    assert route(table, "bob+x@example.com") == Route(
        Row(to("two.test", 26, Tls.MAY)), "csv mapping.csv", "bob@example.com", "mapping.csv:6"
    )
    assert route(table, "carol@example.com") == Route(
        Row(to("2001:db8::1")), "csv mapping.csv", "example.com", "mapping.csv:8"
    )
    assert route(table, "Postmaster") == Route(
        Row(to("2001:db8::2", 27)), "csv mapping.csv", "postmaster", "mapping.csv:9"
    )
    assert lookup(table, "alice@example.net") == NoRoute()
    assert lookup(table, "alice@sub.example.com") == NoRoute()


def test_the_first_key_wins_wherever_its_row_stands(load):
    table = load(HEADER + "example.com;c\nfoo@example.com;b\nfoo+x@example.com;a\n")
    assert host(table, "foo+x@example.com") == "a"
    assert host(table, "foo+y@example.com") == "b"
    assert host(table, "bar+x@example.com") == "c"


def test_the_third_column_may_be_left_out(load):
    table = load("pattern;server\nexample.com;one.test\n")
    assert route(table, "x@example.com").upstream == to("one.test")


def test_columns_may_stand_in_any_order(load):
    table = load("Server;TLS_verify;Pattern\none.test;no;example.com\n")
    assert route(table, "x@example.com").upstream == to("one.test", tls=Tls.MAY)


@pytest.mark.parametrize(
    ("word", "verify"),
    [
        ("true", True),
        ("YES", True),
        ("1", True),
        ("", True),
        ("False", False),
        ("no", False),
        ("0", False),
    ],
)
def test_words_for_true_and_false(load, word, verify):
    table = load(f"{HEADER}example.com;one.test;{word}\n")
    assert route(table, "x@example.com").upstream.tls is (Tls.OFFERED if verify else Tls.MAY)


def test_byte_order_mark_and_crlf(load):
    table = load(b"\xef\xbb\xbfpattern;server\r\n\r\nexample.com;one.test\r\n")
    assert route(table, "x@example.com").place == "mapping.csv:3"


def test_a_file_with_a_header_alone_has_no_routes(load):
    assert len(load(HEADER)) == 0


def test_patterns_are_compared_as_recipients_are(load):
    table = load(
        HEADER
        + "Alice@EXAMPLE.com;one.test\n"
        + "@Example.Net;two.test\n"
        + "bücher.example;three.test\n"
        + "[192.0.2.1];four.test\n"
        + "POSTMASTER;five.test\n"
    )
    assert host(table, "aLICE@example.COM") == "one.test"
    assert host(table, "x@example.net") == "two.test"
    assert host(table, "x@XN--bcher-kva.example") == "three.test"
    assert host(table, "x@[192.0.2.1]") == "four.test"
    assert host(table, "postmaster") == "five.test"


def test_quotes_belong_to_addresses_or_to_whole_fields(load):
    table = load(
        HEADER
        + '"a;b"@example.com;one.test\n'
        + '"spreadsheet@example.com";"two.test";"no"\n'
        + '"""c;d""@example.com";three.test\n'
        + r'"e\";f"@example.com;four.test'
        + "\n"
        + '"#5"@example.com;five.test\n'
        + '"plain"@example.com;six.test\n'
    )
    assert host(table, '"a;b"@example.com') == "one.test"
    assert route(table, "spreadsheet@example.com").upstream == to("two.test", tls=Tls.MAY)
    assert host(table, '"c;d"@example.com') == "three.test"
    assert host(table, r'"e\";f"@example.com') == "four.test"
    assert host(table, "#5@example.com") == "five.test"
    assert host(table, "plain@example.com") == "six.test"


@pytest.mark.parametrize(
    "local", ["100%", "o'brien", "%s", "x'--", '"a\'; DROP"', '"say \\"hi\\""']
)
def test_addresses_with_signs_that_mean_something_elsewhere(load, local):
    table = load(f"{HEADER}{local}@example.com;one.test\n")
    assert host(table, f"{local}@example.com") == "one.test"


def test_every_fault_is_told_at_once_with_its_line(faults):
    assert faults(
        HEADER
        + "ok@example.com;one.test\n"
        + "not an address@example.com;one.test\n"
        + "# comment\n"
        + "a@example.com;one.test:99999;maybe\n"
        + ";\n"
        + "OK@Example.com.;two.test\n"
        + "a@example.com;one.test\n"
        + "b@example.com;one.test;true;surplus\n"
        + '"c@example.com;one.test\n'
    ) == [
        "mapping.csv:3: pattern: 'not an address@example.com' is neither an address"
        " nor a domain nor postmaster",
        "mapping.csv:5: server: '99999' is not a port; give a number from 1 to 65535",
        "mapping.csv:5: tls_verify: 'maybe' is not a truth value;"
        " give true or false (or yes, no, 1, 0)",
        "mapping.csv:6: pattern: is empty; give an address, a domain, postmaster, or *",
        "mapping.csv:6: server: no server; give host, host:port, [IPv6] or [IPv6]:port",
        "mapping.csv:7: ok@example.com is on line 2 already; keep one of the two lines",
        "mapping.csv:8: a@example.com is on line 5 already; keep one of the two lines",
        "mapping.csv:9: 4 fields; the header allows pattern;server;tls_verify",
        "mapping.csv:10: '\"c@example.com;one.test': a quote (\") without its partner;"
        " add or remove one",
    ]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("*.example.org", "write .example.org for all domains in a domain"),
        ("*@example.org", "there are no such wildcards"),
        ("@*", "* for all recipients"),
        ("@.example.org", "write .example.org for all domains in a domain"),
        (".", "neither an address nor a domain"),
        ("..example.org", "neither an address nor a domain"),
        (".[192.0.2.1]", "neither an address nor a domain"),
        ("a@.example.org", "neither an address nor a domain"),
        ("**", "neither an address nor a domain"),
        ("@", "neither an address nor a domain"),
        ("a@", "neither an address nor a domain"),
        ("a@b@c", "neither an address nor a domain"),
        ("<a@example.com>", "neither an address nor a domain"),
        ("example..com", "neither an address nor a domain"),
        ("https://example.com", "neither an address nor a domain"),
        ("a\x07@example.com", r"'a\x07@example.com' is neither"),
    ],
)
def test_a_pattern_that_is_none(faults, pattern, hint):
    (fault,) = faults(f"{HEADER}{pattern};one.test\n")
    assert fault.startswith("mapping.csv:2: pattern: ")
    assert hint in fault


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("pattern;server;notes", ["unknown column 'notes'"]),
        ("pattern;tls_verify", ["no column server"]),
        ("pattern;server;server", ["column server is there twice"]),
    ],
)
def test_a_header_that_is_wrong_is_told_the_known_columns(faults, header, expected):
    found = faults(f"\n{header}\nthis row;is not judged\n")
    assert [fault.split(";")[0] for fault in found] == [
        f"mapping.csv:2: {each}" for each in expected
    ]
    for fault in found:
        assert (
            "the first line must name pattern and server, and may name"
            " tls_verify, tls, identity, percent, shadow, note"
        ) in fault


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("pattern,server,tls_verify", 'fields are separated by ";", not by commas'),
        ("Pattern, Server", 'fields are separated by ";", not by commas'),
        ('"pattern","server"', 'fields are separated by ";", not by commas'),
        ("pattern\tserver", 'fields are separated by ";", not by tabs'),
        ("example.com;one.test", "the header line is missing"),
        ("example.com,one.test,yes", "the header line is missing"),
        ("example.com", "the header line is missing"),
    ],
)
def test_no_header_and_other_separators_are_one_fault(faults, header, fault):
    assert faults(f"{header}\nthis row;is not judged\n") == [
        f"mapping.csv:1: {fault}: pattern;server;tls_verify"
    ]


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing\n"])
def test_an_empty_file_is_a_fault(faults, content):
    (fault,) = faults(content)
    assert fault.startswith("mapping.csv: is empty; the first line must name pattern and server")


def test_lines_that_are_not_utf_8_are_told_one_by_one(faults):
    latin = HEADER + "jürgen@example.com;one.test\nx y;one.test\n# für alle\n"
    found = faults(latin.encode("latin-1"))
    assert found[0] == "mapping.csv:2: is not UTF-8 at byte 2; save the file as UTF-8"
    assert found[1].startswith("mapping.csv:3: pattern: ")
    assert found[2] == "mapping.csv:4: is not UTF-8 at byte 4; save the file as UTF-8"


def test_utf_16_is_a_fault(faults):
    assert faults(HEADER.encode("utf-16"))[0].startswith("mapping.csv:1: is not UTF-8")


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path):
    for file, reason in (
        (tmp_path / "none.csv", "there is no such file"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(Faults) as caught:
            CsvTable.load(file, "none.csv")
        (fault,) = caught.value.faults
        assert str(fault) == f"none.csv: {reason}"


def test_upstreams_are_listed_once(load):
    table = load(
        HEADER + "a.test;one.test\nb.test;ONE.test:25;yes\nc.test;one.test;no\nd.test;one.test:26\n"
    )
    assert list(upstreams_in(table.listed())) == [
        to("one.test"),
        to("one.test", tls=Tls.MAY),
        to("one.test", 26),
    ]
    assert route(table, "x@a.test").row is route(table, "x@b.test").row


def test_upstreams_that_are_only_shadows_are_listed_too(load):
    table = load("pattern;server;shadow\na.test;one.test;two.test\nb.test;one.test;three.test\n")
    assert list(map(str, upstreams_in(table.listed()))) == [
        "one.test:25",
        "two.test:25",
        "three.test:25",
    ]


def test_rows_are_nothing_to_the_garbage_collector(load):
    gc.collect()
    before = len(gc.get_objects())
    table = load(HEADER + "".join(f"u{i}@example.com;one.test\n" for i in range(5000)))
    gc.collect()
    assert len(table) == 5000
    assert len(gc.get_objects()) - before < 500


@given(content=st.text(alphabet=st.sampled_from('pattern;server\n"\\@.x#* é\r'), max_size=80))
def test_any_file_is_a_mapping_or_faults_with_their_lines(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(f"pattern;server\n{content}".encode())
    try:
        CsvTable.load(file, "any.csv")
    except Faults as caught:
        lines = content.count("\n") + 2
        for fault in caught.faults:
            name, _, line = fault.place.partition(":")
            assert name == "any.csv"
            assert 2 <= int(line) <= lines
            assert fault.text


def test_every_column_of_a_row(load):
    table = load(
        "note;pattern;tls;identity;percent;shadow;server\n"
        "moving; a.test ; Verify ; XCLIENT ; 100% ; new.test:26 ; one.test:25, two.test\n"
        ";b.test;;;;;mx:Example.net\n"
        ";c.test;none;none;0;;a:25*3,b:25*1\n"
    )
    upstream = Upstream((Server("one.test"), Server("two.test")), Tls.VERIFY, Identity.XCLIENT)
    shadow = Upstream((Server("new.test", 26),), Tls.VERIFY, Identity.XCLIENT)
    assert route(table, "x@a.test").row == Row(upstream, 100, shadow)
    assert route(table, "x@b.test").row == Row(Upstream((Server("example.net", mx=True),)))
    weighted = Upstream((Server("a", weight=3), Server("b", weight=1)), Tls.NONE, Identity.NONE)
    assert lookup(table, "x@c.test") == NoRoute(
        (Route(Row(weighted, 0), "csv mapping.csv", "c.test", "mapping.csv:4"),)
    )


def test_the_faults_of_all_columns_of_a_row(faults):
    assert faults(
        "pattern;server;tls_verify;tls;identity;percent;shadow\n"
        "x y;a b;maybe;always;me;101;c d\n"
        "b.test;one.test;false;may;;;\n"
    ) == [
        "mapping.csv:2: pattern: 'x y' is neither an address nor a domain nor postmaster",
        "mapping.csv:2: server: 'a b' is not a host name;"
        " give host, host:port, [IPv6] or [IPv6]:port",
        "mapping.csv:2: tls_verify: 'maybe' is not a truth value;"
        " give true or false (or yes, no, 1, 0)",
        "mapping.csv:2: tls: 'always' is not a way of TLS; give none, may, encrypt, verify",
        "mapping.csv:2: identity: 'me' is not an identity;"
        " give auto, xclient, proxy1, proxy2, received, none",
        "mapping.csv:2: percent: '101' is not a percentage; give a whole number from 0 to 100",
        "mapping.csv:2: shadow: 'c d' is not a host name;"
        " give host, host:port, [IPv6] or [IPv6]:port",
        "mapping.csv:3: tls: stands beside tls_verify; leave one of the two empty",
    ]


def test_rows_that_differ_in_their_note_alone_are_one_in_memory(load):
    table = load("note;pattern;server\nx;a.test;one.test\ny;b.test;one.test\n")
    assert route(table, "x@a.test").row is route(table, "x@b.test").row


def test_parent_domains_and_the_catch_all(load):
    table = load(
        HEADER
        + "*;all.test\n"
        + ".org;org.test\n"
        + ".Example.ORG.;example.test\n"
        + ".b\u00fccher.example;idna.test\n"
        + "sub.example.org;sub.test\n"
        + "x@deep.sub.example.org;x.test\n"
    )
    for address, found in (
        ("x@deep.sub.example.org", "x.test"),
        ("y@deep.sub.example.org", "example.test"),
        ("y@sub.example.org", "sub.test"),
        ("y@example.org", "org.test"),
        ("y@notexample.org", "org.test"),
        ("y@org", "all.test"),
        ("y@a.xn--bcher-kva.example", "idna.test"),
        ("y@[192.0.2.1]", "all.test"),
        ("Postmaster", "all.test"),
    ):
        assert host(table, address, parent_domains=True) == found, address
    assert host(table, "y@deep.sub.example.org") == "all.test"
    assert host(table, "y@sub.example.org") == "sub.test"
    assert lookup(load(HEADER + ".org;org.test\n"), "y@example.org") == NoRoute()


def test_the_null_path_is_not_among_all_recipients(load):
    assert lookup(load(HEADER + "*;all.test\n"), "") == NoRoute()


def test_duplicates_are_seen_in_whatever_form(faults):
    assert faults(
        HEADER
        + "example.org;a\n.example.org;a\n*;a\npostmaster;a\n"
        + "@EXAMPLE.org.;b\n.EXAMPLE.org.;b\n*;b\nPostMaster;b\n"
    ) == [
        "mapping.csv:6: example.org is on line 2 already; keep one of the two lines",
        "mapping.csv:7: .example.org is on line 3 already; keep one of the two lines",
        "mapping.csv:8: * is on line 4 already; keep one of the two lines",
        "mapping.csv:9: postmaster is on line 5 already; keep one of the two lines",
    ]


def test_a_part_of_a_domain_moves(load):
    table = load(
        "pattern;server;percent\nexample.com;new.test;25\nvip@example.com;vip.test;0\n*;old.test;\n"
    )
    addresses = [f"user{number}@example.com" for number in range(1000)]
    moved = [address for address in addresses if host(table, address) == "new.test"]
    assert 200 < len(moved) < 300
    assert all(host(table, address.replace("@", "+x@")) == "new.test" for address in moved)
    assert all(host(table, address) == "old.test" for address in set(addresses) - set(moved))
    answer = lookup(table, "vip@example.com")
    assert isinstance(answer, Found)
    assert answer.passed[0].key == "vip@example.com"


def test_all_rows_in_their_order(load):
    table = load(HEADER + "b.test;one.test\n# comment\na.test;two.test\n")
    assert set(table.keys()) == {"b.test", "a.test"}
    assert list(table.rows()) == [
        ("b.test", 2, Row(to("one.test"))),
        ("a.test", 4, Row(to("two.test"))),
    ]


def test_the_example_in_the_documentation_works(load):
    page = Path(__file__).parents[1].joinpath("docs", "mappings.md").read_text("utf-8")
    (example,) = (block for block in page.split("```") if "\npattern;server;tls_verify" in block)
    table = load(example.lstrip("\n"))
    assert len(table) == 4
    assert route(table, "alice+news@example.com").upstream == to("new.example.net")
    assert route(table, "bob@example.com").upstream == to("old.example.net", 2525, Tls.MAY)


def test_a_line_without_an_end_is_a_fault(load):
    with pytest.raises(Faults) as caught:
        load("pattern;server\nx.test;one.test\n" + "x" * 100_000)
    (fault,) = caught.value.faults
    assert fault.place == "mapping.csv:3"
    assert fault.text.startswith("is longer than 8192 octets")


def test_a_file_of_faults_is_not_read_to_its_end(load):
    with pytest.raises(Faults) as caught:
        load("pattern;server\n" + "x.test;a;b\n" * 5000)
    assert len(caught.value.faults) == MAX_FAULTS + 1
    assert caught.value.faults[-1].text.startswith("is not read beyond line 1001")
