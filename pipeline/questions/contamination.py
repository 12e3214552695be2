"""What a finished run found of evaluation sets: by set and by item, how much of it, and in which documents (`contamination`).

Read are the measures that the step `decontaminate` left (`match: items`), of all documents that reached it: those that it
dropped or cut, and those that it let through.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from pipeline import storage
from pipeline.finished import FinishedRun, SourceParts, open_finished
from pipeline.jobs.context import Context
from pipeline.jobs.inputs import localise_step
from pipeline.overrides import nearest
from pipeline.summary import plain_table
from stages.errors import UserError
from stages.filters.decontaminate import Decontaminate

PLACES = 20  # documents that are named of one item; all are counted


@dataclass
class _Item:
    """One item that was found."""

    documents: int = 0
    most: float = 0.0
    places: list[dict[str, Any]] = field(default_factory=list)


def contamination(run: str, source: str | None = None) -> dict[str, Any]:
    """By step ("source.step"): documents that it saw and in how many it found something, and the sets.

    A set has `items`, `long_enough`, `found`, `documents` (that hold one of its items), and `by_item`: for each record at which
    an item that was found begins, `documents`, the greatest share of it, and up to PLACES documents, with the share and the
    words of the document (first, behind the last). Raises UserError where there is no such step, or what it measured was let go.
    """
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
    return {"run": run, "steps": steps}


def _of_step(run: FinishedRun, source: SourceParts, stage: int, name: str, step: Decontaminate) -> dict[str, Any]:
    items: dict[str, dict[int, _Item]] = {one: {} for one in step.names}
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
    sets = {
        one: lengths[one] | {"found": len(found), "documents": holding[one], "by_item": _told(found)}
        for one, found in items.items()
    }
    return {"documents": seen, "with_items": touched, "sets": sets}


def _documents(run: FinishedRun, path: str, name: str) -> Any:
    """The documents of a part that reached the step: id, file, record and hits of each."""
    columns = ["id", "file", "record", f"{name}.items", f"{name}.hits"]
    for _, batch in run.rows(path, columns):
        if f"{name}.items" in batch.schema.names:
            for row in batch.rename_columns(["id", "file", "record", "items", "hits"]).to_pylist():
                if row.pop("items") is not None:
                    yield row


def _enter(items: dict[str, dict[int, _Item]], document: dict[str, Any], hits: list[list[Any]]) -> set[str]:
    """Enter the hits of one document; returns the sets that it has items of. An item that it has twice counts once."""
    best: dict[str, list[Any]] = {}
    for hit in hits:
        if hit[0] not in best or hit[1] > best[hit[0]][1]:
            best[hit[0]] = hit
    for place, share, first, last in best.values():
        name, record = place.rsplit(":", 1)
        item = items[name].setdefault(int(record), _Item())
        item.documents += 1
        item.most = max(item.most, share)
        if len(item.places) < PLACES:
            item.places.append(document | {"share": share, "words": [first, last]})
    return {place.rsplit(":", 1)[0] for place in best}


def _told(found: dict[int, _Item]) -> dict[str, Any]:
    order = sorted(found, key=lambda record: (-found[record].documents, record))
    return {
        str(record): {"documents": found[record].documents, "share": found[record].most, "places": found[record].places}
        for record in order
    }


def _lengths(step: Decontaminate) -> dict[str, dict[str, int]]:
    with tempfile.TemporaryDirectory() as scratch:
        context = Context("", Path(scratch), storage.Cache(storage.cache_folder(), 20 << 30))
        local = localise_step(step, context)
        assert isinstance(local, Decontaminate)
        known = [local.items().long_enough(number, step.shortest) for number in range(len(step.names))]
    return {
        name: {"items": len(enough), "long_enough": int(enough.sum())}
        for name, enough in zip(step.names, known, strict=True)
    }


def show_contamination(found: dict[str, Any], top: int, console: Console) -> None:
    """Print, for each step, the table of its sets and that of the items found most."""
    for name, step in found["steps"].items():
        console.print(f"{name}: items of evaluation sets in {step['with_items']:,} of {step['documents']:,} documents")
        table = plain_table("")
        for heading in ("set", "items", "long enough", "found", "in documents"):
            table.add_column(heading, justify="left" if heading == "set" else "right", no_wrap=True)
        for one, counts in step["sets"].items():
            table.add_row(one, *(f"{counts[key]:,}" for key in ("items", "long_enough", "found", "documents")))
        console.print(table)
        for one, counts in step["sets"].items():
            console.print(f"{one}: {counts['long_enough']:,} of {counts['items']:,} items are long enough to be found")
        _show_items(step["sets"], top, console)


def _show_items(sets: dict[str, Any], top: int, console: Console) -> None:
    table = plain_table("found, by item")
    for heading in ("set", "record", "documents", "most", "for example"):
        table.add_column(heading, justify="left" if heading in ("set", "for example") else "right", no_wrap=True)
    for name, counts in sets.items():
        for record, item in list(counts["by_item"].items())[:top]:
            place = item["places"][0]
            where = f"{place['file']}:{place['record']}, words {place['words'][0]:,} to {place['words'][1]:,}"
            table.add_row(name, record, f"{item['documents']:,}", f"{item['share']:.1%}", where)
    if table.row_count:
        console.print(table)
