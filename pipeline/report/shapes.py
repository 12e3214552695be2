"""The sections about distributions: measures with their limits, labels such as languages, and lengths."""

from __future__ import annotations

from typing import Any

from pipeline.report.charts import bar, bins_table, histogram, legend
from pipeline.report.flow import heads, table
from pipeline.report.html import Html, anchor, breakable, count, many, share, size, tag, value

SERIES = (
    ("kept", "k", "kept"),
    ("dropped elsewhere", "e", "dropped_elsewhere"),
    ("dropped by this limit", "d", "dropped_here"),
)
FATES = ("kept", "dropped_here", "dropped_elsewhere")
LABEL_CHARS = 80
LEGEND = [
    ("k", "kept to the end"),
    ("d", "dropped by this limit"),
    ("e", "dropped by another limit or step"),
]


def read_of(source: dict[str, Any]) -> str:
    """Which of a source's parts the figures come from, where these are not all of them."""
    parts = source["parts"]
    if parts["read"] == parts["of"]:
        return ""
    return f"from a sample: {count(parts['read'])} of {count(parts['of'])} parts, evenly chosen"


def measures(data: dict[str, Any], most: int) -> list[Any]:
    """Histograms of each measure of each source; of `most` at most, those with limits first."""
    wanted = [
        (name, measure)
        for name, source in data["sources"].items()
        for measure in source["measures"]
        if "edges" in measure
    ]
    ranked = sorted(range(len(wanted)), key=lambda i: (wanted[i][1]["limit"] is None, i))
    drawn = {(wanted[i][0], wanted[i][1]["step"], wanted[i][1]["measure"]) for i in ranked[:most]}
    found: list[Any] = [
        tag(
            "p",
            "Each picture shows the documents that reached a step, by what it measured. The outermost bars also hold what lies "
            "beyond them; a bar far taller than the others is broken off, with its count. What failed has no measures.",
        ),
        legend([*LEGEND, ("line", "limit of the recipe")]) if wanted else None,
    ]
    if len(wanted) > most:
        found.append(
            tag("p", f"{count(len(wanted))} measures: {count(most)} are drawn, --json has all.", class_="soft")
        )
    first = True
    for name, source in data["sources"].items():
        mine = [m for m in source["measures"] if (name, m["step"], m["measure"]) in drawn]
        if not mine:
            continue
        title = [f"{name} ", tag("span", many(len(mine), "measure"), class_="soft")]
        figures = tag("div", (_measure(name, m) for m in mine), class_="cards narrow")
        note = read_of(source)
        sampled = tag("p", f"Counts are {note}.", class_="small soft") if note else None
        found.append(tag("details", tag("summary", title), sampled, figures, class_="source", open=first))
        first = False
    if first:
        found.append(tag("p", "No step of this run left measures that could be drawn.", class_="soft"))
    found += _missing(data, "Measures")
    return found


def _missing(data: dict[str, Any], what: str) -> list[Html]:
    """What the run let go, said where one would look for it."""
    return [
        tag("p", tag("strong", f"{name}: "), text, class_="small soft")
        for name, source in data["sources"].items()
        for text in source["missing"]
        if text.startswith(what)
    ]


def _measure(source: str, m: dict[str, Any]) -> Html:
    name = f"{m['step']}.{m['measure']}"
    limits = m["limit"] or {}
    said = " · ".join(f"{side} {value(v)}" for side, v in limits.items() if v is not None) or "no limit"
    series = [(title, css, m[key]) for title, css, key in SERIES]
    total = {key: sum(m[key]) for _, _, key in SERIES}
    reached = sum(total.values()) + sum(m["unmeasured"].values())
    words = [f"{many(reached, 'document')} reached it"]
    if m["quantiles"]:
        low, middle, high = (value(m["quantiles"][q]) for q in ("5%", "50%", "95%"))
        words.append(f"median {middle}, 90% from {low} to {high}")
    if limits:
        here = total["dropped_here"] + m["unmeasured"]["dropped_here"]
        words.append(f"{count(here)} dropped by the limit ({share(here, reached)})")
    if missed := sum(m["unmeasured"].values()):
        words.append(f"{count(missed)} not measured")
    described = "; ".join(words) + "."
    ident = anchor("m", source, m["step"], m["measure"])
    picture = histogram(ident, f"{source}: {name}, {said}", described, m["edges"], series, limits)
    shown = [series[0], series[2], series[1]]
    figures = tag("details", tag("summary", "Figures"), bins_table(m["edges"], shown, limits, value), class_="figures")
    caption = tag("figcaption", tag("span", breakable(name), class_="mono"), tag("span", f" {said}", class_="soft"))
    return tag("figure", caption, picture, tag("p", described), figures, class_="card")


def languages(data: dict[str, Any]) -> list[Any]:
    """Shares of each label, of steps that measure one."""
    cards = [_labels(name, m) for name, source in data["sources"].items() for m in source["measures"] if "labels" in m]
    if not cards:
        return [
            tag(
                "p",
                "No step of this run gave documents a label, as the step ",
                tag("code", "language"),
                " does.",
                class_="soft",
            )
        ]
    note = "Of the documents that reached the step, by the label that it gave."
    sampled = [f"{name} {text}" for name, source in data["sources"].items() if (text := read_of(source))]
    return [
        tag("p", note + (f" Sources {'; '.join(sampled)}." if sampled else "")),
        legend(LEGEND),
        tag("div", cards, class_="cards"),
    ]


def _labels(source: str, m: dict[str, Any]) -> Html:
    entries = [*m["labels"], {"label": "(others)", **m["other_labels"]}, {"label": "(not labelled)", **m["unmeasured"]}]
    totals = [sum(entry[fate] for fate in FATES) for entry in entries]
    whole, most = sum(totals), max(totals)
    rows = []
    for entry, total in zip(entries, totals, strict=True):
        if not total:
            continue
        wanted = m["limit"] and entry["label"] in m["limit"]["keep"]
        pieces = [(entry[key], css) for _, css, key in SERIES]
        label = entry["label"][:LABEL_CHARS] or "(empty)"
        rows.append(
            tag(
                "tr",
                tag(
                    "th",
                    label,
                    tag("span", " ✓", class_="ok", title="kept by the recipe") if wanted else None,
                    scope="row",
                ),
                tag("td", bar(pieces, most), class_="b"),
                (tag("td", cell) for cell in (count(total), share(total, whole), count(entry["kept"]))),
            )
        )
    head = heads("label", "|", "documents", "share", "kept to the end")
    name = f"{m['step']}.{m['measure']}"
    keeps = f"keeps {', '.join(m['limit']['keep'])}" if m["limit"] else "no limit"
    title = tag("h3", f"{source}: ", tag("span", name, class_="mono"), tag("span", f" {keeps}", class_="soft small"))
    return tag("article", title, table(head, rows), class_="card")


def lengths(data: dict[str, Any]) -> list[Any]:
    """Lengths of documents of each source, in bytes and in tokens."""
    cards = []
    for name, source in data["sources"].items():
        pictures = []
        for unit, show in (("bytes", size), ("tokens", value)):
            found = source["lengths"][unit]
            if not found["edges"]:
                continue
            series = [("kept", "k", found["kept"])]
            if sum(found.get("dropped", ())):
                series.append(("dropped", "d", found["dropped"]))
            middle = _median(found["edges"], found["kept"])
            words = f"{count(sum(found['kept']))} kept" + (
                f", half of them below about {show(middle)}" if middle else ""
            )
            if len(series) > 1:
                words += f"; {count(sum(found['dropped']))} dropped"
            ident = anchor("l", name, unit)
            picture = histogram(ident, f"{name}: length in {unit}", words + ".", found["edges"], series, None, show)
            figures = tag(
                "details", tag("summary", "Figures"), bins_table(found["edges"], series, None, show), class_="figures"
            )
            caption = tag(
                "figcaption", tag("span", name, class_="mono"), tag("span", f" {unit} a document", class_="soft")
            )
            pictures.append(tag("figure", caption, picture, tag("p", words + "."), figures, class_="card"))
        cards += pictures
    note = "Kept: the text that was tokenized, and its tokens with the end token. Dropped: the text as it was when it went; "
    note += "pages that were dropped before extraction are not counted. Two bars a doubling."
    sampled = [f"{name} {text}" for name, source in data["sources"].items() if (text := read_of(source))]
    return [
        tag("p", note + (f" Sources {'; '.join(sampled)}." if sampled else "")),
        legend([("k", "kept"), ("d", "dropped")]),
        tag("div", cards, class_="cards narrow"),
        *_missing(data, "Lengths"),
    ]


def _median(edges: list[float], counts: list[int]) -> float | None:
    """The upper edge of the bin in which half of the documents are reached."""
    seen = 0
    for high, n in zip(edges[1:], counts, strict=True):
        seen += n
        if n and 2 * seen >= sum(counts):
            return float(f"{high:.2g}")
    return None
