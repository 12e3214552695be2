"""Reads a file by a Python function of the user's, which gives its records one after another (docs/user-filters.md).

The function is called with the opened file (binary, as it is stored, seekable), its name, and the settings `options`. It
gives a mapping a record, with the text, id and URL under the names that `read` says; all other keys become the metadata.
None stands for a record that is no document. What the function raises is damage of the file, which is read no further.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from stages.errors import UserError
from stages.read.builder import EVENTS, DocumentBuilder
from stages.read.events import Dropped, Event, Problem, Skipped
from stages.read.settings import Part, ReadSpec
from stages.user_code import load

PASSED_OVER = "record that the reader passed over"


def read(
    stream: BinaryIO,
    file: str,
    spec: ReadSpec,
    batch_bytes: int,
    on_event: Callable[[Event], None],
    part: Part,
    max_window: int,
) -> Iterator[pa.RecordBatch]:
    """Batches of DOCUMENT; see stages.read.format.read_batches. Record: the ordinal among what the function gave."""
    records = _called(spec, stream, file)
    rows, label, passed, events, record = DocumentBuilder(file, batch_bytes), part.label or file, 0, 0, 0
    while True:
        record += 1
        try:
            found = next(records, _END)
        except (UserError, MemoryError):
            raise
        except Exception as error:
            on_event(Problem(file, f"the reader {spec.format} raised {type(error).__name__}: {error}", record))
            break
        if found is _END:
            break
        if found is None:
            passed += 1
        elif (event := _add(rows, found, file, label, record, spec)) is not None:
            on_event(event)
            events += 1
        if rows.full() or events >= EVENTS:
            yield rows.take()
            events = 0
    if passed:
        on_event(Skipped(file, PASSED_OVER, passed, 0))
    if rows.ids:
        yield rows.take()


_END = object()


def _called(spec: ReadSpec, stream: BinaryIO, file: str) -> Iterator[Any]:
    """What the function gives. Raises UserError where there is none, or it does not take what `options` holds."""
    path = spec.reader()
    assert path is not None
    function: Any = load(path)
    try:
        inspect.signature(function).bind(stream, file, **spec.options)
    except TypeError as error:
        raise UserError(f"read.options of {spec.format}: {error}; it takes {inspect.signature(function)}") from None
    return iter(function(stream, file, **spec.options))


def _add(rows: DocumentBuilder, found: Any, file: str, label: str, record: int, spec: ReadSpec) -> Event | None:
    """A row of a record; what is to be reported where it is none."""
    if not isinstance(found, Mapping):
        return Problem(file, f"the reader gave {type(found).__name__}, and a mapping is needed", record, None, 1, damage=False)
    fields = dict(found)
    text = fields.pop(spec.text_field, None)
    name = fields.pop(spec.id_field, None) if spec.id_field else None
    url = fields.pop(spec.url_field, None) if spec.url_field else None
    if not isinstance(text, str):
        what = "is missing" if text is None else f"is {type(text).__name__}"
        return Problem(file, f"the text ({spec.text_field}) of the record {what}", record, None, 1, damage=False)
    try:
        size = len(text.encode())
        metadata = orjson.dumps(fields, default=str) if spec.metadata and fields else None
    except (UnicodeEncodeError, orjson.JSONEncodeError) as error:
        return Problem(file, f"the record is no text, or its fields no JSON: {error}", record, None, 1, damage=False)
    if size > spec.max_record_bytes:
        return Dropped(file, "max_record_bytes", record, None, size)
    rows.add(
        str(name) if name is not None else f"{label}:{record}",
        text,
        str(url) if url is not None else None,
        record,
        None,
        metadata,
    )
    return None
