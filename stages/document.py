"""The batch of documents that every stage passes on: its schema, and what always holds of it.

A batch is a pyarrow RecordBatch. The columns of `DOCUMENT` are always there, in this order; after them come
measures, one column each, named `step.measure`. Text is `large_string`, so a kernel sees the same two buffers
everywhere: UTF-8 bytes, and int64 offsets (`text_buffers`).

Rows stand in canonical order: the order of the source's files, then of the records within a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

DOCUMENT = pa.schema(
    [
        pa.field("id", pa.large_string(), nullable=False),  # the record's own id, else "<file>:<record>"
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("url", pa.large_string()),  # null where the source has none
        pa.field("file", pa.large_string(), nullable=False),  # where it was read, as the recipe names it
        pa.field("record", pa.int64(), nullable=False),  # 1-based ordinal of the record (line, row) in that file
        pa.field("offset", pa.int64()),  # byte where the record begins in that file; null where it has no meaning
        pa.field("metadata", pa.large_string()),  # a JSON object: all that the record held besides; null for none
    ]
)

# A crawled page before extraction: its bytes stand in `html`, and `text` is the empty string.
PAGE = DOCUMENT.append(pa.field("html", pa.large_binary())).append(pa.field("charset", pa.large_string()))


def text_buffers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """UTF-8 bytes (uint8) and n + 1 offsets (int64) of a `large_string` or `large_binary` column, without a copy.

    Offsets index into the returned bytes and need not begin at 0. Raises TypeError for another type.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not (pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)):
        raise TypeError(f"text column must be large_string, not {column.type}")
    _, offsets_buffer, data_buffer = column.buffers()
    if offsets_buffer is None or len(column) == 0:
        return np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64)
    offsets = np.frombuffer(offsets_buffer, np.int64)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return data, offsets


def text_array(data: np.ndarray, offsets: np.ndarray, type: pa.DataType | None = None) -> pa.Array:
    """The inverse of `text_buffers`: a `large_string` column (no nulls) over the given buffers, without a copy."""
    offsets = np.ascontiguousarray(offsets, np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(type or pa.large_string(), len(offsets) - 1, buffers)


def payload_sizes(batch: pa.RecordBatch) -> np.ndarray:
    """Bytes of each document (int64): of UTF-8 text, and of HTML not extracted yet. The unit of the ledger's bytes."""
    sizes = np.diff(text_buffers(batch.column("text"))[1])
    if "html" in batch.schema.names:
        sizes = sizes + np.diff(text_buffers(batch.column("html"))[1])
    return sizes


def column_bytes(column: pa.Array) -> int:
    """Bytes of the values of one text or binary column; nulls count nothing."""
    offsets = text_buffers(column)[1]
    return int(offsets[-1] - offsets[0])


def replace_column(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    """The batch with one column's values replaced, its place and field kept."""
    position = batch.schema.get_field_index(name)
    return batch.set_column(position, batch.schema.field(position), values)


def rebatch(batches: Iterable[pa.RecordBatch], max_bytes: int) -> Iterator[pa.RecordBatch]:
    """The same rows, cut into batches whose payload is about `max_bytes`; one document larger than that stands alone."""
    for batch in batches:
        offsets = np.concatenate([[0], np.cumsum(payload_sizes(batch))])
        start = 0
        while start < batch.num_rows:
            stop = int(np.searchsorted(offsets, offsets[start] + max_bytes, side="right")) - 1
            stop = min(max(stop, start + 1), batch.num_rows)
            yield batch.slice(start, stop - start)
            start = stop


def document_hash(document_id: str, salt: str = "") -> int:
    """A 64-bit hash of a document's id, the same on every machine: for held-out splits and sampling by document."""
    return int.from_bytes(hashlib.blake2b(f"{salt}\0{document_id}".encode(), digest_size=8).digest(), "little")
