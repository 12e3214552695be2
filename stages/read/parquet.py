"""Reads Parquet files: one row a document, row group by row group, only the columns asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.document import DOCUMENT, rebatch, text_buffers
from stages.errors import InputError
from stages.read.events import Dropped, Event, Problem, Repaired
from stages.read.settings import Part, ReadSpec

MAX_ROWS = 1 << 14  # decoded at once, before they are cut into batches by bytes
PAGE_BUFFER = 1 << 20  # bytes of a column read ahead


def read(
    stream: BinaryIO, file: str, spec: ReadSpec, batch_bytes: int, on_event: Callable[[Event], None], part: Part
) -> Iterator[pa.RecordBatch]:
    """Batches of DOCUMENT; see stages.read.format.read_batches. Record: the row's 1-based number in the file."""
    try:
        table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=PAGE_BUFFER)
    except (pa.ArrowException, OSError) as error:
        _raise_if_storage(error)
        raise InputError(file, f"it is no readable Parquet file: {error}") from error
    columns = _columns(table.schema_arrow, file, spec)
    first_rows = np.cumsum([0] + [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)])
    groups = range(table.num_row_groups) if part.row_groups is None else part.row_groups
    outside = [group for group in groups if not 0 <= group < table.num_row_groups]
    if outside:
        raise InputError(file, f"it has {table.num_row_groups} row groups, none with the number {outside[0]}")
    for group in groups:
        row = int(first_rows[group])
        size = table.metadata.row_group(group)
        at_once = max(1, min(MAX_ROWS, batch_bytes * size.num_rows // max(1, size.total_byte_size)))
        try:
            for rows in table.iter_batches(at_once, row_groups=[group], columns=columns, use_threads=False):
                yield from rebatch([_documents(rows, row, file, spec, on_event)], batch_bytes)
                row += rows.num_rows
        except (pa.ArrowException, OSError) as error:
            _raise_if_storage(error)
            lost = int(first_rows[group + 1]) - row
            reason = f"row group {group} cannot be read from row {row + 1} on: {error}"
            on_event(Problem(file, reason, row + 1, None, lost))


def _raise_if_storage(error: Exception) -> None:
    """Go on raising what the system says about the disk; Arrow's own OSErrors, about the content, have no number."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _columns(schema: pa.Schema, file: str, spec: ReadSpec) -> list[str]:
    """The columns to read. Raises InputError where there is no text column of a type that can hold text."""
    name = spec.text_field.split(".")[0] if spec.text_field not in schema.names else spec.text_field
    if name not in schema.names:
        raise InputError(file, f"it has no column {name!r}; its columns are {', '.join(schema.names)}")
    if name == spec.text_field and not _is_text(schema.field(name).type):
        raise InputError(file, f"its column {name!r} holds {schema.field(name).type}, not text")
    if spec.metadata:
        return list(schema.names)
    wanted = [spec.text_field, spec.id_field, spec.url_field]
    roots = {field if field in schema.names else field.split(".")[0] for field in wanted if field}
    return [column for column in schema.names if column in roots]


def _is_text(type: pa.DataType) -> bool:
    if pa.types.is_dictionary(type):
        type = type.value_type
    return any(
        test(type)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
        )
    )


def _documents(
    rows: pa.RecordBatch, row: int, file: str, spec: ReadSpec, on_event: Callable[[Event], None]
) -> pa.RecordBatch:
    """The rows as documents; those without text, and those too large, are reported and left out."""
    records = np.arange(row + 1, row + 1 + rows.num_rows)
    text = _column(rows, spec.text_field)
    if text is None or not _is_text(text.type):
        raise pa.ArrowInvalid(f"the field {spec.text_field!r} is not there, or no text")
    text, repaired = _as_text(text)
    lengths = np.diff(text_buffers(text)[1])
    missing = np.asarray(pc.is_null(text))
    too_long = lengths > spec.max_record_bytes
    for position in np.flatnonzero(missing):
        reason = f"it has no text in the column {spec.text_field!r}"
        on_event(Problem(file, reason, int(records[position]), None, 1, damage=False))
    for position in np.flatnonzero(too_long):
        on_event(Dropped(file, "max_record_bytes", int(records[position]), None, int(lengths[position])))
    kept = ~(missing | too_long)
    if repaired:
        on_event(Repaired(file, "invalid UTF-8 was replaced", repaired))
    count = int(kept.sum())
    url = _text_or_none(rows, spec.url_field)
    columns = [
        _ids(rows, records, file, spec),
        text,
        url if url is not None else pa.nulls(rows.num_rows, pa.large_string()),
        pa.repeat(pa.scalar(file, pa.large_string()), rows.num_rows),
        pa.array(records, pa.int64()),
        pa.nulls(rows.num_rows, pa.int64()),
        _metadata(rows, spec),
    ]
    if count < rows.num_rows:
        columns = [column.filter(pa.array(kept)) for column in columns]
    return pa.RecordBatch.from_arrays(columns, schema=DOCUMENT)


def _column(rows: pa.RecordBatch, name: str) -> pa.Array | None:
    """A column, or a field of a nested one (`a.b`); None where there is none."""
    if name in rows.schema.names:
        column = rows.column(name)
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    root, *path = name.split(".")
    if root not in rows.schema.names or not path:
        return None
    try:
        return pc.struct_field(rows.column(root), path)
    except (pa.ArrowException, TypeError):
        return None


def _as_text(column: pa.Array) -> tuple[pa.Array, int]:
    """The column as large_string, and how many of its values were no UTF-8 and had bytes replaced by U+FFFD."""
    try:
        text = column.cast(pa.large_string())
        text.validate(full=True)
        return text, 0
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
    decoded = [value.decode("utf-8", "replace") if value is not None else None for value in values]
    changed = sum(a is not None and b.encode() != a for a, b in zip(values, decoded, strict=True))  # type: ignore[union-attr]
    return pa.array(decoded, pa.large_string()), changed


def _text_or_none(rows: pa.RecordBatch, name: str | None) -> pa.Array | None:
    column = _column(rows, name) if name else None
    if column is None:
        return None
    if _is_text(column.type):
        return _as_text(column)[0]
    return column.cast(pa.large_string()) if pa.types.is_integer(column.type) else None


def _ids(rows: pa.RecordBatch, records: np.ndarray, file: str, spec: ReadSpec) -> pa.Array:
    """The record's own id, else "<file name>:<record>"."""
    ids = _text_or_none(rows, spec.id_field)
    if ids is not None and ids.null_count == 0:
        return ids
    name = PurePosixPath(file).name
    made = pa.array([f"{name}:{record}" for record in records], pa.large_string())
    return pc.coalesce(ids, made) if ids is not None else made


def _metadata(rows: pa.RecordBatch, spec: ReadSpec) -> pa.Array:
    """All other columns, one JSON object a row; null where there are none."""
    taken = {spec.text_field, spec.id_field, spec.url_field}
    others = [name for name in rows.schema.names if name not in taken]
    if not others or not spec.metadata:
        return pa.nulls(rows.num_rows, pa.large_string())
    return pa.array([_dump(values) for values in rows.select(others).to_pylist()], pa.large_string())


def _dump(values: dict[str, Any]) -> str:
    try:
        return orjson.dumps(values, default=_plain).decode()
    except (orjson.JSONEncodeError, UnicodeDecodeError):  # integers above 64 bits
        return json.dumps(values, default=_plain, ensure_ascii=True)


def _plain(value: Any) -> Any:
    """What JSON has no word for, as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
