"""What goes from stage to stage of a plan: the parts of a source, and its steps in segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel

from pipeline.jobs.inputs import NamedStep, PartInput
from pipeline.plan.node import Named, Stored
from pipeline.recipe.recipe import Source
from stages.dedup.spec import AnyDedup
from stages.marks import named_files
from stages.step import Step


@dataclass
class Segment:
    """Steps that one map task takes documents through, and the dedup (name, settings) that follows, if one does."""

    steps: list[tuple[str, Step]] = field(default_factory=list)
    dedup: tuple[str, AnyDedup] | None = None


@dataclass(frozen=True)
class Part:
    """A file of documents between stages, and what dedups removed from it.

    owner: key of the ledger's entry that tells of the file. edited: bytes that dedup cut out of documents which stay; the
    next task that reads the part enters them in its books. files: names of the source files that its documents came from,
    in order. copies: measures of how often documents were found, by name.
    """

    source: str
    file: Stored
    docs: int
    bytes: int
    owner: str
    removals: tuple[Stored, ...] = ()
    edited: int = 0
    files: tuple[str, ...] = ()
    copies: tuple[tuple[str, Stored], ...] = ()

    def read(self) -> PartInput:
        """The part as a job reads it."""
        return PartInput(self.file, self.removals, self.edited, self.copies)


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


def dedups_before(plan: Sequence[Segment], stage: int) -> list[str]:
    """The names of the dedups between a segment's steps and those before it; len(plan): between the last and the tokenizer."""
    found: list[str] = []
    for segment in reversed(plan[:stage]):
        if segment.dedup is None:
            break
        found.insert(0, segment.dedup[0])
        if segment.steps:
            break
    return found


def named_steps(segment: Segment, named: Mapping[str, Named]) -> tuple[NamedStep, ...]:
    """The steps with the files that they name, which are looked up by URI."""
    return tuple(NamedStep(name, step, files_of(step, named)) for name, step in segment.steps)


def files_of(settings: BaseModel, named: Mapping[str, Named]) -> tuple[Named, ...]:
    """The files that a step or a dedup names."""
    return tuple(named[uri] for uris in named_files(settings).values() for uri in uris)
