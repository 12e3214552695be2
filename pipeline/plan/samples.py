"""Documents drawn from parts to train something on: chosen by a hash of their ids, so the choice hangs on nothing else."""

from __future__ import annotations

from typing import Any

from pipeline.engine import Engine
from pipeline.jobs import sample as job
from pipeline.plan.segments import Part
from pipeline.task import Phase, Task, task_key

FUNCTION = "pipeline.jobs.sample:run"
AT_ONCE = 16  # the task that trains draws its sample itself from up to so many times what it asked for


def draw(parts: list[Part], share: float, purpose: str, engine: Engine, batch_bytes: int) -> list[dict[str, Any]]:
    """What a training job reads to see `share` of all documents: the parts, or samples of them made by tasks of their own.

    The same documents in the same order in both cases; samples are made where the parts are far more than is asked for,
    for no task may read a whole corpus.
    """
    if share * AT_ONCE >= 1:
        return [{"path": part.path, "removals": part.removals, "share": share} for part in parts]
    tasks = []
    for part in parts:
        key = task_key(FUNCTION, job.VERSION, purpose, share, part.identity())
        spec = {
            "path": part.path,
            "removals": part.removals,
            "share": share,
            "purpose": purpose,
            "batch_bytes": batch_bytes,
            "output": f"parts/sample/{purpose}/{key}.parquet",
            "reads": [part.path, *(r["path"] for r in part.removals)],
        }
        tasks.append(Task(key, f"sample/{purpose}/{key}", FUNCTION, spec, part.bytes))
    entries = engine.run(Phase(f"sample for the {purpose}", tasks))
    return [{"path": entry["outputs"][0]["path"], "removals": [], "share": share} for entry in entries]


def reads(drawn: list[dict[str, Any]]) -> list[str]:
    """All files of the run that these inputs lie in."""
    return [path for one in drawn for path in (one["path"], *(r["path"] for r in one["removals"]))]
