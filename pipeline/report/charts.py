"""Pictures as inline SVG: histograms with limits, bars in the cells of a table, columns. Colours come from the page's classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from pipeline.report.html import Html, count, short, tag, value

Series = Sequence[tuple[str, str, Sequence[int]]]  # (name, class, count of each bin), from the base up

WIDTH, HEIGHT = 340, 172
LEFT, RIGHT, TOP, BASE = 36, 336, 44, 142
CHAR = 6.4  # about the width of a digit of the labels
TALL = 3.0  # a bar so many times as tall as the next is broken off, lest the others vanish
TABLE_ROWS = 10


def histogram(
    name: str,
    title: str,
    description: str,
    edges: Sequence[float],
    series: Series,
    limits: dict[str, float | None] | None = None,
    show: Callable[[float], str] = value,
) -> Html:
    """Stacked bars over the bins, the limits as lines, and what lies beyond them shaded. name: unique in the page."""
    place = _scale(edges)
    marks = _limit_marks(edges, limits or {}, place, show)
    totals = [sum(column) for column in zip(*(counts for _, _, counts in series), strict=True)]
    top = _cap(totals)
    spare = 0 if marks else TOP - 18  # room that limits would take
    height = (BASE - TOP) / max(top, 1)
    children = [tag("title", title, id=f"{name}-t"), tag("desc", description, id=f"{name}-d")]
    children += [mark for mark, behind in marks if behind]
    step = _round_down(top)
    y = BASE - step * height
    children += [
        tag("line", class_="grid", x1=LEFT, x2=RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}"),
        tag("text", short(step), class_="grid-label", x=LEFT - 5, y=f"{y + 3.5:.1f}", text_anchor="end"),
    ]
    below = [0.0] * len(totals)
    gap = 0.5 if len(totals) > 12 else 1.5
    for _, css, counts in series:
        path = []
        for i, n in enumerate(counts):
            if n:
                low, high = min(below[i], top), min(below[i] + n, top)
                x0, x1 = place(edges[i]) + gap, place(edges[i + 1]) - gap
                path.append(
                    f"M{x0:.1f} {BASE - low * height:.1f}V{BASE - high * height:.1f}H{x1:.1f}V{BASE - low * height:.1f}z"
                )
                below[i] += n
        if path:
            children.append(tag("path", class_=css, d="".join(path)))
    for i, n in enumerate(totals):
        if n > top:
            x = (place(edges[i]) + place(edges[i + 1])) / 2
            children.append(tag("path", class_="break", d=f"M{x - 8:.1f} {TOP + 11}l16 -6"))
            children.append(
                tag("text", short(n), class_="tall", x=f"{_inside(x, short(n)):.1f}", y=TOP - 3, text_anchor="middle")
            )
    children.append(tag("line", class_="axis", x1=LEFT, x2=RIGHT, y1=BASE, y2=BASE))
    children += _ticks(edges, place, show)
    children += [mark for mark, behind in marks if not behind]
    return tag(
        "svg",
        children,
        viewBox=f"0 {spare} {WIDTH} {HEIGHT - spare}",
        class_="histogram",
        role="img",
        aria_labelledby=f"{name}-t {name}-d",
    )


def bins_table(edges: Sequence[float], series: Series, limits: dict[str, float | None] | None, show: Callable) -> Html:
    """The histogram in figures: neighbouring bins together, but none across a limit."""
    every = max(1, math.ceil((len(edges) - 1) / TABLE_ROWS))
    cuts = {_limit_edge(edges, side, v) for side, v in (limits or {}).items() if v is not None}
    bounds = [i for i in range(len(edges)) if i % every == 0 or i == len(edges) - 1 or i in cuts]
    rows = []
    for low, high in pairwise(bounds):
        numbers = [sum(counts[low:high]) for _, _, counts in series]
        if sum(numbers):
            span = f"{show(_tidy(edges[low]))} to {show(_tidy(edges[high]))}"
            rows.append(tag("tr", tag("th", span, scope="row"), (tag("td", count(n)) for n in numbers)))
    head = tag("tr", tag("th", "from, to below", scope="col"), (tag("th", name, scope="col") for name, _, _ in series))
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="scroll")


def bar(parts: Sequence[tuple[float, str]], whole: float, thin: bool = False) -> Html:
    """A bar for a table's cell, of pieces (amount, class) on a track that stands for `whole`. Its figures stand beside it."""
    x, pieces = 0.0, [tag("rect", class_="track", x=0, y=0, width=100, height=10)]
    for amount, css in parts:
        width = 100 * amount / whole if whole else 0.0
        if width > 0:
            pieces.append(tag("rect", class_=css, x=f"{x:.3f}", y=0, width=f"{max(width, 0.4):.3f}", height=10))
        x += width
    return tag(
        "svg",
        pieces,
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        class_="bar thin" if thin else "bar",
        aria_hidden="true",
        focusable="false",
    )


def columns(name: str, title: str, values: Sequence[float], most: float) -> Html:
    """Small columns of equal width, from zero to `most`, such as tokens of each shard."""
    most = most or 1
    width = 100 / max(len(values), 6)
    path = "".join(
        f"M{i * width + 0.15 * width:.2f} 24V{24 - 22 * v / most:.2f}H{(i + 1) * width - 0.15 * width:.2f}V24z"
        for i, v in enumerate(values)
    )
    return tag(
        "svg",
        tag("title", title, id=name),
        tag("path", class_="k", d=path),
        viewBox="0 0 100 24",
        preserveAspectRatio="none",
        class_="columns",
        role="img",
        aria_labelledby=name,
    )


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Swatches (class, meaning)."""
    return tag("p", (tag("span", tag("i", class_=f"swatch {css}"), text) for css, text in entries), class_="legend")


def _scale(edges: Sequence[float]) -> Callable[[float], float]:
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


def _limit_marks(
    edges: Sequence[float], limits: dict[str, float | None], place: Callable[[float], float], show: Callable
) -> list[tuple[Html, bool]]:
    """Lines, labels and shades of the limits, each with whether it lies behind the bars."""
    found: list[tuple[Html, bool]] = []
    for side, y in (("min", 12), ("max", 26)):
        limit = limits.get(side)
        if limit is None:
            continue
        label = f"{side} {show(limit)}"
        if not edges[0] <= limit <= edges[-1]:
            right = limit > edges[-1]
            label = f"{label} →" if right else f"← {label}"
            x = RIGHT if right else LEFT
            found.append((tag("text", label, class_="limit", x=x, y=y, text_anchor="end" if right else "start"), False))
            continue
        x = place(edges[_limit_edge(edges, side, limit)])
        begin, end = (LEFT, x) if side == "min" else (x, RIGHT)
        if end > begin:
            shade = tag("rect", class_="beyond", x=f"{begin:.1f}", y=TOP, width=f"{end - begin:.1f}", height=BASE - TOP)
            found.append((shade, True))
        found.append((tag("line", class_="limit", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=y + 3, y2=BASE), False))
        found.append(
            (tag("text", label, class_="limit", x=f"{_inside(x, label):.1f}", y=y, text_anchor="middle"), False)
        )
    return found


def _inside(x: float, label: str) -> float:
    """Where the middle of a label stands so that all of it is in the picture."""
    half = len(label) * CHAR / 2
    return min(max(x, LEFT + half), RIGHT - half)


def _ticks(edges: Sequence[float], place: Callable[[float], float], show: Callable[[float], str]) -> list[Html]:
    """Marks and labels below the axis at round values, as many as there is room for."""
    if len(edges) < 2:
        return []
    found, until = [], float("-inf")
    for v in _round_values(edges):
        x, label = place(v), show(v)
        middle = _inside(x, label)
        if middle - len(label) * CHAR / 2 < until:
            continue
        until = middle + len(label) * CHAR / 2 + 8
        found.append(tag("line", class_="axis", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=BASE, y2=BASE + 4))
        found.append(tag("text", label, class_="tick", x=f"{middle:.1f}", y=BASE + 17, text_anchor="middle"))
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
