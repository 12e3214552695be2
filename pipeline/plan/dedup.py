"""Dedup over the parts of one source or of all: phases of shuffle tasks that end in a list of removals for each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline import storage
from pipeline.engine import Engine
from pipeline.jobs import dedup as job
from pipeline.plan.segments import Part
from pipeline.recipe import dump
from pipeline.task import Phase, Task, task_key
from stages.dedup.bloom import filter_bytes
from stages.dedup.footprint import filter_memory, footprint, substring_memory, suffix_memory
from stages.dedup.phases import group_parts, phases
from stages.dedup.tasks import MAX_GROUPS
from stages.units import show_bytes

FUNCTION = "pipeline.jobs.dedup:run"
GROUP_BYTES = 1 << 30  # of text that one scatter task reads, at most
SMALL_GROUP_BYTES = 16 << 20  # of a small corpus it reads less, so that there are tasks for all workers
FEW_GROUPS = 32


def group_bytes(size: int) -> int:
    """Bytes of text that one task reads, of a corpus of `size` bytes."""
    return max(min(GROUP_BYTES, max(SMALL_GROUP_BYTES, size // FEW_GROUPS)), size // MAX_GROUPS)


@dataclass
class Job:
    """One dedup: its name in the run, its settings, and the parts that it runs over."""

    name: str
    settings: Any
    parts: list[Part]


def dedup_phases(jobs: list[Job], engine: Engine, keep_files: bool = True) -> list[list[Part]]:
    """Run dedups side by side, each over its parts in canonical order; returns the parts with their removals.

    Their phases are merged: all scatter at once, then all group, and so on, so that small ones do not wait in a row.
    Without `keep_files` the shuffle's own files go when all are done; what was removed stays on record.
    """
    running = [_Running(job) for job in jobs if job.parts]
    for one in running:
        if not all(engine.ledger.find(task.key) for task in one.tasks()):
            engine.progress.line(one.stated())
    number = 0
    while waiting := [one for one in running if one.phase is not None]:
        number += 1
        tasks = [(one, task) for one in waiting for task in one.tasks()]
        names = dict.fromkeys(one.phase.name for one in waiting)
        entries = engine.run(Phase(f"dedup {number}: {', '.join(names)}", [task for _, task in tasks]))
        for one in waiting:
            one.advance([entry for (owner, _), entry in zip(tasks, entries, strict=True) if owner is one])
    for one in running:
        engine.notes[f"dedup {one.job.name}"] = one.summary
    if not keep_files:
        engine.ledger.release(item for one in running for item in one.shuffle_files())
    done = iter(running)
    return [next(done).parts_left() if job.parts else [] for job in jobs]


class _Running:
    """A dedup on its way: the stage's generator of phases, and what its files hold."""

    def __init__(self, job: Job) -> None:
        self.job = job
        described = [
            {
                "ordinal": i,
                "path": part.path,
                "source": part.source,
                "documents": part.docs,
                "bytes": part.bytes,
                "files": part.files,
                "removals": [r["path"] for r in part.removals],
            }
            for i, part in enumerate(job.parts)
        ]
        self.digests = {part.path: part.digest for part in job.parts}
        self.digests |= {r["path"]: r["digest"] for part in job.parts for r in part.removals}
        self.weights = {part.path: part.bytes for part in job.parts}
        self.outside = [path for key in ("load", "tokenizer") if (path := getattr(job.settings, key, None))]
        self.digests |= {path: storage.stat(path).version for path in self.outside}
        self.writers: dict[str, str] = {}
        documents, size = sum(part.docs for part in job.parts), sum(part.bytes for part in job.parts)
        groups = group_parts(described, group_bytes(size))
        self.needs = footprint(job.settings, documents, size, len(groups))
        self.read = {str(i): {"path": part.path, "source": part.source} for i, part in enumerate(job.parts)}
        self.phases = phases(dump(job.settings), groups, f"parts/dedup/{job.name}")
        self.summary: dict[str, Any] = {}
        self.phase: Any = next(self.phases)

    def tasks(self) -> list[Task]:
        return [
            _task(self.job.name, task, self.digests, self.weights, self.outside, self._memory(task))
            for task in self.phase.tasks
        ]

    def stated(self) -> str:
        """What this dedup may need at most, in a line."""
        most = max(self.needs, key=lambda need: need.memory)
        disk = sum(need.disk for need in self.needs)
        return (
            f"dedup {self.job.name} ({self.job.settings.method}): at most {show_bytes(most.memory)} of memory a task "
            f"({most.phase}) and {show_bytes(disk)} of files"
        )

    def _memory(self, task: Any) -> int:
        """Bytes that a task of the present phase may take; of filters and suffix arrays exactly, once it is counted."""
        kind = self.phase.name.split("-")[0]
        kind = "components" if kind in ("large", "small") else kind
        if kind == "filter":
            settings = self.job.settings
            if settings.load:
                return filter_memory(storage.stat(settings.load).size)
            return filter_memory(filter_bytes(settings.expected_ngrams or task.arguments["ngrams"], settings.fp_rate))
        if kind == "repeats":
            counted = {name: task.arguments[name] for name in ("sequence_bytes", "documents")}
            return substring_memory(suffix_memory(self.job.settings.unit, **counted))
        return max((need.memory for need in self.needs if need.phase == kind), default=0)

    def advance(self, entries: list[dict[str, Any]]) -> None:
        """Hand the results of the present phase in; `phase` is then the next one, or None at the end."""
        for entry in entries:
            self.digests |= {output["path"]: output["digest"] for output in entry["outputs"]}
            self.writers |= {output["path"]: entry["key"] for output in entry["outputs"]}
        try:
            self.phase = self.phases.send([entry["report"]["result"] for entry in entries])
        except StopIteration as end:
            needs = [asdict(need) for need in self.needs]
            self.phase, self.summary = None, end.value | {"read": self.read, "needs": needs}

    def shuffle_files(self) -> list[tuple[str, list[str]]]:
        """(key of the task, files that it wrote) for all files but the results that the summary names."""
        named = set(_strings(self.summary))
        found: dict[str, list[str]] = {}
        for path, key in self.writers.items():
            if path not in named:
                found.setdefault(key, []).append(path)
        return list(found.items())

    def parts_left(self) -> list[Part]:
        """The parts with the removals that this dedup found; where it cut texts, the new parts in place of the old."""
        found = []
        for i, part in enumerate(self.job.parts):
            path = self.summary["removals"][str(i)]
            removals = [*part.removals, {"path": path, "digest": self.digests[path]}]
            if "parts" in self.summary:
                new, report = self.summary["parts"][str(i)], self.summary["reports"][str(i)]
                part = replace(
                    part,
                    path=new,
                    digest=self.digests[new],
                    key=self.writers[new],
                    bytes=part.bytes - report["cut_bytes"],
                    edited=part.edited + report["cut_bytes"],
                )
            found.append(replace(part, removals=removals))
        return found


def _strings(value: Any) -> Iterator[str]:
    """All strings in JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def _task(
    name: str, task: Any, digests: dict[str, str], weights: dict[str, int], outside: list[str], memory: int
) -> Task:
    """The engine's task for one of the dedup's own: keyed by what its inputs hold, not by where they lie."""
    function = f"{task.function.__module__}:{task.function.__qualname__}"
    reads: list[str] = []
    identity = _by_content({k: v for k, v in task.arguments.items() if k != "memory"}, digests, reads)
    writes = [
        path for value in task.outputs.values() for path in (value.values() if isinstance(value, dict) else [value])
    ]
    spec = {
        "function": function,
        "arguments": task.arguments,
        "outputs": task.outputs,
        "writes": writes,
        "reads": [path for path in reads if path not in outside],
        "outside": outside,
    }
    key = task_key(FUNCTION, job.VERSION, function, identity, task.outputs)
    weight = sum(weights.get(path, 0) for path in reads)
    return Task(key, f"dedup/{name}/{task.key}", FUNCTION, spec, weight, memory=memory)


def _by_content(value: Any, digests: dict[str, str], reads: list[str]) -> Any:
    """Arguments with every known file's name replaced by its digest; the names are added to `reads`."""
    if isinstance(value, dict):
        return {k: _by_content(v, digests, reads) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(v, digests, reads) for v in value]
    if isinstance(value, str) and value in digests:
        reads.append(value)
        return digests[value]
    return value
