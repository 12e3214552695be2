"""Reads CSV (.csv, and .tsv with tabs): the first row names the columns, each row behind it is a document.

Fields are quoted as RFC 4180 says; a quoted field may hold line ends. A row that is quoted otherwise, or has more or
fewer fields than the header, is a problem that costs that row. Text is UTF-8; invalid bytes become U+FFFD and are told.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from typing import BinaryIO

import orjson
import pyarrow as pa

from stages.errors import InputError
from stages.read.arrow_values import SAME_NAME, unique_names
from stages.read.builder import EVENTS, DocumentBuilder
from stages.read.events import Dropped, Event, Problem, Repaired, Skipped
from stages.read.json_values import BARE_CR, INVALID_UTF8, listed
from stages.read.lines import Block, Damage, Pieces, TooLong, line_blocks
from stages.read.names import suffixes
from stages.read.settings import Part, ReadSpec
from stages.read.text import decode

DELIMITERS = (",", ";", "\t", "|")  # that tables have
_BARE_CR = "new-line character seen in unquoted field"  # how the csv module says it
_TEXT_FIELD = "set `read.text_field` to the one that holds the text"


def read(
    stream: BinaryIO,
    file: str,
    spec: ReadSpec,
    batch_bytes: int,
    on_event: Callable[[Event], None],
    part: Part,
    max_window: int,
) -> Iterator[pa.RecordBatch]:
    """Batches of DOCUMENT; see stages.read.format.read_batches. Record: the ordinal of the row behind the header."""
    lines = _Lines(Pieces(stream, file, spec.compression, part.offset, max_window), batch_bytes, spec.max_record_bytes)
    delimiter = spec.delimiter or ("\t" if ".tsv" in suffixes(file) else ",")
    csv.field_size_limit(max(csv.field_size_limit(), spec.max_record_bytes))
    table = _Table(file, spec, batch_bytes, on_event, lines)
    table.label = part.label or file
    yield from table.documents(csv.reader(lines, delimiter=delimiter, strict=True))
    if lines.damage:
        on_event(lines.damage.problem(file, table.record))
    if table.empty:
        on_event(Skipped(file, "empty line", table.empty, 0))
    if table.mended:
        on_event(Repaired(file, INVALID_UTF8, table.mended))
    if table.renamed:
        on_event(Repaired(file, SAME_NAME, table.renamed))


class _TooLong(Exception):
    """A row of more bytes than are allowed, all of which was passed over. open: its quoted field has no end."""

    def __init__(self, *, open: bool) -> None:
        self.open = open


class _Lines:
    """The file's lines as text, and where the row that they make up stands. The caller calls `begin` before each row."""

    def __init__(self, pieces: Pieces, size: int, limit: int) -> None:
        self.limit = limit
        self.at = self.row = pieces.offset  # of the next line, and of the row's first line
        self.bad = self.cut = False  # of the row: bytes were replaced; it ends where the file does
        self.damage: Damage | None = None
        self.lines = self._lines(pieces, size, limit)

    def begin(self) -> None:
        """The next line is the first one of a row."""
        self.row, self.bad = self.at, False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        continued = self.at > self.row  # the parser asks for more of a row within a quoted field alone
        size = self._passed(line)
        if isinstance(line, TooLong) or self.at - self.row > self.limit + 1:
            raise _TooLong(open=self._pass_field(continued != _is_odd(line)))
        text, bad = decode(line, marked=self.at == size)
        self.bad |= bad
        return text

    def _passed(self, line: bytes | TooLong) -> int:
        """The bytes of a line, which is now behind."""
        size = line.bytes + 1 if isinstance(line, TooLong) else len(line)
        self.at += size
        return size

    def _pass_field(self, inside: bool) -> bool:
        """Go to the end of a row, whose lines go on while a quoted field is open; whether it still is where the file ends."""
        while inside:
            line = next(self.lines, None)
            if line is None:
                return True
            self._passed(line)
            inside = not _is_odd(line)
        return False

    def _lines(self, pieces: Pieces, size: int, limit: int) -> Iterator[bytes | TooLong]:
        for block in line_blocks(pieces, size, limit):
            if isinstance(block, Damage):
                self.damage = block
            elif isinstance(block, TooLong):
                yield block
            else:
                yield from self._of_block(block)

    def _of_block(self, block: Block) -> Iterator[bytes]:
        last = len(block.records) - 1
        for i, line in enumerate(block.records):
            self.cut = block.cut and i == last
            yield line if self.cut else line + b"\n"


def _is_odd(line: bytes | TooLong) -> bool:
    """Whether a line has an odd number of quotation marks, so that it opens or closes a field; one within a field is doubled."""
    return bool((line.quotes if isinstance(line, TooLong) else line.count(b'"')) % 2)


class _Table:
    """Makes documents of rows; counts what is reported at the end of the file."""

    def __init__(
        self, file: str, spec: ReadSpec, batch_bytes: int, on_event: Callable[[Event], None], lines: _Lines
    ) -> None:
        self.file, self.spec, self.on_event, self.lines = file, spec, on_event, lines
        self.label = file  # what ids of rows without one call it
        self.rows = DocumentBuilder(file, batch_bytes)
        self.record, self.events = 1, 0
        self.empty = self.mended = self.renamed = 0
        self.same_name = False  # of two columns
        self.names: list[str] = []

    def documents(self, reader: Iterator[list[str]]) -> Iterator[pa.RecordBatch]:
        """Batches of the documents of all rows. Raises InputError for a header without the text column."""
        while True:
            self.lines.begin()
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                reason = BARE_CR if _BARE_CR in str(error) else f"it is not valid CSV: {error}"
                if not self.names:
                    raise InputError(self.file, f"its header: {reason}") from None
                self._problem(reason, cut="unexpected end of data" in str(error))
            except _TooLong as row:
                self._too_long(row.open)
            else:
                if not row:
                    self.empty += 1
                elif not self.names:
                    self.names = self._header(row)
                else:
                    self._add(row)
            if self.rows.full() or self.events >= EVENTS:
                yield self.rows.take()
                self.events = 0
        if self.rows.ids:
            yield self.rows.take()

    def _header(self, row: list[str]) -> list[str]:
        if self.spec.text_field not in row:
            reason = f"it has no column {self.spec.text_field!r}; its columns are {listed(row)}"
            other = next((mark for mark in DELIMITERS if self.spec.text_field in row[0].split(mark)), None)
            fix = f"set `read.delimiter` to {other!r}" if other and len(row) == 1 else _TEXT_FIELD
            raise InputError(self.file, f"{reason}: {fix}")
        self.same_name = len(set(row)) < len(row)
        return unique_names(row)

    def _add(self, row: list[str]) -> None:
        """A row of the batch, or the problem that it is."""
        if len(row) != len(self.names):
            self._problem(f"it has {len(row)} fields, and the header has {len(self.names)}", cut=self.lines.cut)
            return
        if self.lines.bad and self.spec.strict:
            self._problem(f"`strict` refuses it: {INVALID_UTF8}", cut=False)
            return
        self.mended += self.lines.bad
        self.renamed += self.same_name
        values = dict(zip(self.names, row, strict=True))
        text = values.pop(self.spec.text_field)
        id, url = (values.pop(name, None) if name else None for name in (self.spec.id_field, self.spec.url_field))
        rest = orjson.dumps(values) if values and self.spec.metadata else None
        self.rows.add(id or f"{self.label}:{self.record}", text, url or None, self.record, self.lines.row, rest)
        self.record += 1

    def _too_long(self, open: bool) -> None:
        """A row of more than max_record_bytes. Raises InputError where it is the header."""
        limit = f"read.max_record_bytes ({self.spec.max_record_bytes:,})"
        if not self.names:
            raise InputError(self.file, f"its header is longer than {limit}: close the quoted field that it opens, or raise that")
        if open:
            self._problem(f"a quoted field has no end, and the row is longer than {limit}", cut=True)
            return
        size = self.lines.at - self.lines.row
        self.on_event(Dropped(self.file, "max_record_bytes", self.record, self.lines.row, size))
        self.record, self.events = self.record + 1, self.events + 1

    def _problem(self, reason: str, cut: bool) -> None:
        if cut:
            reason = f"the file ends inside this row: {reason}"
        size = self.lines.at - self.lines.row
        self.on_event(Problem(self.file, reason, self.record, self.lines.row, 1, size, damage=cut))
        self.record, self.events = self.record + 1, self.events + 1
