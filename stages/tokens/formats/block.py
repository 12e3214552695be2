"""Blocks: whole documents on their way between token formats, their tokens in one flat array, no object a document.

A token file is two streams: raw tokens, and rows that say where its documents end and where they are from. `blocks`
joins them; memory is one block of tokens (or one document, where that is longer) and one batch of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.tokens.shard_format import ShardError

BLOCK_TOKENS = 1 << 20
ROWS_AT_ONCE = 1 << 16
READ_BYTES = 4 << 20
LONGEST = 1 << 25  # tokens of a document that is taken in; some 30 bytes of memory for each of them are needed


@dataclass(frozen=True)
class Rows:
    """Documents of a token file, in order, without their tokens."""

    ends: np.ndarray  # int64: one past each document's last token, counted from the start of the file
    ids: pa.Array  # large_string
    srcs: pa.Array  # large_string: the file that the document was read from
    locs: np.ndarray  # int64: 1-based record in it

    def __len__(self) -> int:
        return len(self.ends)


@dataclass(frozen=True)
class Block:
    """Whole documents with their tokens."""

    tokens: np.ndarray  # flat
    ends: np.ndarray  # int64: one past each document's last token, counted from the start of the block
    ids: pa.Array
    srcs: pa.Array
    locs: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> np.ndarray:
        """First token of each document (int64)."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]]) if len(self.ends) else self.ends

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document (int64)."""
        return self.ends - self.starts

    def where(self, mask: np.ndarray) -> Block:
        """The documents that `mask` (bool) names."""
        if mask.all():
            return self
        lengths = self.lengths
        chosen = pa.array(mask)
        return Block(
            self.tokens[np.repeat(mask, lengths)],
            np.cumsum(lengths[mask]),
            self.ids.filter(chosen),
            self.srcs.filter(chosen),
            self.locs[mask],
        )


def blocks(
    stream: BinaryIO, dtype: np.dtype, rows: Iterable[Rows], name: str, max_tokens: int = BLOCK_TOKENS
) -> Iterator[Block]:
    """A raw token stream cut into blocks of at most `max_tokens` (or one document). `name` is what errors call it.

    Raises ShardError where the documents' ends go backwards, or do not end with the stream.
    """
    dtype = np.dtype(dtype)
    position = 0
    for batch in rows:
        ends = batch.ends
        if len(ends) and (ends[0] < position or (np.diff(ends) < 0).any()):
            raise ShardError(f"{name}: its index is damaged: documents end before they begin")
        first = 0
        while first < len(ends):
            last = max(int(np.searchsorted(ends, position + max_tokens, side="right")), first + 1)
            stop = int(ends[last - 1])
            yield Block(
                read_exactly(stream, stop - position, dtype, name),
                ends[first:last] - position,
                batch.ids.slice(first, last - first),
                batch.srcs.slice(first, last - first),
                batch.locs[first:last],
            )
            first, position = last, stop
    if left := stream.read(1):
        raise ShardError(f"{name}: {len(left)} byte or more behind the last of its {position:,} indexed tokens")


def bounded(rows: Iterable[Rows], name: str) -> Iterator[Rows]:
    """The same rows. Raises ShardError before a document that is too long to be held: a whole file, mostly, whose end token
    is another one.
    """
    position = 0
    for batch in rows:
        lengths = np.diff(batch.ends, prepend=position)
        if len(lengths) and int(lengths.max()) > LONGEST:
            row = int(lengths.argmax())
            raise ShardError(
                f"{name}: document {batch.ids[row]} has {lengths[row]:,} tokens, and up to {LONGEST:,} are taken in; "
                "is the end token right (--eos-token)?"
            )
        position = int(batch.ends[-1]) if len(batch) else position
        yield batch


def read_exactly(stream: BinaryIO, count: int, dtype: np.dtype, name: str) -> np.ndarray:
    """The next `count` values of a stream. Raises ShardError where it ends before."""
    out = np.empty(count, dtype)
    view, done = memoryview(out).cast("B"), 0
    while done < len(view):
        got = stream.readinto(view[done : done + READ_BYTES])  # type: ignore[attr-defined]
        if not got:
            raise ShardError(
                f"{name}: is cut off: {len(view) - done:,} bytes are missing where {count:,} values were expected"
            )
        done += got
    return out


class Hashed:
    """A stream for reading that keeps the sha256 of what was read."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        count = self.stream.readinto(buffer)  # type: ignore[attr-defined]
        self.digest.update(buffer[:count])
        return count


def numbered(ends: np.ndarray, first: int, name: str) -> Rows:
    """Rows of a file that names no documents: `name` is their src, loc counts from 1, the id is "<file name>:<loc>"."""
    locs = np.arange(first + 1, first + 1 + len(ends))
    short = pa.scalar(name.rsplit("/", 1)[-1], pa.large_string())
    ids = pc.binary_join_element_wise(short, pa.array(locs).cast(pa.large_string()), pa.scalar(":", pa.large_string()))
    return Rows(np.asarray(ends, np.int64), ids, repeated(name, len(ends)), locs)


def repeated(value: str, count: int) -> pa.Array:
    """A `large_string` column of one value."""
    return pa.array([value], pa.large_string()).take(pa.array(np.zeros(count, np.int64)))


def rows_by_end_token(stream: BinaryIO, dtype: np.dtype, eos: int, name: str) -> Iterator[Rows]:
    """Rows of a token file without an index: a document ends at each end token (OLMo-core's rule), or with the file."""
    dtype = np.dtype(dtype)
    position = documents = end = 0
    while chunk := stream.read(BLOCK_TOKENS * dtype.itemsize):
        if len(chunk) % dtype.itemsize:
            raise ShardError(f"{name}: ends inside a token of {dtype.itemsize} bytes")
        tokens = np.frombuffer(chunk, dtype)
        ends = np.flatnonzero(tokens == eos) + position + 1
        position += len(tokens)
        for first in range(0, len(ends), ROWS_AT_ONCE):
            part = ends[first : first + ROWS_AT_ONCE]
            yield numbered(part, documents, name)
            documents, end = documents + len(part), int(part[-1])
    if position > end:
        yield numbered(np.array([position]), documents, name)
