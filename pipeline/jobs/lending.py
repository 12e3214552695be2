"""Taking from an earlier task's files what it did to the same documents: other limits, or a step more behind those it had.

An earlier task that took the same input through the same first steps has, of each document, the measures of these steps
and the text that came out of each. A document goes on from there: it is decided again by the limits of now, and only steps
that the earlier task did not have, or had with other settings or code, run. The result is that of a fresh run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.jobs.arrival import Arrival, Piece
from pipeline.jobs.context import Context
from pipeline.jobs.inputs import NamedStep
from pipeline.plan.node import Done, Stored
from stages.books import StepBooks
from stages.chain import Chain, before_steps
from stages.parts import read_part

if TYPE_CHECKING:
    from pipeline.jobs.documents import DocumentsReport

ROW_OUTCOME = ("reason", "reached", "representative")


class NeedsPages(Exception):
    """A page that was dropped before its text was taken out would go on now, and only its source file has it."""


@dataclass(frozen=True)
class Lender:
    """An earlier task's files, the steps that its documents have behind them, and how many of these are as they are now."""

    kept: Stored
    dropped: Stored
    steps: tuple[str, ...]
    equal: int
    books: StepBooks  # of the documents' arrival
    notes: Mapping[str, int]


def lend(
    steps: Sequence[NamedStep],
    earlier: Done[DocumentsReport],
    theirs: Mapping[str, str],
    ours: Mapping[str, str],
) -> Lender | None:
    """What an earlier task can lend to one with these steps; theirs, ours: the components of the two keys."""
    report = earlier.report
    if report.failed_documents or report.failed_files:
        return None
    common = {name for name in theirs.keys() | ours.keys() if not name.startswith("step ")}
    if any(theirs.get(name) != ours.get(name) for name in common):
        return None
    places = sorted({name.rpartition(":")[0] for name in theirs if name.startswith("step ")})
    names = tuple(place.split(" ", 2)[2] for place in places)
    equal = 0
    for place, step in zip(places, steps, strict=False):
        same = all(theirs[f"{place}: {part}"] == ours.get(f"{place}: {part}") for part in ("settings", "code", "files"))
        if not same or names[equal] != step.name:
            break
        equal += 1
    extract = next((number for number, one in enumerate(steps) if one.step.takes_pages), -1)
    if equal == 0 or extract >= equal:
        return None
    kept, dropped = earlier.output(report.part), earlier.output(report.dropped)
    return Lender(kept, dropped, names, equal, report.books[0], report.notes)


def lent_rows(
    lender: Lender, chain: Chain, arrival: Arrival, context: Context, batch_bytes: int
) -> Iterator[list[Piece]]:
    """What an earlier run made of the same documents, kept and dropped together in their old order, in windows."""
    arrival.books = lender.books
    again = tuple(f"{name}." for name in lender.steps[lender.equal :])  # steps that tally anew
    arrival.notes = {what: count for what, count in lender.notes.items() if not what.startswith(again)}
    extract = next((i for i, (_, step) in enumerate(chain.steps) if step.takes_pages), -1)

    def piece(batch: pa.RecordBatch, reached: int) -> Piece:
        """Rows that have `reached` of the lender's steps behind them, taken back to the last one that is as it is now."""
        if reached <= extract:
            probe = Chain(chain.steps[:reached])
            if probe.run(batch, reached).kept.num_rows:
                raise NeedsPages
        batch = before_steps(batch, lender.steps[lender.equal : reached])
        return Piece(batch.select([c for c in batch.schema.names if c not in ROW_OUTCOME]), min(reached, lender.equal))

    with context.open(lender.kept) as kept_file, context.open(lender.dropped) as dropped_file:
        streams = [(batch for _, batch in read_part(file, batch_bytes)) for file in (kept_file, dropped_file)]
        for kept, dropped in windows(*streams):
            group = [piece(kept, len(lender.steps))] if kept is not None else []
            yield group + (_by_reach(dropped, piece, lender.steps) if dropped is not None else [])


Stream = Iterator[pa.RecordBatch]


def windows(one: Stream, two: Stream) -> Iterator[tuple[pa.RecordBatch | None, pa.RecordBatch | None]]:
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


def _by_reach(
    dropped: pa.RecordBatch, piece: Callable[[pa.RecordBatch, int], Piece], steps: Sequence[str]
) -> list[Piece]:
    """Dropped rows by how far they had come; those that never entered the chain stay dropped as they are."""
    reached = np.asarray(dropped.column("reached").fill_null(0))
    pieces = []
    for count in np.unique(reached):
        rows = dropped.filter(pa.array(reached == count))
        later = tuple(f"{name}." for name in steps[int(count) :])
        rows = rows.select([c for c in rows.schema.names if not later or not c.startswith(later)])
        pieces.append(Piece(dropped=rows) if count == 0 else piece(rows, int(count)))
    return pieces
