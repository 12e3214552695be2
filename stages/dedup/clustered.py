"""Exact, url and minhash dedup as phases, from parts to removals.

    scatter     a group of parts -> records by key, and edges between copies seen by one task
    group       a partition of keys -> edges between copies (with `against`, with records of old documents)
    large-star, small-star (rounds) -> clusters as stars around their first document
    settle      (only with against) a partition of clusters -> those of old documents, whose new copies go; the others
    members, measure (only with keep: longest or best, or verify) -> what the choice hangs on
    choose      a partition of clusters -> who goes, for whom
    name        a group of parts -> ids of the kept documents
    remove      a group of parts -> the removals of each part
    index       (only with save) a group of parts -> its records and the names of its documents, for later dedups
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stages.dedup.choose import choose, measure, members, needs_members
from stages.dedup.components import large_star, small_star
from stages.dedup.found import Found, Named, Removed
from stages.dedup.index import DOCS, KEYS, group_with_old, index_name, settle, write_index
from stages.dedup.removals import largest_clusters, name, remove
from stages.dedup.scatter import group, scatter
from stages.dedup.spec import AnyClustered, AnyDedup, read_clustered
from stages.dedup.tasks import (
    Files,
    Groups,
    Phase,
    Phases,
    Signed,
    Task,
    by_place,
    file_name,
    numbers_of,
    output_files,
    part_fields,
    signed_groups,
)

MAX_ROUNDS = 64  # of the components; a path of 2^64 documents would need about as many


def partitions_of(spec: AnyClustered, documents: int, groups: int) -> int:
    """Partitions of records and edges: by their bytes, and where these are few, as many as there are groups, up to 16."""
    return max(spec.partition_count(documents), 1 if spec.partitions else min(groups, 16))


def clustered(spec: AnyDedup, groups: Groups, folder: str, signed: Sequence[Signed] = ()) -> Phases:
    """The phases over groups of consecutive parts, ordinals rising; files go to `folder`, by name. signed: the same parts in
    the groups that `scatter` takes; left out: `groups`.

    Returns a summary: method, documents, compared, removed, rounds, largest_bucket, sizes ([size, clusters] pairs),
    largest (clusters), lost ([source, source of the kept document, documents]), removed_of_part and removals (the
    count and the file of each part, by its ordinal as text). Raises UserError where the share removed is outside
    `expected_removal`.
    """
    settings = read_clustered(spec)
    documents = sum(part["documents"] for parts in groups for part in parts)
    partitions = partitions_of(settings, documents, len(groups))
    work = _Work(settings, groups, folder, partitions, signed or signed_groups(groups, partitions))
    scattering = work.scatter()
    scattered = yield scattering
    old = {kind: [path for path in settings.against if path.endswith(kind)] for kind in (KEYS, DOCS)}
    edges, largest_bucket = yield from _grouped(work, scattering, old[KEYS])
    clusters, rounds = yield from _stars(work, edges)
    settled: list[str] = []
    gone = 0
    if old[DOCS]:
        clusters, settled, gone = yield from _settled(work, clusters, old[DOCS])
    if needs_members(settings):
        work, clusters = yield from _measured(
            work, clusters, settings.partition_count(documents, settings.member_bytes)
        )
    named, names, copies = yield from _named(work, clusters)
    removed, removals = yield from _removed(work, [*named, *settled])

    summary: Found = {
        "method": settings.method,
        "documents": sum(r["documents"] for r in scattered),
        "compared": sum(r["compared"] for r in scattered),
        "removed": gone + sum(r["removed"] for r in names),
        "rounds": rounds,
        "largest_bucket": largest_bucket,
        "sizes": _sum_pairs([pair for r in names for pair in r["sizes"]]),
        "largest": largest_clusters([c for r in names for c in r["largest"]], 20),
        "lost": _sum_pairs([pair for r in removed for pair in r["lost"]]),
        "removed_of_part": {part: count for r in removed for part, count in r["removed"].items()},
        "removals": {part: path for paths in removals for part, path in paths.items()},
    }
    if settings.copies:
        summary["copies"] = {part: path for paths in copies for part, path in paths.items()}
    settings.check_removal(summary["removed"], summary["documents"])
    if settings.save:
        summary["index"] = yield from _index(work, output_files(scattering, "records_path"), removals)
    return summary


@dataclass(frozen=True)
class _Work:
    """What the phases of one dedup have in common, and how they are cut into tasks."""

    settings: AnyClustered
    groups: Groups
    folder: str
    partitions: int
    signed: Sequence[Signed]

    def scatter(self) -> Phase:
        """The phase that reads texts: a task for each of the groups that were signed together."""
        parts = {part["ordinal"]: part for group in self.groups for part in group}
        tasks = []
        for one in self.signed:
            mine = by_place(part_fields([parts[ordinal] for ordinal in one.ordinals]))
            outputs: Files = {
                f"{o}_path": file_name(self.folder, f"scatter-{o}", one.number) for o in ("records", "edges")
            }
            arguments = {"parts": mine, "spec": self.settings, "partitions": one.partitions}
            tasks.append(Task(f"scatter-{one.number:05d}", scatter, arguments, outputs))
        return Phase("scatter", tasks)

    @property
    def starts(self) -> list[int]:
        """The first ordinal of each group."""
        return [parts[0]["ordinal"] for parts in self.groups]

    def by_group(self, kind: str, function: Callable[..., Any], outputs: Sequence[str], **arguments: Any) -> Phase:
        """A task for each group of parts."""
        tasks = [
            Task(
                f"{kind}-{i:05d}",
                function,
                {"group": i, "parts": part_fields(parts), **arguments},
                {o: file_name(self.folder, f"{kind}-{o.removesuffix('_path')}", i) for o in outputs},
            )
            for i, parts in enumerate(self.groups)
        ]
        return Phase(kind, tasks)

    def by_partition(self, kind: str, function: Callable[..., Any], output: str, **arguments: Any) -> Phase:
        """A task for each partition of keys."""
        tasks = [
            Task(f"{kind}-{p:05d}", function, {"which": [p], **arguments}, {output: file_name(self.folder, kind, p)})
            for p in range(self.partitions)
        ]
        return Phase(kind, tasks)


def _files_of_parts(work: _Work, kind: str) -> list[dict[str, str]]:
    """Of each group the files of this kind to write, one a part, by its ordinal as text."""
    every = ([part["ordinal"] for part in parts] for parts in work.groups)
    return [{str(o): file_name(work.folder, kind, o, ".parquet") for o in ordinals} for ordinals in every]


def _grouped(work: _Work, scattering: Phase, old_keys: list[str]) -> Generator[Phase, list[Any], tuple[list[str], int]]:
    """Edges between documents of one key, and the most documents that one key has."""
    ordinals = [list(one.ordinals) for one in work.signed]
    with_old = {"index_paths": old_keys} if old_keys else {}
    phase = work.by_partition(
        "group",
        group_with_old if old_keys else group,
        "edges_path",
        spec=work.settings,
        partitions=work.partitions,
        records_paths=output_files(scattering, "records_path"),
        ordinals=ordinals,
        **with_old,
    )
    for p, task in enumerate(phase.tasks):  # each passes on the first edges of its share of the files
        task.arguments["first_paths"] = output_files(scattering, "edges_path")[p :: work.partitions]
        task.arguments["first_ordinals"] = ordinals[p :: work.partitions]
    found = yield phase
    return output_files(phase, "edges_path"), max((r["largest"] for r in found), default=0)


def _stars(work: _Work, edges: list[str]) -> Generator[Phase, list[Any], tuple[list[str], int]]:
    """Rounds of large and small stars, until every document hangs on the first of its cluster; the stars, and the rounds."""
    star = {"partitions": work.partitions, "memory": work.settings.memory}
    for rounds in range(MAX_ROUNDS + 1):
        large = work.by_partition(f"large-{rounds:02d}", large_star, "out_path", edges_paths=edges, **star)
        results = yield large
        if not sum(r["unsettled"] for r in results):
            return output_files(large), rounds
        if rounds == MAX_ROUNDS:
            break
        small = work.by_partition(
            f"small-{rounds + 1:02d}", small_star, "out_path", edges_paths=output_files(large), **star
        )
        yield small
        edges = output_files(small)
    raise RuntimeError(f"clusters of copies did not settle in {MAX_ROUNDS} rounds")


def _settled(
    work: _Work, stars: list[str], docs: list[str]
) -> Generator[Phase, list[Any], tuple[list[str], list[str], int]]:
    """The clusters of new documents alone; who goes for old ones, as `name` writes it; and how many these are."""
    phase = work.by_partition(
        "settle",
        settle,
        "out_path",
        spec=work.settings,
        partitions=work.partitions,
        stars_paths=stars,
        docs_paths=docs,
        group_starts=work.starts,
    )
    for task in phase.tasks:
        task.outputs["named_path"] = f"{task.outputs['out_path']}-named"
    found = yield phase
    return output_files(phase), output_files(phase, "named_path"), sum(r["removed"] for r in found)


def _named(
    work: _Work, clusters: list[str]
) -> Generator[Phase, list[Any], tuple[list[str], list[Named], list[dict[str, str]]]]:
    """Choose who goes, and name the kept documents: files, what was found, and of each group the files of copies by part."""
    settings = work.settings
    choosing = work.by_partition("choose", choose, "out_path", spec=settings, paths=clusters, group_starts=work.starts)
    yield choosing
    chosen = output_files(choosing)
    naming = work.by_group(
        "name", name, ["out_path"], chosen_paths=chosen, group_starts=work.starts, memory=settings.memory
    )
    copies = _files_of_parts(work, "copies") if settings.copies else []
    for task, paths in zip(naming.tasks, copies, strict=False):
        task.outputs["copies_paths"] = paths
    names: list[Named] = yield naming
    return output_files(naming), names, copies


def _removed(work: _Work, named: list[str]) -> Generator[Phase, list[Any], tuple[list[Removed], list[dict[str, str]]]]:
    """Write the removals of each part; of each group the files, by part."""
    numbers = numbers_of(work.groups)
    phase = work.by_group("remove", remove, [], spec=work.settings, named_paths=named, numbers=numbers)
    files = _files_of_parts(work, "removals")
    for task, paths in zip(phase.tasks, files, strict=True):
        task.outputs["out_paths"] = paths
    removed: list[Removed] = yield phase
    return removed, files


def _index(
    work: _Work, records: list[str], removals: Sequence[dict[str, str]]
) -> Generator[Phase, list[Any], list[str]]:
    """Write the index; its files, for the summary. They are named by the first part of each group."""
    numbers = numbers_of(work.groups)
    phase = work.by_group("index", write_index, [], spec=work.settings, partitions=work.partitions, numbers=numbers)
    names = []
    for task, parts, removal, start in zip(phase.tasks, work.groups, removals, work.starts, strict=True):
        del task.arguments["group"]
        mine = {part["ordinal"] for part in parts}
        files = [
            (path, one.ordinals) for path, one in zip(records, work.signed, strict=True) if mine & set(one.ordinals)
        ]
        task.arguments.update(
            records_paths=[path for path, _ in files],
            ordinals=[list(ordinals) for _, ordinals in files],
            removals_paths=removal,
        )
        name = file_name(work.folder, index_name(work.settings), start)
        task.outputs.update(keys_path=f"{name}{KEYS}", docs_path=f"{name}{DOCS}")
        names += [f"{name}{KEYS}", f"{name}{DOCS}"]
    yield phase
    return names


def _measured(work: _Work, stars: list[str], partitions: int) -> Generator[Phase, list[Any], tuple[_Work, list[str]]]:
    """The clusters with what the choice of their kept document hangs on, in `partitions` or more."""
    settings = work.settings
    sent = work.by_partition(
        "members", members, "out_path", stars_paths=stars, group_starts=work.starts, memory=settings.memory
    )
    yield sent
    work = replace(work, partitions=max(work.partitions, partitions))
    paths = output_files(sent)
    measured = work.by_group(
        "measure", measure, ["out_path"], spec=settings, members_paths=paths, partitions=work.partitions
    )
    yield measured
    return work, output_files(measured)


def _sum_pairs(rows: Sequence[list[Any]]) -> list[list[Any]]:
    """Rows that end in a count, summed over equal beginnings, in order."""
    totals: dict[tuple[Any, ...], int] = {}
    for *head, count in rows:
        totals[tuple(head)] = totals.get(tuple(head), 0) + count
    return [[*head, total] for head, total in sorted(totals.items())]
