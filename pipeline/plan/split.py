"""Sub-sources: the token files of a source that is split, cut by measures of its documents before shards are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.jobs.split import CutsReport, FindCuts, SplitReport, SplitTokens, SplitValues, ValuesReport
from pipeline.jobs.tokenize import SPLITS, StoredTokens, TokenFilesReport
from pipeline.ledger import Ref
from pipeline.plan.graph import Plan, side_by_side
from pipeline.plan.node import Done, Node, Stage
from pipeline.plan.parts import Part
from pipeline.recipe.recipe import Recipe
from stages.tokens.split import Axis, Cuts, cells, members

SPLIT = "split"  # kind of the tasks that cut token files
Tokenized = Mapping[str, Sequence[Done[TokenFilesReport]]]


@dataclass(frozen=True)
class Files:
    """The token files that a member of the mixture is made of, by split, in canonical order.

    source: of the recipe. part: of a sub-source, the names of the parts that it is in, by what the source is cut by; where: what
    documents of these have in common. written: files that were written for it, each behind the key of its entry.
    """

    source: str
    files: Mapping[str, tuple[StoredTokens, ...]]
    part: Mapping[str, str] | None = None
    written: tuple[tuple[str, str], ...] = ()
    where: Mapping[str, str] | None = None


def whole_files(source: str, done: Sequence[Done[TokenFilesReport]]) -> Files:
    """The token files of a source as one member."""
    return Files(source, {split: tuple(one.report.files[split] for one in done) for split in SPLITS})


def split_tokens(recipe: Recipe, parts: Mapping[str, list[Part]], used: Tokenized, dtype: np.dtype) -> Plan[dict[str, Files]]:
    """The members of the mixture with their token files: sources as they are, and the parts of those that are split."""
    cut = yield from side_by_side(
        {
            name: _cells(name, source.split, parts[name], used[name], dtype, recipe.run.batch_bytes)
            for name, source in recipe.sources.items()
            if source.split
        }
    )
    found: dict[str, Files] = {}
    for name in recipe.sources:
        found |= cut[name] if name in cut else {name: whole_files(name, used[name])}
    return found


def _cells(
    source: str, axes: tuple[Axis, ...], parts: list[Part], used: Sequence[Done[TokenFilesReport]], dtype: np.dtype, batch: int
) -> Plan[dict[str, Files]]:
    cuts = yield from _cuts(source, axes, parts, used, batch)
    nodes = [
        Node(
            Ref(SPLIT, source, "", ordinal),
            SplitTokens(
                source, part.read(), one.report.files["train"], one.report.files["held_out"], axes, cuts, dtype.name, batch
            ),
            sum(one.report.files[split].tokens for split in SPLITS) * dtype.itemsize,
        )
        for ordinal, (part, one) in enumerate(zip(parts, used, strict=True))
    ]
    done: list[Done[SplitReport]] = yield Stage("split", nodes)
    found = {}
    for number, (name, names) in enumerate(zip(members(source, axes), cells(axes), strict=True)):
        mine = [(one.key, one.report.cells.get(number, {})) for one in done]
        files = {split: tuple(cell[split] for _, cell in mine if split in cell) for split in SPLITS}
        written = tuple((key, file.file.path) for key, cell in mine for file in cell.values())
        where = {axis.by: told(axis, part, at) for axis, part, at in zip(axes, names, cuts, strict=True)}
        found[name] = Files(source, files, {axis.by: part for axis, part in zip(axes, names, strict=True)}, written, where)
    return found


def told(axis: Axis, part: str, cuts: Cuts) -> str:
    """What documents of a part have in common, for people."""
    if axis.formula:
        return f"{axis.levels[axis.parts.index(part)]:g} by {axis.formula}"
    if axis.labels:
        return ", ".join(axis.labels.get(part, ())) or "all others"
    number = axis.parts.index(part)
    low = f"from {cuts[number - 1]:.6g}" if number else ""
    high = f"below {cuts[number]:.6g}" if number < len(cuts) else ""
    return " ".join(filter(None, (low, high)))


def _cuts(
    source: str, axes: tuple[Axis, ...], parts: list[Part], used: Sequence[Done[TokenFilesReport]], batch: int
) -> Plan[tuple[Cuts, ...]]:
    """Where each axis is cut: quantiles are those of the documents that training gets."""
    if not any(axis.quantiles for axis in axes):
        return tuple(axis.cuts for axis in axes)
    nodes = [
        Node(
            Ref("split values", source, "", ordinal),
            SplitValues(source, part.read(), one.report.files["train"], axes, batch),
            one.report.files["train"].documents * 8,
        )
        for ordinal, (part, one) in enumerate(zip(parts, used, strict=True))
    ]
    done: list[Done[ValuesReport]] = yield Stage("values to split by", nodes)
    values = tuple(
        tuple(one.output(one.report.values[number]) for one in done) if axis.quantiles else ()
        for number, axis in enumerate(axes)
    )
    find = Node(Ref("split cuts", source, "", 0), FindCuts(axes, values), sum(node.weight for node in nodes))
    found: list[Done[CutsReport]] = yield Stage("where to split", [find])
    return tuple(tuple(one) for one in found[0].report.cuts)


def split_files(found: Mapping[str, Files]) -> list[tuple[str, str]]:
    """The files that were written for sub-sources, each behind the key of the entry that tells of it."""
    return [one for files in found.values() for one in files.written]
