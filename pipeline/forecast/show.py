"""How `plan` prints what it found: phases, sources, the sum, and where the figures come from."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from rich.console import Console
from rich.tree import Tree as Branches

from pipeline.forecast.cluster import OBJECT_STORE
from pipeline.forecast.plan import Foretold, Tree
from pipeline.forecast.stages import SourceForecast
from pipeline.tables import line, plain_table
from stages.units import show_bytes, show_count, show_seconds


def show_plan(found: Foretold, console: Console) -> None:
    """Print what `plan` returned."""
    _phases(found, console)
    _sources(found.sources, console)
    cluster = found.cluster
    network = f", {show_bytes(cluster.bandwidth)}/s each to storage" if cluster.bandwidth else "; the network is not counted"
    price = f", {cluster.price:g} an hour each" if cluster.price is not None else ""
    outside = f"; {show_bytes(cluster.outside)}/s in all from the hub and web servers" if cluster.outside else ""
    console.print(
        f"cluster: {cluster.nodes:,} node{'s' * (cluster.nodes > 1)} of {cluster.cores} cores and "
        f"{show_bytes(cluster.memory)}, {OBJECT_STORE:.0%} of it kept by Ray{price}{network}{outside}",
        highlight=False,
    )
    if found.total.cost is not None:
        costs = msgspec.structs.asdict(found.total.costs)
        told = ", ".join(f"{name} {cost:,.2f}" for name, cost in costs.items() if cost is not None)
        line(console, f"cost: {found.total.cost:,.2f} ({told})")
    fullest = max(found.phases, key=lambda phase: phase.scratch)
    line(console, f"scratch: {show_bytes(fullest.scratch)} of each node's temporary folder, in {fullest.name}")
    line(console, f"core time: measured in {found.rates}")
    line(console, "memory and files of a dedup: the bounds that it states before it starts; of other tasks: the peak measured")
    for note in found.rate_notes:
        line(console, f"note: {note}")
    for origin, names in _by_origin({name: source.origin for name, source in found.sources.items()}).items():
        line(console, f"input of {names}: {origin}")
    for assumption in found.assumptions:
        line(console, f"assumed: {assumption}")
    for problem in found.problems:
        line(console, f"problem: {problem}", "bold")


def _phases(found: Foretold, console: Console) -> None:
    total, priced = found.total, found.cluster.price is not None
    table = plain_table(
        f"{found.recipe} ({found.profile or 'no profile'}), phase by phase",
        *("phase<", "tasks", "text in", "files read", "written", "memory a task", "disk", "core-hours", "time", "bound by<"),
        *(["cost"] if priced else []),
    )
    for p in found.phases:
        table.add_row(
            p.name,
            f"{p.tasks:,}",
            show_bytes(p.bytes_in),
            show_bytes(p.read) if p.read else "",
            show_bytes(p.written) if p.written else "",
            show_bytes(p.memory),
            show_bytes(p.disk),
            _hours(p.core_seconds / 3600),
            show_seconds(p.seconds),
            p.bound,
            *([f"{p.cost:,.2f}"] if priced else []),
        )
    table.add_section()
    sizes = map(show_bytes, (total.read, total.written, total.memory, total.disk))
    times = _hours(total.core_hours), show_seconds(total.hours * 3600)
    table.add_row("all", f"{total.tasks:,}", "", *sizes, *times, "", *([f"{total.costs.nodes:,.2f}"] if priced else []))
    console.print(table)


def show_tree(found: Tree, console: Console) -> None:
    """Print the plan's stages in their order, and the tasks of each by kind and source."""
    tree = Branches(f"{found.recipe} ({found.profile or 'no profile'}): {len(found.plan)} stages")
    unknown = False
    for stage in found.plan:
        count = sum(tasks or 0 for tasks in stage.tasks.values())
        more = None in stage.tasks.values()
        unknown |= more
        shown = "?" if more and not count else f"{count:,}{' and more' * more}"
        branch = tree.add(f"{stage.stage}: {shown} task{'s' * (count != 1 or more)}")
        for name, tasks in stage.tasks.items():
            branch.add(f"{name}: {'?' if tasks is None else format(tasks, ',')}")
    console.print(tree, highlight=False)
    if unknown:
        line(console, "?: goes by how much text there is, which rates tell: --rates RUN, or --measure")
    line(console, "how many rounds the components of a dedup take is known when it runs: one more than the first is counted")


def _sources(sources: Mapping[str, SourceForecast], console: Console) -> None:
    table = plain_table(
        "source by source",
        *("source<", "documents", "text", "stored", "text kept", "kept", "tokens", "bytes/token", "budget", "repeats"),
        "core-hours",
    )
    for name, s in sources.items():
        table.add_row(
            name,
            show_count(s.documents),
            show_bytes(s.text_bytes),
            show_bytes(s.file_bytes),
            show_bytes(s.bytes_kept),
            f"{s.bytes_kept / max(s.text_bytes, 1):.1%}",
            show_count(s.tokens),
            f"{s.bytes_per_token:.2f}",
            show_count(s.budget_tokens) if s.budget_tokens is not None else "",
            f"{s.repeats:.2f}" if s.repeats is not None else "",
            _hours(s.core_seconds / 3600),
        )
    console.print(table)
    kept = _by_origin({name: s.kept_origin for name, s in sources.items()})
    tokens = _by_origin({name: s.bytes_per_token_origin for name, s in sources.items()})
    for what, origins in (("kept", kept), ("bytes/token", tokens)):
        line(console, f"{what}: " + "; ".join(f"{origin} for {names}" for origin, names in origins.items()))


def _by_origin(origins: Mapping[str, str]) -> dict[str, str]:
    """The sources of each origin, as a list in words."""
    found: dict[str, list[str]] = {}
    for name, origin in origins.items():
        found.setdefault(origin, []).append(name)
    return {origin: ", ".join(names) for origin, names in found.items()}


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}" if hours >= 0.01 else f"{hours:.1g}"
