"""The phases of exact, url and minhash dedup, from parts to removals, for any runner.

`clustered` is a generator: it yields one phase after another, a list of tasks that may run in any order and place,
and is sent the list of what they returned; it ends by returning the summary (`run_inline` shows how it is driven).
A task calls `function(**arguments, **outputs, open_file=...)`: arguments are JSON values; outputs map the names of
further arguments to the files to write, which a runner may replace by local paths that it publishes afterwards.

    scatter     a group of parts -> records by key, and edges between copies seen by one task
    group       a partition of keys -> edges between copies
    large-star, small-star (rounds) -> clusters as stars around their first document
    members, measure (only with keep: longest or best, or verify) -> what the choice hangs on
    choose      a partition of clusters -> who goes, for whom
    name        a group of parts -> ids of the kept documents
    remove      a group of parts -> the removals of each part
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.dedup.choose import choose, measure, members, needs_members
from stages.dedup.components import large_star, small_star
from stages.dedup.removals import largest_clusters, name, remove
from stages.dedup.scatter import group, scatter
from stages.dedup.shuffle import OpenFile, open_local
from stages.dedup.spec import read_spec

MAX_ROUNDS = 64  # of the components; a path of 2^64 documents would need about as many


@dataclass(frozen=True)
class Task:
    """One call: `function(**arguments, **outputs, open_file=...)`."""

    key: str  # unique within the dedup, and good as a file name
    function: Callable[..., Any]
    arguments: dict[str, Any]
    outputs: dict[str, Any]  # argument name -> file to write, or {name: file}


@dataclass(frozen=True)
class Phase:
    """Tasks that need nothing of one another."""

    name: str
    tasks: list[Task] = field(default_factory=list)


Phases = Generator[Phase, list[Any], dict[str, Any]]


def group_parts(parts: Sequence[Mapping[str, Any]], target_bytes: int = 1 << 30) -> list[list[dict[str, Any]]]:
    """Consecutive parts in groups of about `target_bytes`.

    A part is {"ordinal", "path", "source", "documents", "bytes", "removals"}: removals (may be left
    out) are files of earlier dedups, with a sorted column `row`: these rows are passed over.
    """
    groups: list[list[dict[str, Any]]] = []
    size = 0
    for part in parts:
        if not groups or size + part["bytes"] > target_bytes:
            groups.append([])
            size = 0
        groups[-1].append(dict(part))
        size += part["bytes"]
    return groups


def clustered(spec: Mapping[str, Any], groups: Sequence[Sequence[Mapping[str, Any]]], folder: str) -> Phases:
    """The phases over groups of consecutive parts, ordinals rising; files go to `folder`, by name.

    Returns a summary: method, documents, compared, removed, rounds, largest_bucket, sizes ([size, clusters] pairs),
    largest (clusters), lost ([source, source of the kept document, documents]), removed_of_part and removals (the
    count and the file of each part, by its ordinal as text). Raises UserError where the share removed is outside
    `expected_removal`.
    """
    settings = read_spec(dict(spec))
    spec = settings.model_dump(mode="json")
    documents = sum(part["documents"] for parts in groups for part in parts)
    partitions = max(settings.partition_count(documents), 1 if settings.partitions else min(len(groups), 16))
    starts = [parts[0]["ordinal"] for parts in groups]
    memory = settings.memory
    star = {"partitions": partitions, "memory": memory}

    def path(kind: str, i: int) -> str:
        return f"{folder.rstrip('/')}/{kind}-{i:05d}"

    def by_group(kind: str, function: Callable[..., Any], outputs: Sequence[str], **arguments: Any) -> Phase:
        tasks = [
            Task(
                f"{kind}-{i:05d}",
                function,
                {**({"group": i} if function is not scatter else {}), "parts": _fields(parts), **arguments},
                {o: path(kind if o == "out_path" else f"{kind}-{o.removesuffix('_path')}", i) for o in outputs},
            )
            for i, parts in enumerate(groups)
        ]
        return Phase(kind, tasks)

    def by_partition(kind: str, function: Callable[..., Any], output: str, **arguments: Any) -> Phase:
        return Phase(
            kind,
            [
                Task(f"{kind}-{p:05d}", function, {"which": [p], **arguments}, {output: path(kind, p)})
                for p in range(partitions)
            ],
        )

    def files(phase: Phase, output: str = "out_path") -> list[str]:
        return [task.outputs[output] for task in phase.tasks]

    first = by_group("scatter", scatter, ["records_path", "edges_path"], spec=spec, partitions=partitions)
    scattered = yield first
    grouped = by_partition(
        "group", group, "edges_path", spec=spec, partitions=partitions, records_paths=files(first, "records_path")
    )
    found = yield grouped

    edges = files(first, "edges_path") + files(grouped, "edges_path")
    rounds = 0
    while True:
        large = by_partition(f"large-{rounds:02d}", large_star, "out_path", edges_paths=edges, **star)
        results = yield large
        if not sum(r["unsettled"] for r in results):
            break
        rounds += 1
        if rounds > MAX_ROUNDS:
            raise RuntimeError(f"clusters of copies did not settle in {MAX_ROUNDS} rounds")
        small = by_partition(f"small-{rounds:02d}", small_star, "out_path", edges_paths=files(large), **star)
        yield small
        edges = files(small)
    clusters = files(large)

    if needs_members(spec):
        sent = by_partition("members", members, "out_path", stars_paths=clusters, group_starts=starts, memory=memory)
        yield sent
        measured = by_group(
            "measure", measure, ["out_path"], spec=spec, members_paths=files(sent), partitions=partitions
        )
        yield measured
        clusters = files(measured)
    chosen = by_partition("choose", choose, "out_path", spec=spec, paths=clusters, group_starts=starts)
    yield chosen
    named = by_group("name", name, ["out_path"], chosen_paths=files(chosen), group_starts=starts, memory=memory)
    names = yield named
    removals = by_group("remove", remove, [], spec=spec, named_paths=files(named))
    for task in removals.tasks:
        ordinals = [part["ordinal"] for part in task.arguments["parts"]]
        task.outputs["out_paths"] = {str(o): path("removals", o) + ".parquet" for o in ordinals}
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


def _fields(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: part[k] for k in ("ordinal", "path", "source", "removals") if k in part} for part in parts]


def _sum_pairs(rows: Sequence[list[Any]]) -> list[list[Any]]:
    """Rows that end in a count, summed over equal beginnings, in order."""
    totals: dict[tuple[Any, ...], int] = {}
    for *head, count in rows:
        totals[tuple(head)] = totals.get(tuple(head), 0) + count
    return [[*head, total] for head, total in sorted(totals.items())]


def run_inline(
    phases: Phases, open_file: OpenFile = open_local, on_phase: Callable[[Phase], None] | None = None
) -> dict[str, Any]:
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
