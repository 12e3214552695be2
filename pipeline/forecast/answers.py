"""What each kind of node would have reported, so that a plan can be walked without carrying it out.

Only what the plan goes on from is made up: documents and bytes of parts, how many shards there will be. The digest of a
file that is not there, and the key of a node that does not run, is the node's name: keys of half a million nodes take minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec
import numpy as np

from pipeline.forecast.stages import Costs
from pipeline.jobs.classifier import ClassifierReport
from pipeline.jobs.cut import Cut, CutReport, Range
from pipeline.jobs.dedup_call import CallReport, DedupCall
from pipeline.jobs.documents import DocumentsReport
from pipeline.jobs.held_out import (
    DROP_NEAR_COPIES,
    NEAR_COPIES,
    DropNearCopies,
    DroppedReport,
    NearReport,
    NgramsReport,
)
from pipeline.jobs.sample import SampleReport
from pipeline.jobs.shards import PlanShards, ShardPlanReport, ShardReport
from pipeline.jobs.split import CutsReport, FindCuts, SplitReport, SplitTokens, SplitValues, ValuesReport
from pipeline.jobs.tokenize import SPLITS, StoredTokens, TokenizeReport
from pipeline.jobs.tokenizer import TokenizerReport
from pipeline.ledger import Output, Ref
from pipeline.plan.node import Done, Node, Report, Stored, files_written
from pipeline.plan.split import SPLIT
from stages.dedup.bff import shards_of
from stages.dedup.footprint import NGRAM_BYTES, SEQUENCE_BYTES
from stages.quality.card import Card
from stages.read.compression import compression_of
from stages.read.split import SLOW, Member
from stages.tokens.manifest_shape import ShardFacts
from stages.tokens.shard import Piece, shard_tokens
from stages.tokens.split import Axis, cells

VOCABULARY = 50_000  # of a tokenizer that is not read for a plan; it decides the width of a token alone

_NO_SHARD = ShardFacts(tokens=0, documents=0, text_bytes=0, sha256="")


class Answers:
    """Makes up reports; remembers documents and bytes of the parts that were made up."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.width = 2  # bytes of a token
        self.parts: dict[str, tuple[int, int]] = {}  # by path: documents and bytes
        self.tokens: dict[str, tuple[float, float]] = {}  # of the stage at hand: tokens and documents of each source
        self.shares: dict[Ref, float] = {}  # of the stage at hand: of all that its kind makes of the source

    def of(self, node: Node) -> Done[Any]:
        """What became of a node."""
        answers: dict[str, Callable[[Node], tuple[Report, list[str]]]] = {
            "cut": self._cut,
            "documents": self._documents,
            "sample": self._sample,
            "classifier": lambda node: (ClassifierReport(card=cast(Card, {})), files_written(node.job)),
            "tokenizer": lambda node: (TokenizerReport(), files_written(node.job)),
            "dedup": self._call,
            "tokenize": self._tokenize,
            "held out": lambda node: (NgramsReport(ngrams=f"{node.ref}.ngrams", count=0), [f"{node.ref}.ngrams"]),
            NEAR_COPIES: lambda node: (NearReport(documents=0, tokens=0, read_bytes=0), []),
            DROP_NEAR_COPIES: self._drop_near_copies,
            "split values": self._split_values,
            "split cuts": lambda node: (CutsReport(cuts=[axis.at or axis.quantiles for axis in _axes(node)]), []),
            SPLIT: self._split,
            "plan shards": self._plan_shards,
            "shard": lambda node: (ShardReport(shard=_NO_SHARD), files_written(node.job)),
        }
        report, paths = answers[node.ref.kind](node)
        name = f"{node.ref}"
        return Done(name, [Output(path, 0, name) for path in paths], report)

    def begin(self, nodes: Sequence[Node]) -> None:
        """The nodes of the next stage: each makes as much of what all of its kind make of a source as it has of their input."""
        groups: dict[tuple[str, str, str], list[Node]] = {}
        for node in nodes:
            groups.setdefault((node.ref.kind, node.ref.source, node.ref.stage), []).append(node)
        self.shares, self.tokens = {}, {}
        for group in groups.values():
            whole = sum(node.weight for node in group)
            self.shares |= {node.ref: node.weight / whole if whole else 1 / len(group) for node in group}

    def _cut(self, node: Node) -> tuple[Report, list[str]]:
        job = node.job
        assert isinstance(job, Cut)
        given = self.costs.inputs[node.ref.source]
        documents = given.documents * job.file.size // max(1, given.file_bytes)
        count = max(1, min(documents, -(-job.file.size // job.split_bytes)))  # no document is in two ranges
        packed = None if job.compression == "none" else compression_of(job.file.name)
        if packed:  # as if it held one member, and could only be read from its beginning
            count = min(count, 1 if packed in SLOW else job.in_member)
        size = job.file.size // count
        if job.format == "parquet":
            return CutReport(ranges=[Range(size=size, row_groups=(i,)) for i in range(count)]), []
        member = Member() if packed else None
        return CutReport(ranges=[Range(size=size, lines=(i * size, size, i + 1), member=member) for i in range(count)]), []

    def _documents(self, node: Node) -> tuple[Report, list[str]]:
        flow, share = self.costs.flows[node.ref.source], self.shares[node.ref]
        path = f"{node.ref}.kept"
        self.parts[path] = docs, size = int(flow.documents * share), int(flow.bytes * share)
        return DocumentsReport(part=path, dropped=f"{node.ref}.dropped", docs=docs, bytes=size), [path]

    def _sample(self, node: Node) -> tuple[Report, list[str]]:
        path = f"{node.ref}.parquet"
        return SampleReport(part=path, docs=0), [path]

    def _call(self, node: Node) -> tuple[Report, list[str]]:
        job = node.job
        assert isinstance(job, DedupCall)
        name = job.function.rpartition(":")[2]
        parts: Any = job.reads.get("parts", ())  # as `PartToRead` says, with files in place of names
        result: Any = None
        if name in ("count", "count_units"):
            bytes_each = NGRAM_BYTES if name == "count" else 1 / SEQUENCE_BYTES
            result = {str(part["ordinal"]): self._counted(part, bytes_each, name == "count") for part in parts}
        elif name == "edit":
            facts = {"documents": 0, "removed": 0, "cut_bytes": 0, "paragraphs": 0, "bytes": 0}
            result = {str(part["ordinal"]): facts for part in parts}
        elif name == "remove":
            result = {"removed": {str(part["ordinal"]): 0 for part in parts}, "lost": []}
        elif name in RESULTS:
            result = RESULTS[name]
        if name == "large_star" and node.ref.stage.endswith("-00"):
            result = {"unsettled": 1}  # copies of copies: one more round is counted
        if name == "edit":
            self._edited(job, parts)
        return CallReport(result=msgspec.Raw(msgspec.json.encode(result))), files_written(job)

    def _counted(self, part: Any, bytes_each: float, grams: bool) -> dict[str, list[int]]:
        docs, size = self.parts.get(part["path"].path, (0, 0))
        shards = sorted(shards_of(part))
        units = int(size / bytes_each) // len(shards)
        return {str(s): [docs // len(shards), units] if grams else [0, docs // len(shards), units] for s in shards}

    def _edited(self, job: DedupCall, parts: Any) -> None:
        """New parts take the place of old ones, with as many documents."""
        new = job.outputs["part_paths"]
        assert isinstance(new, dict)
        for part in parts:
            self.parts[new[str(part["ordinal"])]] = self.parts.get(part["path"].path, (0, 0))

    def _tokenize(self, node: Node) -> tuple[Report, list[str]]:
        costs, share, source, name = self.costs, self.shares[node.ref], node.ref.source, f"{node.ref}"
        if not self.tokens:
            self.width = costs.token_width()
        if source not in self.tokens:
            self.tokens[source] = costs.token_bytes_of(source) / self.width, costs.flows[source].documents
        tokens, docs = (count * share for count in self.tokens[source])
        held = costs.recipe.shards.held_out
        files = {
            split: StoredTokens(
                Stored(f"{name}.{split}", name),
                Stored(f"{name}.{split}.index", name),
                int(tokens * part),
                int(docs * part),
                0,
            )
            for split, part in zip(SPLITS, (1 - held, held), strict=True)
        }
        vocabulary = VOCABULARY if self.width == 2 else 1 << 20
        facts = {"vocab_size": vocabulary, "eos_id": 0, "pad_id": 0, "sha256": "", "engine": ""}
        dropped = f"{name}.dropped"
        return TokenizeReport(files=files, dropped=dropped, **facts), [dropped]

    def _drop_near_copies(self, node: Node) -> tuple[Report, list[str]]:
        job = node.job
        assert isinstance(job, DropNearCopies)
        return DroppedReport(documents=0, tokens=0, read_bytes=0, train=job.train, dropped=""), []

    def _split_values(self, node: Node) -> tuple[Report, list[str]]:
        paths = [f"{node.ref}.{number}" for number in range(len(_axes(node)))]
        return ValuesReport(values=paths), paths

    def _split(self, node: Node) -> tuple[Report, list[str]]:
        """Parts of one size: how large they are is known when their documents are measured."""
        job = node.job
        assert isinstance(job, SplitTokens)
        count = len(cells(job.axes))
        found: dict[int, dict[str, StoredTokens]] = {number: {} for number in range(count)}
        for split, file in zip(SPLITS, (job.train, job.held_out), strict=True):
            share = replace(file, tokens=file.tokens // count, documents=file.documents // count)
            for cell in found.values():
                cell[split] = share
        return SplitReport(cells=found, read_bytes=0), []

    def _plan_shards(self, node: Node) -> tuple[Report, list[str]]:
        job = node.job
        assert isinstance(job, PlanShards)
        width = self.costs.token_width()
        tokens = sum(file.tokens for file in job.files)
        limit = shard_tokens(job.shard_bytes, np.dtype(f"<u{width}"))
        count = -(-tokens // limit)
        last = len(job.files) - 1
        return ShardPlanReport(shards=[[Piece(min(i, last), 0, 1, i * limit, (i + 1) * limit)] for i in range(count)]), []


def _axes(node: Node) -> tuple[Axis, ...]:
    job = node.job
    assert isinstance(job, SplitValues | FindCuts)
    return job.axes


# What the plan reads of the results of calls that count nothing it goes on from.
RESULTS: dict[str, Any] = {
    "scatter": {"documents": 0, "compared": 0, "bytes": 0, "records": 0, "edges": 0},
    "group": {"records": 0, "edges": 0, "largest": 0},
    "large_star": {"unsettled": 0},
    "name": {"removed": 0, "sizes": [], "largest": []},
    "deduplicate": {},
    "repeats": {},
    "group_with_old": {"records": 0, "edges": 0, "largest": 0},
    "settle": {"removed": 0},
    "write_index": 0,
}
