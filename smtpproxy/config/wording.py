"""What is wrong with a configuration, in words for the administrator."""

from __future__ import annotations

import json
import re
import tomllib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic.fields import FieldInfo

from smtpproxy.config.lines import KeyPath
from smtpproxy.config.mappings import KINDS
from smtpproxy.config.model import Config
from smtpproxy.config.table import Table, kind_of, tables_in

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_AT = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_KINDS_OF_MAPPING = ", ".join(f'"{kind}"' for kind in KINDS)
_BOUNDS = ("gt", "ge", "lt", "le")
_SHOWN = 60  # characters of a wrong value

# What a value must be, by pydantic's name for the error.
_KINDS = {
    "bool_type": "true or false, without quotes",
    "int_type": "a whole number, without quotes",
    "string_type": "a text in quotes",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


class Syntax(NamedTuple):
    """Where a text stops being TOML, and why; line and column are None for its end."""

    line: int | None
    column: int | None
    message: str


def syntax(error: tomllib.TOMLDecodeError) -> Syntax:
    """What `error` says, in parts: Python 3.11 gives a text only."""
    text = str(error)
    match = _AT.search(text)
    message = text[: match.start()] if match else text
    if message == "Invalid value":
        message = "this is no value (a text needs quotes)"
    if match is None or match["line"] is None:
        return Syntax(None, None, message)
    return Syntax(int(match["line"]), int(match["column"]), message)


def path_of(error: ErrorDetails) -> KeyPath:
    """The path of the setting that is wrong."""
    loc = error["loc"]
    if error["type"].startswith("union_tag"):
        return (*loc, "type")
    return loc[:2] + loc[3:] if _tagged(loc) else loc


def sentence(error: ErrorDetails) -> str:
    """What is wrong with the setting, and what would be right."""
    kind, loc, value = error["type"], error["loc"], error["input"]
    shown = "what it is" if _is_secret(loc) else _shown(value)
    match kind:
        case "value_error":
            return str(error["ctx"]["error"])
        case "extra_forbidden":
            return _unknown(loc)
        case "missing":
            setting = _settings_at(loc[:-1]).get(str(loc[-1]))
            return f"is missing: add {_example(setting)}"
        case "union_tag_not_found":
            return f'is missing: add type = "csv", or another of {_KINDS_OF_MAPPING}'
        case "union_tag_invalid":
            return f"must be one of {_KINDS_OF_MAPPING}, not {_shown(value.get('type'))}"
        case "literal_error":
            allowed = error["ctx"]["expected"].replace("'", '"')
            return f"must be {allowed}, not {shown}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"must be {_range(loc, error['ctx'])}, not {shown}"
        case "tuple_type" if loc in (("listeners",), ("mappings",)) and isinstance(value, dict):
            return f"can be several: write [[{loc[0]}]], with two brackets on each side"
        case "model_type" if isinstance(value, list):
            return f"is there only once: write [{loc[0]}], with one bracket on each side"
        case _ if kind in _KINDS:
            return f"must be {_KINDS[kind]}, not {shown}"
        case _:
            return f"cannot be {shown}"


def _range(loc: KeyPath, bound: dict[str, Any]) -> str:
    """Which numbers can be at `loc`; `bound` is the one that was not kept to."""
    for each in _settings_at(loc[:-1])[str(loc[-1])].metadata:
        bound |= {name: getattr(each, name) for name in _BOUNDS if hasattr(each, name)}
    lowest = bound["gt"] + 1 if "gt" in bound else bound.get("ge")
    highest = bound["lt"] - 1 if "lt" in bound else bound.get("le")
    if lowest is None or highest is None:
        return f"at most {highest}" if lowest is None else f"at least {lowest}"
    return f"from {lowest} to {highest}"


def _is_secret(loc: KeyPath) -> bool:
    """What is at `loc`, or something around it, is not for everyone to read."""
    around = (_settings_at(loc[:n]).get(str(loc[n])) for n in range(len(loc)))
    return any(setting is not None and not setting.repr for setting in around)


def _unknown(loc: KeyPath) -> str:
    key, known = str(loc[-1]), list(_settings_at(loc[:-1]))
    close = get_close_matches(key.lower().replace("-", "_"), known, n=1)
    homes = _homes(key)
    if close:
        hint = f"did you mean {close[0]}? Known here"
    elif len(homes) == 1 and homes[0] != loc[0]:
        where = f"under [{homes[0]}]" if homes[0] else "at the top, before the first [table]"
        hint = f"it belongs {where}. Known here"
    else:
        hint = "known"
    return f"there is no such setting here; {hint}: {', '.join(known)}"


def _homes(key: str) -> list[str]:
    """The tables of the top level that have a setting called `key`, "" for the top itself."""
    tables = [
        name for name, setting in Config.model_fields.items() if tables_in(setting.annotation)
    ]
    return [name for name in ("", *tables) if key in _settings_at((name,) if name else ())]


def _settings_at(loc: KeyPath) -> dict[str, FieldInfo]:
    """What can stand in the table at `loc`, which is pydantic's, with the tag of a mapping."""
    tables: tuple[type[Table], ...] = (Config,)
    if loc:
        tables = tables_in(Config.model_fields[str(loc[0])].annotation)
    if _tagged(loc):
        tables = tuple(table for table in tables if loc[2] == kind_of(table))
    return {name: field for table in tables for name, field in table.model_fields.items()}


def _tagged(loc: KeyPath) -> bool:
    """In pydantic's path of a mapping its type stands behind its number."""
    return len(loc) > 2 and loc[0] == "mappings"


def _example(setting: FieldInfo | None) -> str:
    return str(setting.examples[0]) if setting and setting.examples else "it"


def _shown(value: object) -> str:
    """`value` as in TOML, in one line, not too long."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
