"""All settings as a list, for documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from smtpproxy.config.model import Config
from smtpproxy.config.table import Table, is_list, kind_of, tables_in


class Setting(NamedTuple):
    """One setting, for documentation.

    `path` is as in "listeners[].listen"; `kind` the kind of mapping it is for, "" elsewhere;
    `default` as in the file ('":25"'), "" where it is needed.
    """

    path: str
    kind: str
    default: str
    meaning: str


def settings() -> list[Setting]:
    """Every setting but the tables themselves, in the order of the model."""
    return list(_settings((Config,), ""))


def _settings(tables: tuple[type[Table], ...], prefix: str) -> Iterator[Setting]:
    for table in tables:
        for name, each in table.model_fields.items():
            path = f"{prefix}{name}"
            if inner := tables_in(each.annotation):
                yield from _settings(inner, f"{path}[]." if is_list(each) else f"{path}.")
            else:
                default = "" if each.is_required() else json.dumps(each.default)
                yield Setting(path, kind_of(table), default, each.description or "")
