"""What a finished run found of evaluation sets: by set and by item, how much of it, and in which documents (`contamination`).

Read are the measures that the step `decontaminate` left (`match: items`), of all documents that reached it: those that it
dropped or cut, and those that it let through.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import orjson
from rich.console import Console

from pipeline import storage
from pipeline.jobs.context import Context
from pipeline.jobs.inputs import localise_step
from pipeline.recipe.overrides import nearest
from pipeline.run_folder.finished import FinishedRun, SourceParts, open_finished
from pipeline.tables import plain_table
from stages.errors import UserError
from stages.filters.decontaminate import Decontaminate
from stages.filters.evaluation_records import digests

PLACES = 20  # documents that are named of one item; all are counted


class Place(msgspec.Struct, frozen=True):
    """A document that holds an item: the share of it, and which of the document's words that is (first, behind the last)."""

    id: str | None
    file: str
    record: int
    share: float
    words: tuple[int, int]


class FoundItem(msgspec.Struct):
    """One item: the documents that hold some of it, the greatest share, and the first PLACES of them."""

    documents: int = 0
    share: float = 0.0
    places: list[Place] = []


class FoundSet(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation set. digest: of its file, by which `python -m trainer eval` knows it; documents: that hold one of its
    items; by_item: of those found, by the record at which each begins."""

    digest: str
    items: int
    long_enough: int
    found: int
    documents: int
    by_item: dict[str, FoundItem]


class FoundByStep(msgspec.Struct, frozen=True):
    """What one step saw, and in how many documents it found something."""

    documents: int
    with_items: int
    sets: dict[str, FoundSet]


class Contamination(msgspec.Struct, frozen=True):
    """What a run found of evaluation sets, by step (`source.step`)."""

    run: str
    steps: dict[str, FoundByStep]


def contamination(run: str, source: str | None = None) -> Contamination:
    """What was found. Raises UserError where there is no such step, or what it measured was let go."""
    finished = open_finished(run)
    if source is not None and source not in finished.sources:
        raise UserError(f"there is no source {source!r} in {run}{nearest(source, list(finished.sources))}")
    steps = {
        f"{one.name}.{name}": _of_step(finished, one, stage, name, step)
        for one in finished.sources.values()
        if source in (None, one.name)
        for stage, segment in enumerate(one.plan)
        for name, step in segment.steps
        if isinstance(step, Decontaminate) and step.match == "items"
    }
    if not steps:
        where = f"source {source} of {run}" if source else run
        raise UserError(f"{where} has no step `decontaminate` with `match: items`")
    return Contamination(run, steps)


def _of_step(run: FinishedRun, source: SourceParts, stage: int, name: str, step: Decontaminate) -> FoundByStep:
    items: dict[str, dict[int, FoundItem]] = {one: {} for one in step.names}
    holding = dict.fromkeys(step.names, 0)
    seen = touched = 0
    for part in source.parts[stage] if stage < len(source.parts) else []:
        if part.report.docs and not (part.kept and part.dropped):
            raise UserError(f"{run.uri} has let go what {name} measured: run the recipe with run.keep: measures")
        for path in (part.kept, part.dropped):
            for document in _documents(run, path, name) if path else ():
                seen += 1
                if hits := document.pop("hits"):
                    touched += 1
                    for one in _enter(items, document, orjson.loads(hits)):
                        holding[one] += 1
    lengths = _lengths(step)
    sets = {}
    for one, found in items.items():
        order = sorted(found, key=lambda record: (-found[record].documents, record))
        told = {str(record): found[record] for record in order}
        known, enough, digest = lengths[one]
        sets[one] = FoundSet(
            digest=digest, items=known, long_enough=enough, found=len(found), documents=holding[one], by_item=told
        )
    return FoundByStep(seen, touched, sets)


class _Named(TypedDict):
    """What names a document."""

    id: str
    file: str
    record: int


def _documents(run: FinishedRun, path: str, name: str) -> Any:
    """The documents of a part that reached the step: id, file, record and hits of each."""
    columns = ["id", "file", "record", f"{name}.items", f"{name}.hits"]
    for _, batch in run.rows(path, columns):
        if f"{name}.items" in batch.schema.names:
            for row in batch.rename_columns(["id", "file", "record", "items", "hits"]).to_pylist():
                if row.pop("items") is not None:
                    yield row


def _enter(items: dict[str, dict[int, FoundItem]], document: _Named, hits: list[list[Any]]) -> set[str]:
    """Enter the hits of one document; returns the sets that it has items of. An item that it has twice counts once."""
    best: dict[str, list[Any]] = {}
    for hit in hits:
        if hit[0] not in best or hit[1] > best[hit[0]][1]:
            best[hit[0]] = hit
    for place, share, first, last in best.values():
        name, record = place.rsplit(":", 1)
        item = items[name].setdefault(int(record), FoundItem())
        item.documents += 1
        item.share = max(item.share, share)
        if len(item.places) < PLACES:
            item.places.append(Place(**document, share=share, words=(first, last)))
    return {place.rsplit(":", 1)[0] for place in best}


def _lengths(step: Decontaminate) -> dict[str, tuple[int, int, str]]:
    """Of each set its items, those that are long enough to be found, and a digest of its file."""
    with tempfile.TemporaryDirectory() as scratch:
        context = Context("", Path(scratch), storage.Cache(storage.cache_folder(), 20 << 30))
        local = localise_step(step, context)
        assert isinstance(local, Decontaminate)
        known = [local.items().long_enough(number, step.shortest) for number in range(len(step.names))]
        files = digests([local.files] if isinstance(local.files, str) else local.files)
    counted = zip(step.names, known, files, strict=True)
    return {name: (len(enough), int(enough.sum()), digest) for name, enough, digest in counted}


def show_contamination(found: Contamination, console: Console, top: int) -> None:
    """Print, for each step, the table of its sets and that of the `top` items found most."""
    for name, step in found.steps.items():
        console.print(f"{name}: items of evaluation sets in {step.with_items:,} of {step.documents:,} documents")
        table = plain_table("", "set<", "items", "long enough", "found", "in documents")
        for one, s in step.sets.items():
            table.add_row(one, *(f"{count:,}" for count in (s.items, s.long_enough, s.found, s.documents)))
        console.print(table)
        for one, s in step.sets.items():
            console.print(f"{one}: {s.long_enough:,} of {s.items:,} items are long enough to be found")
        _show_items(step.sets, top, console)


def _show_items(sets: dict[str, FoundSet], top: int, console: Console) -> None:
    table = plain_table("found, by item", "set<", "record", "documents", "most", "for example<")
    for name, one in sets.items():
        for record, item in list(one.by_item.items())[:top]:
            place = item.places[0]
            where = f"{place.file}:{place.record}, words {place.words[0]:,} to {place.words[1]:,}"
            table.add_row(name, record, f"{item.documents:,}", f"{item.share:.1%}", where)
    if table.row_count:
        console.print(table)
