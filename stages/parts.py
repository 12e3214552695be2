"""Parts: the Parquet files in which documents wait between stages, and the lists of rows that dedup took from them.

A task writes `X.kept.parquet` (documents that go on, with their measures), `X.dropped.parquet` (who was dropped, why,
with the measures up to there and, where the recipe keeps it, the text) and, if any failed, `X.failed.parquet`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.document import DOCUMENT, payload_sizes, rebatch, text_buffers

LEVEL = 1  # zstd: interim files are written once and read once or twice, so speed counts
ROW_GROUP_BYTES = 32 * 2**20


class PartWriter:
    """Writes batches of one schema to a Parquet file, in row groups of about `ROW_GROUP_BYTES` of text."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.footers: list[pq.FileMetaData] = []
        plain = [
            f.name for f in schema if f.name in ("file", "source", "reason", "charset") or f.name.endswith(".label")
        ]
        self.writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=LEVEL,
            use_dictionary=plain,  # type: ignore[arg-type]
            write_statistics=False,
            metadata_collector=self.footers,
        )
        self.waiting: list[pa.RecordBatch] = []
        self.waiting_bytes = 0
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows. Columns that the batch lacks are null; columns that the schema lacks are left out."""
        if batch.num_rows == 0:
            return
        columns = [
            batch.column(f.name) if f.name in batch.schema.names else pa.nulls(batch.num_rows, f.type)
            for f in self.schema
        ]
        self.rows += batch.num_rows
        whole = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        # Cut by the rows themselves, not by the batches that they came in: the same rows make the same file.
        ends = self.waiting_bytes + np.cumsum(_row_bytes(whole))
        start = 0
        for cut in np.flatnonzero(np.diff(ends // ROW_GROUP_BYTES, prepend=self.waiting_bytes // ROW_GROUP_BYTES)) + 1:
            self.waiting.append(whole.slice(start, cut - start))
            self._flush()
            start = int(cut)
        if start < whole.num_rows:
            self.waiting.append(whole.slice(start))
        self.waiting_bytes = int(ends[-1]) % ROW_GROUP_BYTES

    def stored_bytes(self, ending: str) -> int:
        """Bytes in the file, once it is closed, of the columns whose names end so."""
        found = 0
        for footer in self.footers:
            groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
            columns = [group.column(i) for group in groups for i in range(group.num_columns)]
            found += sum(c.total_compressed_size for c in columns if c.path_in_schema.endswith(ending))
        return found

    def _flush(self) -> None:
        if self.waiting:
            table = pa.Table.from_batches(self.waiting).combine_chunks()
            self.writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self.waiting = []

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self._flush()
        self.waiting = []
        self.writer.close()


def _row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """What each row counts towards the size of a row group (int64): its strings, and 8 bytes for each other value."""
    strings = [c for c in batch.columns if pa.types.is_large_string(c.type) or pa.types.is_large_binary(c.type)]
    sizes = np.full(batch.num_rows, 8 * batch.num_columns, np.int64)
    for column in strings:
        sizes += np.diff(text_buffers(column)[1])
    return sizes


def dropped_schema(kept: pa.Schema, with_text: bool) -> pa.Schema:
    """The schema of dropped documents: as kept, with a nullable text, then `bytes`, `reason`, `reached`, `representative`."""
    fields = []
    for f in kept:
        if f.name == "text":
            if with_text:
                fields.append(pa.field("text", f.type))
        elif f.name != "metadata" or with_text:
            fields.append(f.with_nullable(True))
    fields.append(pa.field("bytes", pa.int64()))  # of payload when it was dropped
    fields.append(pa.field("reason", pa.large_string(), nullable=False))
    fields.append(pa.field("reached", pa.int32()))  # steps taken when it was dropped; null: before the first
    fields.append(pa.field("representative", pa.large_string()))  # of a duplicate: id of the copy that stays
    return pa.schema(fields)


def read_part(
    file: Path | BinaryIO, batch_bytes: int, columns: list[str] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches of a part in order, each with the row number of its first row; about `batch_bytes` of text each."""
    with pq.ParquetFile(file) as part:
        start = 0
        for group in range(part.num_row_groups):
            for batch in part.iter_batches(batch_size=65536, row_groups=[group], columns=columns):
                batch = normalise(batch)
                pieces = rebatch([batch], batch_bytes) if "text" in batch.schema.names else [batch]
                for piece in pieces:
                    yield start, piece
                    start += piece.num_rows


def normalise(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch as read back from Parquet with the types of `DOCUMENT` (large strings, nullability) restored."""
    fields, columns = [], []
    for f, column in zip(batch.schema, batch.columns, strict=True):
        known = DOCUMENT.get_field_index(f.name)
        if known >= 0:
            f = DOCUMENT.field(known)
        elif pa.types.is_string(f.type):
            f = pa.field(f.name, pa.large_string())
        fields.append(f)
        columns.append(column.cast(f.type) if column.type != f.type else column)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def without_rows(
    start: int, batch: pa.RecordBatch, removed: np.ndarray
) -> tuple[pa.RecordBatch, pa.RecordBatch, np.ndarray]:
    """Split a batch that begins at row `start` by a sorted list of removed rows (int64, row numbers in the part).

    Returns the rows that stay, the rows removed, and which entries of `removed` these are.
    """
    first, last = np.searchsorted(removed, [start, start + batch.num_rows])
    mine = removed[first:last] - start
    if len(mine) == 0:
        return batch, batch.slice(0, 0), np.arange(0)
    stays = np.ones(batch.num_rows, bool)
    stays[mine] = False
    return batch.filter(pa.array(stays)), batch.take(pa.array(mine)), np.arange(first, last)


def total_bytes(batch: pa.RecordBatch) -> int:
    """Payload bytes of a batch."""
    return int(payload_sizes(batch).sum())
