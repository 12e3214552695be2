"""Why a document was kept, dropped, or removed as a copy: its way through a finished run, step by step (`why`)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.text import Text

from pipeline import storage
from pipeline.questions.find import Hit, rows_at, search
from pipeline.questions.measured import Keeps, Limit, MeasuredValue, measures_of_row
from pipeline.questions.replay import Edit, edits_of
from pipeline.run_folder.finished import FinishedRun, PartFiles, Row, SourceParts, open_finished
from pipeline.run_folder.manifest import SPLITS, members_of, shards_of
from pipeline.tables import line, plain_table
from stages.step import Step
from stages.tokens.shard_format import read_index
from stages.units import show_bytes

SHOWN = 10  # documents of one id or URL that are shown
STYLES = {"dropped": "bold red", "failed": "bold red", "not reached": "dim", "passed": ""}


class StepTaken(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a document's way. reason: of the step that dropped it."""

    step: str
    verdict: str  # passed, dropped, failed, not reached
    measures: list[MeasuredValue] = []
    reason: str | msgspec.UnsetType | None = msgspec.UNSET


class InShard(msgspec.Struct, frozen=True):
    """Where a document's tokens lie."""

    path: str
    split: str
    first_token: int
    end_token: int


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """A document's way through the run. metadata: as the source had it, in JSON. The notes say what is not known, and why."""

    id: str | None
    url: str | None
    source: str
    file: str
    record: int
    offset: int | None
    metadata: str | None
    outcome: str  # kept, dropped, duplicate, failed
    reason: str | None
    error: str | None
    traceback: str | None
    representative: str | None  # the id of the copy that stays
    shard: InShard | None
    steps: list[StepTaken]
    edits: list[Edit]
    edits_note: str | None
    measures_note: str | None


class Why(msgspec.Struct, frozen=True):
    """What became of the documents that answer to a query: `found` of them, the first `SHOWN` told."""

    run: str
    query: str
    found: int
    documents: list[Way]


def why(run: str, document: str) -> Why:
    """What became of a document, by its id, its URL, or FILE:RECORD as documents name their files.

    Raises UserError for a document that the run does not know, naming the nearest ids.
    """
    finished = open_finished(run)
    hits = search(finished, document)
    return Why(run, document, len(hits), [_tell(finished, hit) for hit in hits[:SHOWN]])


# ---- following it


def _tell(run: FinishedRun, hit: Hit) -> Way:
    """All that the run knows of one document."""
    source, row, kind, stage = hit.source, hit.row, hit.kind, hit.stage
    stage_after: int | None
    while kind == "kept" and stage >= 0:
        after = range(stage + 1, len(source.parts))
        stage_after = next((s for s in after if source.parts[s][hit.ordinal].named()), None)
        following = _follow(run, source.parts[stage_after][hit.ordinal], row) if stage_after is not None else None
        if stage_after is None or following is None:
            break
        stage, (kind, row) = stage_after, following
    late, shard = None, None
    if kind == "kept":
        late = _dropped_late(run, source, hit.ordinal, row)
        shard = None if late else _shard_of(run, source, hit.ordinal, row)
    reason = (late or row).get("reason")
    order = _order(run, source)
    end = _end(order, source, "failed" if kind == "failed" else None, reason, row, stage if late is None else None)
    last = len(order) if end is None else end
    told = [_step(name, item, row, place, last, kind, reason) for place, (name, item) in enumerate(order)]
    outcome = "failed" if kind == "failed" else "dropped" if reason else "kept"
    representative = (late or row).get("representative")
    if outcome == "dropped" and str(reason).startswith("dedup."):
        outcome = "duplicate"
    edits, note = _edits(run, source, order, last, row, kind, stage)
    return Way(
        id=row["id"],
        url=row["url"],
        source=source.name,
        file=row["file"],
        record=row["record"],
        offset=row["offset"],
        metadata=row.get("metadata"),
        error=row.get("error"),
        traceback=row.get("traceback"),
        outcome=outcome,
        reason=reason,
        representative=representative,
        shard=shard,
        steps=told,
        edits=edits,
        edits_note=note,
        measures_note=_measures_note(run, hit, kind),
    )


def _measures_note(run: FinishedRun, hit: Hit, kind: str) -> str | None:
    if kind == "failed":
        return "a document that failed is on record with its cause and payload, without measures"
    if hit.stage < 0:
        return run.gone("its measures are not there")
    return None


def _row_at(run: FinishedRun, path: str, row: Row) -> Row | None:
    """The row of a part's file that is the document of `row`."""
    for start, batch in run.rows(path, ["file", "record"]):
        for found in np.flatnonzero(rows_at(batch, row["file"], row["record"])):
            return run.row(path, start + int(found))
    return None


def _follow(run: FinishedRun, files: PartFiles, row: Row) -> tuple[str, Row] | None:
    for kind, path in files.named():
        if (found := _row_at(run, path, row)) is not None:
            return kind, found
    return None


def _dropped_late(run: FinishedRun, source: SourceParts, ordinal: int, row: Row) -> Row | None:
    """The record of a document that the last dedup removed, or that had nothing to tokenize."""
    return _row_at(run, source.tokens[ordinal].dropped, row) if 0 <= ordinal < len(source.tokens) else None


def _shard_of(run: FinishedRun, source: SourceParts, ordinal: int, row: Row) -> InShard | None:
    """Where the document's tokens lie. Of all shards, only those are read that hold documents of its part; of a source that is
    split, those of its parts, until it is found."""
    names = members_of(run.manifest, source.name)
    for split in SPLITS:
        counts = [report.files[split].documents for report in source.tokens]
        first = sum(counts[:ordinal]) if ordinal >= 0 else 0
        end = first + counts[ordinal] if ordinal >= 0 else sum(counts)
        position = 0
        for shard in (shard for name in names for shard in shards_of(run.manifest, name, split)):
            begin, position = position, position + shard["documents"]
            if names == [source.name] and (position <= first or begin >= end):
                continue
            with storage.open_stream(storage.join(run.uri, shard["index"])) as stream:
                for start, stop, name, src, loc in read_index(stream):
                    if loc == row["record"] and src == row["file"] and name == row["id"]:
                        return InShard(shard["path"], split, start, stop)
    return None


def _order(run: FinishedRun, source: SourceParts) -> list[tuple[str, Any]]:
    """All that a document of the source goes through: reading, its steps and dedups, the mixture's dedup, tokenizing."""
    mixture = [(f"mixture {name}", item) for name, item in run.recipe.dedup]
    return [("read", None), *run.recipe.sources[source.name].steps, *mixture, ("tokenize", None)]


def _end(
    order: list[tuple[str, Any]],
    source: SourceParts,
    failed: str | None,
    reason: str | None,
    row: Row,
    stage: int | None,
) -> int | None:
    """The place in `order` at which the document left; None where it stayed."""
    names = [name for name, _ in order]
    if failed:
        return names.index(step) if (step := row.get("step")) in names else 0
    if not reason:
        return None
    step = max((name for name in names if reason.startswith(f"{name}.")), key=len, default=None)
    if step is not None and not reason.startswith("dedup."):
        return names.index(step)
    if stage is not None and stage > 0 and (dedup := source.plan[stage - 1].dedup):
        return names.index(dedup[0])
    # Found at the tokenizer: the last dedup that removes with this reason.
    places = [
        i
        for i, (_, item) in enumerate(order)
        if not isinstance(item, Step) and getattr(item, "method", "") == reason[6:]
    ]
    return places[-1] if places else 0


# ---- what each step did


def _step(name: str, item: Any, row: Row, place: int, last: int, kind: str, reason: str | None) -> StepTaken:
    if place > last:
        return StepTaken(step=name, verdict="not reached")
    verdict = "passed" if place < last else "failed" if kind == "failed" else "dropped"
    measures = measures_of_row(name, item, row) if isinstance(item, Step) else []
    return StepTaken(step=name, verdict=verdict, measures=measures, reason=reason if verdict == "dropped" else msgspec.UNSET)


def _edits(
    run: FinishedRun,
    source: SourceParts,
    order: list[tuple[str, Any]],
    last: int,
    row: Row,
    kind: str,
    stage: int,
) -> tuple[list[Edit], str | None]:
    """The edits of the steps that the document went through."""
    upto = last if kind == "failed" else last + 1
    taken = [(name, item) for name, item in order[:upto]]
    cutting = next(
        (i for i, (_, item) in enumerate(taken) if getattr(item, "method", None) in ("bff", "paragraphs", "substring")),
        len(taken),
    )
    steps = [(name, item) for name, item in taken[:cutting] if isinstance(item, Step)]
    text = row.get("text") if kind != "failed" and cutting == len(taken) and stage >= 0 else None
    edits, note = edits_of(steps, run.recipe.sources[source.name].read, row, text, run.recipe.folder)
    if cutting < len(taken) and note is None:
        note = f"what {taken[cutting][0]} cut out, and edits after it, are not shown: a dedup needs all documents"
    return edits, note


# ---- what is printed


def show_why(found: Why, console: Console) -> None:
    """Print what `why` returned."""
    for document in found.documents:
        _document(document, console)
    if found.found > len(found.documents):
        console.print(f"{found.found} documents answer to this; the first {len(found.documents)} are shown")


def _document(d: Way, console: Console) -> None:
    console.rule(Text(f"{d.id} ({d.source})"), align="left")
    place = f"{d.file}, record {d.record}" + (f", byte {d.offset}" if d.offset is not None else "")
    line(console, f"read from {place}" + (f"; {d.url}" if d.url else ""))
    line(console, _outcome(d), "bold")
    table = plain_table("", "step~", "~", "measure~", "value", "limit~")
    for step in d.steps:
        style = STYLES[step.verdict]
        first = [Text(step.step, style), Text(step.verdict, style)]
        for m in step.measures or [None]:
            table.add_row(*first, *([] if m is None else _cells(m)))
            first = [Text(""), Text("")]
    console.print(table)
    if d.measures_note:
        line(console, d.measures_note)
    for edit in d.edits:
        _show_edit(edit, console)
    if d.edits_note:
        line(console, d.edits_note)
    if d.traceback:
        line(console, d.traceback)


def _show_edit(edit: Edit, console: Console) -> None:
    sizes = f"{show_bytes(edit.bytes_before)} -> {show_bytes(edit.bytes_after)}"
    if edit.diff is None:
        line(console, f"{edit.step}: {sizes} (a page became text)")
    elif not edit.diff:
        line(console, f"{edit.step}: nothing changed")
    else:
        line(console, f"{edit.step}: {sizes}")
        for text in edit.diff.split("\n"):
            line(console, f"  {text}", {"+": "green", "-": "red", "@": "cyan"}.get(text[:1], ""))


def _cells(m: MeasuredValue) -> list[Text]:
    outside = "" if m.passes else "  <- outside"
    style = "" if m.passes else "bold red"
    return [Text(c, style) for c in (m.name, show_value(m.value), show_limit(m.limit) + outside)]


def _outcome(d: Way) -> str:
    if d.outcome == "failed":
        return f"failed: {d.error}"
    if d.outcome == "duplicate":
        copy = f"; the copy that stays is {d.representative}" if d.representative else ""
        return f"removed as a copy: {d.reason}{copy}"
    if d.outcome == "dropped":
        return f"dropped: {d.reason}"
    if d.shard is None:
        return "kept"
    split = ", held out from training" if d.shard.split == "held_out" else ""
    return f"kept: {d.shard.path}, tokens {d.shard.first_token:,} to {d.shard.end_token:,}{split}"


def show_value(value: Any) -> str:
    """A measure as people read it; not measured is a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_limit(limit: Limit) -> str:
    """A limit as the recipe could write it."""
    if limit is None:
        return ""
    if isinstance(limit, Keeps):
        return "one of " + ", ".join(limit.keep)
    return ", ".join(f"{side} {show_value(float(bound))}" for side, bound in limit.sides()) or "none"
