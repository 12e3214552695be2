"""How `plan` prints what it found: phases, sources, the sum, and where the figures come from."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from pipeline.forecast.cluster import OBJECT_STORE
from pipeline.summary import plain_table
from stages.units import show_bytes, show_count, show_seconds


def show_plan(found: dict[str, Any], console: Console) -> None:
    """Print what `plan` returned."""
    cluster, total = found["cluster"], found["total"]
    priced = cluster["price"] is not None
    table = plain_table(f"{found['recipe']} ({found['profile'] or 'no profile'}), phase by phase")
    table.add_column("phase", no_wrap=True)
    for heading in ("tasks", "text in", "files read", "written", "memory a task", "disk", "core-hours", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("bound by", no_wrap=True)
    if priced:
        table.add_column("cost", justify="right", no_wrap=True)
    for p in found["phases"]:
        cells = [
            p["name"],
            f"{p['tasks']:,}",
            show_bytes(p["bytes_in"]),
            show_bytes(p["read"]) if p["read"] else "",
            show_bytes(p["written"]) if p["written"] else "",
            show_bytes(p["memory"]),
            show_bytes(p["disk"]),
            _hours(p["core_seconds"] / 3600),
            show_seconds(p["seconds"]),
            p["bound"],
        ]
        table.add_row(*cells, *([f"{p['cost']:,.2f}"] if priced else []))
    table.add_section()
    whole = ["all", f"{total['tasks']:,}", "", show_bytes(total["read"]), show_bytes(total["written"])]
    whole += [show_bytes(total["memory"]), show_bytes(total["disk"]), _hours(total["core_hours"])]
    whole += [show_seconds(total["hours"] * 3600), ""]
    table.add_row(*whole, *([f"{total['cost']:,.2f}"] if priced else []))
    console.print(table)
    _sources(found, console)
    network = (
        f", {show_bytes(cluster['bandwidth'])}/s each to storage"
        if cluster["bandwidth"]
        else "; the network is not counted"
    )
    price = f", {cluster['price']:g} an hour each" if priced else ""
    outside = f"; {show_bytes(cluster['outside'])}/s in all from the hub and web servers" if cluster["outside"] else ""
    console.print(
        f"cluster: {cluster['nodes']:,} node{'s' * (cluster['nodes'] > 1)} of {cluster['cores']} cores and "
        f"{show_bytes(cluster['memory'])}, {OBJECT_STORE:.0%} of it kept by Ray{price}{network}{outside}",
        highlight=False,
    )
    told = [f"{name} {value:,.2f}" for name, value in total["costs"].items() if value is not None]
    if told:
        _line(console, f"cost: {total['cost']:,.2f} ({', '.join(told)})")
    _line(console, f"core time: measured in {found['rates']}")
    _line(
        console,
        "memory and files of a dedup: the bounds that it states before it starts; of other tasks: the peak measured",
    )
    for note in found["rate_notes"]:
        _line(console, f"note: {note}")
    for origin, names in _by_origin(found["sources"]).items():
        _line(console, f"input of {', '.join(names)}: {origin}")
    for assumption in found["assumptions"]:
        _line(console, f"assumed: {assumption}")
    for problem in found["problems"]:
        _line(console, f"problem: {problem}", "bold")


def show_tree(found: dict[str, Any], console: Console) -> None:
    """Print the plan's stages in their order, and the tasks of each by kind and source."""
    tree = Tree(f"{found['recipe']} ({found['profile'] or 'no profile'}): {len(found['plan'])} stages")
    for stage in found["plan"]:
        count = sum(stage["tasks"].values())
        branch = tree.add(f"{stage['stage']}: {count:,} task{'s' * (count != 1)}")
        for name, tasks in stage["tasks"].items():
            branch.add(f"{name}: {tasks:,}")
    console.print(tree, highlight=False)
    _line(console, "how many rounds the components of a dedup take is known when it runs: one more than the first is counted")


def _sources(found: dict[str, Any], console: Console) -> None:
    table = plain_table("source by source")
    table.add_column("source", no_wrap=True)
    for heading in (
        "documents",
        "text",
        "stored",
        "text kept",
        "kept",
        "tokens",
        "bytes/token",
        "budget",
        "repeats",
        "core-hours",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, s in found["sources"].items():
        table.add_row(
            name,
            show_count(s["documents"]),
            show_bytes(s["text_bytes"]),
            show_bytes(s["file_bytes"]),
            show_bytes(s["bytes_kept"]),
            f"{s['bytes_kept'] / max(s['text_bytes'], 1):.1%}",
            show_count(s["tokens"]),
            f"{s['bytes_per_token']:.2f}",
            show_count(s["budget_tokens"]) if s["budget_tokens"] is not None else "",
            f"{s['repeats']:.2f}" if s["repeats"] is not None else "",
            _hours(s["core_seconds"] / 3600),
        )
    console.print(table)
    for what, key in (("kept", "kept_origin"), ("bytes/token", "bytes_per_token_origin")):
        origins = _by_origin(found["sources"], key)
        _line(console, f"{what}: " + "; ".join(f"{origin} for {', '.join(names)}" for origin, names in origins.items()))


def _by_origin(sources: dict[str, Any], key: str = "origin") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, source in sources.items():
        found.setdefault(source[key], []).append(name)
    return found


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}" if hours >= 0.01 else f"{hours:.1g}"


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)
