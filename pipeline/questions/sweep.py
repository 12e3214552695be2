"""What another limit would keep: documents, bytes and tokens against the limit on one measure, from stored measures (`sweep`).

Counted are the documents that reached the step: those that an earlier step dropped, or that failed before, are not
asked. A document passes where the limit asked about, and all other limits of the same step as the recipe sets them,
let it through; one that was not measured passes. Of those that pass, `kept` ended in a shard in this run, `lost later` were
taken by a later step or dedup of this run, and `new` were dropped by this step in this run: these would reach the next
steps, and what becomes of them there is known only once the recipe runs with the new limit (which measures them alone).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from pipeline.questions.measured import Sampled, bin_edges, document_keys, floats, lost_later
from pipeline.recipe.overrides import nearest
from pipeline.run_folder.finished import FinishedRun, PartFiles, SourceParts, open_finished
from pipeline.run_folder.manifest import whole_source
from pipeline.tables import plain_table
from stages.chain import is_edit
from stages.document import text_buffers
from stages.errors import UserError
from stages.step import Bounds, Step
from stages.units import show_bytes, show_count

SAMPLE = 100_000  # values from which the limits to show are chosen
LIMITS = 61  # chosen where none are given; the table shows some of them
BINS = 48  # of the histogram in the picture
ROWS = 18  # of a table; --json has all limits
COLUMNS = ("passes", "kept", "lost_later", "new")


class Passing(msgspec.Struct, frozen=True):
    """Documents, their text, and the tokens that make about as many bytes."""

    documents: int
    bytes: int
    tokens: int


class AtLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What passes under one limit, and what became of that in this run."""

    limit: float
    passes: Passing
    kept: Passing
    lost_later: Passing
    new: Passing


class Reached(msgspec.Struct, frozen=True):
    """What reached the step."""

    documents: int
    bytes: int


class Counts(msgspec.Struct, frozen=True):
    """Documents in bins of the measure, edges[i] to below edges[i + 1]."""

    edges: list[float]
    documents: list[int]


class SweptSource(msgspec.Struct, frozen=True, kw_only=True):
    """One source under each limit. limit: the recipe's own."""

    side: str
    limit: float | None
    reached: Reached
    unmeasured: int
    bytes_per_token: float
    bytes_are_estimates: bool
    limits: list[AtLimit]
    histogram: Counts


class Sweep(msgspec.Struct, frozen=True):
    """What other limits on a measure would keep, by source."""

    run: str
    measure: str
    sources: dict[str, SweptSource]


@dataclass
class Asked:
    """The step and measure asked about in one source, and where its documents are."""

    source: SourceParts
    stage: int
    position: int  # of the step in its segment
    name: str
    step: Step
    measure: str
    side: str
    limit: Bounds


@dataclass
class Swept:
    """Counts of one source: int64 arrays of [documents, bytes] for each limit, one array for each of `COLUMNS`."""

    values: np.ndarray
    reached: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    unmeasured: int = 0
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    edges: np.ndarray = field(default_factory=lambda: np.zeros(0))
    estimated_bytes: bool = False


def sweep(
    run: str, measure: str, source: str | None = None, side: str | None = None, values: list[float] | None = None
) -> Sweep:
    """Count what passes under each limit on `measure` ("step.measure"), for each source that has the step.

    side: min or max; needed where the recipe sets both. values: the limits; chosen from the measure's quantiles otherwise.
    Raises UserError for a run, source, step or measure that is not there, and where `run.keep` removed the measures.
    """
    finished = open_finished(run)
    finished.check_whole()
    asked = _asked(finished, measure, source, side)
    return Sweep(run, measure, {one.source.name: _sweep_source(finished, one, values) for one in asked})


def _asked(run: FinishedRun, measure: str, source: str | None, side: str | None) -> list[Asked]:
    if source is not None and source not in run.sources:
        raise UserError(f"there is no source {source!r} in {run.uri}{nearest(source, list(run.sources))}")
    names: dict[str, None] = {}
    found = []
    for one in run.sources.values():
        if source not in (None, one.name):
            continue
        for stage, segment in enumerate(one.plan):
            for position, (name, step) in enumerate(segment.steps):
                limits = {m: b for m, b in step.limits().items() if isinstance(b, Bounds)}
                names |= {f"{name}.{m}": None for m in limits}
                if measure.startswith(f"{name}.") and (m := measure[len(name) + 1 :]) in limits:
                    chosen = _side(measure, limits[m], side)
                    found.append(Asked(one, stage, position, name, step, m, chosen, limits[m]))
    if not found:
        where = f"source {source}" if source else "any source"
        raise UserError(
            f"no limit {measure!r} in {where} of {run.uri}{nearest(measure, list(names))}; there are {', '.join(names)}"
        )
    return found


def _side(measure: str, limit: Bounds, side: str | None) -> str:
    if side is not None:
        return side
    set_sides = [s for s in ("min", "max") if getattr(limit, s) is not None]
    if len(set_sides) != 1:
        both = "both min and max" if set_sides else "neither min nor max"
        raise UserError(f"{measure}: the recipe sets {both}: say which to sweep, --side min or --side max")
    return set_sides[0]


def _sweep_source(run: FinishedRun, asked: Asked, values: list[float] | None) -> SweptSource:
    if asked.stage >= len(asked.source.parts):
        raise UserError(f"{run.uri} has no parts of {asked.source.name} in which {asked.name} measured: run it again")
    sample, low, high = _sample(run, asked)
    limits = np.unique(np.asarray(values, np.float64)) if values else _choose(sample, asked)
    swept = Swept(limits, edges=bin_edges(sample, low, high, BINS))
    swept.counts = {name: np.zeros((len(limits), 2), np.int64) for name in COLUMNS}
    for files, lost_keys in _parts(run, asked):
        for docs in _reached(run, asked, files):
            _count(asked, docs, lost_keys, swept)
    return _result(run, asked, swept)


# ---- reading what is stored


@dataclass
class _Docs:
    """Documents that reached the step, of one batch: their measure, bytes, and what became of them in this run."""

    values: np.ndarray  # float64; NaN: not measured
    others: np.ndarray  # bool: the step's other limits let it pass
    bytes: np.ndarray  # int64, of text after the step
    dropped_here: np.ndarray  # bool
    lost: np.ndarray | None  # bool: taken later in the same segment
    keys: pa.Array | None  # of those that the segment kept: file and record, as `document_keys` joins them
    estimated: bool


def _parts(run: FinishedRun, asked: Asked) -> Iterator[tuple[PartFiles, pa.Array]]:
    """Each part, with the keys of its documents that later segments or the tokenizer dropped or failed."""
    for ordinal, files in enumerate(asked.source.parts[asked.stage]):
        yield files, lost_later(run, asked.source, asked.stage, ordinal)


def _reached(run: FinishedRun, asked: Asked, files: PartFiles) -> Iterator[_Docs]:
    """The documents of a part that reached the step, as its files hold them."""
    if files.kept is None:
        raise UserError(run.gone("the measures of documents that were kept are not there"))
    later = asked.source.plan[asked.stage].steps[asked.position + 1 :]
    edited = next((f"{name}.bytes_in" for name, step in later if is_edit(step)), None)
    measures = [f"{asked.name}.{m}" for m in asked.step.limits()]
    for path in (files.kept, files.dropped):
        if path is None:
            continue
        kept = path == files.kept
        size = ["text"] if kept and files.text and edited is None else []
        extra = [edited] if edited else []
        columns = [*measures, "file", "record", *size, *extra, *([] if kept else ["bytes", "reached"])]
        for _, batch in run.rows(path, columns):
            if not kept:
                reached = np.asarray(batch.column("reached").fill_null(0))
                batch = batch.filter(pa.array(reached > asked.position))
            if batch.num_rows:
                yield _docs(asked, batch, files, kept, edited)


def _docs(asked: Asked, batch: pa.RecordBatch, files: PartFiles, kept: bool, edited: str | None) -> _Docs:
    rows, names = batch.num_rows, batch.schema.names
    values = floats(batch, f"{asked.name}.{asked.measure}")
    others = np.ones(rows, bool)
    for measure, bounds in asked.step.limits().items():
        name = f"{asked.name}.{measure}"
        if name not in names:
            continue
        if not isinstance(bounds, Bounds):
            drops = bounds.decide(batch.column(name))
        else:
            drops = bounds.decide(values if measure == asked.measure else floats(batch, name))
            if measure == asked.measure:
                drops.pop(asked.side, None)
        for mask in drops.values():
            others &= ~mask
    estimated = False
    if kept:
        if edited:
            sizes = np.asarray(batch.column(edited).fill_null(0), np.int64)
        elif "text" in names:
            sizes = np.diff(text_buffers(batch.column("text"))[1])
        else:  # measures alone: the part's average
            estimated = True
            sizes = np.full(rows, files.report.bytes / max(files.report.docs, 1)).astype(np.int64)
        return _Docs(values, others, sizes, np.zeros(rows, bool), None, document_keys(batch), estimated)
    sizes = np.asarray(batch.column("bytes").fill_null(0), np.int64)
    if edited and edited in names:  # where it reached a later edit: its size before that
        before = batch.column(edited)
        sizes = np.where(np.asarray(before.is_valid()), np.asarray(before.fill_null(0), np.int64), sizes)
    here = np.asarray(batch.column("reached")) == asked.position + 1
    return _Docs(values, others, sizes, here, ~here, None, False)


# ---- choosing limits, counting


def _sample(run: FinishedRun, asked: Asked) -> tuple[np.ndarray, float, float]:
    """Up to `SAMPLE` of the measured values, evenly taken (float64, sorted), and the least and greatest of all."""
    sampled = Sampled(SAMPLE)
    for files in asked.source.parts[asked.stage]:
        for docs in _reached(run, asked, files):
            sampled.add(docs.values)
    return sampled.sorted(), sampled.low, sampled.high


def _choose(sample: np.ndarray, asked: Asked) -> np.ndarray:
    """Limits at even quantiles, rounded to three digits where that keeps them apart, and the recipe's own."""
    own = getattr(asked.limit, asked.side)
    quantiles = np.quantile(sample, np.linspace(0, 1, LIMITS)) if len(sample) else np.zeros(0)
    rounded = [float(f"{value:.3g}") for value in quantiles]
    return np.unique(np.asarray(rounded + ([own] if own is not None else []), np.float64))


def _count(asked: Asked, docs: _Docs, lost_keys: pa.Array, swept: Swept) -> None:
    lost = docs.lost if docs.lost is not None else np.asarray(pc.is_in(docs.keys, value_set=lost_keys))
    sizes = docs.bytes
    swept.reached += [len(sizes), sizes.sum()]
    swept.unmeasured += int(np.isnan(docs.values).sum())
    swept.estimated_bytes |= docs.estimated
    swept.histogram += np.histogram(docs.values[np.isfinite(docs.values)], swept.edges)[0]
    masks = {"passes": docs.others, "new": docs.others & docs.dropped_here}
    masks["lost_later"] = docs.others & lost & ~docs.dropped_here
    masks["kept"] = docs.others & ~lost & ~docs.dropped_here
    # A document passes all limits from its own value down (min) or up (max): one place in the sorted limits each.
    if asked.side == "min":
        place = np.where(np.isnan(docs.values), len(swept.values), np.searchsorted(swept.values, docs.values, "right"))
    else:
        place = np.where(np.isnan(docs.values), 0, np.searchsorted(swept.values, docs.values, "left"))
    for name, mask in masks.items():
        for column, weights in enumerate((np.ones(mask.sum()), sizes[mask])):
            at = np.bincount(place[mask], weights, len(swept.values) + 1).astype(np.int64)
            total = at[::-1].cumsum()[::-1][1:] if asked.side == "min" else at.cumsum()[:-1]
            swept.counts[name][:, column] += total


def _result(run: FinishedRun, asked: Asked, swept: Swept) -> SweptSource:
    per_token = bytes_per_token(run, asked.source.name)

    def passing(name: str, i: int) -> Passing:
        docs, size = (int(x) for x in swept.counts[name][i])
        return Passing(docs, size, round(size / per_token))

    return SweptSource(
        side=asked.side,
        limit=getattr(asked.limit, asked.side),
        reached=Reached(int(swept.reached[0]), int(swept.reached[1])),
        unmeasured=swept.unmeasured,
        bytes_per_token=round(per_token, 4),
        bytes_are_estimates=swept.estimated_bytes,
        limits=[
            AtLimit(limit=value, **{name: passing(name, i) for name in COLUMNS})
            for i, value in enumerate(swept.values.tolist())
        ],
        histogram=Counts(swept.edges.tolist(), swept.histogram.tolist()),
    )


def bytes_per_token(run: FinishedRun, source: str) -> float:
    """Bytes of text a token of the source, by the manifest; of all sources where it has no tokens."""
    for names in ([source], list(run.sources)):
        entries = [whole_source(run.manifest, name) for name in names]
        splits = [split for entry in entries for split in (entry, entry["held_out"])]
        if tokens := sum(split["tokens"] for split in splits):
            return sum(split["text_bytes"] for split in splits) / tokens
    return 4.0


# ---- table


def show_sweep(found: Sweep, console: Console) -> None:
    """Print what `sweep` returned, a table a source."""
    for name, s in found.sources.items():
        now = "none" if s.limit is None else f"{s.limit:g}"
        table = plain_table(
            f"{name}: {found.measure}, {s.side} (the recipe: {now})",
            *(s.side, "documents", "share", "bytes", "tokens", "kept", "lost later", "new"),
        )
        for row in shown(s):
            own = row.limit == s.limit
            table.add_row(
                f"{row.limit:.6g}" + (" *" if own else "  "),
                f"{row.passes.documents:,}",
                f"{row.passes.documents / max(s.reached.documents, 1):.1%}",
                show_bytes(row.passes.bytes),
                show_count(row.passes.tokens),
                *(f"{part.documents:,}" for part in (row.kept, row.lost_later, row.new)),
                style="bold" if own else "",
            )
        console.print(table)
        estimate = ", bytes from the average of each part" if s.bytes_are_estimates else ""
        unmeasured = f"; {s.unmeasured:,} were not measured, and pass" if s.unmeasured else ""
        console.print(
            f"{s.reached.documents:,} documents ({show_bytes(s.reached.bytes)}) reached the step{unmeasured}. "
            f"Tokens at {s.bytes_per_token:.2f} bytes each{estimate}. Of those that pass: kept in this run, "
            "lost to later steps, or new to the next steps."
        )


def shown(s: SweptSource) -> list[AtLimit]:
    """The rows for the table: all of a few, else evenly chosen ones and the recipe's own limit."""
    if len(s.limits) <= ROWS:
        return s.limits
    chosen = {round(i * (len(s.limits) - 1) / (ROWS - 2)) for i in range(ROWS - 1)}
    return [row for i, row in enumerate(s.limits) if i in chosen or row.limit == s.limit]
