"""Substring dedup as phases, from parts to edited parts.

count        a group of parts -> documents and bytes of their sequences, by shard
repeats      a shard -> the pieces of text that go, and the documents that hold them first
keepers      a group of parts -> ids of the documents that hold them
edit         a group of parts -> its parts anew, their removals, and the pieces cut out
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.dedup.bff import shards_of
from stages.dedup.cut_out import count_parts, edit_parts, in_shards
from stages.dedup.footprint import substring_memory, suffix_memory
from stages.dedup.found import Sequenced
from stages.dedup.spec import AnyDedup, Substring, read_spec_as
from stages.dedup.suffixes import count_units, name_holders, repeats
from stages.dedup.tasks import Files, Groups, Phase, Phases, Signed, Task, file_name, output_files, part_fields
from stages.errors import UserError
from stages.units import show_bytes


def check_memory(spec: Substring, shard: int, sequence_bytes: int, documents: int) -> int:
    """Bytes that a shard takes. Raises UserError where that is more than the memory given."""
    size = suffix_memory(spec.unit, sequence_bytes, documents)
    if size > spec.memory:
        raise UserError(
            f"{spec.reason}, shard {shard}: {show_bytes(sequence_bytes)} of {spec.unit} take {show_bytes(size)} with their "
            f"suffix array, more than the memory given, {show_bytes(spec.memory)}: raise memory or shards"
        )
    return size


def substring(spec: AnyDedup, groups: Groups, folder: str, signed: Sequence[Signed] = ()) -> Phases:
    """The phases over groups of consecutive parts, ordinals rising; files go to `folder`, by name. signed: the same parts in
    the groups that `count` takes; left out: `groups`.

    With more than one shard, parts say in `files` which source files their documents came from, in order. Returns a
    summary: method, documents, removed, shards (what `repeats` returns of each that has documents, with its number and
    memory), and of each part, by its ordinal as text: removed_of_part, reports (what `edit` returns), parts (the new
    file), removals and cuts (files). Raises UserError where a shard takes more than `memory`, or where the share removed
    is outside `expected_removal`.
    """
    settings = read_spec_as(Substring, spec)
    starts = [parts[0]["ordinal"] for parts in groups]
    groups = in_shards(groups, settings.shards)
    counts = yield from count_parts(settings, groups, count_units, signed)

    finding = Phase("repeats")
    sizes: dict[int, int] = {}  # bytes of each shard's sequence and suffix array
    for shard in range(settings.shards):
        parts = [part for parts in groups for part in parts if shard in shards_of(part)]
        mine = [(part, counts[str(part["ordinal"])].get(str(shard))) for part in parts]
        parts, sums = [part for part, some in mine if some], [some for _, some in mine if some]
        if not parts:
            continue
        documents, size = sum(s[1] for s in sums), sum(s[2] for s in sums)
        sizes[shard] = check_memory(settings, shard, size, documents)
        arguments = {
            "spec": settings,
            "shard": shard,
            "sequence_bytes": size,
            "documents": documents,
            "parts": part_fields(parts),
            "group_starts": starts,
        }
        outputs: Files = {f"{kind}_path": file_name(folder, kind, shard) for kind in ("spans", "wanted")}
        memory = substring_memory(sizes[shard])
        finding.tasks.append(Task(f"repeats-{shard:05d}", repeats, arguments, outputs, memory))
    shards = yield finding

    keepers = Phase("keepers")
    for g, parts in enumerate(groups):
        arguments = {
            "group": g,
            "parts": part_fields(parts),
            "wanted_paths": output_files(finding, "wanted_path"),
            "group_starts": starts,
        }
        keepers.tasks.append(
            Task(f"keepers-{g:05d}", name_holders, arguments, {"out_path": file_name(folder, "keepers", g)})
        )
    yield keepers

    # A holder stands before what goes for it.
    holders = [output_files(keepers)[: g + 1] for g in range(len(groups))]
    summary = yield from edit_parts(settings, groups, output_files(finding, "spans_path"), holders, folder)
    summary["shards"] = [
        Sequenced(shard=shard, memory=size, **result)
        for (shard, size), result in zip(sizes.items(), shards, strict=True)
    ]
    return summary
