"""Reads JSON lines: one object a line, plain or compressed (.gz, .zst, .bz2, .xz).

A line that is no JSON object, or whose text is no string, is a problem that costs that line. What is repaired:
invalid UTF-8 and unpaired surrogates (`"\\ud800"`) become U+FFFD, NaN and infinities in other fields become null.
Offsets count decompressed bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from stages.read.builder import BatchBuilder
from stages.read.compression import DamagedError, Members, compression_of
from stages.read.events import Dropped, Event, Problem, Repaired, Skipped
from stages.read.settings import Part, ReadSpec

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}

# A number that may have been an integer of more than 64 bits, which orjson makes a float; json keeps it exact.
_LARGE = re.compile(rb"[:,\[]-?\d(?:\.\d+)?e\+?[1-9]")


class RecordError(Exception):
    """A record that is no document."""


def read(
    stream: BinaryIO, file: str, spec: ReadSpec, batch_bytes: int, on_event: Callable[[Event], None], part: Part
) -> Iterator[pa.RecordBatch]:
    """Batches of DOCUMENT; see stages.read.format.read_batches."""
    builder = BatchBuilder(file, batch_bytes, on_event, pages=False)
    name = PurePosixPath(file).name
    fields = Fields(spec)
    empty = repaired = 0
    for record, offset, line in _lines(Members(stream, compression_of(file)), file, spec, part, builder.report):
        if not line or line.isspace():
            empty += 1
            continue
        try:
            try:
                values = orjson.loads(line)
                id, text, url, metadata = fields.take(values)
                row = (id.encode(), text.encode(), url.encode() if url is not None else None)
                known = orjson.dumps(metadata) if metadata else None
                if known is not None and _LARGE.search(known):
                    with suppress(ValueError, RecursionError):  # over 4,300 digits it stays a float
                        known = _dump(fields.take(json.loads(line))[3])
            except (orjson.JSONDecodeError, UnicodeEncodeError, TypeError):
                values = parse_leniently(line)
                id, text, url, metadata = fields.take(values)
                row = (id.encode(), text.encode(), url.encode() if url is not None else None)
                known = _dump(metadata)
                repaired += 1
        except RecordError as error:
            builder.report(Problem(file, str(error), record, offset, 1, len(line)))
        else:
            id_bytes = row[0] or f"{name}:{record}".encode("utf-8", "replace")
            builder.add(id_bytes, row[1], row[2], record, offset, known)
        if builder.full():
            yield builder.take()
    if builder.ids:
        yield builder.take()
    if empty:
        on_event(Skipped(file, "empty line", empty, 0))
    if repaired:
        on_event(Repaired(file, "characters or numbers that JSON does not allow were replaced", repaired))


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


def _dump(metadata: dict[str, Any] | None) -> bytes | None:
    return json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode() if metadata else None


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


def _lines(
    members: Members, file: str, spec: ReadSpec, part: Part, on_event: Callable[[Event], None]
) -> Iterator[tuple[int, int, bytes]]:
    """Ordinal, offset and bytes of each line, without its line end; oversized lines and damage are reported."""
    record, offset = part.first_record, part.offset
    limit = spec.max_record_bytes
    rest: list[bytes] = []  # the pieces of a line that is not complete yet; none of one that is too long
    size = 0  # bytes of that line so far
    try:
        while members.open():
            while piece := members.read():
                lines = piece.split(b"\n")
                last = lines.pop()
                for line in lines:
                    length = size + len(line)
                    if length > limit:
                        on_event(Dropped(file, "max_record_bytes", record, offset, length))
                    else:
                        yield record, offset, b"".join((*rest, line)) if size else line
                    record += 1
                    offset += length + 1
                    if size:
                        rest, size = [], 0
                size += len(last)
                if size > limit:
                    rest = []
                else:
                    rest.append(last)
    except DamagedError as error:
        lost = (1, size) if size else (0, 0)
        reason = f"{error.reason} (at byte {error.offset} of the compressed file); the rest of the file is lost"
        on_event(Problem(file, reason, record if size else None, offset, *lost))
        return
    if size > limit:
        on_event(Dropped(file, "max_record_bytes", record, offset, size))
    elif size:
        yield record, offset, b"".join(rest)
