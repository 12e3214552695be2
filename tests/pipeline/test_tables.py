"""Tables on a narrow terminal: what does not fit goes below, and no figure and no name is cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pipeline.tables import plain_table

HEADINGS = ("documents", "kept", "dropped", "failed", "bytes", "text kept", "tokens", "held out", "budget", "shards")


def printed(table: object, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    return text


@pytest.mark.parametrize("width", range(40, 150))
def test_every_figure_stands_there_once_and_each_table_names_its_rows(width: int) -> None:
    table = plain_table("a run", "source<", *HEADINGS)
    rows = {name: [f"{row},{column:03d},567" for column in range(10)] for row, name in enumerate(("dclm", "open-web-math"), 1)}
    for name, figures in rows.items():
        table.add_row(name, *figures)
    words = printed(table, width).split()
    assert all(words.count(figure) == 1 for figures in rows.values() for figure in figures)
    tables = words.count("source")
    assert words.count("dclm") == tables and (tables == 1) == (width >= 135)


def test_long_names_are_broken_and_not_cut() -> None:
    table = plain_table("", "work~", "tasks", "what<")
    table.add_row("documents/" + "x" * 90, "12,345", "y" * 70)
    text = printed(table, 80)
    assert text.count("x") == 90 and text.count("y") == 70 and "12,345" in text
    alone = plain_table("", "name<")
    alone.add_row("z" * 190)
    assert printed(alone, 80).count("z") == 190
