"""Cuts a WARC file into records, and finds the next one after damage.

A record is a header that ends in an empty line, `Content-Length` bytes of block, and two line ends (ISO 28500).
In a .gz file each record is one gzip member, but files whose members hold many records, or whose records run over
members, are read as well. A record is handed out only after what follows it was seen to be another record or the
end of its member, with the member's checksum right: a wrong Content-Length or a broken member never passes as a page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile

from stages.read.compression import DamagedError, Members

MAX_HEAD = 64 << 10
IN_MEMORY = 1 << 20  # bytes of a block that is not kept, of those in which records may be that a wrong length took in
_BEGIN = 12  # bytes of "WARC/1.0" with a line end on both sides
_LENGTH = re.compile(rb"(?i)\ncontent-length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?\n")
_TYPE = re.compile(rb"(?i)\nwarc-type[ \t]*:[ \t]*([a-z]+)")
HEAD_END = re.compile(rb"\r?\n\r?\n")
_NOT_NEWLINE = re.compile(rb"[^\r\n]")
_RECORD = re.compile(rb"\n(?=WARC/\d\.\d\r?\n)")


@dataclass(slots=True)
class Frame:
    """One record, or damage (`problem` is then set, and `record` is None where it belongs to no record)."""

    record: int | None  # 1-based
    offset: int | None  # where it begins in the file; in a .gz, None for all but the first record of a member
    kind: str  # warcinfo, response ...
    head: bytes  # WARC header with its closing empty line
    block: bytes | None  # None where it was not wanted, or is larger than the limit
    length: int  # bytes of the block
    problem: str | None = None
    problem_offset: int | None = None  # where the damaged member, or record, begins

    def read_head(self, head: bytes) -> bool:
        """Take the kind and length from the header; False where it has no valid length."""
        kind, length = _TYPE.search(head), _LENGTH.search(head)
        self.head = head
        self.kind = kind[1].decode().lower() if kind else "unknown"
        self.length = int(length[1]) if length else 0
        return length is not None


class _RecordError(Exception):
    """A record that contradicts itself; reading goes on at the next record header."""


class _Passed:
    """A block that is not kept; on disk from the first record header in it on, which a wrong length may have taken in."""

    def __init__(self) -> None:
        self.tail = b""  # a header may stand across two pieces
        self.file: SpooledTemporaryFile[bytes] | None = None

    def add(self, piece: bytes, ahead: bytes = b"") -> None:
        """ahead: what stands behind the piece and is no part of it."""
        if self.file is None:
            taken = self.tail + piece
            found = _RECORD.search(taken + ahead) if b"\nWARC/" in taken + ahead else None
            if found is None or found.end() > len(taken):
                self.tail = taken[-_BEGIN:]
                return
            self.file, piece = SpooledTemporaryFile(IN_MEMORY), taken[found.end() :]  # noqa: SIM115 - read again later
        self.file.write(piece)


class _Content:
    """The decompressed bytes ahead, over member borders: `buffer[at:]` is what has been read and not yet consumed."""

    def __init__(self, members: Members) -> None:
        self.members = members
        self.plain = members.compression is None
        self.buffer, self.at = b"", 0
        self.base = 0  # plain files: offset of buffer[0]
        self.inside = False  # a member is open
        self.fresh = False  # nothing but line ends of the member has been consumed
        self.block: list[bytes] | _Passed = []  # the last one
        self.passed = b""  # the line ends that were skipped last, if they are not too many
        self.again: list[SpooledTemporaryFile[bytes]] = []  # read before what the members give; the last one first
        self.end: int | None = None  # plain files: their size, once it is known

    def offset(self) -> int | None:
        """Where the record at `at` begins in the file, if that is a place at which reading can begin."""
        if self.plain:
            return self.base + self.at
        # A member that needs the file's dictionary cannot be read without the file's beginning.
        return self.members.start if self.fresh and self.members.dictionary is None else None

    def more(self) -> bool:
        """Read another piece of the open member into the buffer; False at its end."""
        if not self.inside:
            return False
        piece = self._put_back() or self.members.read()
        if not piece:
            self.inside = False
            self.end = self.base + len(self.buffer) if self.plain else None
            return False
        self.base += self.at
        self.buffer = self.buffer[self.at :] + piece if self.at < len(self.buffer) else piece
        self.at = 0
        return True

    def _put_back(self) -> bytes:
        """A piece of what is to be read again; empty where nothing is."""
        while self.again:
            if piece := self.again[-1].read(IN_MEMORY):
                return piece
            self.again.pop().close()
        return b""

    def start(self) -> bool:
        """Go to the next byte that is no line end, into the next member if need be; False at the file's end."""
        while True:
            if self.skip_newlines():
                return True
            if not self.members.open():
                return False
            self.base += self.at
            self.buffer, self.at, self.inside, self.fresh = b"", 0, True, True

    def skip_newlines(self) -> bool:
        """The same within the member; False at its end."""
        self.passed = b""
        while True:
            found = _NOT_NEWLINE.search(self.buffer, self.at)
            end = found.start() if found else len(self.buffer)
            if len(self.passed) < MAX_HEAD:
                self.passed += self.buffer[self.at : end]
            self.at = end
            if found:
                return True
            if not self.more():
                return False

    def at_record(self) -> bool:
        """Whether a record header begins here."""
        while len(self.buffer) - self.at < 5 and self.more():
            pass
        return b"WARC/".startswith(self.buffer[self.at : self.at + 5])  # a cut file may end within these five

    def take_head(self) -> bytes:
        """The record's header, consumed."""
        while True:
            found = HEAD_END.search(self.buffer, self.at, self.at + MAX_HEAD)
            if found:
                head = self.buffer[self.at : found.end()]
                self.at, self.fresh = found.end(), False
                return head
            if len(self.buffer) - self.at >= MAX_HEAD or not self.more():
                reason = f"is longer than {MAX_HEAD} bytes" if self.inside else "is cut off"
                self.at += 5  # so that the search for the next record does not find this one
                raise _RecordError(f"its header {reason}")

    def take_block(self, length: int, keep: bool) -> bytes | None:
        """The next `length` bytes, consumed; None if they were not to be kept."""
        if self.end is not None and self.base + self.at + length > self.end:
            raise _RecordError(_missing(self.end - self.base - self.at, length))
        parts, passed = list[bytes](), _Passed()
        self.block = parts if keep else passed
        add = parts.append if keep else passed.add
        left = length
        while True:
            step = min(left, len(self.buffer) - self.at, length if keep else IN_MEMORY)
            add(self.buffer[self.at : self.at + step])
            self.at += step
            left -= step
            if not left:
                if not keep:
                    return None
                block = parts[0] if len(parts) == 1 else b"".join(parts)
                self.block = [block]
                return block
            if self.at < len(self.buffer) or self.more():
                continue
            self.passed = b""
            swallowed = self.find_swallowed()
            if not swallowed and self.members.open():
                self.inside = self.fresh = True
                self.more()
                swallowed = self.at_record()
                self.fresh = swallowed
                if not swallowed:
                    continue
            raise _RecordError(_missing(length - left, length))

    def find_swallowed(self) -> bool:
        """Put back what a wrong Content-Length took in from the next record on; False if there is none.

        The block may end within that record's first line; line ends behind it have then been passed over.
        """
        if len(self.passed) >= MAX_HEAD:
            return False
        ahead = self.buffer[self.at : self.at + _BEGIN]
        if isinstance(self.block, _Passed):
            self.block.add(self.passed, ahead)
            if self.block.file is None:
                return False
            self.block.file.write(self.buffer[self.at :])
            self.base += len(self.buffer) - self.block.file.tell()
            self.buffer, self.at, self.inside = b"", 0, True
            self.block.file.seek(0)
            self.again.append(self.block.file)
            return True
        taken = b"".join(self.block) + self.passed
        found = _RECORD.search(taken + ahead)
        if found is None or found.end() > len(taken):
            return False
        kept = taken[found.end() :]
        self.base += self.at - len(kept)
        self.buffer, self.at = kept + self.buffer[self.at :], 0
        return True

    def seek_record(self) -> None:
        """Go to the next record header within the member, here at the earliest, or to the member's end."""
        if self.at_record():
            return
        self.fresh = False
        while True:
            found = _RECORD.search(self.buffer, self.at)
            if found:
                self.at = found.end()
                return
            self.at = max(self.at, len(self.buffer) - 12)  # a header may stand across two pieces
            if not self.more():
                self.at = len(self.buffer)
                return

    def salvage_head(self) -> bytes:
        """The header of a record whose member gave nothing before it turned out damaged; empty if that is lost too."""
        if not (self.inside and self.fresh) or self.at < len(self.buffer):
            return b""
        content = self.members.salvage(MAX_HEAD)
        found = HEAD_END.search(content) if content.startswith(b"WARC/") else None
        return content[: found.end()] if found else b""

    def recover(self) -> bool:
        """After damage: go to the next member that begins with a record; False where there is none."""
        self.base += len(self.buffer)
        self.buffer, self.at, self.inside = b"", 0, False
        return self.members.recover(b"WARC/")


def _missing(there: int, length: int) -> str:
    return f"{there:,} of the {length:,} bytes of its Content-Length are there"


def frames(members: Members, wanted: Callable[[str], bool], limit: int) -> Iterator[Frame]:
    """The records of a WARC file, and its damages, in order.

    `wanted`: whether blocks of records of this kind are to be kept. `limit`: bytes of the largest block to keep.
    """
    content = _Content(members)
    count = 0
    lost = False  # the last record contradicted itself: the next one is to be searched for
    while True:
        frame = Frame(None, None, "", b"", None, 0)
        try:
            if lost:
                lost = False  # first, for the search itself may run into damage
                content.seek_record()
            if not content.start():
                return
            frame.offset = content.offset()
            frame.problem_offset = frame.offset if frame.offset is not None else members.start
            if not content.at_record():
                content.fresh = False
                raise _RecordError("no WARC record begins here")
            count += 1
            frame.record = count
            if not frame.read_head(content.take_head()):
                raise _RecordError("it has no valid Content-Length")
            keep = wanted(frame.kind) and frame.length <= limit
            block = content.take_block(frame.length, keep)
            if content.skip_newlines() and not content.at_record():
                content.find_swallowed()
                raise _RecordError("its Content-Length is wrong: what follows it is no record")
            frame.block = block
        except DamagedError as error:
            frame.problem, frame.problem_offset = error.reason, error.offset
            if frame.record is None and (head := content.salvage_head()):
                count += 1
                frame.record = count
                frame.read_head(head)
            yield frame
            if not content.recover():
                return
            continue
        except _RecordError as error:
            frame.problem = str(error)
            lost = True
        yield frame
