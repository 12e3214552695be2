"""Dedup by a filter, bff and paragraphs, as phases, from parts to edited parts.

    count        a group of parts -> documents and n-grams of each part, by shard
    filter       a shard, in order -> the paragraphs and documents that go
    holders      a group of parts and a shard -> who held first what went (only with name_holders)
    edit         a group of parts -> its parts anew, their removals, and the paragraphs cut out
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.dedup.bff import count, deduplicate, shards_of
from stages.dedup.bloom import check_memory, filter_bytes
from stages.dedup.cut_out import Counts, count_parts, edit_parts, in_shards
from stages.dedup.footprint import filter_memory
from stages.dedup.found import Filtered, Shard
from stages.dedup.holders import holders
from stages.dedup.spec import AnyDedup, Filtering, read_filtering
from stages.dedup.tasks import Files, Groups, PartGiven, Phase, Phases, Signed, Task, file_name, part_fields


def filtered(spec: AnyDedup, groups: Groups, folder: str, signed: Sequence[Signed] = ()) -> Phases:
    """The phases over groups of consecutive parts, ordinals rising; files go to `folder`, by name. signed: the same parts in
    the groups that `count` takes; left out: `groups`.

    With more than one shard, parts say in `files` which source files their documents came from, in order. Returns a
    summary: method, documents, removed, shards (what `deduplicate` returns of each that has documents, with its number,
    and its filter's file where filters are kept), and of each part, by its ordinal as text: removed_of_part, reports
    (what `edit` returns), parts (the new file), removals and cuts (files). Raises UserError where a filter does not fit,
    or where the share removed is outside `expected_removal`.
    """
    settings = read_filtering(spec)
    starts = [parts[0]["ordinal"] for parts in groups]
    groups = in_shards(groups, settings.shards)
    counts = yield from count_parts(settings, groups, count, signed)
    filtering = _filtering(settings, groups, folder, starts, counts)
    shards: list[Filtered] = yield filtering.phase
    found: list[list[str]] = [[] for _ in groups]
    if settings.name_holders:
        found = yield from _held(settings, groups, folder, starts, counts, filtering.spans)
    summary = yield from edit_parts(settings, groups, list(filtering.spans.values()), found, folder)
    summary["shards"] = [
        Shard(shard=shard, **result, filter=filtering.filters.get(shard))
        for shard, result in zip(filtering.spans, shards, strict=True)
    ]
    return summary


@dataclass
class _Filtering:
    """The phase that deduplicates, a task a shard, and by shard the files that it writes."""

    phase: Phase = field(default_factory=lambda: Phase("filter"))
    spans: dict[int, str] = field(default_factory=dict)
    filters: dict[int, str] = field(default_factory=dict)


def _filtering(settings: Filtering, groups: Groups, folder: str, starts: list[int], counts: Counts) -> _Filtering:
    """The tasks of all shards that have documents. Raises UserError where a filter does not fit into its memory."""
    made = _Filtering()
    for shard, parts in sorted(_parts_of_shards(groups, counts).items()):
        ngrams = sum(counts[str(part["ordinal"])][str(shard)][1] for part in parts)
        items = settings.expected or ngrams
        size = filter_bytes(items, settings.fp_rate, exactly=settings.exactly)
        threads = settings.cores(size)
        memory = None
        if settings.load is None:
            name = f"{settings.reason}, shard {shard}"
            check_memory(items, settings.fp_rate, settings.memory, name, exactly=settings.exactly)
            memory = filter_memory(size, threads)
        arguments = {
            "spec": settings,
            "shard": shard,
            "ngrams": ngrams,
            "parts": part_fields(parts),
            "group_starts": starts,
            "loaded_path": settings.load,
            "threads": threads,
            "old_paths": list(settings.against),
        }
        made.spans[shard] = file_name(folder, "spans", shard)
        outputs: Files = {"spans_path": made.spans[shard]}
        if settings.save:
            outputs["filter_path"] = made.filters[shard] = file_name(folder, "filter", shard, ".bloom")
        made.phase.tasks.append(Task(f"filter-{shard:05d}", deduplicate, arguments, outputs, memory, threads))
    return made


def _parts_of_shards(groups: Groups, counts: Counts) -> dict[int, list[PartGiven]]:
    """Of each shard the parts that have documents of it, in order."""
    found: dict[int, list[PartGiven]] = {}
    for part in (part for parts in groups for part in parts):
        for shard in shards_of(part):
            if str(shard) in counts[str(part["ordinal"])]:
                found.setdefault(shard, []).append(part)
    return found


def _held(
    settings: Filtering, groups: Groups, folder: str, starts: list[int], counts: Counts, spans: dict[int, str]
) -> Generator[Phase, list[Any], list[list[str]]]:
    """Find who held first what went: of each group the files in which that may stand."""
    phase = Phase("holders")
    written: list[tuple[int, str]] = []  # the group and the file of each task
    for g, parts in enumerate(groups):
        for shard, path in spans.items():
            here = [part for part in parts if str(shard) in counts[str(part["ordinal"])]]
            if not here:
                continue
            arguments = {
                "spec": settings,
                "group": g,
                "shard": shard,
                "parts": part_fields(here),
                "spans_path": path,
                "group_starts": starts,
            }
            out = file_name(folder, f"holders-{shard:05d}", g)
            written.append((g, out))
            phase.tasks.append(Task(f"holders-{shard:05d}-{g:05d}", holders, arguments, {"out_path": out}))
    yield phase
    # What was lost in a group was held first in it or in one before it.
    return [[path for group, path in written if group <= g] for g in range(len(groups))]
