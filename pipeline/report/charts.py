"""Where the lines and bars of the page's pictures go. The templates draw them, in the colours of the style sheet's classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipeline.questions.measured import Limit
from pipeline.report.filters import short

Series = Sequence[tuple[str, str, Sequence[int]]]  # (name, class, count of each bin), from the base up
Place = Callable[[float], float]
Show = Callable[[float], str]

WIDTH, HEIGHT = 340, 172
LEFT, RIGHT, TOP, BASE = 36, 336, 44, 142
CHAR = 6.4  # about the width of a digit of the labels
TALL = 3.0  # a bar so many times as tall as the next is broken off, lest the others vanish
TABLE_ROWS = 10


@dataclass(frozen=True)
class LimitMark:
    """A limit's label, and where it lies within the picture its line and the shade over what lies beyond (from, width)."""

    label: str
    x: float
    y: int
    anchor: str
    line: float | None = None
    shade: tuple[float, float] | None = None


@dataclass(frozen=True)
class Histogram:
    """Stacked bars over the bins. All figures are places in a picture of `WIDTH` and `HEIGHT`, of which `spare` is cut off.

    bars: (class, path). breaks: (x, label, x of the label) of bars that are broken off. ticks: (x, x of the label, label).
    """

    spare: int
    grid: tuple[float, str]  # y and label of the line across
    bars: list[tuple[str, str]]
    breaks: list[tuple[float, str, float]]
    limits: list[LimitMark]
    ticks: list[tuple[float, float, str]]


def histogram(edges: Sequence[float], series: Series, limit: Limit, show: Show) -> Histogram:
    """The bars of each series, the limits, and the axis."""
    place = _scale(edges)
    totals = [sum(column) for column in zip(*(counts for _, _, counts in series), strict=True)]
    top = _cap(totals)
    height = (BASE - TOP) / max(top, 1)
    step = _round_down(top)
    limits = [_limit_mark(edges, side, value, place, show) for side, value in sides_of(limit)]
    tall = [(short(n), (place(edges[i]) + place(edges[i + 1])) / 2) for i, n in enumerate(totals) if n > top]
    return Histogram(
        spare=0 if limits else TOP - 18,  # room that limits would take
        grid=(BASE - step * height, short(step)),
        bars=_bars(edges, series, top, height, place),
        breaks=[(x, label, _inside(x, label)) for label, x in tall],
        limits=limits,
        ticks=_ticks(edges, place, show),
    )


def _bars(edges: Sequence[float], series: Series, top: float, height: float, place: Place) -> list[tuple[str, str]]:
    below = [0.0] * (len(edges) - 1)
    gap = 0.5 if len(below) > 12 else 1.5
    found = []
    for _, css, counts in series:
        path = []
        for i, n in enumerate(counts):
            if n:
                low, high = (BASE - min(amount, top) * height for amount in (below[i], below[i] + n))
                x0, x1 = place(edges[i]) + gap, place(edges[i + 1]) - gap
                path.append(f"M{x0:.1f} {low:.1f}V{high:.1f}H{x1:.1f}V{low:.1f}z")
                below[i] += n
        if path:
            found.append((css, "".join(path)))
    return found


def bins_table(edges: Sequence[float], series: Series, limit: Limit, show: Show) -> list[tuple[str, list[int]]]:
    """The histogram in figures: neighbouring bins together, but none across a limit. (span, documents of each series)."""
    every = max(1, math.ceil((len(edges) - 1) / TABLE_ROWS))
    cuts = {_limit_edge(edges, side, value) for side, value in sides_of(limit)}
    bounds = [i for i in range(len(edges)) if i % every == 0 or i == len(edges) - 1 or i in cuts]
    rows = []
    for low, high in pairwise(bounds):
        numbers = [sum(counts[low:high]) for _, _, counts in series]
        if sum(numbers):
            rows.append((f"{show(_tidy(edges[low]))} to {show(_tidy(edges[high]))}", numbers))
    return rows


def pieces(parts: Sequence[tuple[float, str]], whole: float) -> list[tuple[float, float, str]]:
    """A bar of a table's cell, of parts (amount, class) on a track that stands for `whole`: (x, width, class), in hundredths."""
    x, found = 0.0, []
    for amount, css in parts:
        width = 100 * amount / whole if whole else 0.0
        if width > 0:
            found.append((x, max(width, 0.4), css))
        x += width
    return found


def columns(values: Sequence[float], most: float) -> str:
    """The path of small columns of equal width, from zero to `most`, such as tokens of each shard; 100 wide, 24 high."""
    width = 100 / max(len(values), 6)
    return "".join(
        f"M{i * width + 0.15 * width:.2f} 24V{24 - 22 * v / (most or 1):.2f}H{(i + 1) * width - 0.15 * width:.2f}V24z"
        for i, v in enumerate(values)
    )


def sides_of(limit: Limit) -> list[tuple[str, float]]:
    """The sides of a limit on a number that are set."""
    return limit.sides() if limit else []


def _scale(edges: Sequence[float]) -> Place:
    """Where a value lies: all bins are equally wide."""
    width = (RIGHT - LEFT) / max(len(edges) - 1, 1)

    def place(v: float) -> float:
        if v <= edges[0]:
            return float(LEFT)
        for i, (low, high) in enumerate(pairwise(edges)):
            if v < high:
                return LEFT + width * (i + (v - low) / (high - low))
        return float(RIGHT)

    return place


def _cap(totals: Sequence[int]) -> float:
    """The height that is drawn: the tallest bar's, or a little over the next where one or two stand far above the others."""
    falling = [*sorted(totals, reverse=True), 0, 0]
    top = float(falling[0])
    for i in range(2):
        if falling[i + 1] and falling[i] > TALL * falling[i + 1]:
            top = 1.3 * falling[i + 1]
    return top


def _round_down(top: float) -> float:
    """The greatest of 1, 2, 5, 10, 20... that is no more than `top`."""
    if top < 1:
        return 1
    power = 10 ** math.floor(math.log10(top))
    return max(f * power for f in (1, 2, 5) if f * power <= top)


def _limit_edge(edges: Sequence[float], side: str, limit: float) -> int:
    """The edge at which documents begin to be dropped by a limit: its own, or that of the whole number's bin."""
    if side == "max":
        return next((i for i, edge in enumerate(edges) if edge > limit), len(edges) - 1)
    return next((i for i in range(len(edges) - 1, -1, -1) if edges[i] <= limit), 0)


def _limit_mark(edges: Sequence[float], side: str, limit: float, place: Place, show: Show) -> LimitMark:
    label, y = f"{side} {show(limit)}", 12 if side == "min" else 26
    if limit > edges[-1]:
        return LimitMark(f"{label} →", RIGHT, y, "end")
    if limit < edges[0]:
        return LimitMark(f"← {label}", LEFT, y, "start")
    x = place(edges[_limit_edge(edges, side, limit)])
    begin, end = (LEFT, x) if side == "min" else (x, RIGHT)
    return LimitMark(label, _inside(x, label), y, "middle", x, (begin, end - begin) if end > begin else None)


def _inside(x: float, label: str) -> float:
    """Where the middle of a label stands so that all of it is in the picture."""
    half = len(label) * CHAR / 2
    return min(max(x, LEFT + half), RIGHT - half)


def _ticks(edges: Sequence[float], place: Place, show: Show) -> list[tuple[float, float, str]]:
    """Marks and labels below the axis at round values, as many as there is room for."""
    if len(edges) < 2:
        return []
    found, until = [], float("-inf")
    for v in _round_values(edges):
        x, label = place(v), show(v)
        middle = _inside(x, label)
        if middle - len(label) * CHAR / 2 >= until:
            until = middle + len(label) * CHAR / 2 + 8
            found.append((x, middle, label))
    return found


def _round_values(edges: Sequence[float]) -> list[float]:
    start, end = edges[0], edges[-1]
    first = next((edge for edge in edges if edge > 0), 1.0)
    if (
        start >= 0
        and first > 0
        and edges[-1] - edges[-2] > 1.5 * (edges[2 if len(edges) > 2 else 1] - edges[1 if len(edges) > 2 else 0])
    ):
        powers = range(math.ceil(math.log10(first) - 1e-9), math.floor(math.log10(end) + 1e-9) + 1)
        tens = [10.0**p for p in powers]
        if len(tens) < 3:
            tens = sorted(f * 10.0**p for p in range(powers.start - 1, powers.stop + 1) for f in (1, 2, 5))
        return [v for v in tens if start <= v <= end]
    step = _round_down((end - start) / 3)
    whole = end - start == len(edges) - 1 and start % 1 == 0.5  # each whole number in the middle of a bin
    if end - start < 3 and not whole:
        power = 10.0 ** math.floor(math.log10((end - start) / 3))
        step = max(f * power for f in (1, 2, 5) if f * power <= (end - start) / 3 * 1.000001)
    values, v = [], math.ceil(start / step - 1e-9) * step
    while v <= end + 1e-12:
        values.append(_tidy(v))
        v += step
    return values


def _tidy(v: float) -> float:
    """Without the last digits that floating point adds."""
    return float(f"{v:.6g}")
