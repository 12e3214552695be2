"""Two finished runs side by side: their recipes and tokens, and the documents that one alone keeps (`compare`).

A document is known by source, file and record, or by its id. Keys are 64-bit hashes, in passes over so many at a time that
memory does not grow with the runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from pipeline import storage
from pipeline.questions.measured import document_keys
from pipeline.recipe.recipe import public_dump
from pipeline.run_folder.finished import FinishedRun, SourceParts, open_finished
from pipeline.run_folder.manifest import whole_source
from pipeline.tables import plain_table
from stages.document import text_buffers
from stages.errors import UserError
from stages.kernels.hashing import hash_texts
from stages.units import show_count

PASS_DOCUMENTS = 8_000_000  # of both runs together that are held at a time: some 40 bytes each
EXAMPLES = 3  # documents named for a reason
SEED = np.uint64(0xC0)
NOT_READ = "not read"  # in place of a reason: the other run never had it

By = Literal["place", "id"]


class Difference(msgspec.Struct, frozen=True):
    """A key of the recipe whose value is another one; null: the key is not there."""

    key: str
    one: Any
    two: Any


class Lost(msgspec.Struct, frozen=True):
    """Documents that one run keeps and the other does not, by the other's reason. examples: FILE:RECORD or ids."""

    reason: str
    documents: int
    examples: tuple[str, ...]


class SourceComparison(msgspec.Struct, frozen=True):
    """A source of both runs; one that only one of them has counts nothing in the other.

    kept, tokens, held_out, budget: [one, two]. both: documents that both keep. only_one, only_two: kept by that run alone.
    """

    kept: tuple[int, int]
    both: int
    only_one: tuple[Lost, ...]
    only_two: tuple[Lost, ...]
    tokens: tuple[int, int]
    held_out: tuple[int, int]
    budget: tuple[int, int]

    @property
    def overlap(self) -> float:
        """Documents that both keep, as a share of those that either keeps."""
        either = sum(self.kept) - self.both
        return self.both / either if either else 1.0


class Comparison(msgspec.Struct, frozen=True):
    """What `compare` found."""

    one: str
    two: str
    by: By
    recipe: tuple[Difference, ...]
    sources: dict[str, SourceComparison]


def compare(one: str, two: str, by: By = "place") -> Comparison:
    """Compare two finished runs. by: what names a document, its place (source, file and record) or its source and id.

    Raises UserError where there is no finished run, or its parts are gone.
    """
    runs = (open_finished(one), open_finished(two))
    names = dict.fromkeys(name for run in runs for name in run.sources)
    differences = tuple(_differences(*(public_dump(run.recipe) for run in runs)))
    return Comparison(one, two, by, differences, {name: _source(runs, name, by) for name in names})


# ---- recipes


def _differences(one: Any, two: Any) -> Iterator[Difference]:
    flat = [dict(_flat("", value)) for value in (one, two)]
    for key in dict.fromkeys([*flat[0], *flat[1]]):
        if flat[0].get(key) != flat[1].get(key):
            yield Difference(key, flat[0].get(key), flat[1].get(key))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a dumped recipe; of lists of steps ([name, settings]) with the steps' names in their paths."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, list) and value and all(_is_step(item) for item in value):
        yield f"{path}.order", [name for name, _ in value]
        for name, settings in value:
            yield from _flat(f"{path}.{name}", settings)
    else:
        yield path, value


def _is_step(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], dict)


# ---- documents


@dataclass(frozen=True)
class _Documents:
    """Documents of one run: hashes that rise (uint64), and of those that were dropped the number of their reason."""

    hashes: np.ndarray
    reasons: np.ndarray  # int32
    names: list[str]  # of the reasons
    keys: pa.Array  # what people call the documents


def _source(runs: tuple[FinishedRun, FinishedRun], name: str, by: By) -> SourceComparison:
    there = [run.sources.get(name) for run in runs]
    total = sum(parts.read for parts in map(_Size, there))
    passes = max(1, math.ceil(total / PASS_DOCUMENTS))
    kept, both = [0, 0], 0
    lost: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    examples: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for number in range(passes):
        stay = [_kept(run, parts, by, number, passes) for run, parts in zip(runs, there, strict=True)]
        gone = [_dropped(run, parts, by, number, passes) for run, parts in zip(runs, there, strict=True)]
        same = np.isin(stay[0].hashes, stay[1].hashes)
        both += int(same.sum())
        for side, other in ((0, 1), (1, 0)):
            kept[side] += len(stay[side].hashes)
            only = ~np.isin(stay[side].hashes, stay[other].hashes)
            for reason, key in _fates(stay[side].hashes[only], stay[side].keys.filter(pa.array(only)), gone[other]):
                lost[side][reason] += 1
                if len(found := examples[side].setdefault(reason, [])) < EXAMPLES:
                    found.append(key)
    only_one, only_two = (
        tuple(Lost(reason, count, tuple(examples[side][reason])) for reason, count in lost[side].most_common())
        for side in (0, 1)
    )
    tokens, held_out, budget = zip(*(_tokens(run, name) for run in runs), strict=True)
    return SourceComparison((kept[0], kept[1]), both, only_one, only_two, tokens, held_out, budget)


def _fates(hashes: np.ndarray, keys: pa.Array, gone: _Documents) -> Iterator[tuple[str, str]]:
    """The other run's reason for each document that it does not keep."""
    place = np.searchsorted(gone.hashes, hashes)
    for at, value, key in zip(place, hashes, keys, strict=True):
        known = at < len(gone.hashes) and gone.hashes[at] == value
        yield (gone.names[gone.reasons[at]] if known else NOT_READ), key.as_py()


class _Size:
    """How many documents a source's run has on record; none where it has no such source."""

    def __init__(self, source: SourceParts | None) -> None:
        first = source.parts[0] if source and source.parts else []
        self.read = sum(files.report.books[0].into.docs for files in first)


def _kept(run: FinishedRun, source: SourceParts | None, by: By, number: int, passes: int) -> _Documents:
    batches = []
    for report in source.tokens if source else ():
        for file in report.files.values():
            if not storage.exists(storage.join(run.uri, file.index.path)):
                raise UserError(f"{run.uri}: {file.index.path} is not there; run the recipe again")
            for _, rows in run.rows(file.index.path, ["id", "src", "loc"]):
                renamed = {"id": rows.column("id"), "file": rows.column("src"), "record": rows.column("loc")}
                batches.append((pa.RecordBatch.from_pydict(renamed), None))
    return _gathered(batches, by, number, passes)


def _dropped(run: FinishedRun, source: SourceParts | None, by: By, number: int, passes: int) -> _Documents:
    return _gathered(_dropped_batches(run, source) if source else (), by, number, passes)


def _dropped_batches(run: FinishedRun, source: SourceParts) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    paths = [report.dropped for report in source.tokens]
    for stage in source.parts:
        for files in stage:
            paths += [files.dropped] if files.dropped else []
            if files.failed:
                for _, rows in run.rows(files.failed, ["id", "file", "record", "step"]):
                    failed = pa.scalar("failed in ", pa.large_string())
                    yield rows, pc.binary_join_element_wise(failed, rows.column("step"), pa.scalar("", pa.large_string()))
    for path in paths:
        for _, rows in run.rows(path, ["id", "file", "record", "reason"]):
            yield rows, rows.column("reason")


def _gathered(batches: Any, by: By, number: int, passes: int) -> _Documents:
    """The documents of one pass, sorted by their hashes."""
    hashes, reasons, keys = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)], [pa.array([], pa.large_string())]
    names: dict[str, int] = {}
    for rows, why in batches:
        named = document_keys(rows) if by == "place" else rows.column("id")
        values = _hashes(named)
        mine = values % np.uint64(passes) == number
        hashes.append(values[mine])
        keys.append(named.filter(pa.array(mine)))
        if why is not None:
            coded = why.filter(pa.array(mine)).dictionary_encode()
            codes = np.array([names.setdefault(one, len(names)) for one in coded.dictionary.to_pylist()], np.int32)
            reasons.append(codes[np.asarray(coded.indices)])
    found, sorted_ = np.concatenate(hashes), pa.concat_arrays(keys)
    order = np.argsort(found, kind="stable")
    of_each = np.concatenate(reasons)
    return _Documents(found[order], of_each[order] if len(of_each) else of_each, list(names), sorted_.take(pa.array(order)))


def _hashes(keys: pa.Array) -> np.ndarray:
    data, offsets = text_buffers(keys)
    out = np.empty((len(keys), 2), np.uint64)
    hash_texts(data, offsets, SEED, out)
    return out[:, 0]


def _tokens(run: FinishedRun, name: str) -> tuple[int, int, int]:
    if name not in run.sources:
        return 0, 0, 0
    entry = whole_source(run.manifest, name)
    return entry["tokens"], entry["held_out"]["tokens"], entry["budget_tokens"]


# ---- what is printed


def show_compare(found: Comparison, console: Console) -> None:
    """Print what `compare` found."""
    console.print(f"one: {found.one}\ntwo: {found.two}", markup=False)
    recipe = plain_table("recipe", "key~", "one~", "two~")
    for difference in found.recipe:
        recipe.add_row(difference.key, *(_shown(value) for value in (difference.one, difference.two)))
    console.print(recipe if found.recipe else "the recipes are the same", markup=False)
    headings = ("source<", "one", "two", "both", "overlap", "tokens one", "tokens two", "share one", "share two")
    table = plain_table("documents kept, and tokens", *headings)
    budgets = [sum(source.budget[side] for source in found.sources.values()) or 1 for side in (0, 1)]
    for name, source in found.sources.items():
        shares = [f"{source.budget[side] / budgets[side]:.2%}" for side in (0, 1)]
        counts = [f"{count:,}" for count in (*source.kept, source.both)]
        table.add_row(name, *counts, f"{source.overlap:.1%}", *(show_count(tokens) for tokens in source.tokens), *shares)
    console.print(table)
    for kept_by, dropped_by, side in (("one", "two", "only_one"), ("two", "one", "only_two")):
        title = f"kept by {kept_by} alone, by what {dropped_by} says of them"
        reasons = plain_table(title, "source<", "reason<", "documents", "such as~")
        for name, source in found.sources.items():
            for lost in getattr(source, side):
                reasons.add_row(name, lost.reason, f"{lost.documents:,}", lost.examples[0])
        if reasons.row_count:
            console.print(reasons)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
