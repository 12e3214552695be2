"""Why a document was kept, dropped, or removed as a copy: its way through a finished run, step by step (`why`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console, JustifyMethod
from rich.text import Text

from pipeline import storage
from pipeline.finished import FinishedRun, PartFiles, SourceParts, open_finished
from pipeline.manifest import SPLITS, shards_of
from pipeline.questions.find import Hit, rows_at, search
from pipeline.questions.replay import edits_of
from pipeline.summary import plain_table
from stages.chain import BYTES_IN, TEXT_IN
from stages.step import Bounds, Step
from stages.tokens.shard_format import read_index
from stages.units import show_bytes

SHOWN = 10  # documents of one id or URL that are shown
STYLES = {"dropped": "bold red", "failed": "bold red", "not reached": "dim", "passed": ""}


def why(run: str, document: str) -> dict[str, Any]:
    """What became of a document, by its id, its URL, or FILE:RECORD as documents name their files.

    Returns {"run", "query", "found", "documents": [...]}, of the documents found the first `SHOWN`. Raises UserError
    for a document that the run does not know, naming the nearest ids.
    """
    finished = open_finished(run)
    hits = search(finished, document)
    told = [_tell(finished, hit) for hit in hits[:SHOWN]]
    return {"run": run, "query": document, "found": len(hits), "documents": told}


# ---- following it


def _tell(run: FinishedRun, hit: Hit) -> dict[str, Any]:
    """All that the run knows of one document."""
    source, row, kind, stage = hit.source, dict(hit.row), hit.kind, hit.stage
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
    return {
        "id": row["id"],
        "url": row["url"],
        "source": source.name,
        "file": row["file"],
        "record": row["record"],
        "offset": row["offset"],
        "metadata": row.get("metadata"),
        "outcome": outcome,
        "reason": reason,
        "error": row.get("error"),
        "traceback": row.get("traceback"),
        "representative": representative,
        "shard": shard,
        "steps": told,
        "edits": edits,
        "edits_note": note,
        "measures_note": _measures_note(run, hit, kind),
    }


def _measures_note(run: FinishedRun, hit: Hit, kind: str) -> str | None:
    if kind == "failed":
        return "a document that failed is on record with its cause and payload, without measures"
    if hit.stage < 0:
        return run.gone("its measures are not there")
    return None


def _follow(run: FinishedRun, files: PartFiles, row: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    for kind, path in files.named():
        for start, batch in run.rows(path, ["file", "record"]):
            for found in np.flatnonzero(rows_at(batch, row["file"], row["record"])):
                return kind, run.row(path, start + int(found))
    return None


def _dropped_late(run: FinishedRun, source: SourceParts, ordinal: int, row: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a document that the last dedup removed, or that had nothing to tokenize."""
    if not 0 <= ordinal < len(source.tokens):
        return None
    path = source.tokens[ordinal].dropped
    for start, batch in run.rows(path, ["file", "record"]):
        for found in np.flatnonzero(rows_at(batch, row["file"], row["record"])):
            return run.row(path, start + int(found))
    return None


def _shard_of(run: FinishedRun, source: SourceParts, ordinal: int, row: dict[str, Any]) -> dict[str, Any] | None:
    """Where the document's tokens lie. Of all shards, only those are read that hold documents of its part."""
    for split in SPLITS:
        counts = [report.files[split].documents for report in source.tokens]
        first = sum(counts[:ordinal]) if ordinal >= 0 else 0
        end = first + counts[ordinal] if ordinal >= 0 else sum(counts)
        position = 0
        for shard in shards_of(run.manifest, source.name, split):
            begin, position = position, position + shard["documents"]
            if position <= first or begin >= end:
                continue
            with storage.open_stream(storage.join(run.uri, shard["index"])) as stream:
                for start, stop, name, src, loc in read_index(stream):
                    if loc == row["record"] and src == row["file"] and name == row["id"]:
                        return {"path": shard["path"], "split": split, "first_token": start, "end_token": stop}
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
    row: dict[str, Any],
    stage: int | None,
) -> int | None:
    """The place in `order` at which the document left; None where it stayed."""
    names = [name for name, _ in order]
    if failed:
        return names.index(row["step"]) if row["step"] in names else 0
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


def _step(
    name: str, item: Any, row: dict[str, Any], place: int, last: int, kind: str, reason: str | None
) -> dict[str, Any]:
    verdict = (
        "passed" if place < last else "not reached" if place > last else "failed" if kind == "failed" else "dropped"
    )
    found: dict[str, Any] = {"step": name, "verdict": verdict, "measures": []}
    if verdict == "dropped":
        found["reason"] = reason
    if not isinstance(item, Step) or verdict == "not reached":
        return found
    found["measures"] = measures_of_row(name, item, row)
    return found


def measures_of_row(name: str, step: Step, row: dict[str, Any]) -> list[dict[str, Any]]:
    """What a step measured of a document, as its part's row holds it: {"name", "value", "limit", "passes"} each."""
    limits = step.limits()
    measures = list(limits) + [c[len(name) + 1 :] for c in row if c.startswith(f"{name}.")]
    return [
        _measure(measure, row[f"{name}.{measure}"], limits.get(measure))
        for measure in dict.fromkeys(measures)
        if f"{name}.{measure}" in row and f".{measure}" not in (BYTES_IN, TEXT_IN)  # the edits show these
    ]


def _measure(name: str, value: Any, bounds: Any) -> dict[str, Any]:
    if isinstance(value, float) and np.isnan(value):
        value = None
    found: dict[str, Any] = {"name": name, "value": value, "limit": None, "passes": True}
    if isinstance(bounds, Bounds):
        found["limit"] = {"min": bounds.min, "max": bounds.max}
        low = value is not None and bounds.min is not None and value < bounds.min
        high = value is not None and bounds.max is not None and value > bounds.max
        found["passes"] = not (low or high)
    elif bounds is not None:
        found["limit"] = {"keep": list(bounds.keep)}
        found["passes"] = value is None or value in bounds.keep
    return found


def _edits(
    run: FinishedRun,
    source: SourceParts,
    order: list[tuple[str, Any]],
    last: int,
    row: dict[str, Any],
    kind: str,
    stage: int,
) -> tuple[list[dict[str, Any]], str | None]:
    """The edits of the steps that the document went through."""
    upto = last if kind == "failed" else last + 1
    taken = [(name, item) for name, item in order[:upto]]
    cutting = next((i for i, (_, item) in enumerate(taken) if getattr(item, "method", None) in ("bff", "substring")), len(taken))
    steps = [(name, item) for name, item in taken[:cutting] if isinstance(item, Step)]
    text = row.get("text") if kind != "failed" and cutting == len(taken) and stage >= 0 else None
    edits, note = edits_of(steps, run.recipe.sources[source.name].read, row, text, run.recipe.folder)
    if cutting < len(taken) and note is None:
        note = f"what {taken[cutting][0]} cut out, and edits after it, are not shown: a dedup needs all documents"
    return edits, note


# ---- what is printed


def show_why(found: dict[str, Any], console: Console) -> None:
    """Print what `why` returned."""
    for document in found["documents"]:
        _document(document, console)
    if found["found"] > len(found["documents"]):
        console.print(f"{found['found']} documents answer to this; the first {len(found['documents'])} are shown")


def _document(d: dict[str, Any], console: Console) -> None:
    console.rule(Text(f"{d['id']} ({d['source']})"), align="left")
    place = f"{d['file']}, record {d['record']}" + (f", byte {d['offset']}" if d["offset"] is not None else "")
    _line(console, f"read from {place}" + (f"; {d['url']}" if d["url"] else ""))
    _line(console, _outcome(d), "bold")
    table = plain_table("")
    columns: tuple[tuple[str, JustifyMethod], ...] = (
        ("step", "left"),
        ("", "left"),
        ("measure", "left"),
        ("value", "right"),
        ("limit", "left"),
    )
    for heading, justify in columns:
        table.add_column(heading, justify=justify)
    for step in d["steps"]:
        style = STYLES[step["verdict"]]
        first = [Text(step["step"], style), Text(step["verdict"], style)]
        for m in step["measures"] or [None]:
            cells = [Text(""), Text(""), Text("")] if m is None else _cells(m)
            table.add_row(*first, *cells)
            first = [Text(""), Text("")]
    console.print(table)
    if d["measures_note"]:
        _line(console, d["measures_note"])
    for edit in d["edits"]:
        sizes = f"{show_bytes(edit['bytes_before'])} -> {show_bytes(edit['bytes_after'])}"
        if edit["diff"] is None:
            _line(console, f"{edit['step']}: {sizes} (a page became text)")
        elif not edit["diff"]:
            _line(console, f"{edit['step']}: nothing changed")
        else:
            _line(console, f"{edit['step']}: {sizes}")
            for line in edit["diff"].split("\n"):
                style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
                console.print(Text(f"  {line}", style), soft_wrap=True)
    if d["edits_note"]:
        _line(console, d["edits_note"])
    if d["traceback"]:
        _line(console, d["traceback"])


def _cells(m: dict[str, Any]) -> list[Text]:
    outside = "" if m["passes"] else "  <- outside"
    style = "" if m["passes"] else "bold red"
    return [Text(c, style) for c in (m["name"], show_value(m["value"]), show_limit(m["limit"]) + outside)]


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)


def _outcome(d: dict[str, Any]) -> str:
    if d["outcome"] == "failed":
        return f"failed: {d['error']}"
    if d["outcome"] == "duplicate":
        copy = f"; the copy that stays is {d['representative']}" if d["representative"] else ""
        return f"removed as a copy: {d['reason']}{copy}"
    if d["outcome"] == "dropped":
        return f"dropped: {d['reason']}"
    shard = d["shard"]
    if shard is None:
        return "kept"
    split = ", held out from training" if shard["split"] == "held_out" else ""
    return f"kept: {shard['path']}, tokens {shard['first_token']:,} to {shard['end_token']:,}{split}"


def show_value(value: Any) -> str:
    """A measure as people read it; not measured is a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_limit(limit: dict[str, Any] | None) -> str:
    """A limit as the recipe could write it."""
    if limit is None:
        return ""
    if "keep" in limit:
        return "one of " + ", ".join(limit["keep"])
    sides = [(side, limit[side]) for side in ("min", "max") if limit[side] is not None]
    return ", ".join(f"{side} {show_value(float(bound))}" for side, bound in sides) or "none"
