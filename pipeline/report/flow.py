"""The sections about amounts: the ledger's balance, the funnel of each source, and the reasons for which documents went."""

from __future__ import annotations

from typing import Any

from pipeline.report.charts import bar, legend
from pipeline.report.html import Html, breakable, count, share, size, tag


def table(head: list[Html], rows: list[Html], foot: Html | None = None, caption: str | None = None) -> Html:
    """A table that scrolls within itself where the page is narrow."""
    parts = [tag("caption", caption) if caption else None, tag("thead", tag("tr", head)), tag("tbody", rows)]
    parts.append(tag("tfoot", foot) if foot is not None else None)
    return tag("div", tag("table", parts), class_="scroll", tabindex="0")


def heads(*names: str) -> list[Html]:
    """Column headings; a name that ends in `<` is for text, one that ends in `|` is for bars."""
    classes = {"<": "l", "|": "b"}
    return [tag("th", name.rstrip("<|"), scope="col", class_=classes.get(name[-1:])) for name in names]


def ledger(data: dict[str, Any]) -> list[Any]:
    """Everything in = kept + dropped + failed (+ edited away), in one sentence and by source."""
    total = data["totals"]
    rows = [_ledger_row(name, source) for name, source in data["sources"].items()]
    head = heads(
        "source",
        "documents in",
        "= kept",
        "+ dropped",
        "+ failed",
        "bytes in",
        "= kept",
        "+ dropped",
        "+ failed",
        "+ edited away",
        "",
    )
    found = table(head, rows, _ledger_row("all", total | {"problems": None}))
    return [verdict(data), tag("div", found, class_="card")]


def verdict(data: dict[str, Any]) -> Html:
    """Whether the books balance, said plainly, with the sums."""
    total = data["totals"]
    documents = (
        f"{count(total['in']['documents'])} documents in = {count(total['kept']['documents'])} kept + "
        f"{count(total['dropped']['documents'])} dropped + {count(total['failed']['documents'])} failed"
    )
    added = total["edited_bytes"] < 0
    amounts = (
        f"{count(total['in']['bytes'])} bytes in = {count(total['kept']['bytes'])} kept + "
        f"{count(total['dropped']['bytes'])} dropped + {count(total['failed']['bytes'])} failed "
        f"{'−' if added else '+'} {count(abs(total['edited_bytes']))} {'added' if added else 'taken out'} by edits "
        "(extraction, line edits, cut paragraphs, white space)"
    )
    problems = [f"{name}: {text}" for name, source in data["sources"].items() for text in source["problems"]]
    if not problems:
        words = " Every document and every byte is accounted for, step by step and source by source."
        lines = [tag("p", tag("strong", "✓ The ledger balances."), words)]
    else:
        lines = [tag("p", tag("strong", "✗ The ledger does not balance."), " ", "; ".join(problems[:20]))]
    lines += [tag("p", text, class_="small soft") for text in (documents + ".", amounts + ".")]
    return tag("div", lines, class_="verdict" if not problems else "verdict bad")


def _ledger_row(name: str, s: dict[str, Any]) -> Html:
    cells = [count(s[kind]["documents"]) for kind in ("in", "kept", "dropped", "failed")]
    cells += [size(s[kind]["bytes"]) for kind in ("in", "kept", "dropped", "failed")] + [size(s["edited_bytes"])]
    mark = tag("td")
    if s["problems"] is not None:
        mark = tag("td", "✗ does not balance", class_="no") if s["problems"] else tag("td", "✓ balances", class_="ok")
    return tag("tr", tag("th", name, scope="row"), (tag("td", cell) for cell in cells), mark)


def funnel(data: dict[str, Any]) -> list[Any]:
    """Of each source a card: what was left after each step."""
    note = "Bars: documents after each step, with those that the step dropped; the thin bar is bytes of text. "
    note += "Before extraction bytes are those of the pages."
    return [
        tag("p", note),
        legend([("k", "left after the step"), ("d", "dropped by it"), ("x", "failed in it")]),
        tag("div", (_funnel_card(name, source) for name, source in data["sources"].items()), class_="cards"),
    ]


def _funnel_card(name: str, source: dict[str, Any]) -> Html:
    into = source["in"]
    rows = []
    for step in source["steps"]:
        gone = step["dropped"]["documents"]
        bars = [
            bar([(step["out"]["documents"], "k"), (gone, "d"), (step["failed"]["documents"], "x")], into["documents"]),
            bar([(step["out"]["bytes"], "k")], max(into["bytes"], step["out"]["bytes"]), thin=True),
        ]
        idle = step["in"] == step["out"] and not step["edited_bytes"]
        rows.append(
            tag(
                "tr",
                tag("th", breakable(step["step"]), scope="row"),
                tag("td", bars, class_="b"),
                tag("td", count(step["out"]["documents"])),
                tag("td", f"−{count(gone)}" if gone else ""),
                tag("td", size(step["out"]["bytes"])),
                class_="off" if idle else None,
            )
        )
    head = heads("step", "|", "left", "dropped", "bytes")
    kept = f"{count(source['kept']['documents'])} of {count(into['documents'])} documents kept "
    kept += f"({share(source['kept']['documents'], into['documents'])}); "
    kept += f"{size(source['kept']['bytes'])} of {size(into['bytes'])}"
    return tag("article", tag("h3", name), tag("p", kept, class_="small soft"), table(head, rows), class_="card")


def reasons(data: dict[str, Any]) -> list[Any]:
    """Of each source a card: reasons with the most documents first, and the documents that failed."""
    cards = [_reasons_card(name, source) for name, source in data["sources"].items() if source["reasons"]]
    nothing = [name for name, source in data["sources"].items() if not source["reasons"]]
    found: list[Any] = [
        tag(
            "p",
            "A reason is the key in the recipe whose limit a document did not meet. Share: of the source's documents.",
        ),
        tag("div", cards, class_="cards"),
    ]
    if nothing:
        found.append(tag("p", f"Nothing was dropped of {', '.join(nothing)}.", class_="soft"))
    return found


def _reasons_card(name: str, source: dict[str, Any]) -> Html:
    most = source["reasons"][0]["documents"]
    into = source["in"]["documents"]
    rows = [
        tag(
            "tr",
            tag("th", breakable(r["reason"]), scope="row", class_="wrap mono"),
            tag("td", bar([(r["documents"], "d")], most), class_="b"),
            tag("td", count(r["documents"])),
            tag("td", share(r["documents"], into)),
            tag("td", size(r["bytes"])),
        )
        for r in source["reasons"]
    ]
    if more := source["more_reasons"]["reasons"]:
        other = source["more_reasons"]
        cells = (count(other["documents"]), share(other["documents"], into), size(other["bytes"]))
        rows.append(
            tag("tr", tag("th", f"{count(more)} other reasons", scope="row"), tag("td"), (tag("td", c) for c in cells))
        )
    gone = source["dropped"]["documents"]
    foot = tag(
        "tr",
        tag("th", "all", scope="row"),
        tag("td"),
        (tag("td", cell) for cell in (count(gone), share(gone, into), size(source["dropped"]["bytes"]))),
    )
    head = heads("reason", "|", "documents", "share", "bytes")
    return tag("article", tag("h3", name), table(head, rows, foot), class_="card")
