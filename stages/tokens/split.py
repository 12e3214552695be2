"""Sub-sources: a source cut into parts by measures or labels of its documents, each part a member of the mixture.

Each axis has parts with names: `score1`, `score2`, ... for a measure that is cut at values or quantiles, the labels
themselves and `other` for a measure that is a label. With several axes a sub-source is a cell of the grid that they span;
its name is the source's with those of its parts: `web-science-score3`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import pyarrow as pa
from pydantic import BeforeValidator, Field, model_validator

from stages.errors import UserError
from stages.marks import HowMuch
from stages.step import Settings
from stages.tokens.formula import evaluate

OTHER = "other"
DOMAIN, YEAR = "domain", "year"  # what every document has, besides the measures of its steps
DATES = ("date", "created", "timestamp", "published", "last_modified")  # of the metadata, the first that is there
MOST_CELLS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

Cuts = tuple[float, ...]
Times = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _named(value: Any) -> Any:
    """Labels in a list stand for themselves; a single value for a list of one."""
    if isinstance(value, list | tuple):
        return {str(label): (str(label),) for label in value}
    if isinstance(value, Mapping):
        return {name: (found,) if isinstance(found, str) else found for name, found in value.items()}
    return value


class Axis(Settings):
    """By what a source is cut, and where: at values, at quantiles, or by labels."""

    by: str
    """A measure of one of the source's steps (`quality.score`, `language.label`), `domain` (the host of the URL), or `year` (of
    the date that the metadata name)."""
    at: tuple[float, ...] = ()
    """Values at which it is cut, rising: a part begins at its value. A document without one is in the first part."""
    quantiles: tuple[float, ...] = ()
    """In place of values: shares of the documents that lie below each cut, rising, exactly found."""
    labels: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_named)] = Field(default_factory=dict)
    """Of a label: its values, each a part; or parts by name, each with its values. What is none of them is the part `other`. A
    domain takes those below it along."""

    formula: str | None = None
    """In place of cuts, how often a document is seen, by its measure x: `1 + log2(x)`. Rounded down to a multiple of `step`
    between 0 and `most`; each such number is a part. A document without the measure is seen once."""
    step: float = Field(default=1.0, gt=0)
    """Of `formula`: what its values are rounded down to multiples of."""
    most: float = Field(default=4.0, gt=0)
    """Of `formula`: how often a document is seen at most."""
    repeats: HowMuch[tuple[Times, ...] | dict[str, Times] | None] = None
    """How often documents of each part are seen: a number for each part, in order, or by the part's name (others: 1). Of several
    axes the numbers are multiplied. What `mixture.per_source` says of a part goes before it."""

    @model_validator(mode="after")
    def _one_way(self) -> Axis:
        given = [name for name in ("at", "quantiles", "labels", "formula") if getattr(self, name)]
        if len(given) != 1:
            known = "at, quantiles, labels and formula"
            raise ValueError(f"{self.by} is cut by one of {known}, not by {' and '.join(given) or 'none'}")
        self._check_repeats()
        cuts = self.at or self.quantiles
        if any(not a < b for a, b in itertools.pairwise(cuts)) or any(not 0 < q < 1 for q in self.quantiles):
            raise ValueError(f"{given[0]} {list(cuts)}: must rise" + (", and lie between 0 and 1" if self.quantiles else ""))
        if self.by == DOMAIN and not self.labels:
            raise ValueError("a domain is a label: name the domains under labels")
        if self.by not in (DOMAIN, YEAR) and "." not in self.by:
            raise ValueError(f"by {self.by!r}: write step.measure, {DOMAIN} or {YEAR}")
        for name in self.labels:
            if not _NAME.fullmatch(name) or name == OTHER:
                raise ValueError(
                    f"labels: {name!r} cannot name a part (letters, digits, - and _; not {OTHER}); give it another name, as in "
                    f"labels: {{NAME: [{name!r}]}}"
                )
        values = [value for found in self.labels.values() for value in found]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise ValueError(f"labels: {twice!r} is in two parts")
        return self

    def _check_repeats(self) -> None:
        if self.formula is not None:
            evaluate(self.formula, np.ones(1))
            count = float(Fraction(str(self.most)) / Fraction(str(self.step)))
            if count != int(count) or count > MOST_CELLS:
                raise ValueError(f"most {self.most:g} is no multiple of step {self.step:g}, or one of more than {MOST_CELLS:,}")
            if self.repeats is not None:
                raise ValueError("formula and repeats both say how often documents are seen")
        elif isinstance(self.repeats, tuple) and len(self.repeats) != len(self.parts):
            parts = ", ".join(self.parts)
            raise ValueError(f"repeats has {len(self.repeats)} numbers, and there are {len(self.parts)} parts: {parts}")
        elif isinstance(self.repeats, dict):
            for name in self.repeats:
                if name not in self.parts:
                    raise ValueError(f"repeats: there is no part {name!r}; the parts are {', '.join(self.parts)}")

    @property
    def levels(self) -> list[float]:
        """Of a formula: how often the documents of each part are seen, rising."""
        step = Fraction(str(self.step))
        return [float(number * step) for number in range(int(Fraction(str(self.most)) / step) + 1)]

    @property
    def cuts(self) -> Cuts:
        """The values at which it is cut, where these are known without the documents."""
        return tuple(self.levels[1:]) if self.formula else self.at

    @property
    def seen(self) -> list[float] | None:
        """How often the documents of each part are seen; None where nothing is said."""
        if self.formula:
            return self.levels
        if isinstance(self.repeats, dict):
            return [self.repeats.get(name, 1.0) for name in self.parts]
        return None if self.repeats is None else list(self.repeats)

    @property
    def parts(self) -> list[str]:
        """Names of the parts, in order."""
        if self.labels:
            return [*self.labels, OTHER]
        name = self.by.rpartition(".")[2]
        if self.formula:
            return [f"{name}-x{level:g}".replace(".", "_") for level in self.levels]
        return [f"{name}{number}" for number in range(1, len(self.at or self.quantiles) + 2)]

    @property
    def columns(self) -> list[str]:
        """The columns of a part of documents that it is decided by."""
        return {DOMAIN: ["url"], YEAR: ["metadata"]}.get(self.by, [self.by])

    def values(self, batch: pa.RecordBatch) -> np.ndarray:
        """What a numeric axis is cut by (float64): NaN where a document has none."""
        if self.by == YEAR:
            return np.array([_year(text) for text in batch.column("metadata").to_pylist()], np.float64)
        column = batch.column(self.by)
        if pa.types.is_large_string(column.type) or pa.types.is_string(column.type):
            raise UserError(f"split by {self.by}: is a label and not a number; name its values under labels")
        return np.asarray(column.cast(pa.float64()).fill_null(float("nan"))) + 0.0  # -0.0 is 0.0

    def numbers(self, batch: pa.RecordBatch, cuts: Cuts) -> np.ndarray:
        """The part (int64) that each document is in. cuts: the values at which quantiles were found to lie, or `at`."""
        if not self.labels:
            values = self.values(batch)
            if self.formula:
                values = evaluate(self.formula, values) + 1e-9  # so that 3 that came out as 2.999... is 3
                return np.searchsorted(np.array(cuts), np.where(np.isnan(values), 1.0, values), side="right")
            return np.where(np.isnan(values), 0, np.searchsorted(np.array(cuts), values, side="right"))
        place = {value: number for number, values in enumerate(self.labels.values()) for value in values}
        rest = len(self.labels)
        if self.by == DOMAIN:
            found = [_of_domain(url, place, rest) for url in batch.column("url").to_pylist()]
        else:
            found = [place.get(_text(value), rest) for value in batch.column(self.by).to_pylist()]
        return np.array(found, np.int64)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _of_domain(url: str | None, place: Mapping[str, int], rest: int) -> int:
    try:
        host = urlsplit(url or "").hostname or ""
    except ValueError:
        return rest
    labels = host.split(".")
    return next((place[name] for i in range(len(labels)) if (name := ".".join(labels[i:])) in place), rest)


def _year(metadata: str | None) -> float:
    known = orjson.loads(metadata) if metadata else {}
    text = next((str(known[name]) for name in DATES if known.get(name)), "")
    found = re.search(r"(?<!\d)(?:1[5-9]|20)\d\d(?!\d)", text)
    return float(found.group()) if found else float("nan")


def repeats_of(source: str, axes: Sequence[Axis]) -> dict[str, float]:
    """How often each member that a source is cut into is seen, by its axes; {} where none says it."""
    seen = [axis.seen for axis in axes]
    if all(one is None for one in seen):
        return {}
    times = [one or [1.0] * len(axis.parts) for axis, one in zip(axes, seen, strict=True)]
    products = [float(math.prod(Fraction(str(one)) for one in cell)) for cell in itertools.product(*times)]
    return dict(zip(members(source, axes), products, strict=True))


def cells(axes: Sequence[Axis]) -> list[tuple[str, ...]]:
    """The names of each cell's parts, in order: the last axis changes fastest."""
    return list(itertools.product(*(axis.parts for axis in axes)))


def members(source: str, axes: Sequence[Axis]) -> list[str]:
    """Names of the mixture's members that a source is cut into; its own where it is not cut."""
    return ["-".join((source, *parts)) for parts in cells(axes)] if axes else [source]


def cell_numbers(axes: Sequence[Axis], cuts: Sequence[Cuts], batch: pa.RecordBatch) -> np.ndarray:
    """The cell (int64, an index into `cells`) of each document of a batch that has the axes' columns."""
    found = np.zeros(batch.num_rows, np.int64)
    for axis, where in zip(axes, cuts, strict=True):
        found = found * len(axis.parts) + axis.numbers(batch, where)
    return found


def quantile_cuts(files: Sequence[np.ndarray], quantiles: Sequence[float]) -> Cuts:
    """Values at which the quantiles of all values lie: of n values that are numbers, the one with floor(q n) before it.

    files: sorted float64, NaN none; memory maps, of which a few values are looked at. No values: no document is below a cut.
    """
    count = sum(len(file) for file in files)
    return tuple(_value_at(files, int(Fraction(str(q)) * count)) if count else 0.0 for q in quantiles)


def _value_at(files: Sequence[np.ndarray], place: int) -> float:
    """The value with `place` values before it in the files' common order: bisection over float64 by their bits."""
    low, high = 0, 2**64 - 1  # as `_ordered` numbers
    while low < high:
        middle = (low + high) // 2
        if sum(int(np.searchsorted(file, _of_ordered(middle), side="right")) for file in files) > place:
            high = middle
        else:
            low = middle + 1
    return _of_ordered(low)


def _of_ordered(number: int) -> float:
    """The float64 whose rank among all float64 this is: order by bits, the negative ones reversed."""
    bits = number ^ (1 << 63) if number >> 63 else ~number & (2**64 - 1)
    value = float(np.array([bits], np.uint64).view(np.float64)[0])
    return value if value == value else (float("inf") if number >> 63 else float("-inf"))
