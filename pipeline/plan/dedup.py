"""Dedup over the parts of one source or of all: stages of calls that end in the rows removed from each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from pipeline.jobs.dedup import Dedup, DedupPart, DedupReport, DedupSummary, PartRead
from pipeline.jobs.dedup_call import CallReport, DedupCall
from pipeline.ledger import Output, Ref
from pipeline.plan.graph import Conclude, Plan, Release, concluded
from pipeline.plan.layout import signed_together
from pipeline.plan.node import Done, Named, Node, Stage, Stored, hash_of
from pipeline.plan.parts import Part
from stages.dedup.clustered import partitions_of
from stages.dedup.footprint import Need, filter_memory, footprint, index_bytes, written_at_a_time
from stages.dedup.found import Found
from stages.dedup.index import KEYS
from stages.dedup.phases import group_parts, phases
from stages.dedup.spec import AnyDedup, Filtering, Substring
from stages.dedup.tasks import MAX_GROUPS, PartGiven, Phase, Task
from stages.marks import Mark, marks_of
from stages.units import show_bytes

GROUP_BYTES = 1 << 30  # of text that one scatter task reads, at most
SMALL_GROUP_BYTES = 16 << 20  # of a small corpus it reads less, so that there are tasks for all workers
FEW_GROUPS = 32
PACKED = 2  # bytes in memory for a byte of an index's keys in its file, about


def group_bytes(size: int) -> int:
    """Bytes of text that one task reads, of a corpus of `size` bytes."""
    return max(min(GROUP_BYTES, max(SMALL_GROUP_BYTES, size // FEW_GROUPS)), size // MAX_GROUPS)


@dataclass(frozen=True)
class Over:
    """What a dedup runs over: its place in the recipe (source, or "all", and name), settings, parts, and named files.

    sizes: of the named files, by URI. keep_files: whether its own files stay when it is done.
    """

    source: str
    name: str
    settings: AnyDedup
    parts: tuple[Part, ...]
    files: tuple[Named, ...] = ()
    sizes: Mapping[str, int] | None = None
    keep_files: bool = True


def deduplicate(over: Over) -> Plan[tuple[list[Part], DedupSummary]]:
    """The parts with the removals that a dedup found (where it cut texts, new parts), and what it found.

    Raises UserError where the share removed is outside `expected_removal`.
    """
    parts = tuple(DedupPart(part.source, part.file, part.removals, part.files) for part in over.parts)
    job = Dedup(f"{over.source}/{over.name}", over.settings, parts, over.files)
    node = Node(Ref("dedup result", over.source, over.name, 0), job)
    done: Done[DedupReport] = yield from concluded(node, _Calls(over, node).plan())
    summary = done.report.summary
    over.settings.check_removal(summary.removed, summary.documents)
    files = {
        output.path: (key, Stored(output.path, output.digest))
        for key, outputs in done.report.outputs.items()
        for output in outputs
    }
    return [_part_after(i, part, over.name, summary, files) for i, part in enumerate(over.parts)], summary


def _part_after(
    ordinal: int, part: Part, name: str, summary: DedupSummary, files: Mapping[str, tuple[str, Stored]]
) -> Part:
    here = str(ordinal)
    removals = (*part.removals, files[summary.removals[here]][1])
    if summary.copies is not None:
        part = replace(part, copies=(*part.copies, (f"{name}.copies", files[summary.copies[here]][1])))
    if summary.parts is None or summary.reports is None:
        return replace(part, removals=removals)
    (owner, new), cut = files[summary.parts[here]], summary.reports[here].cut_bytes
    return replace(part, file=new, owner=owner, bytes=part.bytes - cut, edited=part.edited + cut, removals=removals)


class _Calls:
    """One dedup on its way: the generator of its phases, and what the files that it wrote hold."""

    def __init__(self, over: Over, node: Node) -> None:
        over = replace(over, settings=_with_room(over))
        self.over, self.node = over, node
        self.files: dict[str, Stored | Named] = {file.uri: file for file in over.files}
        self.weights: dict[str, int] = {}
        for part in over.parts:
            self.files[part.file.path] = part.file
            self.files |= {removal.path: removal for removal in part.removals}
            self.weights[part.file.path] = part.bytes
        self.outputs: dict[str, tuple[str, Output]] = {}  # by path, with the key of the task that wrote it
        documents, size = sum(part.docs for part in over.parts), sum(part.bytes for part in over.parts)
        self.parts = [_described(i, part) for i, part in enumerate(over.parts)]
        self.groups = group_parts(self.parts, group_bytes(size))
        self.partitions = 1
        if not isinstance(over.settings, Filtering | Substring):
            self.partitions = partitions_of(over.settings, documents, len(self.groups))
        self.needs = footprint(over.settings, documents, size, len(self.groups))

    def plan(self) -> Plan[Conclude]:
        """The stages, and the conclusion."""
        over = self.over
        digests = [hash_of(part.source, part.file.digest, [one.digest for one in part.removals]) for part in over.parts]
        fixed = bool(getattr(over.settings, "partitions", None))
        signed, layout = yield from signed_together(
            over.source, over.name, self.parts, digests, self.groups, self.partitions, fixed
        )
        for one in signed:
            for place, ordinal in enumerate(one.ordinals):
                self.parts[ordinal]["number"] = one.number + place
        calls = phases(over.settings, self.groups, f"parts/dedup/{over.source}/{over.name}", signed)
        phase = next(calls)
        keys: dict[str, None] = {layout: None}
        notes = [self._stated()]
        while True:
            nodes = [self._node(phase, number, task) for number, task in enumerate(phase.tasks)]
            done: list[Done[CallReport]] = yield Stage(f"{self.over.settings.method}: {phase.name}", nodes, notes)
            notes = []
            for one in done:
                keys[one.key] = None
                self.outputs |= {output.path: (one.key, output) for output in one.outputs}
                self.files |= {output.path: Stored(output.path, output.digest) for output in one.outputs}
            try:
                phase = calls.send([msgspec.json.decode(one.report.result) for one in done])
            except StopIteration as end:
                summary = self._summary(end.value)
                break
        yield from self._release(summary)
        outputs: dict[str, list[Output]] = {}
        for path in _named(summary):
            key, output = self.outputs[path]
            outputs.setdefault(key, []).append(output)
        return Conclude(self.node, DedupReport(summary=summary, outputs=outputs, made_by=list(keys)))

    def _stated(self) -> str:
        """What this dedup may need at most, in a line."""
        most = max(self.needs, key=lambda need: need.memory)
        disk = sum(need.disk for need in self.needs)
        kept = index_bytes(self.over.settings, self.needs)
        disk += kept if isinstance(self.over.settings, Filtering) else 0
        index = f", of which {show_bytes(kept)} stay for later runs" if kept else ""
        part = max(self.weights.values(), default=0)
        scratch = max(part + (part if need.phase == "edit" else written_at_a_time(need)) for need in self.needs)
        return (
            f"dedup {self.over.source}/{self.over.name} ({self.over.settings.method}): at most {show_bytes(most.memory)} of "
            f"memory a task ({most.phase}), {show_bytes(scratch)} of its node's disk, and {show_bytes(disk)} of files{index}"
        )

    def _summary(self, found: Found) -> DedupSummary:
        numbers = [part.get("number") for part in self.parts]
        read = {str(i): PartRead(part.file.path, part.source, numbers[i]) for i, part in enumerate(self.over.parts)}
        needs = [asdict(need) for need in self.needs]
        return msgspec.convert({**found, "read": read, "needs": needs}, DedupSummary, from_attributes=True)

    def _release(self, summary: DedupSummary) -> Plan[None]:
        """Without `keep_files` the shuffle's own files go; what was removed stays on record."""
        if not self.over.keep_files:
            named = set(_named(summary))
            yield Release([(key, path) for path, (key, _) in self.outputs.items() if path not in named])

    def _node(self, phase: Phase, number: int, task: Task) -> Node:
        """The node of one call: its arguments sorted by their marks, files replaced by what they hold."""
        marks = marks_of(task.function)
        sorted_: dict[Mark, dict[str, object]] = {mark: {} for mark in Mark}
        for name, value in task.arguments.items():
            sorted_[marks[name]][name] = value
        read: list[str] = []
        job = DedupCall(
            function=f"{task.function.__module__}:{task.function.__qualname__}",
            settings=sorted_[Mark.SETTING],
            reads=self._with_files(sorted_[Mark.IN_FILE], read),
            outputs=task.outputs,
            how_much=sorted_[Mark.HOW_MUCH],
            named=self.over.files,
        )
        weight = sum(self.weights.get(path, 0) for path in read)
        ref = Ref("dedup", self.over.source, f"{self.over.name} {phase.name}", number)
        return Node(ref, job, weight, self._memory(phase, task), self._scratch(phase, task, read), task.cores)

    def _with_files(self, value: Any, read: list[str]) -> Any:
        """The value with each known file's name replaced by the file; the names are added to `read`."""
        if isinstance(value, Mapping):
            return {k: self._with_files(v, read) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._with_files(v, read) for v in value]
        if isinstance(value, str) and value in self.files:
            read.append(value)
            return self.files[value]
        return value

    def _need(self, phase: Phase) -> Need | None:
        """What was stated of a phase."""
        kind = phase.name.split("-")[0]
        kind = "components" if kind in ("large", "small") else kind
        return next((need for need in self.needs if need.phase == kind), None)

    def _scratch(self, phase: Phase, task: Task, read: Sequence[str]) -> int:
        """Bytes of its node's disk that a task takes at a time: a part that it reads, and what it writes.

        A part counts as its text, which is twice its file or more. `edit` lets each part go before it writes the next one.
        """
        part = max((self.weights.get(path, 0) for path in read), default=0)
        need = self._need(phase)
        if phase.name == "edit" or need is None:
            return 2 * part
        saved = task.memory - filter_memory(0, task.cores) if "filter_path" in task.outputs and task.memory else 0
        return part + written_at_a_time(need) + saved

    def _memory(self, phase: Phase, task: Task) -> int:
        """Bytes that a task of this phase may take; of filters and suffix arrays exactly, once it is counted."""
        settings = self.over.settings
        sizes = self.over.sizes or {}
        if phase.name == "filter" and isinstance(settings, Filtering) and settings.load:
            return filter_memory(sizes[settings.load], task.cores)
        if task.memory is not None:
            old = settings.against if isinstance(settings, Filtering) else ()  # filters of older runs are held beside its own
            return task.memory + sum(sizes.get(uri, 0) for uri in old)
        need = self._need(phase)
        return need.memory if need else 0


def _with_room(over: Over) -> AnyDedup:
    """The settings with partitions enough for the records of old documents too, of which each task reads a range."""
    settings = over.settings
    if isinstance(settings, Filtering | Substring) or not settings.against or settings.partitions:
        return settings
    old = sum((over.sizes or {}).get(uri, 0) for uri in settings.against if uri.endswith(KEYS)) * PACKED
    documents = sum(part.docs for part in over.parts) + old // settings.document_bytes
    return settings.model_copy(update={"partitions": settings.partition_count(documents)})


def _described(ordinal: int, part: Part) -> PartGiven:
    return PartGiven(
        ordinal=ordinal,
        path=part.file.path,
        source=part.source,
        documents=part.docs,
        bytes=part.bytes,
        files=part.files,
        removals=[removal.path for removal in part.removals],
    )


def _named(summary: DedupSummary) -> list[str]:
    """The files that a summary tells of, which stay: removals, cuts, new parts, saved filters."""
    found = [*(summary.index or ())]
    kinds = (summary.removals, summary.cuts, summary.parts, summary.copies)
    found += [path for files in kinds for path in (files or {}).values()]
    return found + [shard.filter for shard in summary.shards or () if shard.filter]
