"""How `sweep` shows what it counted: a table of limits for each source, and a picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.summary import plain_table
from stages.errors import UserError
from stages.units import show_bytes, show_count

ROWS = 18  # of a table; --json has all limits
KEPT, LOST, NEW, INK, GRID = "#1f5f8b", "#a9c9de", "#e8a33d", "#2b2b2b", "#e3e3e3"


def show_sweep(found: dict[str, Any], console: Console) -> None:
    """Print what `sweep` returned, a table a source."""
    for name, s in found["sources"].items():
        now = "none" if s["limit"] is None else f"{s['limit']:g}"
        table = plain_table(f"{name}: {found['measure']}, {s['side']} (the recipe: {now})")
        for heading in (s["side"], "documents", "share", "bytes", "tokens", "kept", "lost later", "new"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in shown(s):
            own = row["limit"] == s["limit"]
            table.add_row(
                f"{row['limit']:.6g}" + (" *" if own else "  "),
                f"{row['passes']['documents']:,}",
                f"{row['passes']['documents'] / max(s['reached']['documents'], 1):.1%}",
                show_bytes(row["passes"]["bytes"]),
                show_count(row["passes"]["tokens"]),
                *(f"{row[key]['documents']:,}" for key in ("kept", "lost_later", "new")),
                style="bold" if own else "",
            )
        console.print(table)
        estimate = ", bytes from the average of each part" if s["bytes_are_estimates"] else ""
        unmeasured = f"; {s['unmeasured']:,} were not measured, and pass" if s["unmeasured"] else ""
        console.print(
            f"{s['reached']['documents']:,} documents ({show_bytes(s['reached']['bytes'])}) reached the step{unmeasured}. "
            f"Tokens at {s['bytes_per_token']:.2f} bytes each{estimate}. Of those that pass: kept in this run, "
            "lost to later steps, or new to the next steps."
        )


def shown(s: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows for the table: all of a few, else evenly chosen ones and the recipe's own limit."""
    rows = s["limits"]
    if len(rows) <= ROWS:
        return rows
    chosen = {round(i * (len(rows) - 1) / (ROWS - 2)) for i in range(ROWS - 1)}
    return [row for i, row in enumerate(rows) if i in chosen or row["limit"] == s["limit"]]


def draw_sweep(found: dict[str, Any], path: str) -> None:
    """Draw the curves and the measure's distribution to a file (.png, .svg or .pdf), two panels a source.

    Raises UserError where matplotlib is not installed, or the file's kind is not one of these.
    """
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"{path}: a picture's name ends in .png, .svg or .pdf")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("a picture needs matplotlib: pip install 'headrace[plots]', or leave --png out") from None
    sources = found["sources"]
    figure = Figure(figsize=(1.5 + 6.2 * len(sources), 6.0), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(sources), squeeze=False, sharex="col", height_ratios=(3, 1))
    for column, (name, s) in enumerate(sources.items()):
        _curves(axes[0][column], s, found["measure"], name)
        _histogram(axes[1][column], s, found["measure"])
    figure.savefig(path)


def _curves(axis: Any, s: dict[str, Any], measure: str, source: str) -> None:
    limits = [row["limit"] for row in s["limits"]]
    total = max(s["reached"]["documents"], 1)
    shares = [[100 * row[key]["documents"] / total for row in s["limits"]] for key in ("kept", "lost_later", "new")]
    labels = ("kept in this run", "lost to later steps in this run", "new to the next steps")
    axis.stackplot(limits, *shares, colors=(KEPT, LOST, NEW), labels=labels, linewidth=0)
    size = max(s["reached"]["bytes"], 1)
    passing = [100 * row["passes"]["bytes"] / size for row in s["limits"]]
    axis.plot(limits, passing, color=INK, linewidth=1.4, linestyle=(0, (4, 2)), label="bytes that pass")
    axis.set_ylim(0, 103)
    axis.set_ylabel("% of what reached the step")
    axis.set_title(
        f"{source}: {measure}, {s['side']}\n{total:,} documents, {show_bytes(s['reached']['bytes'])} reached the step",
        fontsize=11,
        loc="left",
        color=INK,
    )
    _dress(axis, s)
    axis.legend(
        loc="upper right" if s["side"] == "min" else "upper left", fontsize=8.5, framealpha=0.95, edgecolor=GRID
    )


def _histogram(axis: Any, s: dict[str, Any], measure: str) -> None:
    edges, counts = s["histogram"]["edges"], s["histogram"]["documents"]
    axis.bar(edges[:-1], counts, width=[b - a for a, b in pairwise(edges)], align="edge", color="#8a8a8a")
    if edges[0] > 0 and edges[1] / edges[0] > 1.05 and edges[-1] / edges[0] > 30:
        axis.set_xscale("log")
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylabel("documents")
    axis.set_xlabel(f"{measure} (the middle 98% of documents)")
    _dress(axis, s, label=False)


def _dress(axis: Any, s: dict[str, Any], label: bool = True) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=9)
    if s["limit"] is not None:
        name = f"the recipe's {s['side']}: {s['limit']:g}" if label else None
        axis.axvline(s["limit"], color="#c0392b", linewidth=1.6, label=name)
