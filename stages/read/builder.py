"""Collects rows until they fill a batch."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pyarrow as pa

from stages.document import DOCUMENT, PAGE, text_array


def binary_column(values: list[bytes | None], type: pa.DataType) -> pa.Array:
    """A large_string or large_binary column of byte strings; one copy, where no value is null."""
    if None in values:
        return pa.array(values, pa.large_binary()).view(type)
    offsets = np.fromiter(accumulate(map(len, values), initial=0), np.int64, len(values) + 1)
    return text_array(np.frombuffer(b"".join(values), np.uint8), offsets, type)  # type: ignore[arg-type]


class BatchBuilder:
    """Rows of one file, as columns. `add` a row; `take` the batch when `bytes` has reached what a batch should hold."""

    def __init__(self, file: str, *, pages: bool) -> None:
        self.file, self.schema = file, PAGE if pages else DOCUMENT
        self.clear()

    def clear(self) -> None:
        self.bytes = 0
        self.ids: list[bytes] = []
        self.texts: list[bytes] = []
        self.urls: list[bytes | None] = []
        self.records: list[int] = []
        self.offsets: list[int | None] = []
        self.metadata: list[bytes | None] = []
        self.pages: list[bytes | None] = []
        self.charsets: list[bytes | None] = []

    def add(
        self,
        id: bytes,
        text: bytes,
        url: bytes | None,
        record: int,
        offset: int | None,
        metadata: bytes | None,
        html: bytes | None = None,
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
        self.bytes += len(text) + len(html or b"")

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
