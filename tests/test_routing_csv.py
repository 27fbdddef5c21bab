"""The CSV mapping: its format, its faults, its look-ups."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.faults import Faults
from smtpproxy.routing import Answer, CsvMapping, Found, NoRoute, Route, Upstream, keys_of
from smtpproxy.smtp.paths import parse_path

HEADER = "pattern;server;tls_verify\n"


@pytest.fixture
def load(tmp_path):
    def load(content: str | bytes) -> CsvMapping:
        file = tmp_path / "mapping.csv"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return CsvMapping.load(file, "mapping.csv")

    return load


@pytest.fixture
def faults(load):
    """The faults of a file, one line each."""

    def faults(content: str | bytes) -> list[str]:
        with pytest.raises(Faults) as caught:
            load(content)
        return str(caught.value).split("\n")

    return faults


def lookup(mapping: CsvMapping, address: str) -> Answer:
    path = parse_path(address)
    assert path is not None
    coroutine = mapping.lookup(keys_of(path, "+", "mx.example.net"))
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    answer: Answer = caught.value.value
    return answer


def route(mapping: CsvMapping, address: str) -> Route:
    answer = lookup(mapping, address)
    assert isinstance(answer, Found)
    return answer.route


def test_rows_comments_and_blank_lines(load):
    mapping = load(
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
    assert mapping.name == "csv mapping.csv"
    assert len(mapping) == 4
    assert route(mapping, "alice@example.com") == Route(
        Upstream("one.test"), "csv mapping.csv", "alice@example.com", "mapping.csv:4"
    )
    assert route(mapping, "bob+x@example.com") == Route(
        Upstream("two.test", 26, False), "csv mapping.csv", "bob@example.com", "mapping.csv:6"
    )
    assert route(mapping, "carol@example.com") == Route(
        Upstream("2001:db8::1"), "csv mapping.csv", "example.com", "mapping.csv:8"
    )
    assert route(mapping, "Postmaster") == Route(
        Upstream("2001:db8::2", 27), "csv mapping.csv", "postmaster", "mapping.csv:9"
    )
    assert lookup(mapping, "alice@example.net") == NoRoute()
    assert lookup(mapping, "alice@sub.example.com") == NoRoute()


def test_the_first_key_wins_wherever_its_row_stands(load):
    mapping = load(HEADER + "example.com;c\nfoo@example.com;b\nfoo+x@example.com;a\n")
    assert route(mapping, "foo+x@example.com").upstream.host == "a"
    assert route(mapping, "foo+y@example.com").upstream.host == "b"
    assert route(mapping, "bar+x@example.com").upstream.host == "c"


def test_the_third_column_may_be_left_out(load):
    mapping = load("pattern;server\nexample.com;one.test\n")
    assert route(mapping, "x@example.com").upstream == Upstream("one.test", 25, True)


def test_columns_may_stand_in_any_order(load):
    mapping = load("Server;TLS_verify;Pattern\none.test;no;example.com\n")
    assert route(mapping, "x@example.com").upstream == Upstream("one.test", 25, False)


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
    mapping = load(f"{HEADER}example.com;one.test;{word}\n")
    assert route(mapping, "x@example.com").upstream.tls_verify is verify


def test_byte_order_mark_and_crlf(load):
    mapping = load(b"\xef\xbb\xbfpattern;server\r\n\r\nexample.com;one.test\r\n")
    assert route(mapping, "x@example.com").place == "mapping.csv:3"


def test_a_file_with_a_header_alone_has_no_routes(load):
    assert len(load(HEADER)) == 0


def test_patterns_are_compared_as_recipients_are(load):
    mapping = load(
        HEADER
        + "Alice@EXAMPLE.com;one.test\n"
        + "@Example.Net;two.test\n"
        + "bücher.example;three.test\n"
        + "[192.0.2.1];four.test\n"
        + "POSTMASTER;five.test\n"
    )
    assert route(mapping, "aLICE@example.COM").upstream.host == "one.test"
    assert route(mapping, "x@example.net").upstream.host == "two.test"
    assert route(mapping, "x@XN--bcher-kva.example").upstream.host == "three.test"
    assert route(mapping, "x@[192.0.2.1]").upstream.host == "four.test"
    assert route(mapping, "postmaster").upstream.host == "five.test"


def test_quotes_belong_to_addresses_or_to_whole_fields(load):
    mapping = load(
        HEADER
        + '"a;b"@example.com;one.test\n'
        + '"spreadsheet@example.com";"two.test";"no"\n'
        + '"""c;d""@example.com";three.test\n'
        + r'"e\";f"@example.com;four.test'
        + "\n"
        + '"#5"@example.com;five.test\n'
        + '"plain"@example.com;six.test\n'
    )
    assert route(mapping, '"a;b"@example.com').upstream.host == "one.test"
    assert route(mapping, "spreadsheet@example.com").upstream == Upstream("two.test", 25, False)
    assert route(mapping, '"c;d"@example.com').upstream.host == "three.test"
    assert route(mapping, r'"e\";f"@example.com').upstream.host == "four.test"
    assert route(mapping, "#5@example.com").upstream.host == "five.test"
    assert route(mapping, "plain@example.com").upstream.host == "six.test"


@pytest.mark.parametrize(
    "local", ["100%", "o'brien", "%s", "x'--", '"a\'; DROP"', '"say \\"hi\\""']
)
def test_addresses_with_signs_that_mean_something_elsewhere(load, local):
    mapping = load(f"{HEADER}{local}@example.com;one.test\n")
    assert route(mapping, f"{local}@example.com").upstream.host == "one.test"


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
        "mapping.csv:6: pattern: is empty; give an address, a domain, or postmaster",
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
        ("*", "add a static mapping after this one"),
        (".example.org", "give each domain in full"),
        ("@.example.org", "give each domain in full"),
        ("*.example.org", "give each domain in full"),
        ("*@example.org", "give the domain alone"),
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
        ("pattern;server;note", ["unknown column 'note'"]),
        ("pattern;tls_verify", ["no column server"]),
        ("pattern;server;server", ["column server is there twice"]),
        (
            "pattern,server",
            ["unknown column 'pattern,server'", "no column pattern", "no column server"],
        ),
        (
            "example.com;one.test",
            [
                "unknown column 'example.com'",
                "unknown column 'one.test'",
                "no column pattern",
                "no column server",
            ],
        ),
    ],
)
def test_a_header_that_is_wrong_is_told_the_known_columns(faults, header, expected):
    found = faults(f"\n{header}\nthis row;is not judged\n")
    assert [fault.split(";")[0] for fault in found] == [
        f"mapping.csv:2: {each}" for each in expected
    ]
    for fault in found:
        assert "the first line must be pattern;server;tls_verify" in fault


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing\n"])
def test_an_empty_file_is_a_fault(faults, content):
    (fault,) = faults(content)
    assert fault.startswith("mapping.csv: is empty; the first line must be pattern;server")


def test_lines_that_are_not_utf_8_are_told_one_by_one(faults):
    latin = HEADER + "jürgen@example.com;one.test\nx y;one.test\n# für alle\n"
    found = faults(latin.encode("latin-1"))
    assert found[0] == "mapping.csv:2: is not UTF-8 at byte 2; save the file as UTF-8"
    assert found[1].startswith("mapping.csv:3: pattern: ")
    assert found[2] == "mapping.csv:4: is not UTF-8 at byte 4; save the file as UTF-8"


def test_utf_16_is_a_fault(faults):
    assert faults(HEADER.encode("utf-16"))[0].startswith("mapping.csv:1: is not UTF-8")


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path):
    for file, reason in ((tmp_path / "none.csv", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(Faults) as caught:
            CsvMapping.load(file, "none.csv")
        (fault,) = caught.value.faults
        assert fault.place == "none.csv"
        assert reason in fault.text
        assert str(file) in fault.text


def test_upstreams_are_listed_once(load):
    mapping = load(
        HEADER + "a.test;one.test\nb.test;ONE.test:25;yes\nc.test;one.test;no\nd.test;one.test:26\n"
    )
    assert list(mapping.upstreams()) == [
        Upstream("one.test"),
        Upstream("one.test", 25, False),
        Upstream("one.test", 26),
    ]
    assert route(mapping, "x@a.test").upstream is route(mapping, "x@b.test").upstream


def test_rows_are_nothing_to_the_garbage_collector(load):
    gc.collect()
    before = len(gc.get_objects())
    mapping = load(HEADER + "".join(f"u{i}@example.com;one.test\n" for i in range(5000)))
    gc.collect()
    assert len(mapping) == 5000
    assert len(gc.get_objects()) - before < 500


@given(content=st.text(alphabet=st.sampled_from('pattern;server\n"\\@.x#* é\r'), max_size=80))
def test_any_file_is_a_mapping_or_faults_with_their_lines(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(f"pattern;server\n{content}".encode())
    try:
        CsvMapping.load(file, "any.csv")
    except Faults as caught:
        lines = content.count("\n") + 2
        for fault in caught.faults:
            name, _, line = fault.place.partition(":")
            assert name == "any.csv"
            assert 2 <= int(line) <= lines
            assert fault.text


def test_the_example_in_the_documentation_works(load):
    page = Path(__file__).parents[1].joinpath("docs", "mappings.md").read_text("utf-8")
    (example,) = (block for block in page.split("```") if "\npattern;server" in block)
    mapping = load(example.lstrip("\n"))
    assert len(mapping) == 4
    assert route(mapping, "alice+news@example.com").upstream == Upstream("new.example.net")
    assert route(mapping, "bob@example.com").upstream == Upstream("old.example.net", 2525, False)
