"""A recipe checked without running it: files, fields, models, functions, and the first documents of each source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline import storage
from pipeline.jobs.inputs import SourceFile
from pipeline.plan.documents import check_pages
from pipeline.plan.inputs import named_versions
from pipeline.plan.sources import list_files
from pipeline.recipe.checks import check_files
from pipeline.recipe.look import Look, look
from pipeline.recipe.recipe import Recipe, Source
from stages.errors import UserError
from stages.extract.extract import Extract
from stages.marks import named_files
from stages.step import Step


@dataclass(frozen=True)
class CheckedSource:
    """One source: its files and their bytes, what they hold, its steps by name, and its first documents."""

    files: int
    bytes: int
    format: str
    steps: tuple[str, ...]
    look: Look | None


@dataclass(frozen=True)
class Checked:
    """What was found: each source whose files are there, and a sentence for each thing to mend."""

    sources: Mapping[str, CheckedSource]
    problems: tuple[str, ...]


def validate(recipe: Recipe) -> Checked:
    """Check all that can be checked before a run, and look at the first documents of every source."""
    problems: list[str] = []
    sources: dict[str, CheckedSource] = {}
    try:
        named_versions(recipe)
    except UserError as error:
        problems.append(str(error))
    for name, source in recipe.sources.items():
        problems += _of_steps(name, source)
        try:
            files = list_files(name, source.read.paths, recipe.folder)
            check_files({name: source}, {name: files})
            check_pages(name, source, files)
            sources[name] = _look(source, files)
        except UserError as error:
            problems.append(str(error))
            continue
        problems += _of_look(name, sources[name].look)
    return Checked(sources, tuple(dict.fromkeys(problems)))


def _of_steps(source: str, settings: Source) -> Iterator[str]:
    """What keeps a step from being made ready: a function, a class or a model that is not there."""
    for name, step in settings.steps:
        if not isinstance(step, Step) or getattr(step, "train", None) is not None:
            continue
        if not all(storage.is_local(uri) and storage.exists(uri) for uris in named_files(step).values() for uri in uris):
            continue  # it is told already where one is missing; what lies elsewhere is not fetched for this
        try:
            step.code()
            step.prepare()
        except UserError as error:
            yield f"sources.{source}.steps.{name}: {error}"


def _look(source: Source, files: list[SourceFile]) -> CheckedSource:
    steps = tuple(name for name, _ in source.steps)
    extract = next((step for _, step in source.steps if isinstance(step, Extract)), None)
    formats = sorted({source.read.format_of(file.name) for file in files})
    seen = look(files[0], source.read, extract)
    return CheckedSource(len(files), sum(file.size for file in files), " and ".join(formats), steps, seen)


def _of_look(source: str, seen: Look | None) -> Iterator[str]:
    if seen is not None and not seen.read and seen.problems:
        yield f"sources.{source}.read: {seen.problems[0]}"
