"""Stored measures read back: values as numbers, a sample of them, bins, and which documents of a part were lost later.

What `why`, `sweep` and `report` share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.run_folder.finished import FinishedRun, SourceParts
from stages.chain import BYTES_IN, TEXT_IN
from stages.step import Bounds, Labels, Step


class Range(msgspec.Struct, frozen=True):
    """The limit on a number."""

    min: float | None
    max: float | None

    def sides(self) -> list[tuple[str, Any]]:
        """The sides that are set."""
        return [(side, value) for side, value in (("min", self.min), ("max", self.max)) if value is not None]


class Keeps(msgspec.Struct, frozen=True):
    """The limit on a label: those that pass."""

    keep: list[str]

    def sides(self) -> list[tuple[str, Any]]:
        return [("keep", self.keep)]


Limit = Range | Keeps | None


class MeasuredValue(msgspec.Struct, frozen=True):
    """What a step measured of one document (None: not measured), and whether that passes the limit."""

    name: str
    value: Any
    limit: Limit
    passes: bool


def limit_of(bounds: Bounds | Labels | None) -> Limit:
    """A limit of a step, as commands report it."""
    if bounds is None:
        return None
    return Keeps(list(bounds.keep)) if isinstance(bounds, Labels) else Range(bounds.min, bounds.max)


def measures_of_row(name: str, step: Step, row: Mapping[str, object]) -> list[MeasuredValue]:
    """What a step measured of a document, as its part's row holds it."""
    limits = step.limits()
    measures = dict.fromkeys([*limits, *(c[len(name) + 1 :] for c in row if c.startswith(f"{name}."))])
    return [
        _measured(measure, row[f"{name}.{measure}"], limits.get(measure))
        for measure in measures
        if f"{name}.{measure}" in row and f".{measure}" not in (BYTES_IN, TEXT_IN)  # the edits show these
    ]


def _measured(name: str, value: Any, bounds: Bounds | Labels | None) -> MeasuredValue:
    limit = limit_of(bounds)
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return MeasuredValue(name, None, limit, True)
    if isinstance(limit, Keeps):
        return MeasuredValue(name, value, limit, value in limit.keep)
    beyond = [value < bound if side == "min" else value > bound for side, bound in (limit.sides() if limit else ())]
    return MeasuredValue(name, value, limit, not any(beyond))


def document_keys(batch: pa.RecordBatch) -> pa.Array:
    """`file:record` of each row (large_string): what names a document of a source across its parts."""
    record = pc.cast(batch.column("record"), pa.large_string())
    return pc.binary_join_element_wise(batch.column("file"), record, pa.scalar(":", pa.large_string()))


def lost_later(run: FinishedRun, source: SourceParts, stage: int, ordinal: int) -> pa.Array:
    """Keys of the documents of one part of a segment that later segments or the tokenizer dropped or failed."""
    paths = []
    for later in source.parts[stage + 1 :]:
        paths += [path for path in (later[ordinal].dropped, later[ordinal].failed) if path]
    if ordinal < len(source.tokens):
        paths.append(source.tokens[ordinal].dropped)
    found = [document_keys(batch) for path in paths for _, batch in run.rows(path, ["file", "record"])]
    return pa.concat_arrays(found) if found else pa.array([], pa.large_string())


def floats(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A column of numbers or booleans as float64; null becomes NaN: not measured."""
    column = batch.column(name)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)


@dataclass
class Sampled:
    """Up to `most` of the finite values shown to it, evenly taken, and the least and greatest of all."""

    most: int
    every: int = 1
    seen: int = 0
    low: float = np.inf
    high: float = -np.inf
    _chosen: list[np.ndarray] = field(default_factory=list)
    _count: int = 0

    def add(self, values: np.ndarray) -> None:
        """Look at a batch of values (float64)."""
        values = values[np.isfinite(values)]
        if not len(values):
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        taken = values[(-self.seen) % self.every :: self.every]
        self.seen += len(values)
        self._chosen.append(taken)
        self._count += len(taken)
        while self._count > self.most:
            self._chosen = [np.concatenate(self._chosen)[::2]]
            self._count, self.every = len(self._chosen[0]), self.every * 2

    def sorted(self) -> np.ndarray:
        """The values taken, rising."""
        return np.sort(np.concatenate(self._chosen)) if self._chosen else np.zeros(0)


def bin_edges(sample: np.ndarray, low: float, high: float, bins: int) -> np.ndarray:
    """Edges of a histogram over the middle 98% of a sorted sample, geometric where the values span decades."""
    if not len(sample):
        return np.linspace(0, 1, bins + 1)
    start, end = np.quantile(sample, [0.01, 0.99])
    if start == end:
        start, end = low, high if high > low else low + 1
    if start > 0 and end / start > 30:
        return np.geomspace(start, end, bins + 1)
    return np.linspace(start, end, bins + 1)
