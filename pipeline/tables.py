"""Tables and lines on a terminal, in a log, and pasted into a page."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def plain_table(title: str, *columns: str) -> Table:
    """A table with these columns: of numbers; of text, where a name ends in `<`; of text that may be broken, in `~`."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        kind = name[-1:]
        table.add_column(name.rstrip("<~"), justify="left" if kind in ("<", "~") else "right", no_wrap=kind != "~")
    return table


def console() -> Console:
    """Where tables go; in a file or a pipe they are as wide as they need to be."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def line(console: Console, text: str, style: str = "") -> None:
    """Print a text as it is; the terminal breaks it where it ends."""
    console.print(Text(text, style), soft_wrap=True)
