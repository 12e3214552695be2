"""Why a document was kept, dropped, or removed as a copy: its way through a finished run, step by step (`why`)."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.finished import FinishedRun, PartFiles, SourceParts, open_finished
from pipeline.replay import edits_of
from stages.chain import BYTES_IN, TEXT_IN
from stages.document import text_buffers
from stages.errors import UserError
from stages.step import Bounds, Step
from stages.tokens.shard_format import read_index

IDENTITY = ["id", "url", "file", "record", "offset"]
SHOWN = 10  # documents of one id or URL that are told of
SPLITS = ("train", "held_out")


@dataclass
class Hit:
    """A document found: in which part of which source, and what that file says became of it there."""

    source: SourceParts
    stage: int  # of the segment; -1: in no part that is left, only in a shard's index
    ordinal: int
    kind: str  # kept, dropped, failed
    row: dict[str, Any]


def why(run: str, document: str) -> dict[str, Any]:
    """What became of a document, by its id, its URL, or FILE:RECORD as documents name their files.

    Returns {"run", "query", "found", "documents": [...]}, of the documents found the first `SHOWN`. Raises UserError
    for a document that the run does not know, naming the nearest ids.
    """
    finished = open_finished(run)
    hits = _search(finished, document)
    told = [_tell(finished, hit) for hit in hits[:SHOWN]]
    return {"run": run, "query": document, "found": len(hits), "documents": told}


# ---- finding the document


def _search(run: FinishedRun, query: str) -> list[Hit]:
    near = Nearest(query)
    hits = [hit for source in run.sources.values() for hit in _in_parts(run, source, 0, query, near)]
    if not hits:  # where `run.keep` let the first parts go, later ones and the shards may know it
        for source in run.sources.values():
            for stage in range(1, len(source.parts)):
                hits += _in_parts(run, source, stage, query, near)
    if not hits:
        hits = [hit for source in run.sources.values() for hit in _in_token_files(run, source, query, near)]
    if not hits:
        hint = f"; near it are {', '.join(near.best())}" if near.best() else ""
        raise UserError(
            f"{run.uri} knows no document {query!r} by id, URL or FILE:RECORD{hint}. "
            "A document that was never read has no record: `python -m pipeline inspect --show 3` shows some ids"
        )
    by_id = [hit for hit in hits if hit.row["id"] == query]
    return by_id or hits


def _in_parts(run: FinishedRun, source: SourceParts, stage: int, query: str, near: Nearest) -> list[Hit]:
    found = []
    for ordinal, files in enumerate(source.parts[stage] if stage < len(source.parts) else ()):
        for kind, path in files.named():
            for start, batch in run.rows(path, IDENTITY):
                near.see(batch.column("id"))
                for row in np.flatnonzero(_matches(batch, query)):
                    found.append(Hit(source, stage, ordinal, kind, run.row(path, start + int(row))))
    return found


def _in_token_files(run: FinishedRun, source: SourceParts, query: str, near: Nearest) -> list[Hit]:
    """Documents of which only the token files know: dropped as copies or empty there, or in a shard."""
    found = []
    for ordinal, report in enumerate(source.tokens):
        if storage.exists(storage.join(run.uri, report.dropped)):
            for start, batch in run.rows(report.dropped):
                near.see(batch.column("id"))
                for row in np.flatnonzero(_matches(batch, query)):
                    found.append(Hit(source, -1, ordinal, "dropped", run.row(report.dropped, start + int(row))))
    for split in SPLITS:
        for shard in _shards(run, source.name, split):
            with storage.open_stream(storage.join(run.uri, shard["index"])) as stream:
                for _, _, name, src, loc in read_index(stream):
                    if query in (name, f"{src}:{loc}", f"{src.rsplit('/', 1)[-1]}:{loc}"):
                        row = {"id": name, "url": None, "file": src, "record": loc, "offset": None}
                        found.append(Hit(source, -1, -1, "kept", row))
    return found


def _matches(batch: pa.RecordBatch, query: str) -> np.ndarray:
    """Which rows (bool) are the document asked for: by id, by URL, or by file (its whole name or the last part) and record."""
    mask = pc.or_kleene(pc.equal(batch.column("id"), query), pc.equal(batch.column("url"), query))
    mask = np.array(mask.fill_null(False))
    place = re.fullmatch(r"(.+):(\d+)", query, re.DOTALL)
    if place and int(place[2]) < 2**63:
        mask |= _at(batch, place[1], int(place[2]), whole=False)
    return mask


def _at(batch: pa.RecordBatch, file: str, record: int, *, whole: bool = True) -> np.ndarray:
    """Which rows (bool) were read from this record of this file; `whole` False lets a file's last name stand for it."""
    here = np.array(pc.equal(batch.column("record"), record).fill_null(False))
    if here.any():
        named = pc.equal(batch.column("file"), file)
        if not whole:
            named = pc.or_(named, pc.ends_with(batch.column("file"), f"/{file}"))
        here &= np.asarray(named)
    return here


class Nearest:
    """The ids, of all that are shown to it, that begin and end most like a query: a few are kept, whatever their number."""

    def __init__(self, query: str, count: int = 3) -> None:
        self.query, self.count = query.encode(), count
        self.found: list[tuple[int, str]] = []

    def see(self, ids: pa.Array) -> None:
        """Look at a batch of ids."""
        data, offsets = text_buffers(ids)
        lengths = np.diff(offsets)
        same = np.minimum(_run(self.query, data, offsets[:-1], lengths, 1), lengths)
        tail = _run(self.query[::-1], data, offsets[1:] - 1, lengths, -1)
        score = np.minimum(same + tail, np.minimum(lengths, len(self.query)))
        enough = np.flatnonzero(score * 2 >= len(self.query))
        for row in enough[np.argsort(-score[enough], kind="stable")][: self.count]:
            entry = (int(score[row]), ids[int(row)].as_py())
            if entry not in self.found:
                self.found = heapq.nlargest(self.count, [*self.found, entry])

    def best(self) -> list[str]:
        return [name for _, name in self.found]


def _run(query: bytes, data: np.ndarray, at: np.ndarray, lengths: np.ndarray, direction: int) -> np.ndarray:
    """How many bytes from each place on, forwards or backwards, are those of the query (int64)."""
    count = np.zeros(len(at), np.int64)
    if not len(data):
        return count
    going = np.arange(len(at))
    for i, byte in enumerate(query):
        going = going[lengths[going] > i]
        going = going[data[at[going] + direction * i] == byte]
        if not len(going):
            break
        count[going] += 1
    return count


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
        return f"its measures were let go (run.keep is {run.recipe.run.keep})"
    return None


def _follow(run: FinishedRun, files: PartFiles, row: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    for kind, path in files.named():
        for start, batch in run.rows(path, ["file", "record"]):
            for found in np.flatnonzero(_at(batch, row["file"], row["record"])):
                return kind, run.row(path, start + int(found))
    return None


def _dropped_late(run: FinishedRun, source: SourceParts, ordinal: int, row: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a document that the last dedup removed, or that had nothing to tokenize."""
    if not 0 <= ordinal < len(source.tokens):
        return None
    path = source.tokens[ordinal].dropped
    for start, batch in run.rows(path, ["file", "record"]):
        for found in np.flatnonzero(_at(batch, row["file"], row["record"])):
            return run.row(path, start + int(found))
    return None


def _shards(run: FinishedRun, source: str, split: str) -> list[dict[str, Any]]:
    entry = run.manifest["sources"][source]
    return entry["shards"] if split == "train" else entry["held_out"]["shards"]


def _shard_of(run: FinishedRun, source: SourceParts, ordinal: int, row: dict[str, Any]) -> dict[str, Any] | None:
    """Where the document's tokens lie. Of all shards, only those are read that hold documents of its part."""
    for split in SPLITS:
        counts = [report.files[split].documents for report in source.tokens]
        first = sum(counts[:ordinal]) if ordinal >= 0 else 0
        end = first + counts[ordinal] if ordinal >= 0 else sum(counts)
        position = 0
        for shard in _shards(run, source.name, split):
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
    edits, note = edits_of(steps, run.recipe.sources[source.name].read, row, text)
    if cutting < len(taken) and note is None:
        note = f"what {taken[cutting][0]} cut out, and edits after it, are not shown: a dedup needs all documents"
    return edits, note
