"""A source's steps, cut at each dedup: what is done to documents one by one, and what needs all of them at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.recipe import Source, dump
from stages.step import Step, content_key


@dataclass
class Segment:
    """Steps that one map task takes documents through, and the dedup (name, settings) that follows, if one does."""

    steps: list[tuple[str, Step]] = field(default_factory=list)
    dedup: tuple[str, Any] | None = None
    digests: dict[str, str] = field(default_factory=dict)  # of files that the run made and steps name


@dataclass
class Part:
    """A file of documents between stages. digest: of its bytes; removals: files with rows that dedup took from it.

    edited: bytes that dedup cut out of documents which stay; the next task that reads the part enters them in its books.
    files: names of the source files that its documents came from, in order.
    """

    source: str
    path: str
    digest: str
    docs: int
    bytes: int
    key: str  # of the task that wrote it
    removals: list[dict[str, str]] = field(default_factory=list)
    edited: int = 0
    files: tuple[str, ...] = ()

    def identity(self) -> list[Any]:
        """What decides the documents in it."""
        return [self.digest, [r["digest"] for r in self.removals], self.edited]


def segments(source: Source) -> list[Segment]:
    """The source's steps as segments, in order; the first may be empty (documents are only read)."""
    found = [Segment()]
    for name, item in source.steps:
        if isinstance(item, Step):
            found[-1].steps.append((name, item))
        else:
            found[-1].dedup = (name, item)
            found.append(Segment())
    if len(found) > 1 and not found[-1].steps:
        found.pop()
    return found


def step_data(steps: list[tuple[str, Step]]) -> list[list[Any]]:
    """Steps as a task's spec carries them: [name, kind, settings]."""
    return [[name, step.step, dump(step)] for name, step in steps]


def step_identity(segment: Segment, *, limits: bool) -> list[Any]:
    """What decides the outcome of steps; without their limits, what decides the measures alone.

    A file that a step reads (a model, a word list) counts by its content's version, not by its path.
    """
    found = []
    for name, step in segment.steps:
        settings = dump(step) if limits else step.settings()
        settings = {**settings, "version": step.version}
        if (code := step.code()) is not None:
            settings["code"] = code
        for key, uris in file_fields(step).items():
            settings[key] = [segment.digests.get(uri) or storage.stat(uri).version for uri in uris]
        found.append([name, step.step, settings])
    return found


def file_fields(step: Step) -> dict[str, list[str]]:
    """The fields of a step that name files (marked `json_schema_extra={"file": True}`), with their URIs."""
    found = {}
    for name, f in type(step).model_fields.items():
        if isinstance(f.json_schema_extra, dict) and f.json_schema_extra.get("file"):
            value = getattr(step, name)
            uris = [value] if isinstance(value, str) else list(value or ())
            if uris:
                found[name] = uris
    return found


def similar_key(*parts: Any) -> str:
    """A key of what decides measures: tasks of equal `similar` key may decide again from one another's parts."""
    return content_key("similar", *parts)
