"""The one entry point of the readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow as pa

from stages.read import csv_file, jsonl, parquet, text, user_reader, warc
from stages.read.events import Dropped, Event, Problem
from stages.read.settings import Part, ReadSpec

BATCH_BYTES = 16 << 20
MEMORY = 1536 << 20
HELD_SHARE = 0.3  # of the memory; what is held stands there compressed, decompressed and as columns at the same time
RECORD_COPIES = 6  # of a record that a task holds at most: as it is read, parsed, as a column, and as a step changes it
WINDOW_SHARE = 2 / 3  # of the memory, for what a decompressor looks back on
_READERS = {"warc": warc.read, "jsonl": jsonl.read, "csv": csv_file.read, "text": text.read}


def read_batches(
    stream: BinaryIO,
    file: str,
    spec: ReadSpec,
    *,
    batch_bytes: int = BATCH_BYTES,
    on_event: Callable[[Event], None],
    part: Part | None = None,
    memory: int = MEMORY,
) -> Iterator[pa.RecordBatch]:
    """Batches of the documents in one file, or part of a file, each of about `batch_bytes` of text or HTML.

    `stream`: read in order; seekable for Parquet and for users' readers. With `part.offset`, it holds only that part.
    `file`: as the recipe names it; its suffix tells the format, its first bytes the compression.
    memory: bytes that the task may take; of what is decoded or decompressed at once, a share of it is held. A record
    that it has no room for, though `max_record_bytes` allows it, is a problem that costs that record.
    Batches have the schema DOCUMENT, or PAGE for WARC (where `html` is null, `text` already holds the text). A batch
    may have no rows: events are handed over between batches, and no more than some thousands are let pile up.
    Raises InputError only where nothing can be read: an unknown format, no Parquet footer, a missing column.
    """
    kind, part = spec.format_of(file), part or Part()
    room = memory // RECORD_COPIES
    if room < spec.max_record_bytes:
        spec, on_event = spec.model_copy(update={"max_record_bytes": room}), _without_room(room, on_event)
    if kind == "parquet":
        held = int(memory * HELD_SHARE)
        return parquet.read(stream, file, spec, batch_bytes, on_event, part, held)
    return _READERS.get(kind, user_reader.read)(stream, file, spec, batch_bytes, on_event, part, window_of(memory))


def window_of(memory: int) -> int:
    """Bytes that a decompressor may look back on, in a task that may take `memory`."""
    return int(memory * WINDOW_SHARE)


def _without_room(room: int, on_event: Callable[[Event], None]) -> Callable[[Event], None]:
    """Reports records larger than `room` bytes as problems: no setting of the source's drops them."""
    reason = f"it is larger than {room:,} bytes, and run.task_memory has no room for {RECORD_COPIES} times that or more"
    reason += ": raise it, or set read.max_record_bytes"

    def report(event: Event) -> None:
        if isinstance(event, Dropped) and event.reason == "max_record_bytes":
            place = (event.record, event.offset, 1, event.bytes, event.id, event.url)
            event = Problem(event.file, reason, *place, damage=False)
        on_event(event)

    return report
