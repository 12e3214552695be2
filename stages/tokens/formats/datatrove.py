"""datatrove's tokenized files: `NAME.ds` (raw tokens), `NAME.ds.index` (uint64: where each document ends, in tokens from
the file's start) and `NAME.ds.metadata` (tokenizer|bytes a token, tokens, tokens for people).

Documents carry their end token, as datatrove's own tokenizer writes it by default. datatrove's datasets read windows of
sequence length + 1 tokens from the `.ds`, and positions in the document from the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from stages.tokens.formats.block import ROWS_AT_ONCE, Block, Rows, numbered
from stages.tokens.shard_format import ShardError


def write_datatrove(blocks: Iterable[Block], tokens: BinaryIO, index: BinaryIO) -> tuple[int, int]:
    """Write the `.ds` and its index; returns documents and tokens."""
    documents = position = 0
    for block in blocks:
        tokens.write(memoryview(np.ascontiguousarray(block.tokens)).cast("B"))
        index.write(memoryview((block.ends + position).astype("<u8")).cast("B"))
        documents, position = documents + len(block), position + len(block.tokens)
    return documents, position


def metadata(tokenizer: str, dtype: np.dtype, tokens: int) -> bytes:
    """The `.ds.metadata` file."""
    return f"{tokenizer}|{np.dtype(dtype).itemsize}\n{tokens}\n{_metric(tokens)}".encode()


def _metric(tokens: int) -> str:
    """Three figures and a prefix, unit T for tokens: `1.23 MT`."""
    power = 0
    value = float(tokens)
    while value >= 999.5 and power < 5:
        value, power = value / 1000, power + 1
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {' kMGTP'[power].strip()}T"


def read_metadata(data: bytes, name: str) -> int:
    """Bytes a token, from a `.ds.metadata`. Raises ShardError for one that does not say."""
    size = data.decode(errors="replace").partition("\n")[0].rpartition("|")[2]
    if size not in ("2", "4"):
        raise ShardError(f"{name}: its first line must end in |2 or |4, the bytes of a token")
    return int(size)


def rows_of_index(index: BinaryIO, name: str, file: str) -> Iterator[Rows]:
    """The documents of a `.ds.index`, numbered, with `file` as src."""
    documents = 0
    while data := index.read(8 * ROWS_AT_ONCE):
        if len(data) % 8:
            raise ShardError(f"{name}: is no whole number of 8-byte entries")
        ends = np.frombuffer(data, "<u8").astype(np.int64)
        yield numbered(ends, documents, file)
        documents += len(ends)
