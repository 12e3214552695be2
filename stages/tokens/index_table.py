"""A shard's index (`.csv.gz`) as Arrow batches: written and read without a Python object for each document.

The bytes written are those of `shard_format.write_index`, except that a field with a carriage return in it is quoted
as well: unquoted, every CSV reader takes it for the end of the row.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from stages.document import text_buffers
from stages.tokens.shard_format import AtomicFile, ShardError, read_index

BLOCK_BYTES = 4 << 20  # of CSV that are parsed at once
PIECE_BYTES = 1 << 20  # of gzip output between two writes
SPECIAL = '[",\r\n]'  # what makes a field need quotes

# The columns of an index, as `read_index_batches` gives them and `write_index_batches` takes them.
ROWS = pa.schema(
    [
        pa.field("start", pa.int64()),  # first token, counted from the start of the shard
        pa.field("end", pa.int64()),  # one past the last
        pa.field("id", pa.large_string()),
        pa.field("src", pa.large_string()),  # the file that the document was read from
        pa.field("loc", pa.int64()),  # 1-based record in it; 0 where the index holds only start and end
    ]
)


def csv_lines(rows: pa.RecordBatch) -> memoryview:
    """Rows with the columns of `ROWS`, none of them null, as UTF-8 CSV: one line a row, each with its end."""
    if any(rows.column(name).null_count for name in ROWS.names):
        raise ValueError("an index has no null values")
    fields = [
        column.cast(pa.large_string()) if pa.types.is_integer(column.type) else _quoted(column.cast(pa.large_string()))
        for column in (rows.column(name) for name in ROWS.names)
    ]
    lines = pc.binary_join_element_wise(*fields, pa.scalar(",", pa.large_string()))
    lines = pc.binary_join_element_wise(lines, pa.scalar("", pa.large_string()), pa.scalar("\n", pa.large_string()))
    data, offsets = text_buffers(lines)
    return memoryview(data[offsets[0] : offsets[-1]])


def _quoted(column: pa.Array) -> pa.Array:
    special = pc.match_substring_regex(column, SPECIAL)
    if not pc.any(special).as_py():
        return column
    inside = pc.replace_substring(column, '"', '""')
    quote, nothing = pa.scalar('"', pa.large_string()), pa.scalar("", pa.large_string())
    return pc.if_else(special, pc.binary_join_element_wise(quote, inside, quote, nothing), column)


def write_index_batches(path: str | Path, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches with the columns of `ROWS` as `.csv.gz`, atomically; returns the row count.

    The same bytes for the same rows, however they are cut into batches.
    """
    count = 0
    with (
        AtomicFile(path) as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        io.BufferedWriter(packed, PIECE_BYTES) as out,  # type: ignore[type-var]  # GzipFile is no RawIOBase by name
    ):
        for batch in batches:
            out.write(csv_lines(batch))
            count += batch.num_rows
    return count


def read_index_batches(opened: Callable[[], BinaryIO], name: str) -> Iterator[pa.RecordBatch]:
    """The rows of an index in batches of about `BLOCK_BYTES`. `opened` opens the file; `name` is what errors call it.

    Of an index with two columns, id and src are empty and loc is 0. Raises ShardError where it is damaged; the row
    that is wrong is named if it can be told.
    """
    types = {f"f{number}": field.type for number, field in enumerate(ROWS)}
    row = 0
    try:
        stream = _Stoppable(opened())
    except FileNotFoundError:
        raise ShardError(f"{name}: the shard's index is missing") from None
    try:
        packed = pa.CompressedInputStream(pa.PythonFile(stream, "r"), "gzip")
        with pa_csv.open_csv(
            packed,
            read_options=pa_csv.ReadOptions(autogenerate_column_names=True, block_size=BLOCK_BYTES, use_threads=False),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types=types),
        ) as reader:
            try:
                for batch in reader:
                    if batch.num_columns not in (2, 5):
                        raise ShardError(
                            f"{name}, row {row + 1}: {batch.num_columns} columns; start,end,id,src,loc were expected"
                        )
                    if any(column.null_count for column in batch.columns):
                        yield from _one_by_one(opened(), name, row)  # a number is missing; there it is named by its row
                        return
                    row += batch.num_rows
                    yield _whole(batch)
            finally:
                # Arrow reads ahead in a thread, which aborts the process where it calls a Python that has ended (read, close).
                stream.stop()
                with suppress(pa.ArrowException, OSError):
                    for _ in reader:
                        pass
                packed.close()
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return
        yield from _one_by_one(opened(), name, row)
    except OSError as error:
        raise ShardError(f"{name}, after row {row}: the index is damaged ({error})") from None
    finally:
        stream.close()


class _Stoppable:
    """A stream that ends when it is told to: whoever reads it in another thread then comes to an end too."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._stopped = stream, False
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        return b"" if self._stopped else self._stream.read(size)

    def stop(self) -> None:
        self._stopped = True

    def close(self) -> None:
        self.closed = True
        self._stream.close()


def _whole(batch: pa.RecordBatch) -> pa.RecordBatch:
    count = batch.num_rows
    columns = list(batch.columns)
    if len(columns) == 2:
        nothing = pa.array([""], pa.large_string()).take(pa.array(np.zeros(count, np.int64)))
        columns += [nothing, nothing, pa.array(np.zeros(count, np.int64))]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)


def _one_by_one(stream: BinaryIO, name: str, after: int) -> Iterator[pa.RecordBatch]:
    """The rows behind the first `after`, slowly: they are longer than a block, or the error is named by its row."""
    rows: list[tuple] = []
    try:
        with stream:
            for number, row in enumerate(read_index(stream)):
                if number < after:
                    continue
                rows.append(tuple(row))
                if len(rows) == 1024:
                    yield _of_rows(rows)
                    rows = []
    except ShardError as error:
        raise ShardError(str(error).replace(str(stream), name)) from None
    if rows:
        yield _of_rows(rows)


def _of_rows(rows: list[tuple]) -> pa.RecordBatch:
    columns = [pa.array(list(values), field.type) for values, field in zip(zip(*rows, strict=True), ROWS, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)
