"""What a recipient is looked up by: its keys, the same for every kind of mapping.

A key is an address, a domain, or the word `postmaster`, in one canonical form, so that a
mapping need only compare strings.  No domain has the key of an address: outside the
brackets of an address literal, the key of a domain holds no `@`.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from unicodedata import normalize

from smtpproxy.smtp.paths import Path

POSTMASTER = "postmaster"
CATCH_ALL = "*"

_QUOTED_PAIR = re.compile(r"\\(.)")
_LABEL = r"[\w\-\u0080-\U0010ffff]+"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_IPV6 = "[ipv6:"  # RFC 5321 4.1.3
_MAX_DOMAIN = 255  # characters
_MAX_LABEL = 63


def keys_of(recipient: Path, recipient_delimiter: str, domain: str) -> tuple[str, ...]:
    """The keys of `recipient`, in the order they are tried.

    They are the full address, the address without its suffix, and the domain.  The suffix
    begins at the first of the characters in `recipient_delimiter` ("" for none) that the
    local part holds; as in Postfix, a local part that begins with one has no suffix.
    `domain` is this server's, for `<Postmaster>` (RFC 5321 4.1.1.3).  The null path has
    no keys.
    """
    if recipient.null:
        return ()
    if not recipient.domain:
        return recipient.local.lower(), domain_key(domain)
    local, at_domain = _unquoted(recipient.local), domain_key(recipient.domain)
    user = _without_suffix(local, recipient_delimiter)
    address = f"{_folded(local)}@{at_domain}"
    if user == local:
        return address, at_domain
    return address, f"{_folded(user)}@{at_domain}", at_domain


def parents_of(domain: str) -> tuple[str, ...]:
    """The parent domains of a domain's key, nearest first, each with a dot before it.

    `a.example.org` has `.example.org` and `.org`; itself it is not among them.  Neither an
    address literal nor a name too long to exist has any.
    """
    if domain.startswith("[") or len(domain) > _MAX_DOMAIN:
        return ()
    labels = domain.split(".")
    return tuple(f".{'.'.join(labels[first:])}" for first in range(1, len(labels)))


def address_key(address: Path) -> str:
    """The key of a full address, or of `postmaster`."""
    if not address.domain:
        return address.local.lower()
    return f"{_folded(_unquoted(address.local))}@{domain_key(address.domain)}"


def domain_key(domain: str) -> str:
    """`domain` in lower case and ASCII (IDNA, RFC 5891), without a dot at the end.

    For any text: where IDNA does not know a name (emoji, underscores), its labels are
    encoded all the same, and a name too long to exist is left as it is.
    """
    domain = domain.removesuffix(".")
    if domain.isascii():
        lower = domain.lower()
        return _ipv6_literal(lower) if lower.startswith(_IPV6) else lower
    if len(domain) > _MAX_DOMAIN:  # Punycode takes the square of its length
        return _folded(domain)
    return ".".join(map(_ascii_label, _mapped(domain).split(".")))


def _mapped(domain: str) -> str:
    """`domain` in the characters of IDNA (UTS 46), in lower case and NFC where that fails."""
    import idna  # slow to load, and most mail has no need of it

    try:
        mapped = idna.uts46_remap(domain, std3_rules=False)
    except idna.IDNAError:
        return _folded(domain)
    # a full-width "@" must not become a real one: it would make an address of a domain;
    # nor an ideographic full stop in front a dot, which would make a parent domain of it
    return mapped.removesuffix(".") if _NAME.fullmatch(mapped) else _folded(domain)


def _ascii_label(label: str) -> str:
    import idna

    if label.isascii() or len(label) > _MAX_LABEL:
        return label
    try:
        return idna.alabel(label).decode()
    except idna.IDNAError:
        return f"xn--{label.encode('punycode').decode()}"


def _ipv6_literal(literal: str) -> str:
    try:
        return f"{_IPV6}{IPv6Address(literal.removeprefix(_IPV6).removesuffix(']'))}]"
    except ValueError:
        return literal


def _unquoted(local: str) -> str:
    """`"a\\ b"` and `"a b"` are one mailbox, as are `"ab"` and `ab` (RFC 5321 4.1.2)."""
    if local.startswith('"'):
        local = _QUOTED_PAIR.sub(r"\1", local[1:-1])
    return local if local.isascii() else normalize("NFC", local)


def _without_suffix(local: str, delimiters: str) -> str:
    user = local
    for each in delimiters:
        user = user.partition(each)[0]
    return user or local


def _folded(text: str) -> str:
    """`text` without regard to case and to how its accents are written."""
    return text.lower() if text.isascii() else normalize("NFC", text.lower())
