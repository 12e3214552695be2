"""The stage that takes documents through a segment of steps: a node for every split of a source, or part of the stage before."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.jobs.cut import Cut, CutReport, CutSize, CutSizeReport, Gathered, Range
from pipeline.jobs.documents import Documents, DocumentsReport
from pipeline.jobs.inputs import NamedStep, SourceFile
from pipeline.ledger import Ref
from pipeline.plan.graph import Conclude, Earlier, Plan, Recall
from pipeline.plan.node import Done, Node, Stage
from pipeline.plan.parts import Part
from pipeline.plan.sources import SPLITS, gather, gather_size, is_cut, parts_in_member, pieces_of, split_size
from pipeline.recipe.recipe import Recipe, Source
from stages.errors import UserError
from stages.read import ReadSpec
from stages.read.names import suffixes

MOST_PIECEMEAL = 4  # times as many tasks as a source needs, of files that came one after another


@dataclass(frozen=True)
class Work:
    """What the nodes of one source in one stage share."""

    recipe: Recipe
    source: str
    segment: int
    steps: tuple[NamedStep, ...]

    def node(self, ordinal: int, weight: int, job: Documents) -> Node:
        return Node(Ref("documents", self.source, str(self.segment), ordinal), job, weight)

    def job(self, **inputs: object) -> Documents:
        run = self.recipe.run
        return Documents(
            source=self.source,
            steps=self.steps,
            keep=run.keep,
            segment=self.segment,
            batch_bytes=run.batch_bytes,
            memory=run.task_memory,
            staged=run.stage_inputs,
            folder=self.recipe.folder,
            **inputs,  # type: ignore[arg-type]
        )


def read_documents(work: Work, files: list[SourceFile]) -> Plan[list[Part]]:
    """Read a source's files and take their documents through its first steps; the parts, in canonical order."""
    source = work.recipe.sources[work.source]
    check_pages(work.source, source, files)
    split_files = yield from _splits(work, source.read, files)
    read = ReadSpec.model_validate({name: getattr(source.read, name) for name in ReadSpec.model_fields})
    nodes = [
        work.node(ordinal, sum(file.size for file in split), work.job(files=split, read=read))
        for ordinal, split in enumerate(split_files)
    ]
    done = yield Stage("read and filter", nodes)
    names = [tuple(dict.fromkeys(file.name for file in split)) for split in split_files]
    return [_part(work.source, one, read_from) for one, read_from in zip(done, names, strict=True)]


def filter_parts(work: Work, parts: list[Part]) -> Plan[list[Part]]:
    """Take the documents of parts through further steps; the new parts, in the same order."""
    nodes = [work.node(ordinal, part.bytes, work.job(part=part.read())) for ordinal, part in enumerate(parts)]
    done = yield Stage(f"after dedup {work.segment}", nodes)
    return [_part(work.source, one, part.files) for one, part in zip(done, parts, strict=True)]


def _part(source: str, done: Done[DocumentsReport], files: tuple[str, ...]) -> Part:
    report = done.report
    return Part(source, done.output(report.part), report.docs, report.bytes, done.key, files=files)


def _splits(work: Work, read: ReadSpec, files: list[SourceFile]) -> Plan[list[tuple[SourceFile, ...]]]:
    """The source's files in splits. How they were cut first stays, for it decides no byte; so it does where files were added."""
    remembered = Node(Ref("cut size", work.source, "", 0), CutSize(work.source, tuple(files)))
    known: Done[CutSizeReport] | None = yield Recall(remembered)
    earlier: CutSizeReport | None = known.report if known else (yield Earlier(remembered))
    total, asked = sum(file.size for file in files), work.recipe.run.split_bytes
    size = earlier.split_bytes if earlier else split_size(total, asked)
    in_member = earlier.in_member if earlier else parts_in_member(len(files))
    large = [file for file in files if is_cut(file, read, size, in_member)]
    ranges: dict[str, list[Range]] = {}
    if large:
        how = (size, read.compression, in_member, work.recipe.run.task_memory)
        nodes = [
            Node(Ref("cut", work.source, "", number), Cut(file, read.format_of(file.name), *how), file.size)  # type: ignore[arg-type]
            for number, file in enumerate(large)
        ]
        done: list[Done[CutReport]] = yield Stage("find where to cut", nodes)
        ranges = {file.uri: one.report.ranges for file, one in zip(large, done, strict=True)}
    pieces, room = pieces_of(files, ranges), gather_size(total, asked, size)
    groups = gather(pieces, room)
    if earlier and len(kept := gather(pieces, room, earlier.gathered, 2 * size)) <= MOST_PIECEMEAL * len(groups) + SPLITS:
        groups = kept
    if known is None:
        gathered = [Gathered(first=group[0].place, last=group[-1].place) for group in groups]
        yield Conclude(remembered, CutSizeReport(split_bytes=size, gathered=gathered, in_member=in_member))
    return [tuple(piece.file for piece in group) for group in groups]


def check_pages(name: str, source: Source, files: list[SourceFile]) -> None:
    """Pages of a crawl hold no text until a step takes it out of them: without one, all would go as empty.

    And where no file holds pages, such a step would do nothing; of WAT files nothing is read by default. Raises UserError in all
    these cases.
    """
    taker = next((step for step, one in source.steps if getattr(one, "takes_pages", False)), None)
    if files and source.read.record_types is None and all(_is_wat(file, source.read) for file in files):
        raise UserError(
            f"sources.{name}.read: {files[0].name} holds metadata about pages, of which nothing is read by default: set "
            "record_types: [metadata] and mime_types: [application/json], or name WARC or WET files"
        )
    page = next((file for file in files if source.read.holds_pages(file.name)), None)
    if page and taker is None:
        raise UserError(f"sources.{name}.steps: {page.name} holds web pages, and no step takes their text out; add `extract`")
    if taker and files and page is None:
        kind = source.read.format_of(files[0].name)
        raise UserError(
            f"sources.{name}.steps.{taker}: takes the text out of web pages, and {files[0].name} holds none (its format is "
            f"{kind}): take the step out"
        )


def _is_wat(file: SourceFile, read: ReadSpec) -> bool:
    return ".wat" in suffixes(file.name) and read.format_of(file.name) == "warc"
