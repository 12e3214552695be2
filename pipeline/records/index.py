"""The index of a segment: what opening a run needs of its records, in columns, so that only entries asked for are read.

It lies beside the segment's NAME.log as NAME.idx, written once no more is added to that. It holds nothing that the log
does not: where it is missing or damaged, the log is read instead.
"""

from __future__ import annotations

from array import array
from typing import BinaryIO

import msgspec
import zstandard
from isal.isal_zlib import crc32

from pipeline.records.entry import Basis, Entry, Forget, Record, Release, similar_hash
from pipeline.records.lines import Cover, Header, scan

MAGIC = b"headrace ledger index 1\n"
UNIT_DEPTH = 3


class Mark(msgspec.Struct, array_like=True):
    """Forgotten keys or released outputs, between the entries of a segment: before the one of number `at`."""

    at: int
    forget: list[str]
    release: list[tuple[str, list[str]]]


class Index(msgspec.Struct, array_like=True):
    """Columns of a segment's entries and of their outputs, in the order of the log, as little-endian bytes.

    base: length of the log's header line, from whose end offsets count. log_bytes: length of the log that is vouched
    for; bytes after it are a line that was cut off, or added by a writer that had lost the run.
    """

    covers: list[Cover]
    at: tuple[int, int]
    base: int
    log_bytes: int
    keys: bytes  # 16 each
    offsets: bytes  # uint64
    lengths: bytes  # uint32, of lines
    refs: bytes  # int64
    similar: bytes  # int64
    counts: bytes  # uint32, outputs of each entry
    paths: bytes  # joined by NUL, Zstandard
    sizes: bytes  # int64
    released: bytes  # 1 where let go
    units: list[str]
    unit_of: bytes  # uint32
    marks: list[Mark]
    bases: list[tuple[str, int, int]]  # hash, offset and length of the line

    def names(self) -> list[str]:
        """The outputs' paths."""
        text = zstandard.decompress(self.paths).decode()
        return text.split("\0") if self.sizes else []


def unit_of(path: str) -> str:
    """The folder that is listed to learn whether a file is there: at most three levels deep.

    One of three levels is listed with all below it, so that a task's own sub-folders cost no requests of their own.
    """
    return "/".join(path.split("/")[:-1][:UNIT_DEPTH])


class Builder:
    """Makes the index of a segment from its records, taken in order. Offsets count from the end of the header line."""

    def __init__(self) -> None:
        self.keys = bytearray()
        self.offsets, self.lengths, self.refs, self.similar = array("Q"), array("I"), array("q"), array("q")
        self.counts, self.sizes, self.unit_of = array("I"), array("q"), array("I")
        self.paths: list[str] = []
        self.released = bytearray()
        self.units: dict[str, int] = {}
        self.marks: list[Mark] = []
        self.bases: list[tuple[str, int, int]] = []

    def take(self, record: Record, offset: int, length: int) -> None:
        """Take in one record, whose line lies at `offset`."""
        match record:
            case Entry():
                self._entry(record, offset, length)
            case Forget():
                self.marks.append(Mark(len(self.offsets), record.keys, []))
            case Release():
                self.marks.append(Mark(len(self.offsets), [], record.items))
            case Basis():
                self.bases.append((record.hash, offset, length))

    def _entry(self, entry: Entry, offset: int, length: int) -> None:
        self.keys += bytes.fromhex(entry.key)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.refs.append(entry.ref.hash())
        self.similar.append(similar_hash(entry.similar))
        self.counts.append(len(entry.outputs))
        for output in entry.outputs:
            self.paths.append(output.path)
            self.sizes.append(output.bytes)
            self.unit_of.append(self.units.setdefault(unit_of(output.path), len(self.units)))
            self.released.append(output.path in entry.released)

    def build(self, header: Header, base: int, log_bytes: int) -> Index:
        """The index of all that was taken."""
        return Index(
            header.covers,
            header.at,
            base,
            log_bytes,
            bytes(self.keys),
            self.offsets.tobytes(),
            self.lengths.tobytes(),
            self.refs.tobytes(),
            self.similar.tobytes(),
            self.counts.tobytes(),
            zstandard.compress("\0".join(self.paths).encode(), 1),
            self.sizes.tobytes(),
            bytes(self.released),
            list(self.units),
            self.unit_of.tobytes(),
            self.marks,
            self.bases,
        )


def encode_index(index: Index) -> bytes:
    """The file NAME.idx."""
    data = msgspec.msgpack.encode(index)
    return MAGIC + crc32(data).to_bytes(4, "little") + data


def decode_index(data: bytes) -> Index | None:
    """What `encode_index` wrote; None where it is not as it was written."""
    start = len(MAGIC) + 4
    if data[: len(MAGIC)] != MAGIC or int.from_bytes(data[len(MAGIC) : start], "little") != crc32(data[start:]):
        return None
    try:
        return msgspec.msgpack.decode(memoryview(data)[start:], type=Index)
    except msgspec.DecodeError:
        return None


def index_log(stream: BinaryIO, name: str, torn: bool) -> Index | None:
    """The index of a log, by reading it; None where not even its first line was written whole. As `scan` otherwise."""
    builder, header, base, end = Builder(), None, 0, 0
    for offset, length, record in scan(stream, name, torn):
        end = offset + length
        if isinstance(record, Header):
            header, base = record, length
        else:
            builder.take(record, offset - base, length)
    return None if header is None else builder.build(header, base, end)
