"""Values of Arrow columns as JSON, whatever they hold, and how large each row of a column is.

What Python's types cannot hold (nanoseconds, years beyond 9999, time zones that this machine does not know) is written
as text in the same form, invalid UTF-8 has bytes replaced by U+FFFD, and NaN and infinities become null; the last two
are told. Nothing here raises for a value.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

INVALID_UTF8 = "invalid UTF-8 in other fields than the text was replaced"
SAME_NAME = "of columns with one name the first kept it, and those behind it became NAME#2, NAME#3"
NUMBERS = "NaN and infinities became null"
ITEM_BYTES = 16  # that an item of fixed width counts, for it becomes a Python object and digits
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def json_rows(columns: list[pa.Array], names: list[str]) -> tuple[list[bytes], Counter[str]]:
    """One JSON object a row, in UTF-8, and in how many rows something was mended, by kind."""
    mended: dict[str, set[int]] = {INVALID_UTF8: set(), NUMBERS: set()}
    values = [_column_values(column, mended) for column in columns]
    rows = [_dump(dict(zip(names, row, strict=True))) for row in zip(*values, strict=True)]
    return rows, Counter({what: len(rows) for what, rows in mended.items() if rows})


def _dump(values: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(values, default=str)
    except (TypeError, ValueError):  # integers above 64 bits, keys that are no strings
        return json.dumps(values, default=str, ensure_ascii=False, skipkeys=True).encode("utf-8", "replace")


def _column_values(column: pa.Array, mended: dict[str, set[int]]) -> list[Any]:
    """The values of a column as what orjson, or `str`, can write."""
    if _is_plain(column.type):
        try:
            values = column.to_pylist()
            if _has_not_a_number(column):
                mended[NUMBERS].update(row for row, value in enumerate(values) if _not_a_number(value))
            return values
        except Exception:
            pass  # a value that Python's types cannot hold: each is looked at
    values = []
    for row, scalar in enumerate(column):
        found: set[str] = set()
        values.append(_value(scalar, found))
        for what in found:
            mended[what].add(row)
    return values


def _is_plain(type: pa.DataType) -> bool:
    """Whether values of this type become the same Python values on every machine, and hold no bytes."""
    if pa.types.is_nested(type):
        return all(_is_plain(type.field(i).type) for i in range(type.num_fields))
    if pa.types.is_dictionary(type):
        return _is_plain(type.value_type)
    numbers = pa.types.is_integer(type) or pa.types.is_boolean(type) or pa.types.is_floating(type)
    texts = pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)
    days = pa.types.is_date(type) or pa.types.is_decimal(type) or pa.types.is_null(type)
    moments = pa.types.is_timestamp(type) and type.unit != "ns"
    return numbers or texts or days or moments


def _value(scalar: pa.Scalar, found: set[str]) -> Any:
    """A value as what orjson, or `str`, can write, however odd it is; `found` gets what was mended."""
    if not scalar.is_valid:
        return None
    type = scalar.type
    if isinstance(scalar, pa.UuidScalar):
        return str(scalar.as_py())
    if isinstance(scalar, pa.ExtensionScalar | pa.DictionaryScalar):
        return _value(scalar.value, found)
    if isinstance(scalar, pa.StructScalar):
        # By place: two fields may have one name.
        fields = zip(unique_names([type.field(i).name for i in range(type.num_fields)]), _fields(scalar), strict=True)
        return {name: _value(inner, found) for name, inner in fields}
    if isinstance(scalar, pa.MapScalar):
        return [[_value(inner, found) for inner in _fields(entry)] for entry in scalar.values]
    if isinstance(scalar, pa.ListScalar):  # lists of all kinds
        return [_value(inner, found) for inner in scalar.values]
    if isinstance(scalar, pa.BinaryScalar | pa.StringScalar):
        return _text(scalar.as_buffer().to_pybytes(), found)
    if pa.types.is_temporal(type):
        return _moment(scalar)
    value = scalar.as_py()
    if _not_a_number(value):
        found.add(NUMBERS)
        return None
    return value


def _fields(scalar: pa.StructScalar) -> list[pa.Scalar]:
    return [scalar[i] for i in range(scalar.type.num_fields)]


def _text(data: bytes, found: set[str]) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        found.add(INVALID_UTF8)
        return data.decode("utf-8", "replace")


def _moment(scalar: pa.Scalar) -> Any:
    """A date, time, timestamp or duration: as Python writes it, or in the same form where it cannot."""
    type, number = scalar.type, _number(scalar)
    if number is None:
        return str(scalar.as_py())
    if pa.types.is_date32(type):
        return str(np.datetime64(number, "D"))
    if pa.types.is_date64(type):
        return str(np.datetime64(number, "ms").astype("datetime64[D]"))
    if pa.types.is_timestamp(type):
        try:
            if type.unit != "ns":
                return scalar.as_py()
        except Exception:
            pass
        return str(np.datetime64(number, type.unit)) + ("+00:00" if type.tz else "")
    seconds, part = divmod(abs(number), _UNITS[type.unit])
    digits = len(str(_UNITS[type.unit])) - 1
    fraction = f".{part:0{digits}d}" if part else ""
    sign = "-" if number < 0 else ""
    days, seconds = divmod(seconds, 86400) if pa.types.is_duration(type) else (0, seconds)
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{fraction}"
    return f"{sign}{days} days {clock}" if pa.types.is_duration(type) else f"{sign}{clock}"


def _number(scalar: pa.Scalar) -> int | None:
    """The integer that a temporal value is stored as; None for an interval of months, days and nanoseconds."""
    return getattr(scalar, "value", None)


def _has_not_a_number(column: pa.Array) -> bool:
    """Whether a NaN or an infinity stands anywhere in the column."""
    if pa.types.is_floating(column.type):
        return not pc.all(pc.is_finite(column), min_count=0).as_py()
    if pa.types.is_struct(column.type):
        return any(map(_has_not_a_number, column.flatten()))
    if pa.types.is_dictionary(column.type):
        return _has_not_a_number(column.dictionary)
    if pa.types.is_map(column.type):
        return _has_not_a_number(column.keys) or _has_not_a_number(column.items)
    if pa.types.is_nested(column.type):
        return _has_not_a_number(column.flatten())
    return False


def _not_a_number(value: Any) -> bool:
    if type(value) is float:
        return not math.isfinite(value)
    inner = value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()
    return any(map(_not_a_number, inner))


def unique_names(names: list[str]) -> list[str]:
    """The names, with those that stood before as `name#2`, `name#3` ..."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


def row_sizes(column: pa.Array) -> np.ndarray:
    """Bytes that each row takes once its values stand apart (int64), nested ones and those in a dictionary included."""
    type = column.type
    if isinstance(column, pa.ExtensionArray):
        return row_sizes(column.storage)
    if pa.types.is_dictionary(type):
        indices = np.asarray(pc.fill_null(column.indices, 0)).astype(np.int64)
        of_values = row_sizes(column.dictionary)
        return of_values[indices] if len(of_values) else np.zeros(len(column), np.int64)
    if pa.types.is_struct(type):
        return sum(map(row_sizes, column.flatten()), np.full(len(column), ITEM_BYTES, np.int64))
    if pa.types.is_nested(type):
        return _list_sizes(column)
    if pa.types.is_string_view(type) or pa.types.is_binary_view(type):
        column = column.cast(pa.large_binary())
    try:
        return np.asarray(pc.fill_null(pc.binary_length(column), 0)).astype(np.int64)
    except (pa.ArrowException, TypeError):  # not of bytes
        return np.full(len(column), ITEM_BYTES, np.int64)


def _list_sizes(column: pa.Array) -> np.ndarray:
    """`row_sizes` of lists of any kind, and of maps."""
    if pa.types.is_map(column.type):
        counts = np.diff(np.asarray(column.offsets))
        first = int(np.asarray(column.offsets)[0])
        keys, items = (row_sizes(part.slice(first, int(counts.sum()))) for part in (column.keys, column.items))
        inner = keys + items
    else:
        counts = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
        inner = row_sizes(column.flatten())
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(inner)])
    ends: np.ndarray = np.cumsum(counts)
    return total[ends] - total[ends - counts] + ITEM_BYTES
