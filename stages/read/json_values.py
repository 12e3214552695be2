"""A JSON record as Python values where orjson refuses it or would round an integer: what can be mended is, and is told.

Invalid UTF-8 and unpaired surrogates (`"\\ud800"`) become U+FFFD; NaN, infinities and numbers that no double holds
(`1e999`) become null. All other numbers are those of Python's own parser, integers of any size among them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

INVALID_UTF8 = "invalid UTF-8 was replaced"
SURROGATES = "unpaired surrogates were replaced"
NUMBERS = "NaN, infinities and numbers beyond a double became null"
SHOWN_FIELDS = 12  # names of fields in a message
SHOWN_NAME = 40  # characters of one
_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
_MAX_DIGITS = 4300  # of an integer: Python's own bound


class RecordError(Exception):
    """A record that is no document."""


def kind_of(value: Any) -> str:
    """What a parsed value is, for messages: "a list", "a number"."""
    return _KINDS.get(type(value), "a number")


def listed(names: Sequence[str]) -> str:
    """Names of fields, for messages; of very many, or very long ones, not all."""
    shown = ", ".join(repr(name[:SHOWN_NAME]) for name in names[:SHOWN_FIELDS])
    return shown + (f" and {len(names) - SHOWN_FIELDS} more" if len(names) > SHOWN_FIELDS else "")


def parse(line: bytes) -> tuple[Any, Counter[str]]:
    """The values of one record, and what was mended in it (kind -> how often). Raises RecordError for no JSON."""
    mended: Counter[str] = Counter()
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = line.decode("utf-8-sig", "replace")
        mended[INVALID_UTF8] += 1
    try:
        values = _Parser(mended).decode(text)
        if "\\u" in text and not _is_unicode(values):
            values = _without_surrogates(values)
            mended[SURROGATES] += 1
    except json.JSONDecodeError as error:
        raise RecordError(f"not valid JSON: {error.msg} at character {error.pos + 1} of the record") from error
    except (RecursionError, ValueError) as error:
        raise RecordError(f"not readable as JSON: {error}") from error
    return values, mended


def dump(values: dict[str, Any]) -> bytes | None:
    """A JSON object as UTF-8; None for an empty one. Raises RecordError for one that is nested too deep to write."""
    if not values:
        return None
    try:
        return orjson.dumps(values)
    except (orjson.JSONEncodeError, TypeError):  # integers above 64 bits, deep nesting
        try:
            return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        except RecursionError as error:
            raise RecordError(f"not readable as JSON: {error}") from error


class _Parser(json.JSONDecoder):
    """Python's parser, with numbers that JSON does not allow, or no double holds, as null and counted."""

    def __init__(self, mended: Counter[str]) -> None:
        super().__init__(parse_constant=self._constant, parse_float=self._float, parse_int=self._int)
        self.mended = mended

    def _constant(self, _: str) -> None:
        self.mended[NUMBERS] += 1

    def _float(self, digits: str) -> float | None:
        number = float(digits)
        return number if math.isfinite(number) else self._constant(digits)

    def _int(self, digits: str) -> int | float | None:
        return int(digits) if len(digits) <= _MAX_DIGITS else self._float(digits)


def _is_unicode(value: Any) -> bool:
    """Whether all strings of a value can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_surrogates(value: Any) -> Any:
    if type(value) is str:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if type(value) is dict:
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    if type(value) is list:
        return [_without_surrogates(inner) for inner in value]
    return value
