"""What a run took, from its ledger: time, speed and memory of each stage and step; and what failed, with its causes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
import numpy as np

from pipeline.jobs.dedup_call import CallReport
from pipeline.jobs.shards import ShardReport
from pipeline.ledger import Entry, Ref
from pipeline.plan.node import Report
from pipeline.report.books import SourceBooks
from pipeline.run_folder.finished import FinishedRun

CAUSES = 12  # different causes that are listed; the others are counted
FAILED_SHOWN = 8  # documents that failed, of a source
CAUSE_CHARS, TRACE_CHARS = 200, 1200


class StageSpeed(msgspec.Struct, kw_only=True):
    """The tasks of one stage and source together. bytes: of what they were given, where that is known."""

    stage: str
    tasks: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    bytes: int | None = None

    def add(self, entry: Entry, size: int | None) -> None:
        """Count a task in."""
        self.tasks += 1
        self.seconds = round(self.seconds + entry.seconds, 3)
        self.cpu_seconds = round(self.cpu_seconds + entry.cpu_seconds, 3)
        self.peak_memory = max(self.peak_memory, entry.peak_memory)
        if size is not None:
            self.bytes = (self.bytes or 0) + size


class StepSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """One step within the tasks of a source."""

    source: str
    step: str
    seconds: float
    bytes: int


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Stages and steps, those that took most first, and all tasks together."""

    stages: list[StageSpeed]
    steps: list[StepSpeed]
    seconds: float
    cpu_seconds: float
    peak_memory: int
    tasks: int
    hosts: int
    finished: str | None
    last_run_seconds: float


class Cause(msgspec.Struct, frozen=True):
    """Documents that failed in one step for one cause."""

    source: str
    step: str
    cause: str
    documents: int


class MoreCauses(msgspec.Struct, frozen=True):
    """Causes that are not listed, and their documents."""

    causes: int
    documents: int


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """A document in quarantine."""

    source: str
    id: str | None
    file: str
    record: int
    step: str
    error: str | None
    traceback: str


class PassedOver(msgspec.Struct, frozen=True):
    """Records that are no documents, documents that were mended, characters replaced."""

    source: str
    what: str
    records: int


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """Failed documents by step and cause, some of each source, and files that could not be read to their end."""

    causes: list[Cause]
    more_causes: MoreCauses
    documents: list[Failed]
    files: int
    passed_over: list[PassedOver]


def speed(run: FinishedRun, sources: Mapping[str, SourceBooks], last_run_seconds: float) -> Speed:
    """What the tasks took. sources: the books of each, for the time of single steps."""
    stages: dict[str, StageSpeed] = {}
    for entry in run.entries:
        name = _stage(entry.ref)
        stages.setdefault(name, StageSpeed(stage=name)).add(entry, _bytes_in(run, entry))
    steps = [
        StepSpeed(source=source, step=step.step, seconds=step.seconds, bytes=step.into.bytes)
        for source, books in sources.items()
        for step in books.steps
        if step.seconds > 0
    ]
    return Speed(
        stages=sorted(stages.values(), key=lambda s: (-s.seconds, s.stage)),
        steps=sorted(steps, key=lambda s: (-s.seconds, s.source, s.step)),
        seconds=round(sum(s.seconds for s in stages.values()), 3),
        cpu_seconds=round(sum(s.cpu_seconds for s in stages.values()), 3),
        peak_memory=max((s.peak_memory for s in stages.values()), default=0),
        tasks=len(run.entries),
        hosts=len({entry.host for entry in run.entries}),
        finished=max((entry.finished for entry in run.entries), default=None),
        last_run_seconds=last_run_seconds,
    )


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
        return entry.report_as(ShardReport).shard["tokens"] * np.dtype(run.manifest["dtype"]).itemsize
    if ref.kind == "dedup":
        phase = ref.stage.partition(" ")[2]
        result = msgspec.json.decode(entry.report_as(CallReport).result)
        if phase == "scatter":  # the pass of a dedup in which documents are read
            return result.get("bytes") or None  # none is read where URLs alone are compared
        if phase == "edit":
            return sum(part["bytes"] for part in result.values() if "bytes" in part)
    return None


def failures(run: FinishedRun, ordinals: dict[str, list[int]]) -> Failures:
    """What failed. ordinals: of each source, the parts whose quarantine is read."""
    causes: Counter[tuple[str, str, str]] = Counter()
    shown: list[Failed] = []
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
                        shown.append(Failed(source=name, **row))
                    left = max(0, left - batch.num_rows)
    common = causes.most_common()
    rest = common[CAUSES:]
    return Failures(
        causes=[Cause(*place, documents) for place, documents in common[:CAUSES]],
        more_causes=MoreCauses(len(rest), sum(n for _, n in rest)),
        documents=shown,
        files=files,
        passed_over=[PassedOver(*place, records) for place, records in sorted(notes.items())],
    )
