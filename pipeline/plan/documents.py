"""The map phase: for every split (or part of the stage before), one task that takes its documents through a segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.engine import Engine
from pipeline.jobs import cut, documents
from pipeline.plan.segments import Part, Segment, similar_key, step_data, step_identity
from pipeline.plan.sources import File, is_cut_by_lines, splits
from pipeline.recipe import Recipe, Source, dump
from pipeline.task import Phase, Task, task_key
from stages.errors import UserError
from stages.step import content_key

FUNCTION = "pipeline.jobs.documents:run"
CUT = "pipeline.jobs.cut:run"


def documents_phase(
    recipe: Recipe,
    number: int,
    plan: dict[str, Segment],
    files: dict[str, list[File]],
    parts: dict[str, list[Part]],
    engine: Engine,
) -> dict[str, list[Part]]:
    """Run segment `number` of each source in `plan`; returns the sources' new parts, in canonical order."""
    ranges = _cut_large_files(recipe, plan, files, engine) if number == 0 else {}
    tasks: list[Task] = []
    owners: list[tuple[str, tuple[str, ...]]] = []  # source, and the files that the documents come from
    for source, segment in plan.items():
        if number == 0:
            _check_pages(source, recipe.sources[source], files[source])
            read = recipe.sources[source].read
            split_files = splits(files[source], read, recipe.run.split_bytes, ranges)
            inputs = [_split_input(split, recipe, source) for split in split_files]
            names = [tuple(file.name for file in split) for split in split_files]
        else:
            inputs = [_part_input(part) for part in parts[source]]
            names = [part.files for part in parts[source]]
        work = _Work(
            source,
            number,
            step_data(segment.steps),
            task_key(FUNCTION, documents.VERSION, source, step_identity(segment, limits=True), recipe.run.keep),
            similar_key(FUNCTION, documents.VERSION, step_identity(segment, limits=False), recipe.run.keep),
        )
        for ordinal, (identity, spec, weight) in enumerate(inputs):
            tasks.append(_task(recipe, work, ordinal, identity, spec, weight, engine))
            owners.append((source, names[ordinal]))
    entries = engine.run(Phase(_phase_name(number), tasks))
    found: dict[str, list[Part]] = {source: [] for source in plan}
    for (source, read_from), entry in zip(owners, entries, strict=True):
        report = entry["report"]
        digest = next(o["digest"] for o in entry["outputs"] if o["path"] == report["part"])
        part = Part(source, report["part"], digest, report["docs"], report["bytes"], entry["key"], files=read_from)
        found[source].append(part)
    return found


def _cut_large_files(
    recipe: Recipe, plan: dict[str, Segment], files: dict[str, list[File]], engine: Engine
) -> dict[str, list[list[int]]]:
    """Where large plain JSON lines files are to be cut, by uri: [offset, length, ordinal of the first line] of each range."""
    size = recipe.run.split_bytes
    large = {
        file.uri: file
        for source in plan
        for file in files[source]
        if is_cut_by_lines(file, recipe.sources[source].read, size)
    }
    tasks = [
        Task(
            task_key(CUT, cut.VERSION, file.identity(), size),
            f"cut/{number:05d}",
            CUT,
            {"file": file.to_json(), "split_bytes": size},
            file.size,
        )
        for number, file in enumerate(large.values())
    ]
    entries = engine.run(Phase("find line ends", tasks)) if tasks else []
    return {uri: entry["report"]["ranges"] for uri, entry in zip(large, entries, strict=True)}


def _check_pages(source: str, settings: Source, files: list[File]) -> None:
    """Pages of a crawl hold no text until a step takes it out of them: without one, all would go as empty."""
    read = settings.read
    plain = set(read.record_types) == {"conversion"} or set(read.mime_types) == {"text/plain"}
    if plain or any(getattr(step, "takes_pages", False) for _, step in settings.steps):
        return
    if page := next((file for file in files if read.format_of(file.name) == "warc"), None):
        raise UserError(f"sources.{source}.steps: {page.name} holds web pages, and no step takes their text out; add `extract`")


def _phase_name(number: int) -> str:
    return "read and filter" if number == 0 else f"after dedup {number}"


def _split_input(split: list[File], recipe: Recipe, source: str) -> tuple[Any, dict[str, Any], int]:
    read = recipe.sources[source].read
    settings = {k: v for k, v in dump(read).items() if k != "paths"}
    files = [f.to_json() | {"random": read.format_of(f.name) == "parquet"} for f in split]
    spec = {"entry": "read", "files": files, "read": settings, "staged": recipe.run.stage_inputs}
    return ([f.identity() for f in split], settings), spec, sum(f.size for f in split)


def _part_input(part: Part) -> tuple[Any, dict[str, Any], int]:
    spec = {
        "entry": "dedup",
        "part": part.path,
        "removals": part.removals,
        "edited": part.edited,
        "reads": [part.path, *(r["path"] for r in part.removals)],
    }
    return part.identity(), spec, part.bytes


@dataclass
class _Work:
    """What the tasks of one source in one phase share."""

    source: str
    number: int
    steps: list[list[Any]]
    key: str  # of all that the tasks have in common
    similar: str  # the same, but for limits


def _task(
    recipe: Recipe, work: _Work, ordinal: int, identity: Any, spec: dict[str, Any], weight: int, engine: Engine
) -> Task:
    key = content_key(work.key, identity)
    similar = content_key(work.similar, identity)
    spec = spec | {
        "source": work.source,
        "steps": work.steps,
        "prefix": f"parts/{work.source}/{work.number}/{ordinal:05d}-{key}",
        "batch_bytes": recipe.run.batch_bytes,
        "keep": recipe.run.keep,
        "folder": recipe.folder,
        "stage": work.number,
        "lender": _lender(engine, similar) if recipe.run.keep == "all" else None,
    }
    return Task(key, f"{work.source}/{work.number}/{ordinal:05d}", FUNCTION, spec, weight, similar)


def _lender(engine: Engine, similar: str) -> dict[str, Any] | None:
    entry = engine.ledger.lender(similar)
    if entry is None or entry["report"]["failed_documents"] or entry["report"]["failed_files"]:
        return None
    report = entry["report"]
    return {
        "kept": report["part"],
        "dropped": report["dropped"],
        "entry_books": report["books"][0],
        "notes": report["notes"],
    }
