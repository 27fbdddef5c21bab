"""Settings from the environment, laid over those of the file.

SMTPPROXY_DOMAIN is `domain`, SMTPPROXY_LIMITS__MAX_ERRORS is `limits.max_errors`,
SMTPPROXY_LISTENERS__0__LISTEN is `listen` of the first listener; a number that is
one too high adds an element. SMTPPROXY_LISTENERS='[{listen = ":25"}]' is the whole
list, written as in TOML. A text is written without quotes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic.fields import FieldInfo

from smtpproxy.config.lines import KeyPath
from smtpproxy.config.model import Config
from smtpproxy.config.places import Origins
from smtpproxy.config.table import is_list, tables_in
from smtpproxy.config.wording import syntax
from smtpproxy.faults import Fault

PREFIX = "SMTPPROXY_"
CONFIG = "SMTPPROXY_CONFIG"  # names the file itself

# Kubernetes sets these in every container that can see a service called "smtpproxy".
_KUBERNETES = re.compile(
    PREFIX + r"(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_INDEX = re.compile("(?<=__)[0-9]{1,4}(?=__)")


def overlay(data: dict[str, Any], environ: Mapping[str, str]) -> tuple[Origins, list[Fault]]:
    """Lay the settings in `environ` over those in `data`, which is changed."""
    origins: Origins = {}
    faults: list[Fault] = []
    # A whole list before its elements, and these in the order of their numbers.
    for name in sorted(filter(_ours, environ), key=lambda name: (name.count("__"), _index(name))):
        try:
            path, meant = _setting(name)
            _put(data, path, _value(meant, environ[name]), name, origins)
            origins[path] = name
        except ValueError as error:
            faults.append(Fault(name, str(error)))
    return origins, faults


@cache
def variables() -> dict[str, tuple[KeyPath, tuple[FieldInfo, ...]]]:
    """Each variable, with the setting it stands for; of a list, those of its first element.

    It is one setting, or one for each kind of mapping that has it.
    """
    known: dict[str, tuple[KeyPath, tuple[FieldInfo, ...]]] = {}
    for name, setting in Config.model_fields.items():
        start = f"{PREFIX}{name.upper()}"
        tables = tables_in(setting.annotation)
        path: KeyPath = (name,)
        if not tables or is_list(setting):
            known[start] = path, (setting,)
        if is_list(setting):
            start, path = f"{start}__0", (*path, 0)
        for table in tables:
            for inner, member in table.model_fields.items():
                variable = f"{start}__{inner.upper()}"
                _, others = known.get(variable, ((), ()))
                known[variable] = (*path, inner), (*others, member)
    return known


def _ours(name: str) -> bool:
    return name.startswith(PREFIX) and name != CONFIG and not _KUBERNETES.fullmatch(name)


def _index(name: str) -> int:
    index = _INDEX.search(name)
    return int(index[0]) if index else 0


def _setting(name: str) -> tuple[KeyPath, tuple[FieldInfo, ...]]:
    known = variables()
    first = _INDEX.sub("0", name)
    if first not in known:
        names = [each.removeprefix(PREFIX) for each in known]
        wrong = first.removeprefix(PREFIX)
        members = [each for each in names if each.startswith(f"{wrong}__")]
        close = members or get_close_matches(wrong, names, n=1)
        hint = f": did you mean {PREFIX}{close[0]}?" if close else ""
        raise ValueError(f"there is no such setting{hint}")
    path, meant = known[first]
    return tuple(_index(name) if part == 0 else part for part in path), meant


def _value(meant: tuple[FieldInfo, ...], text: str) -> Any:
    """What `text` means for a setting, in the terms of TOML."""
    if all(map(_is_text, meant)):
        if text.startswith(('"', "'")):
            shown = f", not {text}" if all(setting.repr for setting in meant) else ""
            raise ValueError(f"is a text: write it without quotes{shown}")
        return text
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if any(map(is_list, meant)):
            raise ValueError(f"must be a list as in TOML: {syntax(error).message}") from None
        return text
    return document["value"] if len(document) == 1 else text


def _is_text(setting: FieldInfo) -> bool:
    plain = setting.is_required() and not is_list(setting)
    return plain or isinstance(setting.default, str)


def _put(data: dict[str, Any], path: KeyPath, value: object, name: str, origins: Origins) -> None:
    """Set what is at `path`. What is in the way of it is for others to report."""
    node: Any = data
    for depth, part in enumerate(path[:-1], start=1):
        if isinstance(part, int) and isinstance(node, list):
            if part > len(node):
                raise ValueError(f"there are {len(node)} of these: the next is number {len(node)}")
            if part == len(node):
                node.append({})
                origins[path[:depth]] = name
            node = node[part]
        elif isinstance(part, str) and isinstance(node, dict):
            node = node.setdefault(part, [] if isinstance(path[depth], int) else {})
        else:
            return
    if isinstance(node, dict):
        node[path[-1]] = value
