"""Where a document is: the ordinal of its part and its row in it, in one int64 whose order is the canonical order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.dedup.shuffle import OpenFile
from stages.dedup.tasks import PartToRead
from stages.errors import InputError

BATCH_BYTES = 16 << 20


def pack(part: int, rows: np.ndarray) -> np.ndarray:
    """Addresses (int64) of rows of one part."""
    return np.int64(part) << np.int64(32) | rows.astype(np.int64)


def part_of(documents: np.ndarray) -> np.ndarray:
    """Ordinals of the parts (int32) that the addressed documents lie in."""
    return (documents >> 32).astype(np.int32)


def row_of(documents: np.ndarray) -> np.ndarray:
    """Rows (int32) of the addressed documents in their parts."""
    return (documents & 0xFFFFFFFF).astype(np.int32)


def group_of(documents: np.ndarray, group_starts: Sequence[int]) -> np.ndarray:
    """The group of consecutive parts (int32) that each document lies in; `group_starts` are their first ordinals."""
    starts = np.asarray(group_starts, np.int64)
    return (np.searchsorted(starts, documents >> 32, side="right") - 1).astype(np.int32)


def _open(file: BinaryIO, name: str, columns: Sequence[str]) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise InputError(name, f"not a readable Parquet part: {error}") from None
    missing = [c for c in columns if c not in parquet.schema_arrow.names]
    if missing:
        raise InputError(name, f"the part has no column {missing[0]!r}; it has {', '.join(parquet.schema_arrow.names)}")
    return parquet


def _batches_of_group(
    parquet: pq.ParquetFile, group: int, columns: Sequence[str], max_bytes: int
) -> Iterator[pa.RecordBatch]:
    about = parquet.metadata.row_group(group)
    chunks = [about.column(i) for i in range(about.num_columns)]
    size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in columns)
    rows = max(1, min(1 << 16, int(max_bytes * about.num_rows / max(size, 1))))
    yield from parquet.iter_batches(rows, row_groups=[group], columns=list(columns))


def read_batches(
    file: BinaryIO, name: str, columns: Sequence[str], max_bytes: int = BATCH_BYTES
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of about `max_bytes` of some columns of a part, each with the number of its first row.

    Raises InputError for a file that is no Parquet, or lacks one of the columns.
    """
    parquet = _open(file, name, columns)
    row = 0
    for group in range(parquet.num_row_groups):
        for batch in _batches_of_group(parquet, group, columns, max_bytes):
            yield row, batch
            row += batch.num_rows


def earlier_removals(part: PartToRead, open_file: OpenFile) -> np.ndarray:
    """Rows of a part (int64, rising) that earlier dedups removed, from the files that its `removals` name, if any."""
    removed = np.zeros(0, np.int64)
    for path in part.get("removals", ()):
        with open_file(path) as file:
            removed = np.union1d(removed, np.asarray(pq.read_table(file, columns=["row"]).column("row"), np.int64))
    return removed


def read_remaining(
    part: PartToRead, columns: Sequence[str], open_file: OpenFile, max_bytes: int = BATCH_BYTES
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """The documents of a part that no earlier dedup removed, in batches, each with their rows (int64) in the part.

    part: {"path", "removals" (files with a sorted column `row`; may be left out)}. Errors as `read_batches`.
    """
    removed = earlier_removals(part, open_file)
    with open_file(part["path"]) as file:
        for first, batch in read_batches(file, part["path"], columns, max_bytes):
            rows = np.arange(first, first + batch.num_rows)
            begin, end = np.searchsorted(removed, [first, first + batch.num_rows])
            if begin < end:
                stays = np.ones(batch.num_rows, bool)
                stays[removed[begin:end] - first] = False
                rows, batch = rows[stays], batch.filter(pa.array(stays))
            yield rows, batch


def read_rows(
    file: BinaryIO, name: str, columns: Sequence[str], rows: np.ndarray, max_bytes: int = BATCH_BYTES
) -> Iterator[tuple[slice, pa.RecordBatch]]:
    """Some columns of the given rows (rising, distinct): slices of `rows`, each with a batch of just these.

    Row groups in which none of them lies are not read. Raises InputError as `read_batches`, and for a row past the end.
    """
    parquet = _open(file, name, columns)
    row = done = 0
    for group in range(parquet.num_row_groups):
        group_end = row + parquet.metadata.row_group(group).num_rows
        if done < len(rows) and rows[done] < group_end:
            for batch in _batches_of_group(parquet, group, columns, max_bytes):
                until = int(np.searchsorted(rows, row + batch.num_rows))
                if until > done:
                    yield slice(done, until), batch.take(pa.array(rows[done:until] - row))
                    done = until
                row += batch.num_rows
        row = group_end
    if done < len(rows):
        raise InputError(name, f"the part has {row} rows, and row {int(rows[done])} was asked for")
