"""Files of many rows: addresses and domains, as a provider of mail might have them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

UPSTREAMS = 20  # a row's server is one of so many
PER_DOMAIN = 10  # rows of one domain: itself, and addresses in it

HEADER = "pattern;server;tls_verify\n"


def pattern(number: int) -> str:
    """The pattern of a row: a domain, or an address of some 30 characters."""
    domain = f"customer{number // PER_DOMAIN}.test"
    return domain if number % PER_DOMAIN == 0 else f"first.last{number}@{domain}"


def servers(first: str) -> tuple[str, ...]:
    """The servers of the rows.  At `first` somebody may listen."""
    return (first, *(f"mx{number}.example.net" for number in range(1, UPSTREAMS)))


def rows(count: int, first: str, moved: int = 0) -> Iterator[tuple[str, str]]:
    """Pattern and server of each row.

    Between 0 and another value of `moved`, every other address has another server.
    """
    choice = servers(first)
    for number in range(count):
        shift = moved if number % 2 else 0
        yield pattern(number), choice[(number // PER_DOMAIN + shift) % UPSTREAMS]


def write(file: Path, count: int, first: str = "mx0.example.net", moved: int = 0) -> None:
    """A CSV mapping of `count` rows, as a whole or not at all."""
    new = file.with_name(f"{file.name}.new")
    with new.open("w") as out:
        out.write(HEADER)
        out.writelines(f"{key};{server};false\n" for key, server in rows(count, first, moved))
        out.flush()
        os.fsync(out.fileno())  # or the system writes while something is measured
    new.replace(file)
