"""Quality classifiers that a recipe trains itself, before the segment that applies them."""

from __future__ import annotations

from typing import Any

from pipeline import storage
from pipeline.engine import Engine
from pipeline.jobs import classifier as job
from pipeline.plan.samples import draw, reads
from pipeline.plan.segments import Part, Segment
from pipeline.recipe import Recipe, dump
from pipeline.task import Phase, Task, task_key
from stages.errors import UserError
from stages.quality.classifier import Quality

FUNCTION = "pipeline.jobs.classifier:run"


def with_trained_models(
    recipe: Recipe, segment: Segment, source: str, parts: dict[str, list[Part]], engine: Engine
) -> Segment:
    """The segment with each `quality` step that is to be trained pointing to its model, trained where it is not yet."""
    steps, digests = [], dict(segment.digests)
    for name, step in segment.steps:
        if isinstance(step, Quality) and step.train is not None:
            path, digest = _train(recipe, f"{source}.{name}", step, parts, engine)
            uri = storage.join(engine.run_uri, path)
            labels = {"positive": step.train.settings.positive, "negative": step.train.settings.negative}
            step = step.model_copy(update={"model": uri, "train": None, **labels})
            digests[uri] = digest
        steps.append((name, step))
    return Segment(steps, segment.dedup, digests)


def _train(recipe: Recipe, name: str, step: Quality, parts: dict[str, list[Part]], engine: Engine) -> tuple[str, str]:
    assert step.train is not None
    chosen: dict[str, list[dict[str, Any]]] = {}
    identity: list[Any] = []
    size = 0
    for kind, sources in (("positive", step.train.positive), ("negative", step.train.negative)):
        for source in sources:
            if source not in recipe.sources:
                raise UserError(
                    f"sources.{name}.train.{kind}: there is no source {source!r}; there are {', '.join(recipe.sources)}"
                )
            if not parts[source]:
                raise UserError(
                    f"sources.{name}.train needs the documents of {source} before the step: put a dedup before the quality step"
                )
        mine = [part for source in sources for part in parts[source]]
        total = sum(part.bytes for part in mine)
        share = min(1.0, step.train.max_bytes / max(total, 1))
        chosen[kind] = draw(mine, share, job.PURPOSE, engine, recipe.run.batch_bytes)
        identity.append([share, [part.identity() for part in mine]])
        size += int(total * share)
    settings = dump(step.train.settings)
    output = f"models/{name}.bin"
    spec: dict[str, Any] = chosen | {
        "settings": settings,
        "sources": {"positive": list(step.train.positive), "negative": list(step.train.negative)},
        "output": output,
        "batch_bytes": recipe.run.batch_bytes,
        "writes": [output + suffix for suffix in job.SUFFIXES],
        "reads": [path for drawn in chosen.values() for path in reads(drawn)],
    }
    key = task_key(FUNCTION, job.VERSION, settings, spec["sources"], identity, output)
    task = Task(key, f"train/{name}", FUNCTION, spec, size)
    entry = engine.run(Phase(f"train {name}", [task]))[0]
    return output, next(o["digest"] for o in entry["outputs"] if o["path"] == output)
