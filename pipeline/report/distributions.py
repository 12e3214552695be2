"""How each measure is distributed over the documents that reached its step, and what became of them.

Two passes over the measures of a source's parts: the first samples values, from which the bins are chosen; the second
counts. Memory is one batch of measures, the counts, and of one part the names of the documents that later steps took.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.questions.measured import Limit, Sampled, bin_edges, document_keys, floats, limit_of, lost_later
from pipeline.run_folder.finished import FinishedRun, PartFiles, SourceParts
from stages.chain import BYTES_IN, TEXT_IN
from stages.step import Bounds, Labels, Step

FATES = ("kept", "dropped_here", "dropped_elsewhere")
"""Of a document that reached a step: kept to the end, dropped by the limit on this measure, or by another limit or step."""
SAMPLE = 20_000  # values of a measure from which its bins are chosen
BINS = 40
SHOWN_LABELS = 24
MOST_LABELS = 4096  # that are counted apart; of a measure with more, the rarest are counted together
FAR = 12.0  # a limit is not drawn where it would make the picture more than so many times as wide
DECADES = 3.0  # and on a logarithmic scale, more than so many decades wider


class Fates(msgspec.Struct, frozen=True):
    """Documents by their fate."""

    kept: int
    dropped_here: int
    dropped_elsewhere: int

    def sum(self) -> int:
        return self.kept + self.dropped_here + self.dropped_elsewhere


class LabelFates(Fates, frozen=True, kw_only=True):
    """Documents with one label, by their fate."""

    label: str


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of a step, over the documents that reached it."""

    step: str
    measure: str
    limit: Limit  # None also where the recipe sets neither side
    unmeasured: Fates


class NumberFigures(Measure, frozen=True, kw_only=True):
    """A measure that is a number: bins (edges[i] to below edges[i + 1]), and documents in each by their fate."""

    quantiles: dict[str, float]  # 5%, 50%, 95%
    range: list[float]  # the least and the greatest; empty where nothing was measured
    edges: list[float]
    kept: list[int]
    dropped_here: list[int]
    dropped_elsewhere: list[int]


class LabelFigures(Measure, frozen=True, kw_only=True):
    """A measure that is a label: the most frequent ones, and all others together."""

    labels: list[LabelFates]
    other_labels: Fates


@dataclass
class Column:
    """One measure of a source, and what was counted of it."""

    stage: int
    position: int  # of the step in its segment
    name: str
    step: Step
    measure: str
    limit: Bounds | Labels | None
    label: bool  # values are strings
    integers: bool
    sampled: Sampled = field(default_factory=lambda: Sampled(SAMPLE))
    edges: np.ndarray = field(default_factory=lambda: np.zeros(0))
    counts: np.ndarray = field(default_factory=lambda: np.zeros((len(FATES), 0), np.int64))  # [fate, bin]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    unmeasured: np.ndarray = field(default_factory=lambda: np.zeros(len(FATES), np.int64))
    rest: np.ndarray = field(default_factory=lambda: np.zeros(len(FATES), np.int64))

    @property
    def column(self) -> str:
        return f"{self.name}.{self.measure}"


def measures_of(
    run: FinishedRun, source: SourceParts, ordinals: list[int]
) -> tuple[list[NumberFigures | LabelFigures], list[str]]:
    """The distributions of a source's measures, from the parts named by `ordinals`; and sentences on what is missing."""
    found: list[NumberFigures | LabelFigures] = []
    missing: list[str] = []
    for stage, segment in enumerate(source.plan):
        if stage >= len(source.parts) or not ordinals or not segment.steps:
            continue
        parts = {o: source.parts[stage][o] for o in ordinals}
        if any(files.kept is None for files in parts.values()):
            names = ", ".join(name for name, step in segment.steps if step.limits())
            if names:
                keep = run.recipe.run.keep
                missing.append(f"Measures of {names}: those of kept documents were let go (run.keep is {keep}).")
            continue
        columns = _columns(run, segment.steps, stage, next(iter(parts.values())))
        if not columns:
            continue
        for files in parts.values():
            for batch, _, reached in _batches(run, files, [c.column for c in columns if not c.label]):
                for c in columns:
                    if not c.label:
                        c.sampled.add(floats(batch, c.column)[reached > c.position])
        for c in columns:
            c.edges = edges_of(c.sampled, c.limit, c.integers)
            c.counts = np.zeros((len(FATES), len(c.edges) - 1), np.int64)
        for ordinal, files in parts.items():
            gone = lost_later(run, source, stage, ordinal)
            for batch, kept, reached in _batches(run, files, [c.column for c in columns]):
                fate = _fates(batch, kept, gone)
                for c in columns:
                    _count(c, batch, fate, reached)
        found += [_result(c) for c in columns]
    return found, missing


def _columns(run: FinishedRun, steps: list[tuple[str, Step]], stage: int, files: PartFiles) -> list[Column]:
    schema = {f.name: f.type for f in run.schema(files.kept)} if files.kept else {}
    found = []
    for position, (name, step) in enumerate(steps):
        limits = step.limits()
        there = [column[len(name) + 1 :] for column in schema if column.startswith(f"{name}.")]
        for measure in dict.fromkeys([*(m for m in limits if m in there), *there]):
            kind = schema[f"{name}.{measure}"]
            label = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
            if f".{measure}" not in (BYTES_IN, TEXT_IN) and (label or number):
                whole = not pa.types.is_floating(kind)
                found.append(Column(stage, position, name, step, measure, limits.get(measure), label, whole))
    return found


def _batches(
    run: FinishedRun, files: PartFiles, measures: list[str]
) -> Iterator[tuple[pa.RecordBatch, bool, np.ndarray]]:
    """Batches of measures of a part's kept and dropped documents, with whether it kept them, and steps taken (int64)."""
    for path, kept in ((files.kept, True), (files.dropped, False)):
        if path is None:
            continue
        columns = [*measures, "file", "record", *(() if kept else ("reached", "reason"))]
        for _, batch in run.rows(path, columns):
            steps = np.full(batch.num_rows, np.iinfo(np.int64).max)
            if not kept:
                steps = np.asarray(batch.column("reached").fill_null(0), np.int64)
            yield batch, kept, steps


def _fates(batch: pa.RecordBatch, kept: bool, gone: pa.Array) -> tuple[np.ndarray, pa.Array | None]:
    """Which of the batch stayed to the end (bool), and the reasons of those that the part dropped."""
    if not kept:
        return np.zeros(batch.num_rows, bool), batch.column("reason").dictionary_encode()
    return ~np.asarray(pc.is_in(document_keys(batch), value_set=gone)), None


def _count(c: Column, batch: pa.RecordBatch, fates: tuple[np.ndarray, Any], reached: np.ndarray) -> None:
    stays, reasons = fates
    here = reached > c.position
    fate = np.where(stays, 0, 2)
    values = None if c.label else floats(batch, c.column)
    if reasons is not None:
        mine = _by_this_limit(c, reasons, reached, batch, values)
        fate = np.where(mine, 1, fate)
    if values is not None:
        bins = np.clip(np.searchsorted(c.edges, values, "right") - 1, 0, c.counts.shape[1] - 1)
        measured = here & ~np.isnan(values)
        both = fate[measured] * c.counts.shape[1] + bins[measured]
        c.counts += np.bincount(both, minlength=c.counts.size).reshape(c.counts.shape)
        c.unmeasured += np.bincount(fate[here & np.isnan(values)], minlength=len(FATES))
        return
    coded = batch.column(c.column).dictionary_encode()
    codes = np.asarray(coded.indices.fill_null(-1))
    c.unmeasured += np.bincount(fate[here & (codes < 0)], minlength=len(FATES))
    for code, label in enumerate(coded.dictionary.to_pylist()):
        counts = np.bincount(fate[here & (codes == code)], minlength=len(FATES))
        c.labels[label] = c.labels.get(label, 0) + counts
    if len(c.labels) > MOST_LABELS:
        rising = sorted(c.labels, key=lambda label: int(c.labels[label].sum()))
        for label in rising[: len(rising) - MOST_LABELS // 2]:
            c.rest += c.labels.pop(label)


def _by_this_limit(c: Column, reasons: Any, reached: np.ndarray, batch: pa.RecordBatch, values: Any) -> np.ndarray:
    """Which documents (bool) the limit on this measure dropped."""
    known = {f"{c.name}.{reason}" for reason in c.step.reasons()}
    names = reasons.dictionary.to_pylist()
    codes = np.asarray(reasons.indices)
    mine = np.isin(codes, [i for i, name in enumerate(names) if name.startswith(f"{c.column}.")])
    own = [i for i, name in enumerate(names) if name.startswith(f"{c.name}.") and name not in known]
    if own and c.limit is not None:  # reasons that the step names itself: then what lies beyond the limit
        drops = c.limit.decide(batch.column(c.column) if c.label else values)
        beyond = np.logical_or.reduce([*drops.values(), np.zeros(batch.num_rows, bool)])
        mine |= np.isin(codes, own) & (reached == c.position + 1) & beyond
    return mine


def edges_of(sampled: Sampled, limit: Any, integers: bool, bins: int = BINS) -> np.ndarray:
    """Edges of at most `bins` bins, of which one is the limit itself: no bin holds documents from both sides of it.

    Whole numbers of a small range stand in the middle of a bin each. The outermost bins also hold what lies beyond them.
    """
    sample = sampled.sorted()
    if not len(sample):
        return np.linspace(0, 1, bins + 1)
    sides = [] if not isinstance(limit, Bounds) else [v for v in (limit.min, limit.max) if v is not None]
    low, high = sampled.low, sampled.high
    whole = (integers or bool((sample == np.floor(sample)).all())) and all(float(v).is_integer() for v in sides)
    if whole and max([high, *sides]) - min([low, *sides]) < bins:
        return np.arange(min([low, *sides]), max([high, *sides]) + 2) - 0.5
    edges = bin_edges(sample, low, high, bins)
    start, end = edges[0], edges[-1]
    log = start > 0 and bool(edges[1] - edges[0] < 0.9 * (edges[-1] - edges[-2]))
    for value in sides:
        if log:
            near = value > 0 and max(start / value, value / end) < 10**DECADES
        else:
            near = max(start - value, value - end) < (FAR - 1) * (end - start)
        if near:
            start, end = min(start, value), max(end, value)
    if not log:  # a little more than the limit where documents lie behind it
        span = end - start
        start -= span / 20 if start in sides and low < start else 0
        end += span / 10 if end in sides and high > end else 0
    else:
        start /= 1.3 if start in sides and low < start else 1
        end *= 1.5 if end in sides and high > end else 1
    if whole and end - start < bins:
        return np.arange(np.floor(start), np.ceil(end) + 2) - 0.5
    edges = np.geomspace(start, end, bins + 1) if log else np.linspace(start, end, bins + 1)
    inside = [value for value in sides if edges[0] < value < edges[-1]]
    places = [1 + int(np.abs(edges[1:-1] - value).argmin()) for value in inside]
    if len(set(places)) < len(places):  # both nearest to one edge: its neighbour gives way too
        places = [places[0], places[0] + 1] if places[0] + 1 < bins else [places[0] - 1, places[0]]
    for place, value in zip(places, inside, strict=True):
        edges[place] = value if value == limit.min else np.nextafter(value, np.inf)
    return edges


def _result(c: Column) -> NumberFigures | LabelFigures:
    limit = limit_of(c.limit)
    known = {
        "step": c.name,
        "measure": c.measure,
        "limit": limit if limit and limit.sides() else None,
        "unmeasured": Fates(*c.unmeasured.tolist()),
    }
    if c.label:
        falling = sorted(c.labels.items(), key=lambda item: (-int(item[1].sum()), item[0]))
        rest = c.rest + sum((counts for _, counts in falling[SHOWN_LABELS:]), np.zeros(len(FATES), np.int64))
        labels = [LabelFates(*counts.tolist(), label=label) for label, counts in falling[:SHOWN_LABELS]]
        return LabelFigures(**known, labels=labels, other_labels=Fates(*rest.tolist()))
    sample = c.sampled.sorted()
    some = len(sample) > 0
    return NumberFigures(
        **known,
        quantiles=dict(zip(("5%", "50%", "95%"), np.quantile(sample, [0.05, 0.5, 0.95]).tolist(), strict=True)) if some else {},
        range=[c.sampled.low, c.sampled.high] if some else [],
        edges=c.edges.tolist(),
        **dict(zip(FATES, c.counts.tolist(), strict=True)),
    )
