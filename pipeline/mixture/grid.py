"""The grid that a source's sub-sources make: its first axes down, the last across, a member of the mixture in each cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
from rich.console import Console

from pipeline.tables import plain_table
from stages.tokens.manifest_shape import Manifest, SourceEntry
from stages.units import show_count


class Cell(msgspec.Struct, frozen=True):
    """A sub-source: its name, tokens that there are, tokens that training sees, and what follows from the two."""

    name: str
    tokens: int
    asked: int
    share: float  # of the mixture
    repeats: float


class Grid(msgspec.Struct, frozen=True):
    """One source's cells by row, in the order of columns. where: of each axis, what the documents of its parts have in common."""

    source: str
    axes: list[str]
    columns: list[str]
    rows: dict[str, list[Cell]]
    where: dict[str, dict[str, str]]


class _Place(NamedTuple):
    """A member of a mixture that is a part of a source."""

    name: str
    entry: SourceEntry
    part: dict[str, str]
    where: dict[str, str]


def copy_part(of: SourceEntry, to: SourceEntry) -> SourceEntry:
    """The entry `to` with what the other says of being a part of a source, where it is one."""
    if "of" in of and "part" in of and "where" in of:
        to.update(of=of["of"], part=of["part"], where=of["where"])
    return to


def grids(manifest: Manifest) -> list[Grid]:
    """The grid of each source that is split, in the mixture's order; where only some parts are members, of these."""
    groups: dict[tuple[str, tuple[str, ...]], list[_Place]] = {}
    for name in manifest["mixture"]["sources"]:
        entry = manifest["sources"][name]
        if "part" in entry and "of" in entry and "where" in entry:
            mine = _Place(name, entry, entry["part"], entry["where"])
            groups.setdefault((entry["of"], tuple(sorted(entry["part"]))), []).append(mine)
    total = manifest["mixture"]["tokens"]
    return [_grid(source, _in_order(axes, found), found, total) for (source, axes), found in groups.items()]


def _in_order(axes: Sequence[str], found: Sequence[_Place]) -> list[str]:
    """The axes as the recipe has them, which the manifest does not say: of members in their order the last changes most often."""
    changes = {axis: sum(a.part[axis] != b.part[axis] for a, b in pairwise(found)) for axis in axes}
    return sorted(axes, key=lambda axis: changes[axis])


def _grid(source: str, axes: list[str], found: list[_Place], total: int) -> Grid:
    down, across = axes[:-1], axes[-1]
    columns = list(dict.fromkeys(place.part[across] for place in found))
    rows: dict[str, dict[str, Cell]] = {}
    where: dict[str, dict[str, str]] = {axis: {} for axis in axes}
    for place in found:
        row = " ".join(place.part[axis] for axis in down) or source
        tokens, asked = place.entry["tokens"], place.entry["budget_tokens"]
        cell = Cell(place.name, tokens, asked, asked / total if total else 0.0, asked / tokens if tokens else 0.0)
        rows.setdefault(row, {})[place.part[across]] = cell
        for axis in axes:
            where[axis][place.part[axis]] = place.where[axis]
    nobody = Cell("", 0, 0, 0.0, 0.0)
    return Grid(source, axes, columns, {row: [cells.get(c, nobody) for c in columns] for row, cells in rows.items()}, where)


def show_grids(found: list[Grid], console: Console) -> None:
    """Print each grid: tokens that there are, their share of the mixture, and how often they are seen; of one with a single axis,
    whose members say all that, what the parts are."""
    for grid in found:
        if len(grid.axes) == 1:
            _show_where(grid, console)
            continue
        title = f"{grid.source} by {' and '.join(grid.axes)}: tokens, share, repeats"
        table = plain_table(title, "<", *grid.columns)
        for row, cells in grid.rows.items():
            told = [f"{show_count(cell.tokens)}  {cell.share:.2%}  x{cell.repeats:.4g}" if cell.name else "" for cell in cells]
            table.add_row(row, *told)
        console.print(table)
        _show_where(grid, console)


def _show_where(grid: Grid, console: Console) -> None:
    for axis, parts in grid.where.items():
        console.print(f"{axis}: " + "; ".join(f"{part} {told}" for part, told in parts.items()), markup=False)
