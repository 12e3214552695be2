"""What a dedup found, and the conclusion of a whole one from its calls (pipeline/jobs/dedup_call.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pipeline.plan.node import Conclusion, Job, Named, Report, Stored
from stages.dedup.footprint import Need
from stages.dedup.spec import AnyDedup
from stages.marks import InFile, Setting


class PartRead(msgspec.Struct):
    """A part that a dedup ran over."""

    path: str
    source: str
    number: int | None = None  # what it is called where it is named as that of a kept document; None: its ordinal


class LargeCluster(msgspec.Struct, frozen=True):
    """A large cluster: its documents, and where the one lies that stays."""

    size: int
    part: int
    row: int
    id: str | None
    source: str


class EditedPart(msgspec.Struct, frozen=True, kw_only=True):
    """What a dedup that cuts texts did to a part. bytes: of the documents that it was given."""

    documents: int
    bytes: int
    removed: int
    removed_bytes: int = 0
    paragraphs: int
    cut_bytes: int


class DedupShard(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard of a dedup did: by a Bloom filter (n-grams that came, were there, were entered), or by suffixes."""

    shard: int
    documents: int | UnsetType = UNSET
    ngrams: int | UnsetType = UNSET
    held: int | UnsetType = UNSET
    inserted: int | UnsetType = UNSET
    spans: int | UnsetType = UNSET
    filter_bytes: int | UnsetType = UNSET
    fill: float | UnsetType = UNSET  # share of the filter's bits that are set
    filter: str | UnsetType | None = UNSET  # its file, where it is kept
    memory: int | UnsetType = UNSET
    sequence_bytes: int | UnsetType = UNSET
    units: int | UnsetType = UNSET
    repeated: int | UnsetType = UNSET
    pieces: int | UnsetType = UNSET


class DedupSummary(msgspec.Struct, omit_defaults=True):
    """What a dedup found, over the parts by their ordinal as text. What only some methods have may be None.

    removals, cuts: files of removed documents and of pieces cut out. parts: the new parts, where texts were cut. sizes:
    [copies, clusters] pairs. lost: [source, source of the kept document, documents]. index: files by which later runs are
    compared with this one. copies: files of as how many documents were found. needs: what it stated it would take.
    """

    method: str
    documents: int
    removed: int
    removed_of_part: dict[str, int]
    removals: dict[str, str]
    read: dict[str, PartRead]
    needs: list[Need]
    compared: int | None = None
    rounds: int | None = None
    largest_bucket: int | None = None
    sizes: list[tuple[int, int]] | None = None
    largest: list[LargeCluster] | None = None
    lost: list[tuple[str, str | None, int]] | None = None
    parts: dict[str, str] | None = None
    cuts: dict[str, str] | None = None
    reports: dict[str, EditedPart] | None = None
    shards: list[DedupShard] | None = None
    index: list[str] | None = None
    copies: dict[str, str] | None = None


class DedupReport(Conclusion):
    """What a dedup found; its outputs are the files that the summary names."""

    summary: DedupSummary


@dataclass(frozen=True)
class DedupPart:
    """A part as a dedup takes it, with the source files that its documents came from."""

    source: str
    file: Stored
    removals: tuple[Stored, ...]
    files: tuple[str, ...]


class SignedParts(msgspec.Struct, frozen=True, array_like=True):
    """Parts that a task signs together, by their digests: number and partitions as in `stages.dedup.tasks.Signed`."""

    number: int
    partitions: int
    digests: list[str]


class LayoutReport(Conclusion):
    """Which parts of a dedup were signed together."""

    of_results: ClassVar[bool] = False

    groups: list[SignedParts]


@dataclass(frozen=True)
class DedupLayout(Job):
    """Which parts of a dedup are signed together: concluded by the plan (pipeline/plan/layout.py), no task runs for it."""

    report: ClassVar[type[Report]] = LayoutReport

    name: Setting[str]
    parts: InFile[tuple[str, ...]]  # their digests


@dataclass(frozen=True)
class Dedup(Job):
    """A whole dedup: concluded by the plan from its calls, so how they were cut decides nothing."""

    report: ClassVar[type[Report]] = DedupReport

    name: Setting[str]
    settings: Setting[AnyDedup]
    parts: InFile[tuple[DedupPart, ...]]
    files: InFile[tuple[Named, ...]]  # that the settings name

    def modules(self) -> tuple[str, ...]:
        return (__name__, "stages.dedup.phases")
