"""How dedup is cut into tasks: phases of calls that any runner can carry out.

A method is a generator (`clustered`, `filtered`): it yields one phase after another, a list of tasks that may run in
any order and place, and is sent the list of what they returned; it ends by returning a summary (`run_inline` shows
how). A task calls `function(**arguments, **outputs, open_file=...)`: arguments are JSON values; outputs map the names
of further arguments to the files to write, which a runner may replace by local paths that it publishes later. A function
that also takes `written` calls it with each of its files once that is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from stages.dedup.found import Found
from stages.dedup.shuffle import OpenFile, open_local

MAX_GROUPS = 1000


Files = dict[str, str | dict[str, str]]
"""Files to write by the arguments that name them: one, or several by their names."""


@dataclass(frozen=True)
class Task:
    """One call: `function(**arguments, **outputs, open_file=...)`.

    memory: bytes that it takes, where that is known exactly. cores: that it can make use of.
    """

    key: str  # unique within the dedup, and good as a file name
    function: Callable[..., Any]
    arguments: dict[str, object]
    outputs: Files
    memory: int | None = None
    cores: int = 1


@dataclass(frozen=True)
class Phase:
    """Tasks that need nothing of one another."""

    name: str
    tasks: list[Task] = field(default_factory=list)


Phases = Generator[Phase, list[Any], Found]


class _Part(TypedDict):
    ordinal: int
    path: str
    source: str


class PartToRead(_Part, total=False):
    """A part as a task takes it. removals: files of earlier dedups, with a sorted column `row`: these rows are passed over.

    shard: the number of the one that all its documents belong to, or {file: shard}. number: what the part is called where it
    is named as that of a kept document (left out: its ordinal), which stays when parts are added before it.
    """

    removals: Sequence[str]
    shard: int | dict[str, int]
    number: int


class _Counted(TypedDict):
    documents: int
    bytes: int


class PartGiven(PartToRead, _Counted, total=False):
    """A part as a dedup is given it. files: the source files that its documents came from, in order (for shards)."""

    files: Sequence[str]


Groups = Sequence[Sequence[PartGiven]]


@dataclass(frozen=True)
class Signed:
    """Parts of which one task makes the records by which copies are found, or counts what there is: by their ordinals, rising.

    They need not be consecutive: where parts are added, those that were there stay together, and need not be read again.
    number: of the group, of its own. partitions: of the records.
    """

    number: int
    partitions: int
    ordinals: Sequence[int]


def signed_groups(groups: Groups, partitions: int) -> list[Signed]:
    """The same groups, each called after its first part."""
    return [Signed(parts[0]["ordinal"], partitions, [part["ordinal"] for part in parts]) for parts in groups]


def by_place(parts: Sequence[PartToRead]) -> list[PartToRead]:
    """The parts with their places in this list for ordinals: what a task makes of them does not hang on other parts."""
    return [PartToRead({**part, "ordinal": place}) for place, part in enumerate(parts)]


def numbers_of(groups: Groups) -> list[int]:
    """What each part is called where it is named as that of a kept document, by its ordinal; [] where that is its ordinal."""
    parts = [part for parts in groups for part in parts]
    return [part.get("number", part["ordinal"]) for part in parts] if any("number" in part for part in parts) else []


def group_parts(parts: Sequence[PartGiven], target_bytes: int = 1 << 30) -> list[list[PartGiven]]:
    """Consecutive parts in groups of about `target_bytes`, or of more, so that there are about `MAX_GROUPS` at most.

    Every task that brings a partition together reads a piece from each group's file: few and large ones, then.
    """
    target_bytes = max(target_bytes, sum(part["bytes"] for part in parts) // MAX_GROUPS)
    groups: list[list[PartGiven]] = []
    size = 0
    for part in parts:
        if not groups or size + part["bytes"] > target_bytes:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += part["bytes"]
    return groups


def part_fields(parts: Sequence[PartGiven]) -> list[PartToRead]:
    """What a task needs to know of parts."""
    found = []
    for part in parts:
        found.append(one := PartToRead(ordinal=part["ordinal"], path=part["path"], source=part["source"]))
        if "removals" in part:
            one["removals"] = part["removals"]
        if "shard" in part:
            one["shard"] = part["shard"]
    return found


def file_name(folder: str, kind: str, number: int, end: str = "") -> str:
    """The name of a file of a phase's: `folder/kind-00012`."""
    return f"{folder.rstrip('/')}/{kind}-{number:05d}{end}"


def output_files(phase: Phase, output: str = "out_path") -> list[str]:
    """The files that the tasks of a phase write as one of their outputs."""
    return [path for task in phase.tasks if isinstance(path := task.outputs[output], str)]


def run_inline(
    phases: Phases, open_file: OpenFile = open_local, on_phase: Callable[[Phase], None] | None = None
) -> Found:
    """Run all phases in this process, one task after another; returns the summary."""
    results: list[Any] | None = None
    while True:
        try:
            phase = phases.send(results)  # type: ignore[arg-type]
        except StopIteration as end:
            return end.value
        if on_phase:
            on_phase(phase)
        results = [task.function(**task.arguments, **task.outputs, open_file=open_file) for task in phase.tasks]
