"""The page: one static HTML file without scripts, and without anything that a browser would have to fetch.

What it says stands in `templates/`: `page.html`, a file a section, and `macros.html` with what these share.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from pipeline.questions.clusters import NOBODY, size_ranges
from pipeline.questions.measured import Limit
from pipeline.report import charts, filters
from pipeline.report.distributions import LabelFigures, NumberFigures
from pipeline.report.filters import count, many, share, shown, value, visible
from pipeline.report.gather import Figures, SourceFigures
from pipeline.report.lengths import Bins
from pipeline.report.samples import Document, OfReason

MOST_BYTES = 3_000_000  # of the page, whatever the run's size
PICTURES = 400  # of measures that are drawn


def page(found: Figures, most_bytes: int = MOST_BYTES) -> bytes:
    """The page about what `gather` found. Texts, then pictures, are cut until it is no larger than `most_bytes`."""
    longest = max((len(d.text or "") for source in found.sources.values() for d in source.samples.all()), default=0)
    chars, pictures = longest, PICTURES
    while True:
        data = _page(found, chars, pictures).encode()
        if len(data) <= most_bytes or (chars == 0 and pictures == 0):
            return data
        chars, pictures = (chars // 2, pictures) if chars else (0, pictures // 2)


def _page(found: Figures, chars: int, pictures: int) -> str:
    numbers = [(name, m) for name, source in found.sources.items() for m in source.measures if isinstance(m, NumberFigures)]
    labels = [(name, m) for name, source in found.sources.items() for m in source.measures if isinstance(m, LabelFigures)]
    template, style, digest = _template()
    return template.render(
        {name: getattr(found, name) for name in found.__struct_fields__},
        style=style,
        style_digest=digest,
        chars=chars,
        pictures=pictures,
        measured=len(numbers),
        drawn=_drawn(numbers, pictures),
        labelled=[(name, m, _labels(m)) for name, m in labels],
    )


@cache
def _template() -> tuple[Template, Markup, str]:
    """The page's template; its style sheet, and the digest by which the page allows that one alone."""
    loader = PackageLoader("pipeline.report")
    # Whatever a template puts out is made visible, and escaped where it is no markup.
    env = Environment(
        loader=loader, autoescape=True, finalize=visible, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    for name in ("breakable", "clip", "count", "many", "rate", "seconds", "share", "short", "shown", "size"):
        env.filters[name] = getattr(filters, name)
    for helper in (
        *(filters.anchor, filters.size, value, charts.histogram, charts.bins_table, charts.pieces, charts.columns),
        *(size_ranges, limit_words, measure_words, length_words, problems, side_by_side, listed),
    ):
        env.globals[helper.__name__] = helper
    env.globals["nobody"] = NOBODY
    style = files("pipeline.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return env.get_template("page.html"), Markup(style), digest


def _drawn(numbers: Sequence[tuple[str, NumberFigures]], most: int) -> dict[str, list[NumberFigures]]:
    """The measures that are drawn, by source: of `most` at most, those with limits first."""
    ranked = sorted(range(len(numbers)), key=lambda i: (numbers[i][1].limit is None, i))
    found: dict[str, list[NumberFigures]] = {}
    for i in sorted(ranked[:most]):
        name, measure = numbers[i]
        found.setdefault(name, []).append(measure)
    return found


def _labels(m: LabelFigures) -> list[tuple[str, int, Any]]:
    """(label, documents, these by their fate) of each label."""
    entries = [*((one.label, one) for one in m.labels), ("(others)", m.other_labels), ("(not labelled)", m.unmeasured)]
    return [(label, fates.sum(), fates) for label, fates in entries]


def problems(sources: Mapping[str, SourceFigures]) -> list[str]:
    """What is wrong with the books, the first of it."""
    return [f"{name}: {text}" for name, source in sources.items() for text in source.problems][:20]


def listed(setting: Any) -> str:
    """A recipe's setting in a line; "–" where the key is not there."""
    if setting is None:
        return "–"
    return filters.clip(", ".join(map(str, setting)) if isinstance(setting, list | tuple) else str(setting))


def limit_words(limit: Limit, between: str = " · ", nothing: str = "no limit") -> str:
    """A limit as the page names it."""
    return between.join(f"{side} {shown(v)}" for side, v in (limit.sides() if limit else [])) or nothing


def measure_words(m: NumberFigures) -> str:
    """What a histogram shows, in a sentence."""
    total = {name: sum(getattr(m, name)) + getattr(m.unmeasured, name) for name in m.unmeasured.__struct_fields__}
    missed, reached = m.unmeasured.sum(), sum(total.values())
    words = [f"{many(reached, 'document')} reached it"]
    if m.quantiles:
        low, middle, high = (value(m.quantiles[q]) for q in ("5%", "50%", "95%"))
        words.append(f"median {middle}, 90% from {low} to {high}")
    if m.limit:
        here = total["dropped_here"]
        words.append(f"{count(here)} dropped by the limit ({share(here, reached)})")
    if missed:
        words.append(f"{count(missed)} not measured")
    return "; ".join(words) + "."


def length_words(found: Bins, show: Callable[[float], str]) -> str:
    """What a histogram of lengths shows, in a sentence."""
    middle = _median(found.edges, found.kept)
    words = f"{count(sum(found.kept))} kept" + (f", half of them below about {show(middle)}" if middle else "")
    gone = 0 if isinstance(found.dropped, msgspec.UnsetType) else sum(found.dropped)
    return words + (f"; {count(gone)} dropped." if gone else ".")


def _median(edges: Sequence[float], counts: Sequence[int]) -> float | None:
    """The upper edge of the bin in which half of the documents are reached."""
    seen = 0
    for high, n in zip(edges[1:], counts, strict=True):
        seen += n
        if n and 2 * seen >= sum(counts):
            return float(f"{high:.2g}")
    return None


Rows = list[tuple[Document | None, Document | None]]


def side_by_side(source: SourceFigures) -> Iterator[tuple[OfReason, int | None, Rows]]:
    """Of each reason: how many documents it dropped, and some of them (right) beside kept ones (left)."""
    kept = source.samples.kept
    counts = {reason.reason: reason.documents for reason in source.reasons}
    for number, entry in enumerate(source.samples.dropped):
        gone = entry.documents
        beside = [kept[(number * len(gone) + i) % len(kept)] for i in range(min(len(gone), len(kept)))]
        yield entry, counts.get(entry.reason), list(zip_longest(beside, gone))
