"""What every table of the configuration is made with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


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
