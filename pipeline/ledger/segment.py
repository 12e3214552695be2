"""Segments: the files RUN/ledger/EPOCH-NUMBER-WRITER.log, in which records stand in the order in which they were added.

Each time a run's ledger is opened for writing, that is a writer of its own, with an id and the next epoch; it numbers its
segments. So two drivers never write one file, and what one adds that has lost the run comes before what its successor
adds. A segment that was made from others says which (`Header.covers`): while those are still there, they do not count.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline import storage
from pipeline.ledger.entry import Basis, Entry
from pipeline.ledger.index import Mark
from pipeline.ledger.lines import BadLineError, Cover, Header, basis_of, damaged, entry_of
from pipeline.storage.errors import from_os_error

FOLDER = "ledger"
LOG, INDEX = ".log", ".idx"
_NAME = re.compile(r"(\d{6,})-(\d{6,})-([0-9a-f]{8})")
READ_AHEAD = 1 << 18  # of each segment, of which a large ledger has many
PIECE = 1 << 20  # of a remote log, copied here at once


@dataclass(frozen=True, order=True)
class Name:
    """A segment's name in parts."""

    epoch: int
    number: int
    writer: str

    def __str__(self) -> str:
        return f"{self.epoch:06d}-{self.number:06d}-{self.writer}"

    def header(self) -> Header:
        """The header of a segment that stands for itself."""
        return Header(1, [(self.epoch, self.writer, self.number, self.number)], (self.epoch, self.number))


def parse_name(text: str) -> Name | None:
    """The parts of a segment's name; None where it is none."""
    found = _NAME.fullmatch(text)
    return Name(int(found[1]), int(found[2]), found[3]) if found else None


def join_covers(covers: Iterable[Cover]) -> list[Cover]:
    """The same segments, adjacent ranges of one writer as one."""
    found: list[Cover] = []
    for epoch, writer, first, last in sorted(covers):
        if found and found[-1][:2] == (epoch, writer) and first <= found[-1][3] + 1:
            found[-1] = (epoch, writer, found[-1][2], max(last, found[-1][3]))
        else:
            found.append((epoch, writer, first, last))
    return found


def covered(inner: list[Cover], outer: list[Cover]) -> bool:
    """True where all segments of `inner` are among those of `outer`."""
    return all(any(a[:2] == b[:2] and b[2] <= a[2] and a[3] <= b[3] for b in outer) for a in inner)


def superseded(found: dict[Name, Header]) -> set[Name]:
    """Segments of which others hold the same or more."""
    merged = {name: header for name, header in found.items() if header.covers != name.header().covers}
    lost = set()
    for name, header in found.items():
        for other, its in merged.items():
            if name == other or not covered(header.covers, its.covers):
                continue
            if name not in merged or other > name or not covered(its.covers, header.covers):
                lost.add(name)
                break
    return lost


class Spill:
    """A file without a name on this machine's disk, that goes with the process. What is read from S3 is kept there."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self.size = 0

    def append(self, data: bytes) -> int:
        """Add bytes; returns where they lie."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="headrace-ledger-", buffering=0)  # noqa: SIM115
            view = memoryview(data)
            while view:
                view = view[os.pwrite(self._file.fileno(), view, self.size + len(data) - len(view)) :]
        except OSError as error:
            raise from_os_error(error, tempfile.gettempdir(), "write", len(data)) from None
        self.size += len(data)
        return self.size - len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes that were added."""
        assert self._file is not None
        return os.pread(self._file.fileno(), length, offset)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@dataclass
class Segment:
    """An opened segment. Its file is open (local), or copied to `spill` as its entries are read (remote).

    names: of its files; more than one where a writer to S3 has not yet put its own together. bytes: of records. base:
    length of the header line. start: where the records begin in the open file or the spill; -1: they are copied there
    piece by piece. marks: what was forgotten and let go, for when it is put together with others.
    """

    uri: str  # of its log
    names: list[Name]
    header: Header
    bytes: int
    base: int
    start: int = -1
    marks: list[Mark] = field(default_factory=list)
    descriptor: int | None = None
    spill: Spill | None = None
    stat: storage.Stat | None = None  # of a remote log
    _block: bytes = field(default=b"", repr=False)
    _block_start: int = 0
    _next: int = -1
    _pieces: dict[int, int] = field(default_factory=dict, repr=False)  # number -> place in the spill
    _ahead: int = 1

    def read(self, offset: int, length: int) -> bytes:
        """The line at an offset behind the header. Lines that are read one after another come from one read of the file."""
        begin = offset - self._block_start
        if not 0 <= begin <= len(self._block) - length:
            ahead = READ_AHEAD if 0 <= offset - self._next < READ_AHEAD // 4 else 0
            self._block = self._read(offset, max(length, min(ahead, self.bytes - offset)))
            self._block_start, begin = offset, 0
        self._next = offset + length
        return self._block[begin : begin + length]

    def entry(self, offset: int, length: int) -> Entry:
        """The entry whose line lies at an offset. Raises UserError where it is damaged."""
        try:
            return entry_of(self.read(offset, length))
        except BadLineError as error:
            raise self.damaged(offset, str(error)) from None

    def basis(self, offset: int, length: int) -> Basis:
        """The basis whose line lies at an offset. Raises UserError where it is damaged."""
        try:
            return basis_of(self.read(offset, length))
        except BadLineError as error:
            raise self.damaged(offset, str(error)) from None

    def damaged(self, offset: int, reason: str) -> Exception:
        """The error for a line that is not as it was written."""
        return damaged(self.uri, self.base + offset, reason)

    def _read(self, offset: int, length: int) -> bytes:
        if self.descriptor is not None:
            return os.pread(self.descriptor, length, self.start + offset)
        assert self.spill is not None
        if self.start >= 0:
            return self.spill.read(self.start + offset, length)
        parts = []
        while length > 0:
            number, inside = divmod(offset, PIECE)
            if number not in self._pieces:
                self._fetch(number)
            size = min(length, PIECE - inside)
            parts.append(self.spill.read(self._pieces[number] + inside, size))
            offset, length = offset + size, length - size
        return b"".join(parts)

    def _fetch(self, first: int) -> None:
        """Copy a piece of a remote log here, and with it twice as many that follow as the last time."""
        assert self.spill is not None
        last = first + 1
        while last < first + self._ahead and last * PIECE < self.bytes and last not in self._pieces:
            last += 1
        self._ahead *= 2
        begin, end = first * PIECE, min(last * PIECE, self.bytes)
        start = self.spill.size
        with storage.open_stream(self.uri, self.base + begin, end - begin, stat=self.stat) as stream:
            while piece := stream.read(PIECE):
                self.spill.append(piece)
        if self.spill.size - start != end - begin:
            raise self.damaged(begin, f"{end - begin - self.spill.size + start:,} bytes are missing")
        self._pieces |= {number: start + number * PIECE - begin for number in range(first, last)}

    def attach(self, spill: Spill | None) -> None:
        """Open a segment that has just been written."""
        if storage.is_local(self.uri):
            self.descriptor, self.start = os.open(storage.local_path(self.uri), os.O_RDONLY), self.base
        else:
            self.spill, self.stat = spill, storage.stat(self.uri)

    def close(self) -> None:
        """Let the file go."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
