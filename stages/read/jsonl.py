"""Reads JSON: one object a line, or one array of objects, plain or compressed (.gz, .zst, .bz2, .xz).

A record that is no JSON object, or whose text is no string, is a problem that costs that record. What JSON does not
allow and can be mended is mended and told (stages/read/json_values.py); with `strict` it is a problem as well.
Offsets count decompressed bytes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import NoneType
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from stages.read.builder import EVENTS, ROW_BYTES, DocumentBuilder
from stages.read.events import Dropped, Event, Problem, Repaired, Skipped
from stages.read.json_array import begins_array, element_blocks
from stages.read.json_values import BARE_CR, RecordError, check_room, dump, kind_of, listed, parse
from stages.read.lines import Block, Damage, Pieces, TooLong, line_blocks
from stages.read.settings import Part, ReadSpec

EMPTY = "empty line"
SMALL = 1 << 20  # bytes of a record whose values take no memory to speak of
AT_ONCE = 32 << 10  # bytes of records that are parsed at once; more of them, as values, do not stay in the processor's cache
BLOCK_BYTES = 1 << 20  # of lines cut at once: of more, the system gives new memory each time, which takes as long again


def read(
    stream: BinaryIO,
    file: str,
    spec: ReadSpec,
    batch_bytes: int,
    on_event: Callable[[Event], None],
    part: Part,
    max_window: int,
) -> Iterator[pa.RecordBatch]:
    """Batches of DOCUMENT; see stages.read.format.read_batches. Record: the ordinal of the line, or of the element."""
    pieces = Pieces(stream, file, spec.compression, part.offset, max_window)
    records = _Records(file, spec, batch_bytes, on_event, part, max_window)
    if part.offset == 0 and begins_array(pieces):
        yield from records.documents(element_blocks(pieces, spec.max_record_bytes))
    yield from records.documents(line_blocks(pieces, min(batch_bytes, BLOCK_BYTES), spec.max_record_bytes))
    yield from records.rest()


class _Records:
    """Makes documents of records, in their order; counts what is reported at the end of the file."""

    def __init__(
        self, file: str, spec: ReadSpec, batch_bytes: int, on_event: Callable[[Event], None], part: Part, room: int
    ) -> None:
        self.file, self.spec, self.on_event, self.record = file, spec, on_event, part.first_record
        self.room = room  # bytes that the values of one record may take
        self.label = part.label or file
        self.fields = Fields(spec)
        self.rows = DocumentBuilder(file, batch_bytes)
        self.empty = 0
        self.mended: Counter[str] = Counter()

    def documents(self, blocks: Iterable[Block | TooLong | Damage]) -> Iterator[pa.RecordBatch]:
        """Batches of what the blocks hold; the last documents may wait for more."""
        for block in blocks:
            if isinstance(block, Block):
                yield from self._block(block)
            elif isinstance(block, TooLong):
                self.on_event(Dropped(self.file, "max_record_bytes", self.record, block.offset, block.bytes))
                self.record += 1
            else:
                self.on_event(block.problem(self.file, self.record))
                self.record += 1

    def rest(self) -> Iterator[pa.RecordBatch]:
        """The documents that wait, and the counts of the file."""
        if self.empty:
            self.on_event(Skipped(self.file, EMPTY, self.empty, 0))
        for what, documents in sorted(self.mended.items()):
            self.on_event(Repaired(self.file, what, documents))
        if self.rows.ids:
            yield self.rows.take()

    def _block(self, block: Block) -> Iterator[pa.RecordBatch]:
        """Records are taken some at once: what a call of the parser costs besides is most of what short ones cost."""
        last, start, events = len(block.records) - 1, 0, 0
        while start <= last:
            stop = bisect_left(block.offsets, block.offsets[start] + AT_ONCE, start + 1)
            if not self._add_plain(block.records[start:stop], block.offsets[start:stop]):
                for i in range(start, stop):
                    events += not self._add(block.records[i], block.offsets[i], block.cut and i == last)
                    self.record += 1
                    if self.rows.full() or events >= EVENTS:
                        yield self.rows.take()
                        events = 0
            if self.rows.full():
                yield self.rows.take()
            start = stop

    def _add_plain(self, lines: list[bytes], offsets: list[int]) -> bool:
        """Rows of records that are valid and as most are; False, and no row, where one of them is not."""
        spec, rows = self.spec, self.rows
        # A larger line is looked at before it is parsed.
        if self.fields.nested or max(map(len, lines)) > min(spec.max_record_bytes, SMALL):
            return False
        text_field, id_field, url_field = spec.text_field, spec.id_field, spec.url_field
        rests: list[bytes | None]
        try:
            records: list[Any] = list(map(orjson.loads, lines))
            texts = [values.pop(text_field) for values in records]
            ids = [values.pop(id_field, "") for values in records]
            urls = [values.pop(url_field, None) for values in records]
            rests = [orjson.dumps(values) if values else None for values in records] if spec.metadata else [None] * len(lines)
        except (orjson.JSONDecodeError, orjson.JSONEncodeError, KeyError, TypeError, AttributeError):
            return False
        written = b"".join(filter(None, rests))
        # orjson writes floats from 1e16 on with "e+": among them may be integers that it has rounded.
        if not set(map(type, texts)) == set(map(type, ids)) == {str} or b"e+" in written:
            return False
        if not set(map(type, urls)) <= {str, NoneType}:
            return False
        if not all(ids):
            ids = [id or f"{self.label}:{record}" for record, id in enumerate(ids, self.record)]
        rows.ids += ids
        rows.texts += [text if text.isascii() else text.encode() for text in texts]
        rows.urls += urls
        rows.records += range(self.record, self.record + len(lines))
        rows.offsets += offsets
        rows.metadata += rests
        rows.size += sum(map(len, texts)) + len(written) + ROW_BYTES * len(lines)
        self.record += len(lines)
        return True

    def _add(self, line: bytes, offset: int, cut: bool) -> bool:
        """A row of any record; False where it is no document, which is then reported."""
        if len(line) > self.spec.max_record_bytes:
            self.on_event(Dropped(self.file, "max_record_bytes", self.record, offset, len(line)))
            return False
        try:
            check_room(line, self.room)
            id, text, url, rest = self._plain(line) or self._mended(line)
        except RecordError as error:
            self._refuse(line, offset, str(error), cut)
            return False
        self.rows.add(id or f"{self.label}:{self.record}", text, url, self.record, offset, rest)
        return True

    def _plain(self, line: bytes) -> tuple[str | None, str, str | None, bytes | None] | None:
        """id, text, url and metadata of a record that is valid JSON. None for anything else."""
        try:
            values = orjson.loads(line)
            id, text, url = self.fields.take(values)
            rest = orjson.dumps(values) if values and self.spec.metadata else None
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            return None
        return None if id is None or (rest is not None and b"e+" in rest) else (id, text, url, rest)

    def _mended(self, line: bytes) -> tuple[str | None, str, str | None, bytes | None]:
        """The same of any other record. Raises RecordError."""
        check_room(line, self.room // 2)  # Python's parser, and what looks for surrogates, hold more than orjson
        values, mended = parse(line)
        if mended and self.spec.strict:
            raise RecordError(f"`strict` refuses it: {', '.join(sorted(mended))}")
        id, text, url = self.fields.take(values)
        rest = dump(values) if self.spec.metadata else None
        self.mended.update(mended.keys())
        return id, text, url, rest

    def _refuse(self, line: bytes, offset: int, reason: str, cut: bool) -> None:
        """Report a record that is no document, unless nothing stands in it."""
        if not line or line.isspace():
            self.empty += 1
            return
        # The beginning of a record, or what a copy leaves that reserved the file's whole size and was broken off.
        begun = line.lstrip()[:1] in (b"{", b"\0")
        damage = cut and begun and reason.startswith("not valid JSON") and "Extra data" not in reason
        if damage:
            reason = f"the file ends inside this record: {reason}"
        elif "Extra data" in reason and b"\r" in line.strip():
            reason, damage = BARE_CR, True
        elif line.strip() in (b"{", b"}"):
            reason = "its JSON stands over several lines: write one object a line (jq -c . FILE), or one array of objects"
        self.on_event(Problem(self.file, reason, self.record, offset, 1, len(line), damage=damage))


class Fields:
    """Takes a record's fields apart as the settings say."""

    def __init__(self, spec: ReadSpec) -> None:
        self.text, self.id, self.url = spec.text_field, spec.id_field, spec.url_field
        self.nested = any("." in name for name in (self.text, self.id, self.url) if name)

    def take(self, values: Any) -> tuple[str | None, str, str | None]:
        """id (empty: none; null: a number that is no integer), text and url, taken out of the record.

        What is neither text nor, as an id, a whole number stays in it. Raises RecordError where it is no document.
        """
        if type(values) is not dict:
            raise RecordError(f"the record is {kind_of(values)}, not a JSON object")
        if self.nested:
            text, id, url = (_nested_field(values, name) for name in (self.text, self.id, self.url))
        else:
            text, id, url = values.pop(self.text, None), values.pop(self.id, None), values.pop(self.url, None)
        if type(text) is not str:
            if text is None:
                taken = [name for name, value in ((self.id, id), (self.url, url)) if name and value is not None]
                raise RecordError(missing_text(self.text, [*taken, *values]))
            raise RecordError(f"its field {self.text!r} is {kind_of(text)}, not a string")
        for name, value, types in ((self.id, id, (str, int, NoneType)), (self.url, url, (str, NoneType))):
            if name and type(value) not in types and not (self.nested and "." in name):
                values[name] = value
        if type(id) is not str:
            id = str(id) if type(id) is int else None if type(id) is float else ""
        return id, text, url if type(url) is str else None


def _nested_field(values: dict[str | None, Any], name: str | None) -> Any:
    """The field, taken out of the record; a field of a nested object (`a.b`) stays in it."""
    if name is None or name in values or "." not in name:
        return values.pop(name, None)
    inner: Any = values
    for key in name.split("."):
        inner = inner.get(key) if isinstance(inner, dict) else None
    return inner


def missing_text(field: str, names: list[str]) -> str:
    """Why a record without the text field is no document, and what can be done."""
    there = f"its fields are {listed(names)}" if names else "it has no fields"
    return f"it has no text in the field {field!r}; {there}: set `read.text_field` to the one that holds the text"
