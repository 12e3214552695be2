"""Runs batches through the steps of a recipe: measures, decides, sorts out the dropped and the failed, keeps the books.

Rows that were taken through some of the steps before (the part of an earlier run, now under other limits) say how many
steps they have `reached`: up to there their stored measures are decided again, and no kernel runs. A chain that keeps
what edits take away (`keep_before`) stores, in the column `step.text_in`, the text of each document that the step
changed: with it a row can be taken back to what it was after any step (`before_steps`).
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.books import StepBooks
from stages.document import DOCUMENT, payload_sizes, replace_column
from stages.errors import DocumentsFailed, UserError
from stages.step import Measures, Step

TEXT_IN = ".text_in"  # ends the column that holds the text before an edit, null where the edit changed nothing
BYTES_IN = ".bytes_in"  # ends the column that holds the bytes of payload before an edit
IDENTITY = ("id", "url", "file", "record", "offset")

FAILED = pa.schema(
    [
        *(DOCUMENT.field(name) for name in IDENTITY),
        pa.field("step", pa.large_string()),
        pa.field("error", pa.large_string()),
        pa.field("traceback", pa.large_string()),
        pa.field("payload", pa.large_binary()),  # the text, or the page's HTML, that the step was given
    ]
)


@dataclass
class Outcome:
    """What became of one batch.

    kept: rows with the measures of all steps. dropped: rows with the measures up to the step that dropped them, a
    `reason` (`step.limit.side`), the `bytes` of payload that went, and `reached`, the number of steps taken.
    failed: rows of schema `FAILED`.
    """

    kept: pa.RecordBatch
    dropped: list[pa.RecordBatch] = field(default_factory=list)
    failed: list[pa.RecordBatch] = field(default_factory=list)


class Chain:
    """An ordered list of (name, step), and the books of all batches that went through it.

    tallies: of each measure in `Step.tallies` its sum, and the documents in which it was above 0.
    """

    def __init__(self, steps: Sequence[tuple[str, Step]], *, keep_before: bool = False) -> None:
        self.steps = list(steps)
        self.keep_before = keep_before
        self.books = [StepBooks(name) for name, _ in self.steps]
        self.tallies: Counter[str] = Counter()
        self.tracing = False
        for _, step in self.steps:
            step.prepare()

    def run(self, batch: pa.RecordBatch, reached: int = 0) -> Outcome:
        """Take one batch through all steps; the measures of the first `reached` steps stand in it already."""
        outcome = Outcome(batch)
        if batch.num_rows == 0 and not self.tracing:
            return outcome
        docs = batch
        sizes = self._stored_sizes(docs, reached)
        for position, ((name, step), books) in enumerate(zip(self.steps, self.books, strict=True)):
            if docs.num_rows == 0 and not self.tracing:
                break
            began = time.perf_counter()
            books.into.add(docs.num_rows, sizes[position].sum())
            if position < reached:
                measures = {c[len(name) + 1 :]: docs.column(c) for c in docs.schema.names if c.startswith(f"{name}.")}
                before, after = sizes[position], sizes[position + 1]
            else:
                given = docs
                docs, measures, alive = self._apply(name, step, books, docs, outcome)
                self._tally(name, step, measures)
                sizes = [s[alive] for s in sizes]
                before = sizes[position]
                after = payload_sizes(docs) if is_edit(step) else before
                docs = _append(docs, name, measures)
                if is_edit(step):
                    docs = docs.append_column(f"{name}{BYTES_IN}", pa.array(before, pa.int64()))
                    if self.keep_before and not step.takes_pages:
                        docs = docs.append_column(f"{name}{TEXT_IN}", _text_in(given, docs, alive))
                sizes[position + 1 :] = [after] * (len(sizes) - position - 1)
            books.edited += int(before.sum() - after.sum())
            verdict = _decide(step, measures, docs.num_rows)
            keep = verdict < 0
            if not keep.all():
                self._drop(position, docs, verdict, measures, after, reached, outcome)
                docs = docs.filter(pa.array(keep))
                sizes = [s[keep] for s in sizes]
            books.out.add(docs.num_rows, sizes[position + 1].sum())
            books.seconds += time.perf_counter() - began
        outcome.kept = docs
        return outcome

    def output_schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema of kept rows, found by taking no rows through the steps."""
        self.tracing = True
        try:
            return self.run(pa.RecordBatch.from_pylist([], schema)).kept.schema
        finally:
            self.tracing = False

    def _stored_sizes(self, docs: pa.RecordBatch, reached: int) -> list[np.ndarray]:
        """Bytes of each row before each step, and after the last: edits that were made before left theirs on record."""
        now = np.asarray(docs.column("bytes"), np.int64) if "bytes" in docs.schema.names else payload_sizes(docs)
        sizes = [now] * (len(self.steps) + 1)
        for position in range(reached - 1, -1, -1):
            name, step = self.steps[position]
            sizes[position] = (
                np.asarray(docs.column(f"{name}{BYTES_IN}"), np.int64) if is_edit(step) else sizes[position + 1]
            )
        return sizes

    def _apply(
        self, name: str, step: Step, books: StepBooks, docs: pa.RecordBatch, outcome: Outcome
    ) -> tuple[pa.RecordBatch, Measures, np.ndarray]:
        """The step's work on the rows that it can do; the others go to quarantine. Returns also which rows remain."""
        everyone = np.arange(docs.num_rows)
        try:
            edited, measures = step.edit(docs)
        except UserError:
            raise
        except DocumentsFailed as partial:
            for failure in partial.failures:
                self._fail(name, books, docs, failure.row, failure.error, failure.traceback, outcome)
            edited, measures = partial.result
            everyone = np.asarray(partial.kept_rows, np.int64)
        except Exception as error:
            if docs.num_rows <= 1:
                if docs.num_rows == 0:
                    raise
                cause = f"{type(error).__name__}: {error}"
                self._fail(name, books, docs, 0, cause, traceback.format_exc(), outcome)
                nothing = docs.slice(0, 0)
                edited, measures = step.edit(nothing)
                return edited, measures, everyone[:0]
            return self._apply_in_halves(name, step, books, docs, outcome)
        for measure, values in measures.items():
            if len(values) != len(everyone):
                raise UserError(f"step {name}: {len(values)} values of {measure} for {len(everyone)} documents")
        if edited.num_rows != len(everyone):
            raise UserError(
                f"step {name} returned {edited.num_rows} documents for {len(everyone)}: an edit keeps all rows"
            )
        return edited, measures, everyone

    def _tally(self, name: str, step: Step, measures: Measures) -> None:
        for measure in step.tallies:
            values = _as_array(measures.get(measure, ()))
            if documents := pc.sum(pc.greater(values, 0)).as_py():
                self.tallies[f"{name}.{measure}"] += pc.sum(values).as_py()
                self.tallies[f"{name}.{measure}: documents"] += documents

    def _apply_in_halves(
        self, name: str, step: Step, books: StepBooks, docs: pa.RecordBatch, outcome: Outcome
    ) -> tuple[pa.RecordBatch, Measures, np.ndarray]:
        """Find the rows that raise by halving, so that one bad document costs log n calls and not its batch."""
        middle = docs.num_rows // 2
        one = self._apply(name, step, books, docs.slice(0, middle), outcome)
        two = self._apply(name, step, books, docs.slice(middle), outcome)
        measures = {m: pa.concat_arrays([_as_array(one[1][m]), _as_array(two[1][m])]) for m in one[1]}
        edited = pa.Table.from_batches([one[0], two[0]]).combine_chunks().to_batches()
        batch = edited[0] if edited else one[0]
        return batch, measures, np.concatenate([one[2], two[2] + middle])

    def _fail(
        self, name: str, books: StepBooks, docs: pa.RecordBatch, row: int, error: str, trace: str, outcome: Outcome
    ) -> None:
        payload = docs.column("text")[row].as_py().encode()
        if "html" in docs.schema.names:
            payload = payload or docs.column("html")[row].as_py() or b""
        books.failed.add(1, len(payload))
        record: dict[str, Any] = {key: docs.column(key)[row].as_py() for key in IDENTITY}
        record |= {"step": name, "error": error, "traceback": trace, "payload": payload}
        outcome.failed.append(pa.RecordBatch.from_pylist([record], FAILED))

    def _drop(
        self,
        position: int,
        docs: pa.RecordBatch,
        verdict: np.ndarray,
        measures: Measures,
        sizes: np.ndarray,
        reached: int,
        outcome: Outcome,
    ) -> None:
        name, step = self.steps[position]
        rows = np.flatnonzero(verdict >= 0)
        reasons = pa.array([f"{name}.{reason}" for reason in step.drop_reasons(verdict, measures)], pa.large_string())
        coded = reasons.dictionary_encode()
        for index, reason in enumerate(coded.dictionary.to_pylist()):
            mine = rows[np.asarray(coded.indices) == index]
            self.books[position].drop(reason, len(mine), sizes[mine].sum())
        gone = docs.take(pa.array(rows))
        if position + 1 < reached:
            gone = before_steps(gone, [later for later, _ in self.steps[position + 1 :]])
        if "bytes" in gone.schema.names:
            gone = gone.drop_columns(["bytes"])
        gone = gone.append_column("bytes", pa.array(sizes[rows], pa.int64()))
        gone = gone.append_column("reason", reasons)
        outcome.dropped.append(gone.append_column("reached", pa.array(np.full(len(rows), position + 1, np.int32))))


def before_steps(docs: pa.RecordBatch, later: Sequence[str]) -> pa.RecordBatch:
    """Rows as they were before the steps named `later`, in order: the text of then, and none of their measures.

    The rows come from a chain that kept what its edits took away, and none of these steps made text of pages.
    """
    before = [docs.column(f"{name}{TEXT_IN}") for name in later if f"{name}{TEXT_IN}" in docs.schema.names]
    if before:  # the first edit that changed the text knows what it was
        docs = replace_column(docs, "text", pc.coalesce(*before, docs.column("text")))
    gone = tuple(f"{name}." for name in later)
    columns = [c for c in docs.schema.names if not c.startswith(gone)] if gone else docs.schema.names
    return docs.select([c for c in columns if c != "bytes" or not before])


def is_edit(step: Step) -> bool:
    """True for a step that changes documents."""
    return step.edits()


def _text_in(before: pa.RecordBatch, after: pa.RecordBatch, alive: np.ndarray) -> pa.Array:
    """The text that each row had before an edit; null where it is the same after it."""
    old = before.column("text")
    if len(alive) != before.num_rows:
        old = old.take(pa.array(alive))
    return pc.if_else(pc.not_equal(old, after.column("text")), old, pa.scalar(None, old.type))


def _as_array(values: Any) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    values = np.asarray(values)
    if values.dtype == np.bool_:
        return pa.array(values)
    return pa.array(values, pa.int64() if values.dtype.kind in "iu" else pa.float64())


def _append(docs: pa.RecordBatch, name: str, measures: Measures) -> pa.RecordBatch:
    for measure, values in measures.items():
        docs = docs.append_column(f"{name}.{measure}", _as_array(values))
    return docs


def _decide(step: Step, measures: Measures, rows: int) -> np.ndarray:
    if not measures or not step.limits():
        return np.full(rows, -1, np.int32)
    return step.decide(measures)
