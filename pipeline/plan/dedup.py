"""Dedup over the parts of one source or of all: phases of shuffle tasks that end in a list of removals for each part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.engine import Engine
from pipeline.jobs import dedup as job
from pipeline.plan.segments import Part
from pipeline.recipe import Recipe, dump
from pipeline.task import Phase, Task, task_key
from stages.dedup.phases import clustered, group_parts

FUNCTION = "pipeline.jobs.dedup:run"
GROUP_BYTES = 1 << 30  # of text that one scatter task reads


def dedup_phases(
    recipe: Recipe, name: str, settings: Any, parts: dict[str, list[Part]], engine: Engine
) -> dict[str, list[Part]]:
    """Run one dedup over all given parts, in canonical order; returns them with their removals."""
    flat = [part for found in parts.values() for part in found]
    if not flat:
        return parts
    described = [
        {
            "ordinal": i,
            "path": part.path,
            "source": part.source,
            "documents": part.docs,
            "bytes": part.bytes,
            "removals": [r["path"] for r in part.removals],
        }
        for i, part in enumerate(flat)
    ]
    weights = {part.path: part.bytes for part in flat}
    digests = {part.path: part.digest for part in flat} | {r["path"]: r["digest"] for part in flat for r in part.removals}
    phases = clustered(dump(settings), group_parts(described, GROUP_BYTES), f"parts/dedup/{name}")
    results: list[Any] | None = None
    while True:
        try:
            phase = phases.send(results)  # type: ignore[arg-type]
        except StopIteration as end:
            summary = end.value
            break
        tasks = [_task(name, task, digests, weights) for task in phase.tasks]
        entries = engine.run(Phase(f"{name}: {phase.name}", tasks))
        for entry in entries:
            digests |= {output["path"]: output["digest"] for output in entry["outputs"]}
        results = [entry["report"]["result"] for entry in entries]
    engine.notes[f"dedup {name}"] = summary
    found = iter(
        replace(part, removals=[*part.removals, {"path": path, "digest": digests[path]}])
        for part, path in zip(flat, (summary["removals"][str(i)] for i in range(len(flat))), strict=True)
    )
    return {source: [next(found) for _ in source_parts] for source, source_parts in parts.items()}


def _task(name: str, task: Any, digests: dict[str, str], weights: dict[str, int]) -> Task:
    """The engine's task for one of the dedup's own: keyed by what its inputs hold, not by where they lie."""
    function = f"{task.function.__module__}:{task.function.__qualname__}"
    reads: list[str] = []
    identity = _by_content({k: v for k, v in task.arguments.items() if k != "memory"}, digests, reads)
    writes = [path for value in task.outputs.values() for path in (value.values() if isinstance(value, dict) else [value])]
    spec = {"function": function, "arguments": task.arguments, "outputs": task.outputs, "writes": writes, "reads": reads}
    key = task_key(FUNCTION, job.VERSION, function, identity, task.outputs)
    return Task(key, f"dedup/{name}/{task.key}", FUNCTION, spec, sum(weights.get(path, 0) for path in reads))


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
