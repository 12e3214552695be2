"""What part a value has in the key of a task: the marks of fields and arguments, and what is left of a value in a key.

A key must hold all that decides the bytes of a result and nothing else. So each field of a task's spec, and each argument
of a function that a task calls, says which of four it is:

    class Sort(Job):
        part: InFile[Stored]          # a file that is read: its content counts
        out: OutFile[str]             # a file that is written: where it lies counts
        order: Setting[str]           # decides the bytes
        memory: HowMuch[int]          # memory, batches, partitions: decides no byte, and is in no key

In the models of a recipe (pydantic) a field without a mark is a Setting.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel


class Mark(Enum):
    """What a field is to the key of a task."""

    IN_FILE = "a file that is read"
    OUT_FILE = "a file that is written"
    SETTING = "decides the bytes"
    HOW_MUCH = "decides no byte"


T = TypeVar("T")
InFile = Annotated[T, Mark.IN_FILE]
OutFile = Annotated[T, Mark.OUT_FILE]
Setting = Annotated[T, Mark.SETTING]
HowMuch = Annotated[T, Mark.HOW_MUCH]


@cache
def marks_of(annotated: Any) -> Mapping[str, Mark]:
    """The mark of each annotated field of a class, or argument of a function; what has none is left out."""
    hints = typing.get_type_hints(annotated, include_extras=True)
    found = {}
    for name, hint in hints.items():
        marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Mark)]
        if marks:
            found[name] = marks[-1]
    return found


def named_files(model: BaseModel) -> dict[str, list[str]]:
    """The fields of a recipe's model that name files (marked InFile), with their URIs; those that name none are left out."""
    found = {}
    for name, field in type(model).model_fields.items():
        if any(mark is Mark.IN_FILE for mark in field.metadata):
            value = getattr(model, name)
            uris = [value] if isinstance(value, str) else list(value or ())
            if uris:
                found[name] = uris
    return found


@cache
def _fields_in_keys(model: type[BaseModel]) -> tuple[str, ...]:
    """The fields of a recipe's model that decide bytes by their own value: no HowMuch, and no name of a file."""
    found = []
    for name, field in model.model_fields.items():
        mark = next((mark for mark in field.metadata if isinstance(mark, Mark)), Mark.SETTING)
        if mark is Mark.SETTING:
            found.append(name)
    return tuple(found)


def in_key(value: Any) -> Any:
    """A value as a key holds it: plain JSON values, without what is marked HowMuch and without the names of files.

    A file (a field marked InFile) counts by its content, which whoever makes the key adds from where it is known.
    """
    if isinstance(value, BaseModel):
        return {name: in_key(getattr(value, name)) for name in _fields_in_keys(type(value))}
    if isinstance(value, Mapping):
        return {str(key): in_key(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [in_key(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        marks = marks_of(type(value))
        return {
            field.name: in_key(getattr(value, field.name))
            for field in fields(value)
            if marks.get(field.name, Mark.SETTING) is Mark.SETTING
        }
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be in a key")
