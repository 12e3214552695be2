"""A JSON record as Python values where orjson refuses it or would round an integer: what can be mended is, and is told.

Invalid UTF-8 and unpaired surrogates (`"\\ud800"`) become U+FFFD; NaN, infinities and numbers that no double holds
(`1e999`) become null. All other numbers are those of Python's own parser, integers of any size among them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

BARE_CR = "its lines end in carriage returns alone: end them with line feeds (tr '\\r' '\\n' < FILE)"
INVALID_UTF8 = "invalid UTF-8 was replaced"
SURROGATES = "unpaired surrogates were replaced"
NUMBERS = "NaN, infinities and numbers beyond a double became null"
SHOWN_FIELDS = 12  # names of fields in a message
SHOWN_NAME = 40  # characters of one
_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
_PIECE_BYTES = 1 << 18
_VALUE_BYTES, _OPEN_BYTES, _ITEMS_BYTES, _KEY_BYTES = 80, 16, 120, 40  # of Python's objects, as measured
_LEAST_RATIO = 64  # most bytes that values take for each byte of their JSON
_MAX_DIGITS = 4300  # of an integer: Python's own bound
_MAX_DEPTH = 500  # objects and lists within one another; versions of Python would refuse at 900 or at many thousands
_TOO_DEEP = f"not readable as JSON: its values are nested too deep, more than {_MAX_DEPTH} within one another"


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
    _check_depth(line)
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
        place = f"character {error.pos + 1} of the record" if error.pos else f"its first character, {text[:SHOWN_NAME]!r}"
        raise RecordError(f"not valid JSON: {error.msg} at {place}") from error
    except RecursionError as error:
        raise RecordError(_TOO_DEEP) from error
    except ValueError as error:
        raise RecordError(f"not readable as JSON: {error}") from error
    return values, mended


def check_room(line: bytes, room: int) -> None:
    """Raises RecordError for a record whose values, as Python's objects, might take more than `room` bytes.

    A few bytes of JSON may be an object of a hundred (`{},`), so the size of a record says little of it.
    """
    if len(line) * _LEAST_RATIO <= room:
        return
    values = size = 0
    for marks in _outside_strings(line):
        objects = marks.count(b"{")
        empty = marks.count(b"{}")
        opens = objects + marks.count(b"[")
        inner = opens - empty - marks.count(b"[]")
        values += marks.count(b",") + inner
        size += opens * _OPEN_BYTES + (objects - empty) * _ITEMS_BYTES + marks.count(b":") * _KEY_BYTES
    size += values * _VALUE_BYTES
    if size > room:
        what = f"it holds {values:,} values, which may take {size >> 20:,} MiB once they are parsed"
        raise RecordError(f"{what}, and run.task_memory leaves {room >> 20:,} for that")


def _check_depth(line: bytes) -> None:
    """Raises RecordError for a record that is nested too deep."""
    if line.count(b"{") + line.count(b"[") <= _MAX_DEPTH:
        return
    depth = 0
    for marks in _outside_strings(line):
        mark = np.frombuffer(marks, np.uint8)
        opened, closed = (sum(mark == ord(one) for one in both) for both in ("{[", "}]"))
        depths = depth + np.cumsum(np.subtract(opened, closed, dtype=np.int64))
        if len(depths) and depths.max() > _MAX_DEPTH:
            raise RecordError(_TOO_DEEP)
        depth = int(depths[-1]) if len(depths) else depth


def _outside_strings(line: bytes) -> Iterator[bytes]:
    """What of a record stands outside of strings, piece by piece, so that no more than the line is held once more."""
    if b"\\" in line:
        line = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = 0
    for start in range(0, len(line), _PIECE_BYTES):
        piece = np.frombuffer(line, np.uint8, min(_PIECE_BYTES, len(line) - start), start)
        before = quotes + np.cumsum(piece == ord('"'), dtype=np.int64)
        yield piece[before % 2 == 0].tobytes()
        quotes = int(before[-1])


def dump(values: dict[str, Any]) -> bytes | None:
    """A JSON object as UTF-8; None for an empty one. Raises RecordError for one that is nested too deep to write."""
    if not values:
        return None
    try:
        return orjson.dumps(values)
    except (orjson.JSONEncodeError, TypeError):  # integers above 64 bits, deep nesting
        try:
            line = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        except RecursionError as error:
            raise RecordError(_TOO_DEEP) from error
        _check_depth(line)
        return line


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
