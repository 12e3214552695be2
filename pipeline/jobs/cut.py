"""Finding where a large source file can be cut, so that several tasks read it: between lines, or between row groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.jobs.context import Context
from pipeline.jobs.inputs import SourceFile, open_listed, open_listed_random
from pipeline.plan.node import Conclusion, Job, Report
from stages.marks import HowMuch, InFile, Setting
from stages.read import MEMORY, window_of
from stages.read.compression import HEAD_BYTES, Compression, compression_by
from stages.read.split import Member, line_parts, member_parts


class Range(Report, array_like=True):
    """What one task reads of a file, and its bytes there: lines (offset, length, ordinal of the first), or row groups.

    member: of a compressed file, in which lines are counted in decompressed bytes: where to begin (stages/read/split.py).
    """

    size: int
    lines: tuple[int, int, int] | None = None
    row_groups: tuple[int, ...] | None = None
    member: Member | None = None


class CutReport(Report):
    """The ranges of a file, in order; none where it is read as a whole. read_bytes: of the file, that were read to find them."""

    ranges: list[Range]
    read_bytes: int = 0


@dataclass(frozen=True)
class Cut(Job):
    """Finds ranges of about `split_bytes`. How a file is cut decides no byte of a corpus: the cut that was made stays."""

    report: ClassVar[type[Report]] = CutReport

    file: InFile[SourceFile]
    format: Setting[Literal["jsonl", "parquet"]]
    split_bytes: HowMuch[int]
    compression: HowMuch[Compression | None] = None
    in_member: HowMuch[int] = 1
    memory: HowMuch[int] = MEMORY

    def run(self, context: Context) -> CutReport:
        return self.find()

    def find(self) -> CutReport:
        """Look for ranges, reading what has to be read."""
        if self.format == "parquet":
            return CutReport(ranges=_row_groups(self.file, self.split_bytes))
        if self._is_compressed():
            return CutReport(ranges=self._members(), read_bytes=self.file.size if self.in_member > 1 else 0)
        with open_listed(self.file) as stream:
            parts = line_parts(stream, self.split_bytes)
            ranges = [(part.offset, part.length or 0, part.first_record) for part in parts]
        return CutReport(ranges=[Range(size=lines[1], lines=lines) for lines in ranges], read_bytes=self.file.size)

    def _is_compressed(self) -> bool:
        """Whether the file is compressed, whatever its name says, unless the recipe does."""
        if self.compression is not None:
            return self.compression != "none"
        with open_listed(self.file, 0, HEAD_BYTES) as stream:
            return compression_by(stream.read(HEAD_BYTES), self.file.name) is not None

    def _members(self) -> list[Range]:
        """Ranges of a compressed file, each of its share of the file's bytes; none where parts of it cost too much."""
        if self.in_member < 2:
            return []
        with open_listed(self.file) as stream:
            window = window_of(self.memory)
            parts = member_parts(stream, self.file.name, self.split_bytes, self.in_member, self.compression, window)
        whole = sum(part.length for part in parts)
        return [
            Range(
                size=self.file.size * part.length // whole,
                lines=(part.offset, part.length, part.first_record),
                member=part.member,
            )
            for part in parts
        ]


def _row_groups(file: SourceFile, split_bytes: int) -> list[Range]:
    try:
        with open_listed_random(file) as stream:
            metadata = pq.read_metadata(stream)
    except (pa.ArrowException, OSError):
        return []  # the task that reads it says what is wrong, and counts it among the files that failed
    found: list[Range] = []
    groups: list[int] = []
    size = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        weight = sum(group.column(c).total_compressed_size for c in range(group.num_columns))
        if groups and size + weight > split_bytes:
            found.append(Range(size=size, row_groups=tuple(groups)))
            groups, size = [], 0
        groups.append(index)
        size += weight
    if groups:
        found.append(Range(size=size, row_groups=tuple(groups)))
    return found


class Gathered(Report, array_like=True):
    """Pieces of a source that one task reads, from the first to the last: each a file's name and which of its pieces it is."""

    first: tuple[str, int]
    last: tuple[str, int]


class CutSizeReport(Conclusion):
    """The size that the files of a source were cut to, into how many parts at most where one can only be read from its
    beginning, and how pieces below it were gathered."""

    of_results: ClassVar[bool] = False

    split_bytes: int
    gathered: list[Gathered] = msgspec.field(default_factory=list)
    in_member: int = 1  # of compressed files


@dataclass(frozen=True)
class CutSize(Job):
    """How a source's files were cut and gathered when they were first read: concluded by the plan, no task runs for it.

    It decides no byte. Where files were added since, those that were there stay as they are: their tasks need not run again.
    """

    report: ClassVar[type[Report]] = CutSizeReport

    source: Setting[str]
    files: InFile[tuple[SourceFile, ...]]
