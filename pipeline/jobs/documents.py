"""The map job: the documents of a split, or of a part, through the steps of a segment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.jobs.arrival import Arrival, Piece, Reading, read_files, read_part_rows
from pipeline.jobs.context import Context
from pipeline.jobs.inputs import NamedStep, PartInput, SourceFile, code_of_function, localise_step
from pipeline.jobs.lending import Lender, NeedsPages, lend, lent_rows
from pipeline.plan.node import Done, Job, Report
from stages.books import StepBooks
from stages.chain import FAILED, TEXT_IN, Chain
from stages.document import DOCUMENT, PAGE
from stages.marks import HowMuch, InFile, Setting, in_key
from stages.parts import PartWriter, dropped_schema, normalise, total_bytes
from stages.read import MEMORY, ReadSpec
from stages.user_code import add_folder

ROW = pa.field("row", pa.int64())
Keep = Literal["all", "measures", "none"]


class DocumentsReport(Report):
    """What became of the documents.

    docs, bytes: those kept, in the file `part`. before_edits: bytes of that file that hold texts as they were before an edit.
    notes: records that are no documents, by kind; documents mended; sums of what steps tally.
    """

    part: str
    dropped: str
    docs: int
    bytes: int
    before_edits: int = 0
    notes: dict[str, int] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class Documents(Job):
    """Takes the documents of source files, or of a part, through steps.

    Writes X.kept.parquet, X.dropped.parquet, with `keep: measures` X.measures.parquet, and X.failed.parquet where any failed.
    """

    report: ClassVar[type[Report]] = DocumentsReport
    spelled_out: ClassVar[tuple[str, ...]] = ("steps",)

    source: Setting[str]
    steps: Setting[tuple[NamedStep, ...]]
    keep: Setting[Keep]
    read: Setting[ReadSpec | None] = None
    files: InFile[tuple[SourceFile, ...]] = ()
    part: InFile[PartInput | None] = None
    segment: HowMuch[int] = 0  # which of the source's segments of steps
    batch_bytes: HowMuch[int] = 8 << 20
    memory: HowMuch[int] = MEMORY
    staged: HowMuch[bool] = False
    folder: HowMuch[str | None] = None  # of the recipe: functions that it names are looked for there
    lender: HowMuch[Lender | None] = None

    def parts_of_settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.read is not None and (reader := self.read.reader()):
            found["reader"] = code_of_function(reader)
        for number, step in enumerate(self.steps):
            found |= {f"step {number:02d} {step.name}: {part}": value for part, value in step.in_parts().items()}
        return found

    def like(self) -> Any:
        return [self.source, in_key(self.read)] if self.keep == "all" else None

    def lent(self, earlier: Done[Any], theirs: Mapping[str, str], ours: Mapping[str, str]) -> Documents:
        lender = lend(self.steps, earlier, theirs, ours)
        return replace(self, lender=lender) if lender else self

    def prepare(self) -> None:
        if self.folder:
            add_folder(self.folder)

    def run(self, context: Context) -> DocumentsReport:
        if self.lender:
            try:
                return _run(self, context, self.lender)
            except NeedsPages:
                context.outputs.clear()
        return _run(self, context, None)


def _run(job: Documents, context: Context, lender: Lender | None) -> DocumentsReport:
    steps = [(one.name, localise_step(one.step, context, one.files)) for one in job.steps]
    chain = Chain(steps, keep_before=job.keep == "all")
    kept_schema = chain.output_schema(_input_schema(job, context))
    arrival = Arrival(StepBooks("read" if job.part is None else "dedup"))
    prefix = context.interim(f"{job.source}/{job.segment}")
    with ExitStack() as stack:
        written = _Files(prefix, kept_schema, job.keep, context, stack)
        for group in _arriving(job, chain, arrival, lender, context):
            written.take(group, chain)
    books = [arrival.books, *chain.books]
    return DocumentsReport(
        books=books,
        part=f"{prefix}.kept.parquet",
        dropped=f"{prefix}.dropped.parquet",
        docs=written.kept.rows,
        bytes=written.kept_bytes,
        before_edits=written.kept.stored_bytes(TEXT_IN),
        failed_documents=sum(b.failed.docs for b in books),
        failed_files=arrival.failed_files,
        first_failure=arrival.first_failure or written.first_failure,
        notes=dict(Counter(arrival.notes) + chain.tallies),
    )


def _arriving(
    job: Documents, chain: Chain, arrival: Arrival, lender: Lender | None, context: Context
) -> Iterator[list[Piece]]:
    if lender:
        return lent_rows(lender, chain, arrival, context, job.batch_bytes)
    if job.part is not None:
        return read_part_rows(job.part, arrival, context, job.batch_bytes)
    assert job.read is not None
    return read_files(job.files, job.read, arrival, context, Reading(job.batch_bytes, job.memory, job.staged))


class _Files:
    """The files that one task writes, and what it counts while it does."""

    def __init__(self, prefix: str, kept: pa.Schema, keep: Keep, context: Context, stack: ExitStack) -> None:
        self.prefix, self.context, self.stack = prefix, context, stack
        self.kept_schema, self.dropped_schema = kept, dropped_schema(kept, with_text=keep == "all")
        self.kept = self._writer("kept", self.kept_schema)
        self.dropped = self._writer("dropped", self.dropped_schema)
        bare = pa.schema([f for f in kept if f.name not in ("text", "metadata")])
        self.measures = self._writer("measures", bare) if keep == "measures" else None
        self.failed: PartWriter | None = None  # made with the first document that fails
        self.kept_bytes = 0
        self.first_failure: str | None = None

    def _writer(self, kind: str, schema: pa.Schema) -> PartWriter:
        path = self.stack.enter_context(self.context.output(f"{self.prefix}.{kind}.parquet"))
        return self.stack.enter_context(PartWriter(path, schema))

    def take(self, group: list[Piece], chain: Chain) -> None:
        """Run a group of rows through the chain, and write what became of each, in the order of the input."""
        kept: list[pa.RecordBatch] = []
        dropped = [piece.dropped for piece in group if piece.dropped is not None]
        failed = [piece.failed for piece in group if piece.failed is not None]
        for piece in group:
            if piece.batch is not None and piece.batch.num_rows:
                outcome = chain.run(piece.batch, piece.reached)
                kept.append(outcome.kept)
                dropped += outcome.dropped
                failed += outcome.failed
        for batch in _in_order(kept, self.kept_schema):
            self.kept_bytes += total_bytes(batch)
            self.kept.write(batch)
            if self.measures:
                self.measures.write(batch)
        for batch in _in_order(dropped, self.dropped_schema):
            self.dropped.write(batch)
        for batch in failed:  # with their payloads, so none is held longer than the others
            if self.failed is None:
                self.first_failure = _first_failure(batch)
                self.failed = self._writer("failed", FAILED)
            self.failed.write(batch)


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


def _input_schema(job: Documents, context: Context) -> pa.Schema:
    """What rows look like before the first step."""
    if job.part is None:
        assert job.read is not None
        return (PAGE if job.read.format_of(job.files[0].name) == "warc" else DOCUMENT).append(ROW)
    with context.open(job.part.part) as file:
        schema = normalise(pa.RecordBatch.from_pylist([], pq.read_schema(file))).schema
    schema = pa.schema([field for field in schema if not field.name.endswith(TEXT_IN)])
    for name, _ in job.part.copies:
        schema = schema.append(pa.field(name, pa.int64()))
    return schema if "row" in schema.names else schema.append(ROW)

