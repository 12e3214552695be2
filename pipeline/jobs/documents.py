"""The map job: read a split (or the part of the stage before), take its documents through steps, write one part.

Three ways in, one way through: a split of source files; a part with the rows that dedup removed from it; or the part
that an earlier run made of the same documents under other limits, which is only decided again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.jobs.inputs import localise_step, open_source, part_batches
from pipeline.task import Context
from stages.books import StepBooks
from stages.chain import FAILED, Chain
from stages.document import DOCUMENT, PAGE, payload_sizes
from stages.errors import InputError
from stages.filters.python_function import add_folder
from stages.parts import PartWriter, dropped_schema, normalise, read_part, total_bytes
from stages.read import Dropped, Event, Part, Problem, ReadSpec, Skipped, read_batches
from stages.steps import STEPS

VERSION = 1


class NeedsPages(Exception):
    """Documents that were dropped before extraction would now go on, and their pages are not in the part."""


@dataclass
class Piece:
    """Input of the chain: rows, how many steps they have behind them, and rows that are dropped or failed already."""

    batch: pa.RecordBatch | None = None
    reached: int = 0
    dropped: pa.RecordBatch | None = None
    failed: pa.RecordBatch | None = None


@dataclass
class Intake:
    """Where the job's documents come from, and the books of their arrival."""

    books: StepBooks
    failed_files: int = 0
    first_failure: str | None = None
    notes: dict[str, int] = field(default_factory=dict)


def run(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Carry out one map task; see `pipeline.plan.documents` for the keys of `spec`."""
    if spec.get("folder"):
        add_folder(spec["folder"])
    if spec.get("lender"):
        try:
            return _run(spec, context, lender=spec["lender"])
        except NeedsPages:
            context.outputs.clear()
    return _run(spec, context, lender=None)


def _run(spec: dict[str, Any], context: Context, lender: dict[str, Any] | None) -> dict[str, Any]:
    steps = [(name, localise_step(STEPS[kind].model_validate(data), context)) for name, kind, data in spec["steps"]]
    chain = Chain(steps)
    intake = Intake(StepBooks(spec["entry"]))
    base = _input_schema(spec, context)
    kept_schema = chain.output_schema(base)
    drop_schema = dropped_schema(kept_schema, with_text=spec["keep"] == "all")
    if lender:
        groups = _lent(lender, chain, intake, context, spec["batch_bytes"])
    elif "files" in spec:
        groups = _read(spec, intake, context)
    else:
        groups = _part(spec, intake, context)
    prefix = spec["prefix"]
    kept_bytes = 0
    first_failure = None
    with (
        context.output(f"{prefix}.kept.parquet") as kept_path,
        context.output(f"{prefix}.dropped.parquet") as dropped_path,
        PartWriter(kept_path, kept_schema) as kept_file,
        PartWriter(dropped_path, drop_schema) as dropped_file,
        ExitStack() as optional,
    ):
        measures_file = failed_file = None
        if spec["keep"] == "measures":
            path = optional.enter_context(context.output(f"{prefix}.measures.parquet"))
            bare = pa.schema([f for f in kept_schema if f.name not in ("text", "metadata")])
            measures_file = optional.enter_context(PartWriter(path, bare))
        for group in groups:
            kept: list[pa.RecordBatch] = []
            dropped: list[pa.RecordBatch] = []
            failed: list[pa.RecordBatch] = []
            for piece in group:
                if piece.dropped is not None:
                    dropped.append(piece.dropped)
                if piece.failed is not None:
                    failed.append(piece.failed)
                if piece.batch is not None and piece.batch.num_rows:
                    outcome = chain.run(piece.batch, piece.reached)
                    kept.append(outcome.kept)
                    dropped += outcome.dropped
                    failed += outcome.failed
            for batch in _in_order(kept, kept_schema):
                kept_bytes += total_bytes(batch)
                kept_file.write(batch)
                if measures_file:
                    measures_file.write(batch)
            for batch in _in_order(dropped, drop_schema):
                dropped_file.write(batch)
            if failed and failed_file is None:
                first_failure = _first_failure(failed[0])
                path = optional.enter_context(context.output(f"{prefix}.failed.parquet"))
                failed_file = optional.enter_context(PartWriter(path, FAILED))
            for batch in failed:  # with their payloads, so none is held longer than the others
                failed_file.write(batch)
    books = [intake.books, *chain.books]
    return {
        "source": spec["source"],
        "stage": spec["stage"],
        "books": [b.to_json() for b in books],
        "docs": kept_file.rows,
        "bytes": kept_bytes,
        "part": f"{prefix}.kept.parquet",
        "dropped": f"{prefix}.dropped.parquet",
        "failed_documents": sum(b.failed.docs for b in books),
        "failed_files": intake.failed_files,
        "first_failure": intake.first_failure or first_failure,
        "notes": intake.notes,
    }


def _first_failure(failed: pa.RecordBatch) -> str:
    row = failed.slice(0, 1).to_pylist()[0]
    place = f"{row['file']}, record {row['record']}" + (f", byte {row['offset']}" if row["offset"] is not None else "")
    return f"{place} ({row['id']}), step {row['step']}: {row['error']}"


def _in_order(batches: list[pa.RecordBatch], schema: pa.Schema) -> list[pa.RecordBatch]:
    """The rows of several batches in the order of their `row`, in the columns of the schema."""
    batches = [_fill(b, schema) for b in batches if b.num_rows]
    if len(batches) <= 1:
        return batches
    table = pa.Table.from_batches(batches)
    order = np.argsort(np.asarray(table.column("row")), kind="stable")
    if (np.diff(order) == 1).all():
        return table.combine_chunks().to_batches()
    return table.take(pa.array(order)).combine_chunks().to_batches()


def _fill(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in the columns of the schema: missing ones null, others left out."""
    names = batch.schema.names
    columns = [batch.column(f.name) if f.name in names else pa.nulls(batch.num_rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _numbered(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """The batch with `row`: the place of each document in the task's input, from which order is restored later."""
    rows = pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))
    if "row" in batch.schema.names:
        return batch.set_column(batch.schema.get_field_index("row"), "row", rows)
    return batch.append_column("row", rows)


ROW = pa.field("row", pa.int64())


def _input_schema(spec: dict[str, Any], context: Context) -> pa.Schema:
    """What rows look like before the first step."""
    if "files" in spec:
        read = ReadSpec.model_validate(spec["read"])
        return (PAGE if read.format_of(spec["files"][0]["name"]) == "warc" else DOCUMENT).append(ROW)
    with context.open(spec["part"]) as file:
        schema = normalise(pa.RecordBatch.from_pylist([], pq.read_schema(file))).schema
    return schema if "row" in schema.names else schema.append(ROW)


def _read(spec: dict[str, Any], intake: Intake, context: Context) -> Iterator[list[Piece]]:
    """The documents of a split's files. What cannot be read, or is left out by the read settings, is entered too."""
    read = ReadSpec.model_validate(spec["read"])
    row = 0
    for file in spec["files"]:
        events: list[Event] = []
        skipped: dict[str, int] = {}
        damaged = False
        part = _part_of(file)
        batches = _guarded(file, read, spec, context, events, part)
        for batch in chain_none(batches):
            problems = [e for e in events if isinstance(e, Problem)]
            dropped = [e for e in events if isinstance(e, Dropped)]
            for event in events:
                if isinstance(event, Skipped):
                    skipped[event.kind] = skipped.get(event.kind, 0) + event.records
            events.clear()
            damaged = damaged or any(p.damage for p in problems)
            if problems and intake.first_failure is None:
                intake.first_failure = str(problems[0].error())
            pieces = [Piece(dropped=_left_out(dropped, row, intake))] if dropped else []
            pieces += [Piece(failed=_unreadable(problems, spec["entry"], intake))] if problems else []
            if batch is not None:
                intake.books.into.add(batch.num_rows, total_bytes(batch))
                intake.books.out.add(batch.num_rows, total_bytes(batch))
                pieces.append(Piece(_numbered(batch, row + len(dropped))))
                row += batch.num_rows
            row += len(dropped)
            if pieces:
                yield pieces
        intake.failed_files += damaged
        for kind, records in skipped.items():
            intake.notes[kind] = intake.notes.get(kind, 0) + records


def _part_of(file: dict[str, Any]) -> Part | None:
    """What of the file the split holds; None for all."""
    if file.get("lines"):
        offset, length, first = file["lines"]
        return Part(offset=offset, length=length, first_record=first)
    return Part(row_groups=file["row_groups"]) if file.get("row_groups") else None


def chain_none(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch | None]:
    """The batches, then None once: for what a reader reports after its last batch."""
    yield from batches
    yield None


def _guarded(
    file: dict[str, Any], read: ReadSpec, spec: dict[str, Any], context: Context, events: list[Event], part: Part | None
) -> Iterator[pa.RecordBatch]:
    """The batches of one file; a file in which nothing can be read is an event like any other damage."""
    with open_source(file, spec["staged"], context) as stream:
        try:
            yield from read_batches(
                stream, file["name"], read, batch_bytes=spec["batch_bytes"], on_event=events.append, part=part
            )
        except InputError as error:
            events.append(Problem(file["name"], error.reason, error.record, error.offset))


def _left_out(dropped: list[Dropped], row: int, intake: Intake) -> pa.RecordBatch:
    columns: dict[str, list] = {
        name: [] for name in ("id", "url", "file", "record", "offset", "row", "bytes", "reason")
    }
    for place, event in enumerate(dropped):
        reason = f"{intake.books.step}.{event.reason}"
        intake.books.into.add(1, event.bytes)
        intake.books.dropped[reason].add(1, event.bytes)
        values = (event.id, event.url, event.file, event.record, event.offset, row + place, event.bytes, reason)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    types = {"record": pa.int64(), "offset": pa.int64(), "row": pa.int64(), "bytes": pa.int64()}
    return pa.RecordBatch.from_pydict({k: pa.array(v, types.get(k, pa.large_string())) for k, v in columns.items()})


def _unreadable(problems: list[Problem], step: str, intake: Intake) -> pa.RecordBatch:
    rows = []
    for problem in problems:
        intake.books.into.add(problem.documents, problem.bytes if problem.documents else 0)
        intake.books.failed.add(problem.documents, problem.bytes if problem.documents else 0)
        rows.append(
            {
                "id": problem.id or f"{problem.file}:{problem.record or ''}",
                "url": problem.url,
                "file": problem.file,
                "record": problem.record or 0,
                "offset": problem.offset,
                "step": step,
                "error": problem.reason,
                "traceback": "",
                "payload": None,
            }
        )
    return pa.RecordBatch.from_pylist(rows, FAILED)


def _part(spec: dict[str, Any], intake: Intake, context: Context) -> Iterator[list[Piece]]:
    """The documents of a part, without those that dedup removed: these are dropped here, and entered in the books."""
    intake.books.into.add(0, spec["edited"])
    intake.books.edited += spec["edited"]
    for _, kept, gone in part_batches(spec["part"], spec["removals"], context, spec["batch_bytes"]):
        intake.books.into.add(kept.num_rows + gone.num_rows, total_bytes(kept) + total_bytes(gone))
        intake.books.out.add(kept.num_rows, total_bytes(kept))
        piece = Piece(kept)  # `row` stays that of the stage before: still ascending
        if gone.num_rows:
            sizes = payload_sizes(gone)
            reasons = np.asarray(gone.column("reason").to_pylist())
            for reason in np.unique(reasons):
                intake.books.dropped[str(reason)].add((reasons == reason).sum(), sizes[reasons == reason].sum())
            piece.dropped = gone.append_column("bytes", pa.array(sizes, pa.int64()))
        yield [piece]


def _lent(
    lender: dict[str, Any], chain: Chain, intake: Intake, context: Context, batch_bytes: int
) -> Iterator[list[Piece]]:
    """What an earlier run made of the same documents, kept and dropped together in their old order, in windows."""
    intake.books = StepBooks.from_json(lender["entry_books"])
    intake.notes = lender["notes"]
    extract = next((i for i, (_, step) in enumerate(chain.steps) if step.takes_pages), -1)
    names = [name for name, _ in chain.steps]

    def part(batch: pa.RecordBatch, reached: int) -> Piece:
        if reached <= extract:
            probe = Chain(chain.steps[:reached])
            if probe.run(batch, reached).kept.num_rows:
                raise NeedsPages
        later = tuple(f"{name}." for name in names[reached:])
        columns = [
            c
            for c in batch.schema.names
            if not c.startswith(later) and c not in ("reason", "reached", "representative")
        ]
        return Piece(batch.select(columns), reached)

    with context.open(lender["kept"]) as kept_file, context.open(lender["dropped"]) as dropped_file:
        streams = [(batch for _, batch in read_part(file, batch_bytes)) for file in (kept_file, dropped_file)]
        for kept, dropped in _windows(*streams):
            group = [part(kept, len(names))] if kept is not None else []
            yield group + (_groups(dropped, part) if dropped is not None else [])


Stream = Iterator[pa.RecordBatch]


def _windows(one: Stream, two: Stream) -> Iterator[tuple[pa.RecordBatch | None, pa.RecordBatch | None]]:
    """Two streams of batches, each rising in `row`, side by side: of each what lies up to the same row.

    However few rows one has for many of the other, no more than one batch of each is held.
    """
    streams = (one, two)
    heads = [next(stream, None) for stream in streams]
    while any(head is not None for head in heads):
        last = min(head.column("row")[-1].as_py() for head in heads if head is not None)
        window: list[pa.RecordBatch | None] = [None, None]
        for i, head in enumerate(heads):
            if head is None or (here := int(np.searchsorted(np.asarray(head.column("row")), last, side="right"))) == 0:
                continue
            window[i] = head.slice(0, here)
            heads[i] = head.slice(here) if here < head.num_rows else next(streams[i], None)
        yield window[0], window[1]


def _groups(dropped: pa.RecordBatch, part: Any) -> list[Piece]:
    """Dropped rows by how far they had come; those that never entered the chain stay dropped as they are."""
    reached = np.asarray(dropped.column("reached").fill_null(0))
    pieces = []
    for steps in np.unique(reached):
        rows = dropped.filter(pa.array(reached == steps))
        pieces.append(Piece(dropped=rows) if steps == 0 else part(rows, int(steps)))
    return pieces
