"""What every table of the configuration is made with."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


def setting(meaning: str, default: Any, secret: bool = False) -> Any:
    """A setting, its default as the file would have it; a secret one is never shown."""
    return Field(default, description=meaning, repr=not secret)


def needed(meaning: str, example: str, secret: bool = False) -> Any:
    """A setting without a default, and how one would write it."""
    return Field(description=meaning, examples=[example], repr=not secret)


class Table(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )


def tables_in(annotation: Any) -> tuple[type[Table], ...]:
    """The tables that a setting of this type consists of; () for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return (annotation,)
    return tuple(table for part in get_args(annotation) for table in tables_in(part))


def is_list(setting: FieldInfo) -> bool:
    """The setting is written as a list: [ ... ], or [[tables]]."""
    return get_origin(setting.annotation) is tuple


def kind_of(table: type[Table]) -> str:
    """The kind of mapping that a table is for, "" for another table."""
    kind = table.model_fields.get("type")
    return str(get_args(kind.annotation)[0]) if kind else ""
