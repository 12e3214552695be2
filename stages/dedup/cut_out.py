"""What methods with a filter and substring share: they count how much each part has, and cut pieces out in each group."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from stages.dedup.bff import with_shards
from stages.dedup.edit import edit
from stages.dedup.spec import Filtering, Substring
from stages.dedup.tasks import (
    Files,
    Groups,
    PartGiven,
    Phase,
    Phases,
    Signed,
    Task,
    by_place,
    file_name,
    numbers_of,
    part_fields,
    signed_groups,
)

Counts = dict[str, dict[str, list[int]]]
"""What `count` found: by the part's ordinal as text, and the shard's number as text."""


def in_shards(groups: Groups, shards: int) -> list[list[PartGiven]]:
    """The groups' parts, each with the shards that its documents fall into."""
    sharded = iter(with_shards([part for parts in groups for part in parts], shards))
    return [[next(sharded) for _ in parts] for parts in groups]


def count_parts(
    spec: Filtering | Substring, groups: Groups, count: Callable[..., Any], signed: Sequence[Signed] = ()
) -> Generator[Phase, list[Any], Counts]:
    """The phase `count`; returns what it found."""
    parts = {part["ordinal"]: part for parts in groups for part in parts}
    signed = signed or signed_groups(groups, 1)
    tasks = []
    for one in signed:
        mine = by_place(part_fields([parts[ordinal] for ordinal in one.ordinals]))
        tasks.append(Task(f"count-{one.number:05d}", count, {"spec": spec, "parts": mine}, {}))
    counted = yield Phase("count", tasks)
    found = {
        one.ordinals[int(place)]: shards
        for one, result in zip(signed, counted, strict=True)
        for place, shards in result.items()
    }
    return {str(ordinal): found[ordinal] for ordinal in parts}


def edit_parts(
    settings: Filtering | Substring, groups: Groups, spans: list[str], holders: Sequence[list[str]], folder: str
) -> Phases:
    """The phase `edit`, with the files of all spans and, of each group, those of the holders of its pieces.

    Returns method, documents, removed, and of each part removed_of_part, reports, parts, removals and cuts. Raises
    UserError where the share removed is outside `expected_removal`.
    """
    editing = Phase("edit")
    files: dict[str, dict[str, str]] = {"part": {}, "removals": {}, "cuts": {}}  # by kind, and by the part's ordinal
    for g, parts in enumerate(groups):
        arguments = {
            "spec": settings,
            "group": g,
            "parts": part_fields(parts),
            "numbers": numbers_of(groups),
            "spans_paths": spans,
            "holders_paths": holders[g],
        }
        outputs: Files = {}
        for kind, of_all in files.items():
            mine = {str(part["ordinal"]): file_name(folder, kind, part["ordinal"], ".parquet") for part in parts}
            outputs[f"{kind}_paths"] = mine
            of_all |= mine
        editing.tasks.append(Task(f"edit-{g:05d}", edit, arguments, outputs))
    reports: dict[str, dict[str, int]] = {part: report for result in (yield editing) for part, report in result.items()}
    documents = sum(report["documents"] for report in reports.values())
    removed = sum(report["removed"] for report in reports.values())
    settings.check_removal(removed, documents)
    return {
        "method": settings.reason.removeprefix("dedup."),
        "documents": documents,
        "removed": removed,
        "removed_of_part": {part: report["removed"] for part, report in reports.items()},
        "reports": reports,
        "parts": files["part"],
        "removals": files["removals"],
        "cuts": files["cuts"],
    }
