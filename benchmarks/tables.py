"""Tables of benchmarks: plain, so that they read well on a terminal, in a log and pasted into a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table


def show_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, the others right. An empty row draws a line."""
    print(title)  # not as the table's own, which would be broken at the table's width
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    for row in rows:
        if row:
            table.add_row(*row)
        else:
            table.add_section()
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def verdict(value: float, goal: float, *, at_most: bool = False, form: str = "g") -> str:
    """`reached` or `missed`, with the goal."""
    reached = value <= goal if at_most else value >= goal
    return f"{'reached' if reached else 'MISSED'} (goal {'at most ' if at_most else ''}{goal:{form}})"
