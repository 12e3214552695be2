"""A raw token file and the Parquet index beside it: what a part's tokens are kept in until they are cut into shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.parts import PartWriter

# One row a document of a token file. Tokens are counted from the start of the file, `end` is exclusive.
INDEX = pa.schema(
    [
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("id", pa.large_string(), nullable=False),
        pa.field("src", pa.large_string(), nullable=False),  # `file` of the document
        pa.field("loc", pa.int64(), nullable=False),  # `record` of the document, 1-based
        pa.field("text_bytes", pa.int64(), nullable=False),  # UTF-8 bytes that were encoded
    ]
)


@dataclass(frozen=True)
class TokenFile:
    """A raw token file, the Parquet index beside it, and what they hold."""

    tokens_path: str
    index_path: str
    tokens: int
    documents: int
    text_bytes: int


class TokenWriter:
    """Appends documents to PREFIX.SPLIT.tokens and its index, PREFIX.SPLIT.parquet."""

    def __init__(self, prefix: str | Path, split: str) -> None:
        self.tokens_path, self.index_path = Path(f"{prefix}.{split}.tokens"), Path(f"{prefix}.{split}.parquet")
        self.tokens = self.documents = self.text_bytes = 0

    def __enter__(self) -> TokenWriter:
        self.tokens_path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.tokens_path.open("wb")
        self._index = PartWriter(self.index_path, INDEX).__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()
        self._index.__exit__(*error)

    def append(
        self,
        tokens: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        ids: pa.Array,
        files: pa.Array,
        records: pa.Array,
        text_bytes: np.ndarray,
    ) -> None:
        """Add documents: all their tokens, in order, and for each document where in these they are, and the rest of
        its row of INDEX."""
        columns = [
            pa.array(starts + self.tokens),
            pa.array(ends + self.tokens),
            ids,
            files,
            records,
            pa.array(text_bytes),
        ]
        self._index.write(pa.RecordBatch.from_arrays(columns, schema=INDEX))
        self._file.write(memoryview(np.ascontiguousarray(tokens)).cast("B") if len(tokens) else b"")
        self.tokens += len(tokens)
        self.documents += len(starts)
        self.text_bytes += int(text_bytes.sum())

    def written(self) -> TokenFile:
        return TokenFile(str(self.tokens_path), str(self.index_path), self.tokens, self.documents, self.text_bytes)
