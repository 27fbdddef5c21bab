"""The keys of recipients."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smtpproxy.routing import Question, address_key, domain_key, keys_of
from smtpproxy.routing.keys import parents_of
from smtpproxy.smtp.paths import NULL_PATH, Path, parse_path

DOMAIN = "mx.example.net"

names = st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,8}[a-zA-Z0-9_])?", fullmatch=True)
domains = st.lists(names, min_size=1, max_size=4).map(".".join)
locals_ = st.from_regex(r"[a-zA-Z0-9!#$%&'*+/=?^`{|}~._-]{1,20}", fullmatch=True)
quoted = st.from_regex(r'"([ !#-\[\]-~]|\\[ -~]){0,12}"', fullmatch=True)
ascii_paths = st.builds(Path, locals_ | quoted, domains)


def keys(address: str, delimiter: str = "+") -> tuple[str, ...]:
    path = parse_path(address)
    assert path is not None
    return keys_of(path, delimiter, DOMAIN)


def test_address_then_domain():
    assert keys("foo@example.com") == ("foo@example.com", "example.com")


def test_the_address_without_its_suffix_comes_between():
    assert keys("foo+bar@example.com") == ("foo+bar@example.com", "foo@example.com", "example.com")


def test_the_suffix_begins_at_the_first_delimiter():
    assert keys("a+b+c@example.com") == ("a+b+c@example.com", "a@example.com", "example.com")


def test_without_a_delimiter_there_is_no_suffix():
    assert keys("foo+bar@example.com", "") == ("foo+bar@example.com", "example.com")


def test_the_first_of_any_delimiter_counts():
    assert keys("a-b+c@example.com", "+-")[1] == "a@example.com"
    assert keys("a+b-c@example.com", "+-")[1] == "a@example.com"


@pytest.mark.parametrize("local", ["+foo", "+foo+bar", "+"])
def test_a_suffix_never_leaves_an_empty_local_part(local):
    assert keys(f"{local}@example.com") == (f"{local}@example.com", "example.com")


def test_an_empty_suffix_is_a_suffix():
    assert keys("foo+@example.com")[1] == "foo@example.com"


def test_case_does_not_count():
    assert keys("Foo+Bar@EXAMPLE.com") == keys("foo+bar@example.COM")


def test_a_dot_at_the_end_of_a_domain_does_not_count():
    assert keys("foo@example.com.") == keys("foo@example.com")


@pytest.mark.parametrize("word", ["Postmaster", "postmaster", "POSTMASTER"])
def test_postmaster_without_domain_is_the_domain_of_this_server(word):
    assert keys_of(Path(word), "+", "MX.Example.NET") == ("postmaster", DOMAIN)


def test_postmaster_of_a_domain_is_an_address():
    assert keys("Postmaster@example.com") == ("postmaster@example.com", "example.com")


def test_the_null_path_has_no_keys():
    assert keys_of(NULL_PATH, "+", DOMAIN) == ()


@pytest.mark.parametrize(
    ("address", "first", "last"),
    [
        ("foo@[192.0.2.1]", "foo@[192.0.2.1]", "[192.0.2.1]"),
        ("foo@[IPv6:2001:DB8:0::1]", "foo@[ipv6:2001:db8::1]", "[ipv6:2001:db8::1]"),
        ("foo@[IPv6:nonsense]", "foo@[ipv6:nonsense]", "[ipv6:nonsense]"),
    ],
)
def test_address_literals_are_domains_in_brackets(address, first, last):
    assert (keys(address)[0], keys(address)[-1]) == (first, last)


def test_quoted_local_parts_are_compared_unquoted():
    assert keys('"a b"@example.com') == ("a b@example.com", "example.com")
    assert keys(r'"a\ b"@example.com') == keys('"a b"@example.com')
    assert keys('"foo"@example.com') == keys("foo@example.com")
    assert keys(r'"a\"b\\"@example.com')[0] == 'a"b\\@example.com'
    assert keys('"a b+c"@example.com')[1] == "a b@example.com"


@pytest.mark.parametrize("local", ["100%", "o'brien", "%s", "a%b%%", "x'--", "`id`", "$HOME"])
def test_signs_that_other_languages_know_are_only_letters_here(local):
    assert keys(f"{local}@example.com")[0] == f"{local.lower()}@example.com"


@pytest.mark.parametrize(
    "domain",
    [
        "bücher.example",
        "BÜCHER.example",
        "bu\u0308cher.example",
        "XN--BCHER-KVA.Example",
        "bücher。example.",
    ],
)
def test_international_domains_are_compared_in_ascii(domain):
    assert domain_key(domain) == "xn--bcher-kva.example"


def test_domains_that_idna_does_not_know_are_encoded_all_the_same():
    assert domain_key("☃.example") == domain_key("xn--n3h.example")
    assert domain_key("_smtp.BÜCHER。example") == "_smtp.xn--bcher-kva.example"
    assert domain_key("b_ü.example") == domain_key("B_Ü.example") != domain_key("bü.example")


def test_sharp_s_and_final_sigma_are_letters_of_their_own():
    assert domain_key("straße.example") == "xn--strae-oqa.example"
    assert domain_key("ΒΌΛΟσ.example") == domain_key("ΒΌΛΟΣ.example") != domain_key("βόλος.example")


def test_names_too_long_to_exist_take_no_time():
    assert domain_key("ü" * 4000) == "ü" * 4000
    assert domain_key("U\u0308" * 100 + ".example") == "ü" * 100 + ".example"
    assert domain_key("U\u0308." * 200 + "example") == "ü." * 200 + "example"


@pytest.mark.parametrize("domain", ["victim＠example.com", "victim﹫example.com"])
def test_a_domain_never_becomes_an_address(domain):
    assert keys(f"x@{domain}")[-1] != "victim@example.com"
    assert "@" not in keys(f"x@{domain}")[-1]


def test_international_local_parts_are_compared_composed_and_in_lower_case():
    assert keys("JOSÉ@example.com") == keys("jose\u0301@example.com") == keys("josé@example.com")
    assert keys("josé+x@example.com")[1] == "josé@example.com"


def test_dots_of_other_scripts_leave_no_dot_at_the_end_of_a_key():
    assert domain_key("ü。") == domain_key("ü")
    assert domain_key("ü．example．") == "xn--tda.example"


@pytest.mark.parametrize("domain", ["。example.org", "．example.org", "｡example.org"])
def test_a_domain_never_becomes_a_parent_domain(domain):
    assert keys(f"x@{domain}")[-1] != ".example.org"
    assert not keys(f"x@{domain}")[-1].startswith(".")


def test_parent_domains_nearest_first():
    assert parents_of("a.b.example.org") == (".b.example.org", ".example.org", ".org")
    assert parents_of("org") == ()
    assert parents_of("[192.0.2.1]") == parents_of("[ipv6:2001:db8::1]") == ()


def test_a_domain_too_long_to_exist_has_no_parents():
    assert len(parents_of(f"{'a.' * 127}b")) == 127
    assert parents_of(f"{'a.' * 128}b") == ()


def test_all_keys_of_a_question():
    question = Question(Path("Foo+x", "Sub.Example.org"), "+", DOMAIN)
    own = ("foo+x@sub.example.org", "foo@sub.example.org", "sub.example.org")
    assert question.keys == own
    assert question.all_keys(parent_domains=False) == (*own, "*")
    assert question.all_keys(parent_domains=True) == (*own, ".example.org", ".org", "*")
    postmaster = Question(Path("Postmaster"), "+", DOMAIN)
    assert postmaster.all_keys(True) == ("postmaster", DOMAIN, ".example.net", ".net", "*")
    assert Question(NULL_PATH).all_keys(True) == ()


def test_the_percentile_belongs_to_the_mailbox():
    def percentile(address: str, delimiter: str = "+") -> int:
        path = parse_path(address)
        assert path is not None
        return Question(path, delimiter, DOMAIN).percentile

    assert percentile("alice@example.com") == 63  # for ever, and everywhere
    assert percentile("Alice+News@EXAMPLE.com") == 63
    assert percentile('"alice"@example.com') == 63
    assert percentile("alice+news@example.com", "") != 63
    assert percentile("postmaster") == percentile("PostMaster")
    spread = [percentile(f"user{number}@example.com") for number in range(5000)]
    assert set(spread) == set(range(100))
    assert 1150 < sum(each < 25 for each in spread) < 1350


@given(st.text(max_size=60), st.text(max_size=3))
def test_any_path_has_keys(text, delimiter):
    for address in (text, f"x@{text}", f"{text}@example.com", f'"{text}"@example.com'):
        path = parse_path(address)
        if path is not None and not path.null:
            found = keys_of(path, delimiter, DOMAIN)
            assert found[0] == address_key(path)
            assert found[-1] == domain_key(path.domain or DOMAIN)
            assert 2 <= len(found) <= 3


@given(st.text(alphabet=st.characters(min_codepoint=0x80), min_size=1, max_size=80))
def test_any_international_domain_has_one_key(text):
    path = parse_path(f"x@{text}")
    assume(path is not None)
    assert path is not None
    key = domain_key(path.domain)
    assert "@" not in key
    assert domain_key(key) == key


@given(ascii_paths)
def test_keys_do_not_see_case(path):
    upper = Path(path.local.upper(), path.domain.upper())
    assert keys_of(upper, "+-", DOMAIN) == keys_of(path, "+-", DOMAIN)


@given(locals_, domains, st.sampled_from(["+", "-", "+-", "=+"]))
def test_the_suffix_rule(local, domain, delimiters):
    full, *user, last = keys_of(Path(local, domain), delimiters, DOMAIN)
    assert full == f"{local}@{domain}".lower()
    assert last == domain.lower()
    assert bool(user) == (local[0] not in delimiters and not set(local).isdisjoint(delimiters))
    for key in user:
        name, _, rest = key.rpartition("@")
        assert rest == last
        assert name and set(name).isdisjoint(delimiters)
        assert local.lower().startswith(name) and local[len(name)] in delimiters


@given(ascii_paths, ascii_paths)
def test_no_two_domains_share_an_address(one, other):
    assert address_key(one) != domain_key(other.domain)
    if address_key(one) == address_key(other):
        assert one.domain.lower() == other.domain.lower()


def test_idna_is_loaded_only_for_names_that_need_it():
    script = (
        "import sys; from smtpproxy.routing import domain_key\n"
        "domain_key('xn--bcher-kva.example'); assert 'idna' not in sys.modules\n"
        "domain_key('b\\u00fccher.example'); assert 'idna' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
