"""Collects rows until they fill a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa

from stages.document import DOCUMENT, PAGE, text_array
from stages.read.events import Event


def binary_column(values: Sequence[bytes | memoryview | None], type: pa.DataType) -> pa.Array:
    """A large_string or large_binary column of byte strings; one copy, where no value is null."""
    present = [value for value in values if value is not None]
    if len(present) < len(values):
        column = binary_column([value if value is not None else b"" for value in values], type)
        valid = pa.array([value is not None for value in values])
        return pa.Array.from_buffers(type, len(values), [valid.buffers()[1], *column.buffers()[1:]])
    offsets = np.fromiter(accumulate(map(len, present), initial=0), np.int64, len(present) + 1)
    return text_array(np.frombuffer(b"".join(present), np.uint8), offsets, type)


ROWS = 1 << 16  # most rows in a batch, for sources of tiny documents
ROW_BYTES = 128  # that a row takes besides its text
EVENTS = 1 << 10  # most events between two batches, for sources in which hardly anything is kept


class BatchBuilder:
    """Rows of one file, as columns: `add` a row, `report` an event, and `take` the batch once it is `full`."""

    def __init__(self, file: str, batch_bytes: int, on_event: Callable[[Event], None], *, pages: bool) -> None:
        self.file, self.batch_bytes, self.on_event = file, batch_bytes, on_event
        self.schema = PAGE if pages else DOCUMENT
        self.clear()

    def report(self, event: Event) -> None:
        """Pass an event on."""
        self.events += 1
        self.on_event(event)

    def full(self) -> bool:
        """Whether the batch is to be taken; it may have no rows."""
        return self.bytes >= self.batch_bytes or self.events >= EVENTS or len(self.ids) >= ROWS

    def clear(self) -> None:
        self.bytes = self.events = 0
        self.ids: list[bytes] = []
        self.texts: list[bytes] = []
        self.urls: list[bytes | None] = []
        self.records: list[int] = []
        self.offsets: list[int | None] = []
        self.metadata: list[bytes | None] = []
        self.pages: list[bytes | memoryview | None] = []
        self.charsets: list[bytes | None] = []

    def add(
        self,
        id: bytes,
        text: bytes,
        url: bytes | None,
        record: int,
        offset: int | None,
        metadata: bytes | None,
        html: bytes | memoryview | None = None,
        charset: bytes | None = None,
    ) -> None:
        """One row; byte strings are UTF-8, except `html`."""
        self.ids.append(id)
        self.texts.append(text)
        self.urls.append(url)
        self.records.append(record)
        self.offsets.append(offset)
        self.metadata.append(metadata)
        self.pages.append(html)
        self.charsets.append(charset)
        self.bytes += len(text) + (len(html) if html is not None else 0) + len(metadata or b"")

    def take(self) -> pa.RecordBatch:
        """The rows as a batch; the builder is empty again."""
        string = pa.large_string()
        columns = [
            binary_column(self.ids, string),
            binary_column(self.texts, string),
            binary_column(self.urls, string),
            pa.repeat(pa.scalar(self.file, string), len(self.ids)),
            pa.array(self.records, pa.int64()),
            pa.array(self.offsets, pa.int64()),
            binary_column(self.metadata, string),
        ]
        if self.schema is PAGE:
            columns += [binary_column(self.pages, pa.large_binary()), binary_column(self.charsets, string)]
        self.clear()
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


class DocumentBuilder:
    """Rows of one file of records, as `BatchBuilder`, but of strings; a text may be UTF-8 already.

    A text that is not ASCII is best added as UTF-8: as a string it would be held in both forms once the batch is made.
    """

    def __init__(self, file: str, batch_bytes: int) -> None:
        self.file, self.batch_bytes = file, batch_bytes
        self.size = 0  # characters of text, bytes of metadata, and ROW_BYTES for each row
        self.ids: list[str] = []
        self.texts: list[str | bytes] = []
        self.urls: list[str | None] = []
        self.records: list[int] = []
        self.offsets: list[int | None] = []
        self.metadata: list[bytes | None] = []

    def full(self) -> bool:
        """Whether the batch is to be taken."""
        return self.size >= self.batch_bytes

    def clear(self) -> None:
        """Drop all rows; the lists stay the same objects."""
        self.size = 0
        for column in (self.ids, self.texts, self.urls, self.records, self.offsets, self.metadata):
            column.clear()

    def add(self, id: str, text: str, url: str | None, record: int, offset: int | None, metadata: bytes | None) -> None:
        """One row; `metadata` is a JSON object in UTF-8."""
        self.ids.append(id)
        self.texts.append(text)
        self.urls.append(url)
        self.records.append(record)
        self.offsets.append(offset)
        self.metadata.append(metadata)
        self.size += len(text) + ROW_BYTES + (len(metadata) if metadata is not None else 0)

    def take(self) -> pa.RecordBatch:
        """The rows as a batch of DOCUMENT; the builder is empty again."""
        string = pa.large_string()
        columns = [
            pa.array(self.ids, string),
            pa.array(self.texts, pa.large_binary()).view(string),
            pa.array(self.urls, string),
            pa.repeat(pa.scalar(self.file, string), len(self.ids)),
            pa.array(self.records, pa.int64()),
            pa.array(self.offsets, pa.int64()),
            binary_column(self.metadata, string),
        ]
        self.clear()
        return pa.RecordBatch.from_arrays(columns, schema=DOCUMENT)
