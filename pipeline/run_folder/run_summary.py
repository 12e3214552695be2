"""What became of every document of a run, as its summary.json holds it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pipeline import storage
from pipeline.jobs.dedup import DedupSummary
from stages.books import StepBooks
from stages.errors import UserError
from stages.tokens.manifest_shape import HeldOutEntry

SUMMARY = "summary.json"


class Amount(msgspec.Struct, frozen=True):
    """So many documents, and bytes of their text (before extraction: of their pages)."""

    documents: int
    bytes: int


class StepAmount(Amount, frozen=True, array_like=True):
    """The same, as a step's books hold it."""


class StepSummary(msgspec.Struct, frozen=True, rename={"into": "in"}):
    """What a step did: documents in = out + dropped + failed; bytes in = those and `edited`, which edits took away."""

    step: str
    into: StepAmount
    out: StepAmount
    failed: StepAmount
    dropped: dict[str, StepAmount]  # by reason
    edited: int
    seconds: float


class SourceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a source's documents. notes: records read that are no documents, and what was mended, by kind."""

    documents_in: int
    bytes_in: int
    documents_kept: int
    bytes_kept: int
    dropped: dict[str, Amount]  # by reason, in the order of the steps
    failed: Amount
    tokens: int
    held_out_tokens: int
    shards: int
    budget_tokens: int
    notes: dict[str, int]
    steps: tuple[StepSummary, ...]


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run's totals by source. held_out: as the manifest has it. dedup: by its place in the recipe, source (or all) and name.

    unchanged: there was nothing to do; it is told, and not in the folder.
    """

    name: str
    profile: str | None
    out: str = ""
    unchanged: bool = False
    tasks_run: int
    tasks_known: int
    seconds: float
    peak_memory: int
    notes: tuple[str, ...]
    held_out: HeldOutEntry | None = None
    dedup: dict[str, DedupSummary]
    sources: dict[str, SourceSummary]


def steps_of(books: Sequence[StepBooks]) -> tuple[StepSummary, ...]:
    """The books of a source's steps as a summary holds them."""
    return tuple(
        StepSummary(
            one.step,
            StepAmount(one.into.docs, one.into.bytes),
            StepAmount(one.out.docs, one.out.bytes),
            StepAmount(one.failed.docs, one.failed.bytes),
            {reason: StepAmount(amount.docs, amount.bytes) for reason, amount in sorted(one.dropped.items())},
            one.edited,
            round(one.seconds, 4),
        )
        for one in books
    )


def read_summary(run: str) -> RunSummary:
    """The summary of a finished run. Raises UserError for one of an older version."""
    try:
        return msgspec.json.decode(storage.read_bytes(storage.join(run, SUMMARY)), type=RunSummary)
    except msgspec.ValidationError:
        raise UserError(f"{run}: its summary was written by an older version; run its recipe again") from None
