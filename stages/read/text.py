"""Reads plain text (.txt): one document a file, or one a line, plain or compressed.

Text is UTF-8, or UTF-16 that begins with its mark. Lines with invalid bytes get U+FFFD in their place, and are told. A
file with some is decoded as pages are (stages/charset.py), and told; `strict` refuses both.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow as pa

from stages.charset import decode as decode_any
from stages.charset import utf16
from stages.read.builder import EVENTS, DocumentBuilder
from stages.read.events import Dropped, Event, Problem, Repaired, Skipped
from stages.read.http import HEAD_BYTES, binary_kind
from stages.read.json_values import INVALID_UTF8
from stages.read.lines import Block, Pieces, TooLong, line_blocks
from stages.read.settings import Part, ReadSpec

OTHER_ENCODING = "text that is not UTF-8 was read in another encoding"
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read(
    stream: BinaryIO,
    file: str,
    spec: ReadSpec,
    batch_bytes: int,
    on_event: Callable[[Event], None],
    part: Part,
    max_window: int,
) -> Iterator[pa.RecordBatch]:
    """Batches of DOCUMENT; see stages.read.format.read_batches. Record: 1, or the ordinal of the line."""
    texts = _Texts(file, spec, batch_bytes, on_event, part)
    pieces = Pieces(stream, file, spec.compression, part.offset, max_window)
    yield from texts.lines(pieces) if spec.document == "line" else texts.file_of(pieces)
    texts.report()


class _Texts:
    """Makes documents of texts; counts what is reported at the end of the file."""

    def __init__(
        self, file: str, spec: ReadSpec, batch_bytes: int, on_event: Callable[[Event], None], part: Part
    ) -> None:
        self.file, self.spec, self.batch_bytes, self.on_event = file, spec, batch_bytes, on_event
        self.record, self.label = part.first_record, part.label or file
        self.rows = DocumentBuilder(file, batch_bytes)
        self.empty = 0
        self.mended: Counter[str] = Counter()

    def report(self) -> None:
        """Send the counts of the file."""
        if self.empty:
            self.on_event(Skipped(self.file, f"empty {self.spec.document}", self.empty, 0))
        for what, documents in sorted(self.mended.items()):
            self.on_event(Repaired(self.file, what, documents))

    def file_of(self, pieces: Pieces) -> Iterator[pa.RecordBatch]:
        """The one document that the file is; nothing of it is held where it is too large."""
        held, size = bytearray(), 0
        while piece := pieces.read():
            size += len(piece)
            if size <= self.spec.max_record_bytes:
                held += piece
            else:
                held.clear()
        if pieces.damage is not None:
            self.on_event(Problem(self.file, f"{pieces.damage}; its text is lost", 1, 0, 1, size))
        elif size > self.spec.max_record_bytes:
            self.on_event(Dropped(self.file, "max_record_bytes", 1, 0, size))
        elif kind := binary_kind(bytes(held[:HEAD_BYTES]), None):
            self.on_event(Problem(self.file, f"it is no text ({kind})", 1, 0, 1, size, damage=False))
        elif self._add(bytes(held), 0):
            yield self.rows.take()

    def lines(self, pieces: Pieces) -> Iterator[pa.RecordBatch]:
        """One document for each line in which something stands."""
        events = 0
        for block in line_blocks(pieces, self.batch_bytes, self.spec.max_record_bytes):
            if isinstance(block, Block):
                for line, offset in zip(block.records, block.offsets, strict=True):
                    if len(line) > self.spec.max_record_bytes:
                        self.on_event(Dropped(self.file, "max_record_bytes", self.record, offset, len(line)))
                        events += 1
                    else:
                        events += not self._add(line.removesuffix(b"\r"), offset)
                    self.record += 1
                    if self.rows.full() or events >= EVENTS:
                        yield self.rows.take()
                        events = 0
                continue
            if isinstance(block, TooLong):
                self.on_event(Dropped(self.file, "max_record_bytes", self.record, block.offset, block.bytes))
            else:
                self.on_event(block.problem(self.file, self.record))
            self.record += 1
        if self.rows.ids:
            yield self.rows.take()

    def _add(self, data: bytes, offset: int) -> bool:
        """A row of a text; False where it is none, which is then reported or counted."""
        text, bad = decode(data, marked=offset == 0)
        mended = INVALID_UTF8 if bad else None
        if self.spec.document == "file" and (bad or ("\0" in text and utf16(data[:HEAD_BYTES]))):
            found = decode_any(data)
            text, mended = found.text, INVALID_UTF8 if found.replaced else OTHER_ENCODING
        if not text.strip():
            self.empty += 1
            return False
        if mended and self.spec.strict:
            reason = f"`strict` refuses it: {mended}"
            self.on_event(Problem(self.file, reason, self.record, offset, 1, len(data), damage=False))
            return False
        self.mended.update([mended] if mended else [])
        self.rows.add(f"{self.label}:{self.record}", text, None, self.record, offset, None)
        return True


def decode(data: bytes, marked: bool) -> tuple[str, bool]:
    """The text, and whether bytes of it were invalid and replaced. marked: a mark may stand before it."""
    mark, encoding = next(((m, e) for m, e in _MARKS if marked and data.startswith(m)), (b"", "utf-8"))
    data = data[len(mark) :]
    try:
        return data.decode(encoding), False
    except UnicodeDecodeError:
        return data.decode(encoding, "replace"), True
