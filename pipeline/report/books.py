"""The books of a finished run, added up from its ledger and held against its manifest: funnels, reasons, totals, balance."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, field

from pipeline.plan.parts import dedups_before
from pipeline.run_folder.finished import FinishedRun, SourceParts
from pipeline.run_folder.manifest import whole_source
from stages.books import Amount, StepBooks, add_up, imbalances

MOST_REASONS = 60  # of a source that are listed; a step of a user's own may name any number


class Amounts(Struct, frozen=True):
    """So many documents, and the bytes of text (of pages, before extraction) in them."""

    documents: int
    bytes: int


class StepFlow(Struct, frozen=True, kw_only=True):
    """What one step was given, and what became of it."""

    step: str
    into: Amounts = field(name="in")
    out: Amounts
    dropped: Amounts
    failed: Amounts
    edited_bytes: int
    seconds: float


class Reason(Amounts, frozen=True, kw_only=True):
    """What was dropped for one reason."""

    reason: str


class MoreReasons(Amounts, frozen=True, kw_only=True):
    """What was dropped for so many reasons that are not listed."""

    reasons: int


class Sums(Struct, frozen=True, kw_only=True):
    """Amounts of a source, or of all: in = kept + dropped + failed (+ edited)."""

    into: Amounts = field(name="in")
    kept: Amounts
    dropped: Amounts
    failed: Amounts
    edited_bytes: int


class SourceBooks(Sums, frozen=True, kw_only=True):
    """One source's steps, its reasons (most documents first), and what is wrong with them."""

    steps: list[StepFlow]
    reasons: list[Reason]
    more_reasons: MoreReasons
    problems: list[str]


class Totals(Sums, frozen=True, kw_only=True):
    """All sources together, with the manifest's tokens and shards."""

    tokens: int
    held_out_tokens: int
    mixture_tokens: int
    shards: int


def chain_of(source: SourceParts) -> dict[tuple[int, ...], StepBooks]:
    """The books of a source's steps in order, of all its tasks together, by stage and position."""
    chain: dict[tuple[int, ...], StepBooks] = {}
    stages = [[files.report.books for files in parts] for parts in source.parts]
    for stage, tasks in enumerate([*stages, [report.books for report in source.tokens]]):
        for task in tasks:
            add_up(chain, (stage,), task)
    return {place: chain[place] for place in sorted(chain)}


def named(chain: dict[tuple[int, ...], StepBooks], source: SourceParts, mixture: list[str]) -> list[StepBooks]:
    """The books in order, where documents arrive from a dedup under that dedup's name. mixture: the dedups over all sources.

    Where none stands before the tokenizer, there is nothing to tell of the arrival there, and it is left out.
    """
    found, last = [], len(source.parts)
    for (stage, position), books in chain.items():
        if position == 0 and stage > 0:
            names = dedups_before(source.plan, stage if stage < last else len(source.plan))
            names += [f"mixture {name}" for name in mixture] if stage == last else []
            if not names and books.into == books.out:
                continue
            books.step = " and ".join(names) or books.step
        found.append(books)
    return found


def source_books(run: FinishedRun, source: SourceParts) -> SourceBooks:
    """One source's books from end to end."""
    chain = named(chain_of(source), source, [name for name, _ in run.recipe.dedup])
    dropped: dict[str, Amount] = {}
    for books in chain:
        for reason, amount in books.dropped.items():
            dropped[reason] = dropped.get(reason, Amount()) + amount
    into, out = (chain[0].into, chain[-1].out) if chain else (Amount(), Amount())
    ranked = sorted(dropped.items(), key=lambda item: (-item[1].docs, -item[1].bytes, item[0]))
    more = _sum(amount for _, amount in ranked[MOST_REASONS:])
    return SourceBooks(
        into=_amounts(into),
        kept=_amounts(out),
        dropped=_sum(dropped.values()),
        failed=_sum(books.failed for books in chain),
        edited_bytes=sum(books.edited for books in chain),
        steps=[_step(books) for books in chain],
        reasons=[Reason(a.docs, a.bytes, reason=reason) for reason, a in ranked[:MOST_REASONS]],
        more_reasons=MoreReasons(more.documents, more.bytes, reasons=max(0, len(ranked) - MOST_REASONS)),
        problems=imbalances(chain) + _against_manifest(run, source, out),
    )


def _against_manifest(run: FinishedRun, source: SourceParts, out: Amount) -> list[str]:
    """What the manifest says otherwise than the ledger."""
    entry = whole_source(run.manifest, source.name)
    found = []
    listed = entry["documents"] + entry["held_out"]["documents"]
    if listed != out.docs:
        found.append(f"the manifest lists {listed:,} documents, the ledger {out.docs:,}")
    counted = sum(file.tokens for report in source.tokens for file in report.files.values())
    if counted != (tokens := entry["tokens"] + entry["held_out"]["tokens"]):
        found.append(f"the manifest lists {tokens:,} tokens, the ledger {counted:,}")
    return found


def totals(run: FinishedRun, sources: Iterable[SourceBooks]) -> Totals:
    """All sources together."""
    sources, entries = list(sources), run.manifest["sources"].values()

    def add(name: str) -> Amounts:
        amounts: list[Amounts] = [getattr(source, name) for source in sources]
        return Amounts(sum(one.documents for one in amounts), sum(one.bytes for one in amounts))

    return Totals(
        into=add("into"),
        kept=add("kept"),
        dropped=add("dropped"),
        failed=add("failed"),
        edited_bytes=sum(source.edited_bytes for source in sources),
        tokens=sum(e["tokens"] for e in entries),
        held_out_tokens=sum(e["held_out"]["tokens"] for e in entries),
        mixture_tokens=run.manifest["mixture"]["tokens"],
        shards=sum(len(e["shards"]) + len(e["held_out"]["shards"]) for e in entries),
    )


def _amounts(amount: Amount) -> Amounts:
    return Amounts(amount.docs, amount.bytes)


def _sum(amounts: Iterable[Amount]) -> Amounts:
    return _amounts(sum(amounts, Amount()))


def _step(books: StepBooks) -> StepFlow:
    return StepFlow(
        step=books.step,
        into=_amounts(books.into),
        out=_amounts(books.out),
        dropped=_sum(books.dropped.values()),
        failed=_amounts(books.failed),
        edited_bytes=books.edited,
        seconds=round(books.seconds, 4),
    )
