"""How documents arrive in a map task: read from source files, or from a part without the rows that dedup removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.jobs.context import Context
from pipeline.jobs.inputs import PartInput, SourceFile, open_source, part_batches
from stages.books import StepBooks
from stages.chain import FAILED, TEXT_IN
from stages.document import payload_sizes
from stages.errors import InputError
from stages.parts import total_bytes
from stages.read import Dropped, Event, Part, ReadSpec, read_batches, window_of
from stages.read.events import Problem, Repaired, Skipped
from stages.read.split import open_part


@dataclass
class Piece:
    """Input of the chain: rows, how many steps they have behind them, and rows that are dropped or failed already."""

    batch: pa.RecordBatch | None = None
    reached: int = 0
    dropped: pa.RecordBatch | None = None
    failed: pa.RecordBatch | None = None


DAMAGED = "file that could not be read to its end"  # of notes


@dataclass
class Arrival:
    """The books of the documents' arrival, and what was noticed on the way."""

    books: StepBooks
    failed_files: int = 0
    first_failure: str | None = None
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """How source files are read: bytes of a batch, bytes that the task may take, and whether files are copied here first."""

    batch_bytes: int
    memory: int
    staged: bool


def read_files(
    files: Sequence[SourceFile], read: ReadSpec, arrival: Arrival, context: Context, reading: Reading
) -> Iterator[list[Piece]]:
    """The documents of a split's files. What cannot be read, or is left out by the read settings, is entered too."""
    row = 0
    for file in files:
        events: list[Event] = []
        damaged = False
        batches = _guarded(file, read, reading, context, events)
        for batch in _then_none(batches):
            problems = [e for e in events if isinstance(e, Problem)]
            dropped = [e for e in events if isinstance(e, Dropped)]
            for event in events:
                if isinstance(event, Skipped):
                    arrival.notes[event.kind] = arrival.notes.get(event.kind, 0) + event.records
                elif isinstance(event, Repaired):
                    arrival.notes[event.what] = arrival.notes.get(event.what, 0) + event.documents
            events.clear()
            first = next((p for p in problems if p.damage), problems[0] if problems else None)
            if first and (arrival.first_failure is None or (first.damage and not damaged and not arrival.failed_files)):
                arrival.first_failure = str(first.error())  # what fails a file before what costs it a document
            damaged = damaged or any(p.damage for p in problems)
            pieces = [Piece(dropped=_left_out(dropped, row, arrival))] if dropped else []
            pieces += [Piece(failed=_unreadable(problems, arrival))] if problems else []
            if batch is not None:
                arrival.books.into.add(batch.num_rows, total_bytes(batch))
                arrival.books.out.add(batch.num_rows, total_bytes(batch))
                pieces.append(Piece(_numbered(batch, row + len(dropped))))
                row += batch.num_rows
            row += len(dropped)
            if pieces:
                yield pieces
        arrival.failed_files += damaged
        if damaged:
            arrival.notes[DAMAGED] = arrival.notes.get(DAMAGED, 0) + 1


def read_part_rows(part: PartInput, arrival: Arrival, context: Context, batch_bytes: int) -> Iterator[list[Piece]]:
    """The documents of a part, without those that dedup removed: these are dropped here, and entered in the books."""
    arrival.books.into.add(0, part.edited)
    arrival.books.edited += part.edited
    for _, kept, gone in part_batches(part, context, batch_bytes):
        kept = kept.select([name for name in kept.schema.names if not name.endswith(TEXT_IN)])
        arrival.books.into.add(kept.num_rows + gone.num_rows, total_bytes(kept) + total_bytes(gone))
        arrival.books.out.add(kept.num_rows, total_bytes(kept))
        piece = Piece(kept)  # `row` stays that of the stage before: still ascending
        if gone.num_rows:
            sizes = payload_sizes(gone)
            reasons = np.asarray(gone.column("reason").to_pylist())
            for reason in np.unique(reasons):
                mine = reasons == reason
                arrival.books.drop(str(reason), mine.sum(), sizes[mine].sum())
            piece.dropped = gone.append_column("bytes", pa.array(sizes, pa.int64()))
        yield [piece]


def _guarded(
    file: SourceFile, read: ReadSpec, reading: Reading, context: Context, events: list[Event]
) -> Iterator[pa.RecordBatch]:
    """The batches of one file; a file in which nothing can be read is an event like any other damage."""
    random = read.seeks(file.name)
    with open_source(file, reading.staged, random, context) as opened:
        stream = opened
        if file.lines and file.member:
            window = window_of(reading.memory)
            stream = open_part(opened, file.name, file.lines[:2], file.member, read.compression, window)
            read = read.model_copy(update={"compression": "none"})
        try:
            yield from read_batches(
                stream,
                file.name,
                read,
                batch_bytes=reading.batch_bytes,
                on_event=events.append,
                part=_part_of(file),
                memory=reading.memory,
            )
        except InputError as error:
            events.append(Problem(file.name, error.reason, error.record, error.offset))


def _part_of(file: SourceFile) -> Part:
    """What of the file the split holds, and what ids call it."""
    label = file.label or None
    if file.lines:
        offset, length, first = file.lines
        return Part(offset=offset, length=length, first_record=first, label=label)
    return Part(row_groups=file.row_groups, label=label)


def _then_none(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch | None]:
    """The batches, then None once: for what a reader reports after its last batch."""
    yield from batches
    yield None


def _numbered(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """The batch with `row`: the place of each document in the task's input, from which order is restored later."""
    rows = pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))
    if "row" in batch.schema.names:
        return batch.set_column(batch.schema.get_field_index("row"), "row", rows)
    return batch.append_column("row", rows)


def _left_out(dropped: list[Dropped], row: int, arrival: Arrival) -> pa.RecordBatch:
    names = ("id", "url", "file", "record", "offset", "row", "bytes", "reason")
    columns: dict[str, list] = {name: [] for name in names}
    for place, event in enumerate(dropped):
        reason = f"{arrival.books.step}.{event.reason}"
        arrival.books.into.add(1, event.bytes)
        arrival.books.drop(reason, 1, event.bytes)
        values = (event.id, event.url, event.file, event.record, event.offset, row + place, event.bytes, reason)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    types = {"record": pa.int64(), "offset": pa.int64(), "row": pa.int64(), "bytes": pa.int64()}
    return pa.RecordBatch.from_pydict({k: pa.array(v, types.get(k, pa.large_string())) for k, v in columns.items()})


def _unreadable(problems: list[Problem], arrival: Arrival) -> pa.RecordBatch:
    rows = []
    for problem in problems:
        size = problem.bytes if problem.documents else 0
        arrival.books.into.add(problem.documents, size)
        arrival.books.failed.add(problem.documents, size)
        rows.append(
            {
                "id": problem.id or f"{problem.file}:{problem.record or ''}",
                "url": problem.url,
                "file": problem.file,
                "record": problem.record or 0,
                "offset": problem.offset,
                "step": arrival.books.step,
                "error": problem.reason,
                "traceback": "",
                "payload": None,
            }
        )
    return pa.RecordBatch.from_pylist(rows, FAILED)
