"""The sections about what the run made and what it took: the mixture, the shards, time and memory."""

from __future__ import annotations

from typing import Any

from pipeline.report.charts import bar, columns, legend
from pipeline.report.flow import heads, table
from pipeline.report.html import Html, anchor, count, seconds, share, short, size, tag

COLOURS = 8
STEPS = 40  # single steps that are listed


def mixture(data: dict[str, Any]) -> list[Any]:
    """What training is to see of each source: a bar of shares, and the table."""
    mix = data["mixture"]
    ranked = sorted(mix["sources"], key=lambda s: -s["budget"])
    colour = {s["source"]: f"c{min(i, COLOURS - 1)}" for i, s in enumerate(ranked)}
    entries = [
        (colour[s["source"]], f"{s['source']} {share(s['budget'], mix['tokens'])}") for s in ranked[: COLOURS - 1]
    ]
    if rest := ranked[COLOURS - 1 :]:
        name = rest[0]["source"] if len(rest) == 1 else f"{len(rest)} others"
        entries.append((f"c{COLOURS - 1}", f"{name} {share(sum(s['budget'] for s in rest), mix['tokens'])}"))
    most = max((s["repeats"] for s in ranked), default=0) or 1
    available, held = sum(s["available"] for s in ranked), sum(s["held_out"] for s in ranked)
    rows = [
        tag(
            "tr",
            tag("th", tag("i", class_=f"swatch {colour[s['source']]}"), " ", s["source"], scope="row"),
            tag("td", count(s["available"])),
            tag("td", share(s["available"], available)),
            tag("td", count(s["budget"])),
            tag("td", share(s["budget"], mix["tokens"])),
            tag("td", bar([(min(s["repeats"], 1), "k"), (max(s["repeats"] - 1, 0), "d")], max(most, 1)), class_="b"),
            tag("td", f"{s['repeats']:.2f}"),
            tag("td", f"{s['max_repeats']:g}"),
            tag("td", count(s["held_out"])),
        )
        for s in mix["sources"]
    ]
    there = "100%" if available else "–"
    whole = (f"{mix['tokens'] / available:.2f}" if available else "–", "", count(held))
    foot = tag(
        "tr",
        tag("th", "all", scope="row"),
        (
            tag("td", cell)
            for cell in (count(available), there, count(mix["tokens"]), "100%" if mix["tokens"] else "–", "", *whole)
        ),
    )
    head = heads("source", "tokens there", "share of them", "tokens in training", "share", "|", "repeats", "at most", "held out")
    return [
        tag("p", f"Training sees {count(mix['tokens'])} tokens. Held-out tokens are never among them."),
        _whole(ranked, colour, mix["tokens"]),
        legend(entries),
        tag("div", table(head, rows, foot), legend([("k", "seen once"), ("d", "seen again")]), class_="card"),
    ]


def recipe(data: dict[str, Any]) -> list[Any]:
    """The recipe that made the run."""
    words = "What the run was made by, its profile and changes in it, without what is a default."
    return [tag("p", words), tag("pre", data["recipe"], tabindex="0", class_="card")]


def _whole(ranked: list[dict[str, Any]], colour: dict[str, str], tokens: int) -> Html:
    """All of the mixture as one bar."""
    x, pieces = 0.0, []
    for s in ranked:
        width = 100 * s["budget"] / tokens if tokens else 0
        title = tag("title", f"{s['source']}: {share(s['budget'], tokens)}")
        pieces.append(
            tag(
                "rect",
                title,
                class_=colour[s["source"]],
                x=f"{x:.3f}",
                y=0,
                width=f"{max(width - 0.15, 0):.3f}",
                height=10,
            )
        )
        x += width
    return tag(
        "svg",
        tag("title", "Shares of the mixture by source", id="mixture-t"),
        pieces,
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        class_="whole",
        role="img",
        aria_labelledby="mixture-t",
    )


def shards(data: dict[str, Any]) -> list[Any]:
    """How many shards each source has, and tokens of each."""
    rows = []
    most = max((s["shards"]["most"] for s in data["mixture"]["sources"]), default=0)
    for s in data["mixture"]["sources"]:
        found = s["shards"]
        title = f"{s['source']}: tokens of its {found['count']} shards, from {found['least']} to {found['most']}"
        picture = columns(anchor("s", s["source"]), title, found["tokens"], most) if found["tokens"] else None
        cells = (
            count(found["count"]),
            count(s["documents"]),
            count(s["available"]),
            count(found["least"]),
            count(found["most"]),
        )
        per = f"{s['text_bytes'] / s['available']:.2f}" if s["available"] else "–"
        rows.append(
            tag(
                "tr",
                tag("th", s["source"], scope="row"),
                tag("td", picture, class_="b"),
                (tag("td", cell) for cell in (*cells, per)),
            )
        )
    tokenizer = data["tokenizer"]
    head = heads("source", "tokens of each shard|", "shards", "documents", "tokens", "least", "most", "bytes a token")
    return [
        tag(
            "p",
            f"Tokens are {data['dtype']}, by {tokenizer['path']} ({count(tokenizer['vocab_size'])} entries, end token "
            f"{tokenizer['eos_id']}, sha256 {tokenizer['sha256'][:12]}). Without the held-out shards.",
        ),
        tag("div", table(head, rows), class_="card"),
    ]


def speed(data: dict[str, Any]) -> list[Any]:
    """Core time, speed and memory of each stage, and of the steps within the tasks."""
    s = data["speed"]
    most = max((stage["seconds"] for stage in s["stages"]), default=0) or 1
    rows = [
        tag(
            "tr",
            tag("th", stage["stage"], scope="row"),
            tag("td", bar([(stage["seconds"], "k")], most), class_="b"),
            tag("td", count(stage["tasks"])),
            tag("td", seconds(stage["seconds"])),
            tag("td", size(stage["bytes"])),
            tag("td", _rate(stage["bytes"], stage["seconds"])),
            tag("td", size(stage["peak_memory"])),
        )
        for stage in s["stages"]
    ]
    head = heads("stage", "|", "tasks", "task time", "given", "per core", "most memory")
    foot_cells = (count(s["tasks"]), seconds(s["seconds"]), "", "", size(s["peak_memory"]))
    foot = tag("tr", tag("th", "all", scope="row"), tag("td"), (tag("td", cell) for cell in foot_cells))
    words = (
        f"{count(s['tasks'])} tasks on {count(s['hosts'])} host{'' if s['hosts'] == 1 else 's'}, one core each: "
        f"{seconds(s['seconds'])} of task time, {seconds(s['cpu_seconds'])} of it computing. The last ended {s['finished']}."
    )
    note = (
        "Given: text, or pages; for shards tokens. A task that a rerun took over keeps the time that it took when it ran; one "
        "that decided again from stored measures looks faster than it is."
    )
    found: list[Any] = [tag("div", [table(head, rows, foot), tag("p", note, class_="small soft")], class_="card")]
    if s["steps"]:
        most = s["steps"][0]["seconds"] or 1
        rows = [
            tag(
                "tr",
                tag("th", f"{step['source']}: {step['step']}", scope="row"),
                tag("td", bar([(step["seconds"], "k")], most), class_="b"),
                tag("td", seconds(step["seconds"])),
                tag("td", size(step["bytes"])),
                tag("td", _rate(step["bytes"], step["seconds"])),
            )
            for step in s["steps"][:STEPS]
        ]
        title = tag("h3", "Steps within the tasks")
        found.append(tag("div", title, table(heads("step", "|", "time", "given", "per core"), rows), class_="card"))
    return [tag("p", words), tag("div", found, class_="stack")]


def _rate(amount: int | None, time: float) -> str:
    return f"{size(amount / time)}/s" if amount is not None and time > 0 else "–"


def tiles(data: dict[str, Any]) -> Html:
    """The totals at the head of the page."""
    t = data["totals"]
    entries = [
        (
            count(t["kept"]["documents"]),
            f"documents kept of {count(t['in']['documents'])} ({share(t['kept']['documents'], t['in']['documents'])})",
        ),
        (size(t["kept"]["bytes"]), f"text kept; {size(t['in']['bytes'])} came in"),
        (short(t["tokens"]), f"training tokens; {short(t['held_out_tokens'])} held out"),
        (short(t["mixture_tokens"]), f"tokens that the mixture sees, from {len(data['sources'])} sources"),
        (count(t["shards"]), "shards"),
        (seconds(data["speed"]["seconds"]), "task time"),
    ]
    return tag("ul", (tag("li", tag("b", number), tag("span", text)) for number, text in entries), class_="tiles")
