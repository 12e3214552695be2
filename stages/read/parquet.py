"""Reads Parquet files: one row a document, row group by row group, only the columns asked for.

How many rows are decoded at once is planned from what the pages become (stages/read/parquet_plan.py), and what is
decoded is cut by the bytes of its rows before it is made into documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.document import DOCUMENT, text_buffers
from stages.errors import InputError
from stages.read.arrow_values import INVALID_UTF8 as OTHER_INVALID_UTF8
from stages.read.arrow_values import SAME_NAME, json_rows, row_sizes, unique_names
from stages.read.builder import binary_column
from stages.read.events import Dropped, Event, Problem, Repaired
from stages.read.json_values import INVALID_UTF8, listed
from stages.read.parquet_plan import GroupPlan, plan_group
from stages.read.settings import Part, ReadSpec

PAGE_BUFFER = 1 << 20  # bytes of a column read ahead
TOO_LARGE = "the column {!r} was left out, for its pages are too large for run.task_memory"


def read(
    stream: BinaryIO,
    file: str,
    spec: ReadSpec,
    batch_bytes: int,
    on_event: Callable[[Event], None],
    part: Part,
    memory: int,
) -> Iterator[pa.RecordBatch]:
    """Batches of DOCUMENT; see stages.read.format.read_batches. Record: the row's 1-based number in the file."""
    try:
        table = _open(stream)
        schema = table.schema_arrow
        columns = _columns(schema, file, spec)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        _raise_if_storage(error)
        raise InputError(file, f"it is no readable Parquet file: {error}") from error
    first_rows = np.cumsum([0] + [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)])
    if first_rows[-1] != table.metadata.num_rows:
        reason = f"it says that it has {table.metadata.num_rows:,} rows, and its row groups have {first_rows[-1]:,}"
        raise InputError(file, reason)
    groups = range(table.num_row_groups) if part.row_groups is None else part.row_groups
    outside = [group for group in groups if not 0 <= group < table.num_row_groups]
    if outside:
        raise InputError(file, f"it has {table.num_row_groups} row groups, none with the number {outside[0]}")
    needed = {name for name in (_root(schema, field) for field in _fields(spec)) if name}
    roots = [_root(schema, table.schema.column(i).path) for i in range(len(table.schema))]
    repeated = [table.schema.column(i).max_repetition_level > 0 for i in range(len(table.schema))]
    rows_of = _Rows(file, spec, batch_bytes, on_event)
    rows_of.label = part.label or file
    for group in groups:
        wanted = [root if root in columns else None for root in roots]
        size = table.metadata.row_group(group)
        row, reason = int(first_rows[group]), "no more rows are there"
        try:
            plan = plan_group(stream, size, wanted, repeated, needed, batch_bytes, memory)
            if plan.refused:
                on_event(Problem(file, f"row group {group} cannot be read: {plan.refused}", row + 1, None, size.num_rows))
                continue
            rows_of.mended.update({TOO_LARGE.format(name): size.num_rows for name in plan.left_out})
            for rows in _batches(table, stream, group, columns, plan):
                yield from rows_of.documents(rows, row)
                row += rows.num_rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            _raise_if_storage(error)
            reason = str(error)
        if lost := int(first_rows[group + 1]) - row:
            reason = f"row group {group} cannot be read from row {row + 1} on: {reason}"
            on_event(Problem(file, reason, row + 1, None, max(0, lost)))
    for what, documents in sorted(rows_of.mended.items()):
        on_event(Repaired(file, what, documents))


def _open(
    stream: BinaryIO, metadata: pq.FileMetaData | None = None, dictionaries: tuple[str, ...] = ()
) -> pq.ParquetFile:
    # Of timestamps in 96 bits, nanoseconds would silently wrap beyond the year 2262. Pages without checksums pass.
    options = {"pre_buffer": False, "buffer_size": PAGE_BUFFER, "coerce_int96_timestamp_unit": "us"}
    options["page_checksum_verification"] = True
    return pq.ParquetFile(stream, metadata=metadata, read_dictionary=list(dictionaries), **options)


def _batches(
    table: pq.ParquetFile, stream: BinaryIO, group: int, columns: list[str], plan: GroupPlan
) -> Iterator[pa.RecordBatch]:
    """The rows of a row group as its plan says."""
    if plan.dictionaries:
        table = _open(stream, table.metadata, plan.dictionaries)
    names = [name for name in columns if name not in plan.left_out]
    yield from table.iter_batches(plan.rows, row_groups=[group], columns=names, use_threads=False)


def _raise_if_storage(error: Exception) -> None:
    """Go on raising what the system says about the disk; Arrow's own OSErrors, about the content, have no number."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _fields(spec: ReadSpec) -> list[str]:
    return [field for field in (spec.text_field, spec.id_field, spec.url_field) if field]


def _root(schema: pa.Schema, path: str) -> str | None:
    """The top-level column that a path (`a.b`) leads into; its name may have dots itself. None where there is none."""
    names = path.split(".")
    roots = (".".join(names[:size]) for size in range(len(names), 0, -1))
    return next((root for root in roots if root in schema.names), None)


def _columns(schema: pa.Schema, file: str, spec: ReadSpec) -> list[str]:
    """Names of the columns to read. Raises InputError where there is no text column of a type that can hold text."""
    name = _root(schema, spec.text_field)
    if name is None:
        reason = f"it has no column {spec.text_field!r}; its columns are {listed(schema.names)}"
        raise InputError(file, f"{reason}: set `read.text_field` to the one that holds the text")
    type = schema.field(schema.names.index(name)).type
    if name == spec.text_field and not _is_text(type):
        raise InputError(file, f"its column {name!r} holds {type}, not text")
    names = list(dict.fromkeys(schema.names))
    if spec.metadata:
        return names
    roots = {_root(schema, field) for field in _fields(spec)}
    return [str(column) for column in names if column in roots]


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


class _Rows:
    """Makes documents of rows; counts what is reported at the end of the file."""

    def __init__(self, file: str, spec: ReadSpec, batch_bytes: int, on_event: Callable[[Event], None]) -> None:
        self.file, self.spec, self.batch_bytes, self.on_event = file, spec, batch_bytes, on_event
        self.label = file  # what ids of rows without one call it
        self.mended: Counter[str] = Counter()

    def documents(self, rows: pa.RecordBatch, row: int) -> Iterator[pa.RecordBatch]:
        """Rows, of which the first has the 0-based number `row`, as batches of about `batch_bytes`.

        Those without text, and those too large, are reported and left out.
        """
        sizes = sum(map(row_sizes, rows.columns), np.zeros(rows.num_rows, np.int64))
        large = sizes > self.spec.max_record_bytes
        for position in np.flatnonzero(large):
            record, size = row + 1 + int(position), int(sizes[position])
            self.on_event(Dropped(self.file, "max_record_bytes", record, None, size))
        records = np.arange(row + 1, row + 1 + rows.num_rows)[~large]
        if large.any():
            rows, sizes = rows.filter(pa.array(~large)), sizes[~large]
        ends = np.cumsum(sizes)
        start = 0
        while start < rows.num_rows:
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + self.batch_bytes, side="right")))
            yield self._batch(rows.slice(start, stop - start), records[start:stop])
            start = stop

    def _batch(self, rows: pa.RecordBatch, records: np.ndarray) -> pa.RecordBatch:
        text = _column(rows, self.spec.text_field)
        if text is None or not _is_text(text.type):
            raise pa.ArrowInvalid(f"the field {self.spec.text_field!r} is not there, or no text")
        kept = np.asarray(pc.is_valid(text))
        for record in records[~kept]:
            reason = f"it has no text in the column {self.spec.text_field!r}"
            self.on_event(Problem(self.file, reason, int(record), None, 1, damage=False))
        text, bad = _as_text(text)
        if len(bad) and self.spec.strict:
            kept[bad] = False
            for position in bad:
                reason, size = f"`strict` refuses it: {INVALID_UTF8}", len(text[position].as_buffer())
                self.on_event(Problem(self.file, reason, int(records[position]), None, 1, size, damage=False))
        else:
            self.mended.update({INVALID_UTF8: len(bad)} if len(bad) else {})
        columns = [
            self._ids(rows, records),
            text,
            self._text_or_none(rows, self.spec.url_field) or pa.nulls(rows.num_rows, pa.large_string()),
            pa.repeat(pa.scalar(self.file, pa.large_string()), rows.num_rows),
            pa.array(records, pa.int64()),
            pa.nulls(rows.num_rows, pa.int64()),
            self._metadata(rows),
        ]
        if not kept.all():
            columns = [column.filter(pa.array(kept)) for column in columns]
        return pa.RecordBatch.from_arrays(columns, schema=DOCUMENT)

    def _text_or_none(self, rows: pa.RecordBatch, name: str | None) -> pa.Array | None:
        column = _column(rows, name) if name else None
        if column is None:
            return None
        if _is_text(column.type):
            text, bad = _as_text(column)
            self.mended.update({OTHER_INVALID_UTF8: len(bad)} if len(bad) else {})
            return text
        return column.cast(pa.large_string()) if pa.types.is_integer(column.type) else None

    def _ids(self, rows: pa.RecordBatch, records: np.ndarray) -> pa.Array:
        """The record's own id, else "<file>:<record>"."""
        ids = self._text_or_none(rows, self.spec.id_field)
        if ids is not None and ids.null_count == 0:
            return ids
        made = pa.array([f"{self.label}:{record}" for record in records], pa.large_string())
        return pc.coalesce(ids, made) if ids is not None else made

    def _metadata(self, rows: pa.RecordBatch) -> pa.Array:
        """All other columns, one JSON object a row; null where there are none."""
        names = rows.schema.names
        taken = {names.index(field) for field in _fields(self.spec) if field in names}
        taken = {place for place in taken if _is_text(type := rows.schema.types[place]) or pa.types.is_integer(type)}
        others = [i for i in range(len(names)) if i not in taken]
        if not others or not self.spec.metadata:
            return pa.nulls(rows.num_rows, pa.large_string())
        unique = unique_names(names)
        if unique != names:
            self.mended[SAME_NAME] += rows.num_rows
        written, mended = json_rows([rows.column(i) for i in others], [unique[i] for i in others])
        self.mended.update(mended)
        return binary_column(written, pa.large_string())


def _column(rows: pa.RecordBatch, name: str) -> pa.Array | None:
    """A column, the first of that name, or a field of a nested one (`a.b`); None where there is none."""
    names = rows.schema.names
    if name in names:
        column = rows.column(names.index(name))
    else:
        root = _root(rows.schema, name)
        if root is None:
            return None
        path = name.removeprefix(f"{root}.").split(".")
        try:
            column = pc.struct_field(rows.column(names.index(root)), path)
        except (pa.ArrowException, TypeError):
            return None
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _as_text(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The column as large_string, and the places of values that were no UTF-8 and had bytes replaced by U+FFFD."""
    try:
        text = column.cast(pa.large_string())
        text.validate(full=True)
        return text, np.zeros(0, np.int64)
    except pa.ArrowInvalid:
        column = column.cast(pa.large_binary())
    data, offsets = text_buffers(column)
    values: list[bytes | None] = []
    bad = []
    for row, valid in enumerate(np.asarray(pc.is_valid(column))):
        value = data[offsets[row] : offsets[row + 1]].tobytes() if valid else None
        if value is not None and (text := value.decode("utf-8", "replace").encode()) != value:
            value = text
            bad.append(row)
        values.append(value)
    return binary_column(values, pa.large_string()), np.array(bad, np.int64)
