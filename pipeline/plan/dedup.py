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
from stages.dedup.spec import read_spec
from stages.step import content_key

FUNCTION = "pipeline.jobs.dedup:run"


def dedup_phases(
    recipe: Recipe, name: str, settings: Any, parts: dict[str, list[Part]], engine: Engine
) -> dict[str, list[Part]]:
    """Run one dedup over all given parts, in canonical order; returns them with their removals."""
    flat = [part for found in parts.values() for part in found]
    if not flat:
        return parts
    described = [
        {"ordinal": i, "path": part.path, "source": part.source, "documents": part.docs, "bytes": part.bytes}
        for i, part in enumerate(flat)
    ]
    groups = group_parts(described, 4 * recipe.run.split_bytes)
    spec = dump(settings)
    base = content_key(job.VERSION, read_spec(spec).settings(), [part.identity() for part in flat], [len(g) for g in groups])
    phases = clustered(spec, groups, f"parts/dedup/{name}")
    results: list[Any] | None = None
    digests: dict[str, str] = {}
    while True:
        try:
            phase = phases.send(results)  # type: ignore[arg-type]
        except StopIteration as end:
            summary = end.value
            break
        tasks = [_task(base, name, task, flat) for task in phase.tasks]
        entries = engine.run(Phase(f"{name}: {phase.name}", tasks))
        for entry in entries:
            digests |= {output["path"]: output["digest"] for output in entry["outputs"]}
        results = [entry["report"]["result"] for entry in entries]
    removed = {
        int(ordinal): {"path": path, "digest": digests[path]} for ordinal, path in summary["removals_of_part"].items()
    }
    numbered = iter(range(len(flat)))
    return {
        source: [replace(part, removals=[*part.removals, removed[i]]) for part, i in zip(found, numbered, strict=False)]
        for source, found in parts.items()
    }


def _task(base: str, name: str, task: Any, parts: list[Part]) -> Task:
    outputs = task.outputs
    writes = [path for value in outputs.values() for path in (value.values() if isinstance(value, dict) else [value])]
    mine = task.arguments.get("parts", [])
    spec = {
        "function": f"{task.function.__module__}:{task.function.__name__}",
        "arguments": task.arguments,
        "outputs": outputs,
        "writes": writes,
        "reads": [part["path"] for part in mine],
    }
    weight = sum(parts[part["ordinal"]].bytes for part in mine)
    return Task(task_key(FUNCTION, base, task.key), f"dedup/{name}/{task.key}", FUNCTION, spec, weight)
