"""Exact, url and minhash dedup as phases, from parts to removals.

    scatter     a group of parts -> records by key, and edges between copies seen by one task
    group       a partition of keys -> edges between copies
    large-star, small-star (rounds) -> clusters as stars around their first document
    members, measure (only with keep: longest or best, or verify) -> what the choice hangs on
    choose      a partition of clusters -> who goes, for whom
    name        a group of parts -> ids of the kept documents
    remove      a group of parts -> the removals of each part
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.dedup.choose import choose, measure, members, needs_members
from stages.dedup.components import large_star, small_star
from stages.dedup.removals import largest_clusters, name, remove
from stages.dedup.scatter import group, scatter
from stages.dedup.spec import AnyClustered, AnyDedup, read_clustered
from stages.dedup.tasks import Phase, Phases, Task, file_name, output_files, part_fields

MAX_ROUNDS = 64  # of the components; a path of 2^64 documents would need about as many


def partitions_of(spec: AnyClustered, documents: int, groups: int) -> int:
    """Partitions of records and edges: by their bytes, and where these are few, as many as there are groups, up to 16."""
    return max(spec.partition_count(documents), 1 if spec.partitions else min(groups, 16))


def clustered(spec: AnyDedup, groups: Sequence[Sequence[Mapping[str, Any]]], folder: str) -> Phases:
    """The phases over groups of consecutive parts, ordinals rising; files go to `folder`, by name.

    Returns a summary: method, documents, compared, removed, rounds, largest_bucket, sizes ([size, clusters] pairs),
    largest (clusters), lost ([source, source of the kept document, documents]), removed_of_part and removals (the
    count and the file of each part, by its ordinal as text). Raises UserError where the share removed is outside
    `expected_removal`.
    """
    settings = read_clustered(spec)
    documents = sum(part["documents"] for parts in groups for part in parts)
    partitions = partitions_of(settings, documents, len(groups))
    starts = [parts[0]["ordinal"] for parts in groups]
    memory = settings.memory
    star = {"partitions": partitions, "memory": memory}

    def by_group(kind: str, function: Callable[..., Any], outputs: Sequence[str], **arguments: Any) -> Phase:
        tasks = [
            Task(
                f"{kind}-{i:05d}",
                function,
                {**({"group": i} if function is not scatter else {}), "parts": part_fields(parts), **arguments},
                {o: file_name(folder, f"{kind}-{o.removesuffix('_path')}", i) for o in outputs},
            )
            for i, parts in enumerate(groups)
        ]
        return Phase(kind, tasks)

    def by_partition(kind: str, function: Callable[..., Any], output: str, count: int, **arguments: Any) -> Phase:
        tasks = [
            Task(f"{kind}-{p:05d}", function, {"which": [p], **arguments}, {output: file_name(folder, kind, p)})
            for p in range(count)
        ]
        return Phase(kind, tasks)

    first = by_group("scatter", scatter, ["records_path", "edges_path"], spec=settings, partitions=partitions)
    scattered = yield first
    records = output_files(first, "records_path")
    grouped = by_partition(
        "group", group, "edges_path", partitions, spec=settings, partitions=partitions, records_paths=records
    )
    found = yield grouped

    edges = output_files(first, "edges_path") + output_files(grouped, "edges_path")
    rounds = 0
    while True:
        large = by_partition(f"large-{rounds:02d}", large_star, "out_path", partitions, edges_paths=edges, **star)
        results = yield large
        if not sum(r["unsettled"] for r in results):
            break
        rounds += 1
        if rounds > MAX_ROUNDS:
            raise RuntimeError(f"clusters of copies did not settle in {MAX_ROUNDS} rounds")
        edges = output_files(large)
        small = by_partition(f"small-{rounds:02d}", small_star, "out_path", partitions, edges_paths=edges, **star)
        yield small
        edges = output_files(small)
    clusters = output_files(large)

    if needs_members(settings):
        sent = by_partition(
            "members", members, "out_path", partitions, stars_paths=clusters, group_starts=starts, memory=memory
        )
        yield sent
        partitions = max(partitions, settings.partition_count(documents, settings.member_bytes))
        measured = by_group(
            "measure", measure, ["out_path"], spec=settings, members_paths=output_files(sent), partitions=partitions
        )
        yield measured
        clusters = output_files(measured)
    chosen = by_partition("choose", choose, "out_path", partitions, spec=settings, paths=clusters, group_starts=starts)
    yield chosen
    named = by_group("name", name, ["out_path"], chosen_paths=output_files(chosen), group_starts=starts, memory=memory)
    names = yield named
    removals = by_group("remove", remove, [], spec=settings, named_paths=output_files(named))
    for task in removals.tasks:
        ordinals = [part["ordinal"] for part in task.arguments["parts"]]
        task.outputs["out_paths"] = {str(o): file_name(folder, "removals", o, ".parquet") for o in ordinals}
    removed = yield removals

    summary = {
        "method": settings.method,
        "documents": sum(r["documents"] for r in scattered),
        "compared": sum(r["compared"] for r in scattered),
        "removed": sum(r["removed"] for r in names),
        "rounds": rounds,
        "largest_bucket": max((r["largest"] for r in found), default=0),
        "sizes": _sum_pairs([pair for r in names for pair in r["sizes"]]),
        "largest": largest_clusters([c for r in names for c in r["largest"]], 20),
        "lost": _sum_pairs([pair for r in removed for pair in r["lost"]]),
        "removed_of_part": {part: count for r in removed for part, count in r["removed"].items()},
        "removals": {part: p for task in removals.tasks for part, p in task.outputs["out_paths"].items()},
    }
    settings.check_removal(summary["removed"], summary["documents"])
    return summary


def _sum_pairs(rows: Sequence[list[Any]]) -> list[list[Any]]:
    """Rows that end in a count, summed over equal beginnings, in order."""
    totals: dict[tuple[Any, ...], int] = {}
    for *head, count in rows:
        totals[tuple(head)] = totals.get(tuple(head), 0) + count
    return [[*head, total] for head, total in sorted(totals.items())]
