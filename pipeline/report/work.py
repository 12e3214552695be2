"""What a run took, from its ledger: time, speed and memory of each stage and step; and what failed, with its causes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np

from pipeline.finished import FinishedRun
from pipeline.jobs.dedup_call import CallReport
from pipeline.jobs.shards import ShardReport
from pipeline.ledger import Entry, Ref
from pipeline.plan.node import Report

CAUSES = 12  # different causes that are listed; the others are counted
FAILED_SHOWN = 8  # documents that failed, of a source
CAUSE_CHARS, TRACE_CHARS = 200, 1200


def speed(run: FinishedRun, sources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Per stage: tasks, seconds (of all its tasks), cpu_seconds, peak_memory, and bytes of what it was given, if known.

    sources: as `books.source_books` gives them, for the time of single steps.
    """
    stages: dict[str, dict[str, Any]] = {}
    for entry in run.entries:
        name = _stage(entry.ref)
        stage = stages.setdefault(
            name, {"stage": name, "tasks": 0, "seconds": 0.0, "cpu_seconds": 0.0, "peak_memory": 0, "bytes": None}
        )
        stage["tasks"] += 1
        for field in ("seconds", "cpu_seconds"):
            stage[field] = round(stage[field] + getattr(entry, field), 3)
        stage["peak_memory"] = max(stage["peak_memory"], entry.peak_memory)
        if (size := _bytes_in(run, entry)) is not None:
            stage["bytes"] = (stage["bytes"] or 0) + size
    steps = [
        {"source": source, "step": step["step"], "seconds": step["seconds"], "bytes": step["in"]["bytes"]}
        for source, books in sources.items()
        for step in books["steps"]
        if step["seconds"] > 0
    ]
    return {
        "stages": sorted(stages.values(), key=lambda s: (-s["seconds"], s["stage"])),
        "steps": sorted(steps, key=lambda s: (-s["seconds"], s["source"], s["step"])),
        "seconds": round(sum(s["seconds"] for s in stages.values()), 3),
        "cpu_seconds": round(sum(s["cpu_seconds"] for s in stages.values()), 3),
        "peak_memory": max((s["peak_memory"] for s in stages.values()), default=0),
        "tasks": len(run.entries),
        "hosts": len({entry.host for entry in run.entries}),
        "finished": max((entry.finished for entry in run.entries), default=None),
    }


def _stage(ref: Ref) -> str:
    """The stage that a task belongs to, as people name it."""
    if ref.kind == "documents":
        return f"{ref.source}: steps" if ref.stage == "0" else f"{ref.source}: steps after dedup {ref.stage}"
    if ref.kind == "dedup":  # the stage is the dedup's name and its phase
        return f"{ref.source}: {ref.stage.partition(' ')[0]}"
    if ref.kind == "classifier":
        return f"{ref.source}: train the classifier"
    if ref.kind in ("tokenize", "shard"):
        return f"{ref.source}: {ref.kind}"
    return " ".join(filter(None, (ref.kind, ref.source, ref.stage)))


def _bytes_in(run: FinishedRun, entry: Entry) -> int | None:
    """Bytes of text, or of pages, that a task was given; of tokens that it wrote, for a shard."""
    ref = entry.ref
    if ref.kind in ("documents", "tokenize"):
        return entry.report_as(Report).books[0].into.bytes
    if ref.kind == "shard":
        return entry.report_as(ShardReport).shard.tokens * np.dtype(run.manifest["dtype"]).itemsize
    if ref.kind == "dedup":
        phase = ref.stage.partition(" ")[2]
        result = msgspec.json.decode(entry.report_as(CallReport).result)
        if phase == "scatter":  # the pass of a dedup in which documents are read
            return result.get("bytes") or None  # none is read where URLs alone are compared
        if phase == "edit":
            return sum(part["bytes"] for part in result.values() if "bytes" in part)
    return None


def failures(run: FinishedRun, ordinals: dict[str, list[int]]) -> dict[str, Any]:
    """Failed documents by step and cause, some of each source, and files that could not be read to their end.

    ordinals: of each source, the parts whose quarantine is read.
    """
    causes: Counter[tuple[str, str, str]] = Counter()
    shown = []
    files = 0
    notes: Counter[tuple[str, str]] = Counter()
    for name, source in run.sources.items():
        left = FAILED_SHOWN
        for parts in source.parts:
            for ordinal, part in enumerate(parts):
                files += part.report.failed_files
                notes.update({(name, kind): n for kind, n in part.report.notes.items()})
                if part.failed is None or ordinal not in ordinals[name]:
                    continue
                for _, batch in run.rows(part.failed, ["id", "file", "record", "step", "error", "traceback"]):
                    for step, error in zip(batch.column("step"), batch.column("error"), strict=True):
                        cause = (name, step.as_py(), " ".join((error.as_py() or "").split())[:CAUSE_CHARS])
                        if cause in causes or len(causes) < 1000:  # errors that quote their document may all differ
                            causes[cause] += 1
                        else:
                            causes[name, cause[1], "(other causes)"] += 1
                    for row in batch.slice(0, left).to_pylist():
                        row["traceback"] = (row["traceback"] or "")[-TRACE_CHARS:]
                        shown.append({"source": name, **row})
                    left = max(0, left - batch.num_rows)
    common = causes.most_common()
    return {
        "causes": [
            {"source": s, "step": step, "cause": cause, "documents": n} for (s, step, cause), n in common[:CAUSES]
        ],
        "more_causes": {"causes": len(common[CAUSES:]), "documents": sum(n for _, n in common[CAUSES:])},
        "documents": shown,
        "files": files,
        "passed_over": [{"source": s, "what": what, "records": n} for (s, what), n in sorted(notes.items())],
    }
