"""Tables and lines on a terminal, in a log, and pasted into a page."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

WIDE = 10_000  # columns: as wide as a table may want to be


class PlainTable(Table):
    """A table that cuts no figure: where the terminal is too narrow, columns go to a second table below, with the first again."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [self._width_of(console, options, column) for column in self.columns]
        if sum(widths) + len(widths) + 1 <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        for group in _fitting([self._least(width, options, at) for at, width in enumerate(widths)], options.max_width):
            yield from self._with(group).__rich_console__(console, options)

    def _width_of(self, console: Console, options: ConsoleOptions, column: Column) -> int:
        """How wide a column is: all of it, or its longest word where it may be broken."""
        found = self._measure_column(console, options.update(max_width=WIDE), column)
        return found.maximum if column.no_wrap else found.minimum

    def _least(self, width: int, options: ConsoleOptions, column: int) -> int:
        """How wide it has to be: of text no more than a third of the terminal, as it may be broken; of figures all."""
        return min(width, options.max_width // 3) if self.columns[column].justify == "left" else width

    def _with(self, group: Sequence[int]) -> Table:
        """The same rows with some of the columns; texts may be broken, so that nothing is cut."""
        first = 1 in group or len(self.columns) == 1
        part = Table(title=self.title if first else None, title_justify=self.title_justify, title_style=self.title_style)
        part.box, part.pad_edge, part.rows = self.box, self.pad_edge, self.rows
        part.columns = [
            replace(column, _index=new, no_wrap=column.no_wrap and column.justify != "left", overflow="fold")
            for new, column in enumerate(self.columns[old] for old in group)
        ]
        return part


def _fitting(widths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Columns in groups that are no wider than `most`, borders counted, each beginning with the first column."""
    group, wide = [0], widths[0] + 2
    for number, width in enumerate(widths[1:], 1):
        if len(group) > 1 and wide + width + 1 > most:
            yield group
            group, wide = [0], widths[0] + 2
        group.append(number)
        wide += width + 1
    yield group


def plain_table(title: str, *columns: str) -> Table:
    """A table with these columns: of numbers; of text, where a name ends in `<`; of text that may be broken, in `~`."""
    table = PlainTable(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
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
