"""The sections that show documents: kept and dropped ones side by side, the dedups' clusters, and what failed."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from pipeline.questions.clusters import NOBODY, size_ranges
from pipeline.report.charts import bar
from pipeline.report.flow import heads, table
from pipeline.report.html import Html, breakable, count, many, share, size, tag, value
from pipeline.report.shapes import read_of

NAME_CHARS = 300  # of an id, a URL or a value that is a string
MEASURES = 20  # of a document that are shown


def clip(text: str, chars: int = NAME_CHARS) -> str:
    return text if len(text) <= chars else text[:chars] + "…"


def documents(data: dict[str, Any], chars: int) -> list[Any]:
    """Of each source and reason, dropped documents beside kept ones, texts cut at `chars`."""
    found: list[Any] = [
        tag(
            "p",
            "A few documents of each source and reason, chosen by a hash of where they were read, so the same ones every time. "
            "Left: kept to the end. Right: dropped, with what the deciding step measured beside its limits.",
        )
    ]
    if chars < 1:
        found.append(tag("p", "The texts are left out: with them the page would be too large.", class_="soft"))
    first = True
    for name, source in data["sources"].items():
        kept, dropped = source["samples"]["kept"], source["samples"]["dropped"]
        lines = [
            tag("p", tag("strong", "Missing: "), text, class_="small soft")
            for text in source["missing"]
            if "ocument" in text
        ]
        lines = [line for line in lines if "Measures of" not in line and "Lengths of" not in line]
        if not kept and not dropped:
            found += [tag("p", tag("strong", f"{name}: "), "no documents to show. ", class_="small soft"), *lines]
            continue
        counts = {r["reason"]: r["documents"] for r in source["reasons"]}
        blocks = []
        for number, entry in enumerate(dropped):
            reason, gone = entry["reason"], entry["documents"]
            beside = [kept[(number * len(gone) + i) % len(kept)] for i in range(min(len(gone), len(kept)))]
            total = counts.get(reason)
            said = f" {many(total, 'document')}, {share(total, source['in']['documents'])}" if total is not None else ""
            both = zip_longest(beside, gone)
            pair = tag(
                "div",
                (_document(d, reason, out, chars) for row in both for out, d in enumerate(row) if d),
                class_="pair",
            )
            summary = tag("summary", tag("span", reason, class_="mono"), tag("span", said, class_="soft"))
            blocks.append(tag("details", summary, pair, class_="reason", open=first and number == 0))
        if not dropped:
            pair = tag("div", (_document(d, "", 0, chars) for d in kept[:4]), class_="pair plain")
            blocks.append(tag("div", tag("h4", "Kept; nothing was dropped"), pair))
        note = read_of(source)
        sampled = tag("p", f"Chosen {note}.", class_="small soft") if note else None
        title = tag("summary", name, tag("span", f" {many(len(dropped), 'reason')}", class_="soft"))
        found.append(tag("details", title, sampled, lines, blocks, class_="source", open=first))
        first = False
    return found


def _document(d: dict[str, Any], reason: str, out: int, chars: int) -> Html:
    facts = [f"{clip(d['file'])}, record {d['record']}"]
    if d["bytes"] is not None:
        facts.insert(0, size(d["bytes"]))
    badge = tag("b", "Dropped" if out else "Kept", class_="no" if out else "yes")
    name = tag("span", clip(d["id"] or "(no id)"), class_="mono")
    parts = [tag("h5", badge, name), tag("p", " · ".join(facts))]
    if d["url"] and d["url"] != d["id"]:
        parts.append(tag("p", clip(d["url"])))
    if out and d["representative"]:
        parts.append(tag("p", "stays: ", tag("span", clip(d["representative"]), class_="mono")))
    if (measured := _measures(d, reason, out)) is not None:
        parts.append(measured)
    if d["text"] is None:
        parts.append(tag("p", "Its text was let go."))
    elif chars >= 1:
        cut = d["cut"] or len(d["text"]) > chars
        parts.append(tag("pre", d["text"][:chars] + ("…" if cut else ""), tabindex="0"))
    return tag("article", parts, class_="doc out" if out else "doc")


def _measures(d: dict[str, Any], reason: str, out: int) -> Html | None:
    """What the step that gave the reason measured of the document."""
    mine = [m for m in d["measures"] if reason.startswith(f"{m['step']}.")]
    rows = []
    for m in mine[:MEASURES]:
        limit = m["limit"] or {}
        decides = reason.startswith(f"{m['step']}.{m['name']}.")
        said = ", ".join(f"{side} {_shown(v)}" for side, v in limit.items() if v is not None)
        mark = (
            tag("td", "✗ drops" if out and decides else "✗", class_="no")
            if not m["passes"]
            else tag("td", "✓" if limit else "", class_="ok")
        )
        cells = tag("td", _shown(m["value"])), tag("td", said or "–")
        rows.append(
            tag("tr", tag("th", breakable(m["name"]), scope="row"), cells, mark, class_="decides" if decides else None)
        )
    return table(heads(mine[0]["step"], "measured", "limit", ""), rows) if rows else None


def _shown(v: Any) -> str:
    if isinstance(v, list):
        return clip(" or ".join(map(str, v)))
    return clip(v) if isinstance(v, str) else value(v)


def domains(data: dict[str, Any]) -> list[Any]:
    """Of each source whose documents have URLs a card: the domains with the most tokens."""
    cards = [_domains_card(name, s["domains"]) for name, s in data["sources"].items() if s["domains"]["domains"]]
    if not cards:
        return [tag("p", "No kept document in the parts that were read has a URL.", class_="soft")]
    return [tag("p", "Domains of the kept documents by their tokens."), tag("div", cards, class_="cards")]


def _domains_card(name: str, found: dict[str, Any]) -> Html:
    others, without = found["others"], found["without"]
    total = sum(d["tokens"] for d in found["domains"]) + others["tokens"] + without["tokens"]
    listed = [(clip(d["domain"]), d) for d in found["domains"]]
    listed += [(many(others["domains"], "other"), others)] if others["domains"] else []
    listed += [("without a URL", without)] if without["documents"] else []
    rows = [
        tag(
            "tr",
            tag("th", breakable(label), scope="row"),
            tag("td", bar([(d["tokens"], "k")], max(total, 1)), class_="b"),
            (tag("td", cell) for cell in (count(d["documents"]), count(d["tokens"]), share(d["tokens"], total))),
        )
        for label, d in listed
    ]
    return tag("article", tag("h3", name), table(heads("domain", "|", "documents", "tokens", "share"), rows), class_="card")


def dedups(data: dict[str, Any], chars: int) -> list[Any]:
    """Of each dedup: what it removed, sizes of clusters, which source lost to which, and the largest clusters."""
    if not data["dedups"]:
        return [tag("p", "This run has no dedup.", class_="soft")]
    return [
        tag("p", "A cluster is a document that stays and what was removed for it; its size counts the one that stays."),
        tag("div", (_dedup(d, chars) for d in data["dedups"]), class_="cards"),
    ]


def _dedup(d: dict[str, Any], chars: int) -> Html:
    removed = (
        f"{count(d['removed'])} of {count(d['documents'])} documents removed ({share(d['removed'], d['documents'])})"
    )
    if d["paragraphs"]:
        removed += f", and {count(d['paragraphs'])} paragraphs cut from others"
    title = tag("h3", d["name"], tag("span", f" {d['method']}", class_="soft"))
    parts: list[Any] = [title, bar([(d["removed"], "d")], d["documents"]), tag("p", removed + ".", class_="small soft")]
    ranges = size_ranges(d["sizes"])
    if ranges:
        most = max(clusters for _, clusters, _ in ranges)
        rows = [
            tag(
                "tr",
                tag("th", name, scope="row"),
                tag("td", bar([(clusters, "k")], most), class_="b"),
                (tag("td", count(n)) for n in (clusters, pieces)),
            )
            for name, clusters, pieces in ranges
        ]
        what = "pieces" if d["method"] == "bff" else "documents"
        parts.append(table(heads("cluster size", "|", "clusters", what), rows))
    if d["lost"]:
        most = max(n for _, _, n, _ in d["lost"]) or 1
        rows = [
            tag(
                "tr",
                tag("th", source, scope="row"),
                tag("td", kept or NOBODY, class_="l"),
                tag("td", bar([(n, "d")], most), class_="b"),
                tag("td", count(n)),
                tag("td", count(cut)) if d["paragraphs"] else None,
            )
            for source, kept, n, cut in d["lost"]
        ]
        names = ["lost by", "to<", "|", "documents"] + (["paragraphs"] if d["paragraphs"] else [])
        parts.append(table(heads(*names), rows))
    if d["largest"]:
        shown = (_cluster(c, chars) for c in d["largest"])
        parts.append(tag("details", tag("summary", "The largest clusters"), shown, class_="figures"))
    return tag("article", parts, class_="card stack")


def _cluster(c: dict[str, Any], chars: int) -> Html:
    gone = ", ".join(f"{count(n)} of {source}" for source, n in c["by_source"].items())
    pieces = [("stays", c["kept"]), *(("removed", piece) for piece in c["removed"])]
    rows = []
    for what, piece in pieces:
        where = f"{piece['source']}; {clip(piece['file'])}, record {piece['record']}"
        name = clip(piece["id"]) if piece["id"] is not None else "its text was let go"
        paragraph = "a paragraph of " if piece.get("what") == "paragraph" else ""
        text = tag("pre", piece["text"][:chars], tabindex="0") if piece["text"] and chars >= 1 else None
        head = tag("h5", f"{what}: {paragraph}", tag("span", name, class_="mono"))
        rows.append(tag("article", head, tag("p", where), text, class_="doc" if what == "stays" else "doc out"))
    return tag("div", tag("p", f"{count(c['size'] - 1)} removed for one that stays: {gone}"), rows)


def failed(data: dict[str, Any]) -> list[Any]:
    """What failed and is in quarantine, by cause; records that were passed over by intent."""
    f, total = data["failures"], data["totals"]["failed"]["documents"]
    found: list[Any] = []
    if not total and not f["files"]:
        found.append(tag("p", "No document failed, and every source file was read to its end."))
    else:
        words = f"{many(total, 'document')} failed: in quarantine with cause and payload"
        words += f"; {many(f['files'], 'source file')} could not be read to the end" if f["files"] else ""
        how = tag("code", "python -m pipeline why DIR FILE:RECORD")
        found.append(tag("p", words + ". ", how, " shows one of them."))
    if f["causes"]:
        rows = [
            tag(
                "tr",
                tag("th", c["source"], scope="row"),
                tag("td", c["step"], class_="l"),
                tag("td", c["cause"], class_="l wrap"),
                tag("td", count(c["documents"])),
            )
            for c in f["causes"]
        ]
        found.append(tag("div", table(heads("source", "step<", "cause<", "documents"), rows), class_="card"))
        if more := f["more_causes"]["causes"]:
            found.append(
                tag(
                    "p",
                    f"{many(more, 'more cause')}, of {many(f['more_causes']['documents'], 'document')}.",
                    class_="soft",
                )
            )
    if f["documents"]:
        shown = [
            tag(
                "article",
                tag("h5", clip(d["id"] or "(no id)"), class_="mono"),
                tag(
                    "p",
                    f"{d['source']}; {clip(d['file'])}, record {d['record']}; step {d['step']}: {clip(d['error'] or '')}",
                ),
                tag("pre", d["traceback"], tabindex="0") if d["traceback"] else None,
                class_="doc out",
            )
            for d in f["documents"]
        ]
        found.append(
            tag(
                "details",
                tag("summary", "Some of them" if len(shown) < total else "All of them"),
                shown,
                class_="figures",
            )
        )
    if f["passed_over"]:
        said = "; ".join(f"{p['source']}: {count(p['records'])} {p['what']}" for p in f["passed_over"])
        found.append(tag("p", f"Besides documents (other records, what was mended or replaced): {said}.", class_="small soft"))
    return found
