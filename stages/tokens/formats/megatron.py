"""Megatron's indexed dataset (`megatron.core.datasets.indexed_dataset`): `NAME.bin`, raw tokens, and `NAME.idx`:

    9 bytes  MMIDIDX 0 0
    uint64   version, 1
    uint8    code of the tokens' type: uint16 8, int32 4 (also read: int64 5)
    uint64   sequences
    uint64   document indices: documents + 1
    int32    tokens of each sequence
    int64    byte in the .bin at which each sequence begins
    int64    the sequence that each document begins with, and behind the last one the number of sequences

Little-endian. Written here: one sequence a document, with its end token (Megatron's `--append-eod`). Vocabularies above
65,536 entries are stored as int32, since Megatron has no uint32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from stages.tokens.formats.block import ROWS_AT_ONCE, Block, Rows, numbered, read_exactly
from stages.tokens.shard_format import ShardError

MAGIC, VERSION = b"MMIDIDX\0\0", 1
HEAD = struct.Struct("<9sQBQQ")
CODES = {8: np.dtype("<u2"), 4: np.dtype("<i4"), 5: np.dtype("<i8")}
MOST = 2**31 - 1  # of tokens in a sequence, and the largest id in an int32


class Head(NamedTuple):
    """What the first bytes of an index say."""

    dtype: np.dtype
    sequences: int
    documents: int


def stored_dtype(dtype: np.dtype) -> np.dtype:
    """How tokens of a shard's dtype are stored in the `.bin`."""
    return np.dtype("<u2") if np.dtype(dtype).itemsize == 2 else np.dtype("<i4")


def write_megatron(blocks: Iterable[Block], tokens: BinaryIO, index: BinaryIO, documents: int, dtype: np.dtype) -> int:
    """Write `.bin` and `.idx` of so many documents (`index` can seek); returns the number of tokens.

    Raises ShardError where the blocks hold another number of documents, or one that Megatron cannot name.
    """
    stored = stored_dtype(dtype)
    code = next(code for code, known in CODES.items() if known == stored)
    index.write(HEAD.pack(MAGIC, VERSION, code, documents, documents + 1))
    lengths_at = HEAD.size
    offsets_at = lengths_at + 4 * documents
    indices_at = offsets_at + 8 * documents
    done = position = 0
    for block in blocks:
        if done + len(block) > documents:
            break
        if len(block) and int(block.lengths.max()) > MOST:
            raise ShardError(
                f"document {block.ids[int(block.lengths.argmax())]}: Megatron's index counts to {MOST:,} tokens"
            )
        if stored.itemsize == 4 and len(block.tokens) and int(block.tokens.max()) > MOST:
            raise ShardError(f"token {block.tokens.max()}: Megatron stores ids up to {MOST:,}")
        tokens.write(memoryview(np.ascontiguousarray(block.tokens, stored)).cast("B"))
        _put(index, lengths_at + 4 * done, block.lengths.astype("<i4"))
        _put(index, offsets_at + 8 * done, ((block.starts + position) * stored.itemsize).astype("<i8"))
        _put(index, indices_at + 8 * done, np.arange(done, done + len(block), dtype="<i8"))
        done, position = done + len(block), position + len(block.tokens)
    else:
        if done == documents:
            _put(index, indices_at + 8 * done, np.array([done], "<i8"))
            return position
    raise ShardError(f"{done:,} documents or more were found for an index of {documents:,}")


def _put(file: BinaryIO, at: int, values: np.ndarray) -> None:
    file.seek(at)
    file.write(memoryview(values).cast("B"))


def read_head(index: BinaryIO, name: str) -> Head:
    """The head of an `.idx`. Raises ShardError for what is none, and for types that hold no tokens."""
    data = index.read(HEAD.size)
    if len(data) < HEAD.size or data[:9] != MAGIC:
        raise ShardError(f"{name}: is no index of Megatron's (it does not begin with MMIDIDX)")
    _, version, code, sequences, indices = HEAD.unpack(data)
    if version != VERSION or code not in CODES or indices < 1:
        raise ShardError(
            f"{name}: version {version}, type {code}, {indices} document indices: cannot be read as tokens"
        )
    return Head(CODES[code], sequences, indices - 1)


def rows_of_index(index: BinaryIO, head: Head, name: str, file: str) -> Iterator[Rows]:
    """The documents of an `.idx` (open for reading at any place), numbered, with `file` as src.

    A document of several sequences is one document. Raises ShardError where sequences leave gaps in the `.bin`.
    """
    lengths_at = HEAD.size
    offsets_at = lengths_at + 4 * head.sequences
    indices_at = offsets_at + 8 * head.sequences
    position = sequence = 0
    for first in range(0, head.documents, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, head.documents - first)
        bounds = _get(index, indices_at + 8 * first, count + 1, np.dtype("<i8"), name)
        if bounds[0] != sequence or (np.diff(bounds) < 0).any() or bounds[-1] > head.sequences:
            raise ShardError(f"{name}: its document indices do not cover its {head.sequences:,} sequences in order")
        ends = np.empty(count, np.int64)
        start, done = position, 0
        while done < count:  # sequences in pieces: a document may have any number of them
            last = max(int(np.searchsorted(bounds, sequence + ROWS_AT_ONCE, side="right")) - 1, done + 1)
            stop = int(bounds[last])
            lengths, offsets = _sequences(index, lengths_at, offsets_at, sequence, stop, name)
            if (offsets != (start + np.cumsum(lengths) - lengths) * head.dtype.itemsize).any():
                raise ShardError(
                    f"{name}: its sequences do not follow one another in the .bin; only such files are read"
                )
            within = np.concatenate([[0], np.cumsum(lengths)])
            ends[done:last] = start + within[bounds[done + 1 : last + 1] - sequence]
            start, sequence, done = int(ends[last - 1]), stop, last
        yield numbered(ends, first, file)
        position = start
    if sequence != head.sequences:
        raise ShardError(f"{name}: {head.sequences - sequence:,} of its sequences belong to no document")


def _sequences(
    index: BinaryIO, lengths_at: int, offsets_at: int, first: int, stop: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    lengths = _get(index, lengths_at + 4 * first, stop - first, np.dtype("<i4"), name).astype(np.int64)
    return lengths, _get(index, offsets_at + 8 * first, stop - first, np.dtype("<i8"), name)


def _get(file: BinaryIO, at: int, count: int, dtype: np.dtype, name: str) -> np.ndarray:
    file.seek(at)
    return read_exactly(file, count, dtype, name)
