"""Lines of a plain or compressed file, in blocks of bounded size, with lines that are too long and damage told apart."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from stages.charset import SAMPLE_BYTES, utf16
from stages.read.compression import MAX_WINDOW, Compression, DamagedError, Members, compression_by
from stages.read.events import Problem


@dataclass
class Block:
    """Whole records, each with the place in the content where it begins.

    cut: the last record ends where the file does, without the mark that ends the others.
    """

    records: list[bytes]
    offsets: list[int]
    cut: bool = False


@dataclass
class TooLong:
    """A record larger than allowed, which was not kept. quotes: the quotation marks in a line of this kind."""

    offset: int
    bytes: int
    quotes: int = 0


@dataclass
class Damage:
    """Where a file ends too early or cannot be decompressed; `offset` and `bytes` are of the record that it cuts."""

    reason: str
    offset: int
    bytes: int

    def problem(self, file: str, record: int) -> Problem:
        """The event of it; `record`: the ordinal of the record that it cuts."""
        lost = 1 if self.bytes else 0
        reason = f"{self.reason}; the rest of the file is lost"
        return Problem(file, reason, record if lost else None, self.offset, lost, self.bytes)


class Pieces:
    """The decompressed content of a file, piece by piece. `damage` is set once it ends too early.

    offset: where in a plain file the stream begins. compression: as `read.compression` says; None: as the file tells.
    """

    def __init__(
        self,
        stream: BinaryIO,
        file: str,
        compression: Compression | None = None,
        offset: int = 0,
        max_window: int = MAX_WINDOW,
    ) -> None:
        # What does not begin the file is a range of lines, and these are not compressed.
        self.members = Members.of_file(stream, file, "none" if offset else compression, max_window)
        self.damage: str | None = None
        self.inside = False
        self.ahead = b""
        self.offset = offset  # of what is read next

    def read(self) -> bytes:
        """The next piece; empty at the end of the file, or of what can be read of it."""
        piece, self.ahead = self.ahead or self._next(), b""
        self.offset += len(piece)
        return piece

    def push(self, piece: bytes) -> None:
        """Put back what was read too much."""
        self.ahead = piece + self.ahead
        self.offset -= len(piece)

    def no_lines(self) -> str | None:
        """Why what is read next is no lines of text; None where it may be. Nothing is consumed."""
        head = self.read()
        self.push(head)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or utf16(head[:SAMPLE_BYTES]):
            return "it is UTF-16, and only plain text of one document a file is read of that: write it as UTF-8"
        again = compression_by(head, "") if self.members.compression else None
        return f"it is compressed twice, and holds {again} data once it is unpacked: unpack it once" if again else None

    def _next(self) -> bytes:
        try:
            while self.damage is None:
                self.inside = self.inside or self.members.open()
                if not self.inside:
                    return b""
                if piece := self.members.read():
                    return piece
                self.inside = False
        except DamagedError as error:
            self.damage = f"{error.reason} (at byte {error.offset} of the compressed file)"
        return b""


def line_blocks(pieces: Pieces, size: int, limit: int) -> Iterator[Block | TooLong | Damage]:
    """Whole lines, about `size` bytes of them at once. Holds no line that is longer than `limit`."""
    whole: list[bytes] = []  # pieces up to the last line end
    rest: list[bytes] = []  # pieces of the line that is not complete yet; none of one that is too long
    held = rest_bytes = quotes = 0
    begin = pieces.offset  # of the first byte held
    if begin == 0 and (refused := pieces.no_lines()):
        yield Damage(refused, 0, 0)
        return
    while piece := pieces.read():
        end = piece.rfind(b"\n") + 1
        if end and rest_bytes > limit:
            first = piece.find(b"\n")
            yield TooLong(begin, rest_bytes + first, quotes + piece.count(b'"', 0, first))
            begin += rest_bytes + first + 1
            piece, end, rest_bytes, quotes = piece[first + 1 :], end - first - 1, 0, 0
        if end:
            whole += [*rest, piece[:end]]
            held += rest_bytes + end
            rest, rest_bytes = [piece[end:]], len(piece) - end
        else:
            rest.append(piece)
            rest_bytes += len(piece)
        if held and (held >= size or rest_bytes > limit):
            data = b"".join(whole)
            whole.clear()  # before the block is worked on: a long line is held once
            yield _block(data, begin)
            held, begin = 0, begin + held
        if rest_bytes > limit:
            quotes += sum(part.count(b'"') for part in rest)
            rest = []
    if pieces.damage is None and rest_bytes <= limit:
        whole += rest
        rest_bytes = 0
    if data := b"".join(whole):
        whole.clear()
        yield _block(data, begin)
        begin += held
    if pieces.damage is not None:
        yield Damage(pieces.damage, begin, rest_bytes)
    elif rest_bytes:
        yield TooLong(begin, rest_bytes, quotes)


def _block(data: bytes, offset: int) -> Block:
    records = data.split(b"\n")
    cut = bool(records[-1])
    if not cut:
        records.pop()
    ends = np.cumsum(np.fromiter(map(len, records), np.int64, len(records)) + 1) + offset
    return Block(records, [offset, *ends[:-1].tolist()], cut)
