"""Values: what is made once, and never changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass of values: the type checker sees to it that nothing changes them.

    `dataclass(frozen=True)` watches over that at run time, too, and takes four times as long to
    make one: a session makes dozens.
    """
    own_hash = "__hash__" in vars(cls)
    return dataclass(slots=True, unsafe_hash=not own_hash)(cls)
