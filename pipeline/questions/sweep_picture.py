"""The picture of a sweep: what passes under each limit, and how the measure is distributed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.questions.sweep import Sweep, SweptSource
from stages.errors import UserError
from stages.units import show_bytes

KEPT, LOST, NEW, INK, GRID = "#1f5f8b", "#a9c9de", "#e8a33d", "#2b2b2b", "#e3e3e3"


def draw_sweep(found: Sweep, path: str) -> None:
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
    figure = Figure(figsize=(1.5 + 6.2 * len(found.sources), 6.0), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(found.sources), squeeze=False, sharex="col", height_ratios=(3, 1))
    for column, (name, s) in enumerate(found.sources.items()):
        _curves(axes[0][column], s, found.measure, name)
        _histogram(axes[1][column], s, found.measure)
    figure.savefig(path)


def _curves(axis: Any, s: SweptSource, measure: str, source: str) -> None:
    limits = [row.limit for row in s.limits]
    total = max(s.reached.documents, 1)
    fates = ([row.kept for row in s.limits], [row.lost_later for row in s.limits], [row.new for row in s.limits])
    shares = [[100 * part.documents / total for part in fate] for fate in fates]
    labels = ("kept in this run", "lost to later steps in this run", "new to the next steps")
    axis.stackplot(limits, *shares, colors=(KEPT, LOST, NEW), labels=labels, linewidth=0)
    passing = [100 * row.passes.bytes / max(s.reached.bytes, 1) for row in s.limits]
    axis.plot(limits, passing, color=INK, linewidth=1.4, linestyle=(0, (4, 2)), label="bytes that pass")
    axis.set_ylim(0, 103)
    axis.set_ylabel("% of what reached the step")
    title = f"{source}: {measure}, {s.side}\n{total:,} documents, {show_bytes(s.reached.bytes)} reached the step"
    axis.set_title(title, fontsize=11, loc="left", color=INK)
    _dress(axis, s)
    axis.legend(loc="upper right" if s.side == "min" else "upper left", fontsize=8.5, framealpha=0.95, edgecolor=GRID)


def _histogram(axis: Any, s: SweptSource, measure: str) -> None:
    edges = s.histogram.edges
    widths = [b - a for a, b in pairwise(edges)]
    axis.bar(edges[:-1], s.histogram.documents, width=widths, align="edge", color="#8a8a8a")
    if edges[0] > 0 and edges[1] / edges[0] > 1.05 and edges[-1] / edges[0] > 30:
        axis.set_xscale("log")
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylabel("documents")
    axis.set_xlabel(f"{measure} (the middle 98% of documents)")
    _dress(axis, s, label=False)


def _dress(axis: Any, s: SweptSource, label: bool = True) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=9)
    if s.limit is not None:
        name = f"the recipe's {s.side}: {s.limit:g}" if label else None
        axis.axvline(s.limit, color="#c0392b", linewidth=1.6, label=name)
