"""Reads JSON lines: one object a line, plain or compressed (.gz, .zst, .bz2, .xz).

A kernel takes regular lines apart; what it leaves (stages/kernels/json_lines.py) Python's parsers decide. A line that
is no JSON object, or whose text is no string, is a problem that costs that line. What is repaired: invalid UTF-8 and
unpaired surrogates (`"\\ud800"`) become U+FFFD, NaN and infinities in other fields become null.
Offsets count decompressed bytes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.document import DOCUMENT, rebatch, text_array
from stages.kernels.json_lines import NO_URL, PYTHON, split_lines
from stages.read.builder import BatchBuilder
from stages.read.compression import DamagedError, Members, compression_of
from stages.read.events import Dropped, Event, Problem, Repaired, Skipped
from stages.read.settings import Part, ReadSpec

LINES = 1 << 14  # most lines taken apart at once
_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}


class RecordError(Exception):
    """A record that is no document."""


def read(
    stream: BinaryIO, file: str, spec: ReadSpec, batch_bytes: int, on_event: Callable[[Event], None], part: Part
) -> Iterator[pa.RecordBatch]:
    """Batches of DOCUMENT; see stages.read.format.read_batches."""
    lines = _Lines(file, spec, on_event)
    record, offset = part.first_record, part.offset
    for block in _blocks(Members(stream, compression_of(file)), batch_bytes, spec.max_record_bytes):
        if isinstance(block, _TooLong):
            on_event(Dropped(file, "max_record_bytes", record, offset, block.bytes))
            record, offset = record + 1, offset + block.bytes + 1
        elif isinstance(block, _Damage):
            lost = (record, offset, 1, block.bytes) if block.bytes else (None, offset)
            reason = f"{block.reason} (at byte {block.offset} of the compressed file); the rest of the file is lost"
            on_event(Problem(file, reason, *lost))
        else:
            data = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(data == 0x0A)
            if block[-1] != 0x0A:
                ends = np.append(ends, len(block))
            starts = np.concatenate([[0], ends[:-1] + 1])
            for first in range(0, len(ends), LINES):
                few = slice(first, first + LINES)
                yield from rebatch([lines.documents(data, starts[few], ends[few], record + first, offset)], batch_bytes)
            record, offset = record + len(ends), offset + len(block)
    lines.report()


class _Lines:
    """Makes documents of lines; counts what is reported at the end of the file."""

    def __init__(self, file: str, spec: ReadSpec, on_event: Callable[[Event], None]) -> None:
        self.file, self.spec, self.on_event = file, spec, on_event
        self.name = PurePosixPath(file).name.encode("utf-8", "replace").decode()
        self.fields = Fields(spec)
        names = [(name or "").encode() for name in (spec.text_field, spec.id_field, spec.url_field)]
        self.regular = not any(b"." in name for name in names)  # nested fields are left to Python
        self.keys = np.frombuffer(b"".join(names) + b" ", np.uint8)
        self.key_offsets = np.cumsum([0, *map(len, names)])
        self.counts: Counter[str] = Counter()

    def documents(
        self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, record: int, offset: int
    ) -> pa.RecordBatch:
        """The documents of the lines data[starts[i]:ends[i]], of which the first has the ordinal `record`.

        `offset`: of data[0] in the file.
        """
        long = ends - starts > self.spec.max_record_bytes
        records, offsets = np.arange(record, record + len(starts)), starts + offset
        states = np.full(len(starts), PYTHON, np.uint8)
        batches = []
        if self.regular:
            batches.append(self._split(data, starts, np.where(long, starts, ends), records, offsets, states))
        rest = np.flatnonzero(states == PYTHON)
        if not len(rest):
            return batches[0]
        builder = BatchBuilder(self.file, 0, self.on_event, pages=False)
        place = np.arange(len(starts))  # of each line's row in the batches, one behind another; -1 for none
        place[rest] = -1
        behind = batches[0].num_rows if batches else 0
        for row in rest:
            line = data[starts[row] : ends[row]].tobytes()
            if long[row]:
                event = Dropped(self.file, "max_record_bytes", int(records[row]), int(offsets[row]), len(line))
                self.on_event(event)
            elif not line or line.isspace():
                self.counts["empty"] += 1
            else:
                try:
                    self._add(builder, line, int(records[row]), int(offsets[row]))
                    place[row] = behind + len(builder.ids) - 1
                except RecordError as error:
                    where = (int(records[row]), int(offsets[row]))
                    self.on_event(Problem(self.file, str(error), *where, 1, len(line), damage=False))
        batches.append(builder.take())
        return pa.concat_batches(batches).take(pa.array(place[place >= 0]))

    def report(self) -> None:
        """Send the counts of the file."""
        if self.counts["empty"]:
            self.on_event(Skipped(self.file, "empty line", self.counts["empty"], 0))
        if self.counts["repaired"]:
            what = "characters or numbers that JSON does not allow were replaced"
            self.on_event(Repaired(self.file, what, self.counts["repaired"]))

    def _split(
        self,
        data: np.ndarray,
        starts: np.ndarray,
        ends: np.ndarray,
        records: np.ndarray,
        offsets: np.ndarray,
        states: np.ndarray,
    ) -> pa.RecordBatch:
        """One row for each line, with nothing in it where `states` becomes PYTHON."""
        count, size = len(starts), int((ends - starts).sum())
        # Four regions, each as large as the lines, because any of the four may hold nearly all of them. What is not
        # written to takes no memory.
        out = np.empty(4 * size + count, np.uint8)
        firsts = np.arange(4) * size
        flat = np.empty(4 * (count + 1), np.int64)
        split_lines(data, starts, ends, self.keys, self.key_offsets, self.spec.metadata, out, firsts, flat, states)
        stops = flat.reshape(-1, 4)
        text, id, url, rest = (
            text_array(out[first : stops[-1, k]], stops[:, k] - first) for k, first in enumerate(firsts)
        )
        no_id = stops[1:, 1] == stops[:-1, 1]
        if no_id.any():
            string = pa.large_string()
            ordinals = pa.array(records).cast(string)
            made = pc.binary_join_element_wise(pa.scalar(f"{self.name}:", string), ordinals, pa.scalar("", string))
            id = pc.if_else(pa.array(no_id), made, id)
        columns = [
            id,
            text,
            _with_nulls(url, states == NO_URL),
            pa.repeat(pa.scalar(self.file, pa.large_string()), count),
            pa.array(records),
            pa.array(offsets),
            _with_nulls(rest, stops[1:, 3] == stops[:-1, 3]),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=DOCUMENT)

    def _add(self, builder: BatchBuilder, line: bytes, record: int, offset: int) -> None:
        """A row of a line that Python parses. Raises RecordError."""
        try:
            strict = json.loads(line.decode("utf-8-sig"))
            values = _repair(strict)
            repaired = values != strict
        except (ValueError, RecursionError):
            values, repaired = parse_leniently(line), True
        id, text, url, metadata = self.fields.take(values)
        rest = json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode() if metadata else None
        own_id = id.encode() or f"{self.name}:{record}".encode()
        builder.add(own_id, text.encode(), url.encode() if url is not None else None, record, offset, rest)
        self.counts["repaired"] += repaired


def _with_nulls(column: pa.Array, null: np.ndarray) -> pa.Array:
    """The column with nulls where the mask says."""
    if not null.any():
        return column
    valid = pa.array(~null).buffers()[1]
    return pa.Array.from_buffers(column.type, len(column), [valid, *column.buffers()[1:]])


class Fields:
    """Takes a record's fields apart as the settings say."""

    def __init__(self, spec: ReadSpec) -> None:
        self.text, self.id, self.url, self.metadata = spec.text_field, spec.id_field, spec.url_field, spec.metadata

    def take(self, values: Any) -> tuple[str, str, str | None, dict[str, Any] | None]:
        """id (empty: none), text, url, and the rest. Raises RecordError."""
        if type(values) is not dict:
            raise RecordError(f"the line is {_kind(values)}, not a JSON object")
        text = _field(values, self.text)
        if type(text) is not str:
            if text is None:
                raise RecordError(f"it has no text in the field {self.text!r}")
            raise RecordError(f"its field {self.text!r} is {_kind(text)}, not a string")
        id = _field(values, self.id) if self.id else None
        if type(id) is not str:
            id = str(id) if type(id) is int else ""
        url = _field(values, self.url) if self.url else None
        if type(url) is not str:
            url = None
        return id, text, url, values if self.metadata else None


def _field(values: dict[str, Any], name: str) -> Any:
    """The field, taken out of the record; a field of a nested object (`a.b`) stays in it."""
    if name in values or "." not in name:
        return values.pop(name, None)
    inner: Any = values
    for key in name.split("."):
        inner = inner.get(key) if isinstance(inner, dict) else None
    return inner


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def parse_leniently(line: bytes) -> Any:
    """A line that strict JSON refuses, with what can be repaired repaired. Raises RecordError for anything else."""
    try:
        return _repair(json.loads(line.decode("utf-8-sig", "replace")))
    except json.JSONDecodeError as error:
        raise RecordError(f"not valid JSON: {error.msg} at character {error.pos + 1} of the line") from error
    except (RecursionError, ValueError) as error:
        raise RecordError(f"not readable as JSON: {error}") from error


def _repair(value: Any) -> Any:
    if type(value) is str:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if type(value) is dict:
        return {_repair(key): _repair(inner) for key, inner in value.items()}
    if type(value) is list:
        return [_repair(inner) for inner in value]
    return None if type(value) is float and not math.isfinite(value) else value


@dataclass
class _TooLong:
    """A line longer than allowed, its end not counted."""

    bytes: int


@dataclass
class _Damage:
    """Where a compressed file cannot be read on, and the bytes of the line that it cuts."""

    reason: str
    offset: int
    bytes: int


def _blocks(members: Members, size: int, limit: int) -> Iterator[bytes | _TooLong | _Damage]:
    """Whole lines, about `size` bytes of them at once; the last may lack its end. Holds no more than a line of `limit`."""
    whole: list[bytes] = []  # pieces up to the last line end
    rest: list[bytes] = []  # pieces of the line that is not complete yet; none of one that is too long
    held = rest_bytes = 0
    damage = None
    try:
        while members.open():
            while piece := members.read():
                end = piece.rfind(b"\n") + 1
                if end and rest_bytes > limit:
                    first = piece.find(b"\n")
                    yield _TooLong(rest_bytes + first)
                    piece, end, rest_bytes = piece[first + 1 :], end - first - 1, 0
                if end:
                    whole += [*rest, piece[:end]]
                    held += rest_bytes + end
                    rest, rest_bytes = [piece[end:]], len(piece) - end
                else:
                    rest.append(piece)
                    rest_bytes += len(piece)
                if held and (held >= size or rest_bytes > limit):
                    yield b"".join(whole)
                    whole, held = [], 0
                if rest_bytes > limit:
                    rest = []
    except DamagedError as error:
        damage = _Damage(error.reason, error.offset, rest_bytes)
    if damage is None and rest_bytes <= limit:
        whole += rest
    if any(whole):
        yield b"".join(whole)
    if damage is not None:
        yield damage
    elif rest_bytes > limit:
        yield _TooLong(rest_bytes)
