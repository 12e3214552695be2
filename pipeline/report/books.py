"""The books of a finished run, added up from its ledger and held against its manifest: funnels, reasons, totals, balance."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pipeline.finished import FinishedRun, SourceParts
from pipeline.plan.parts import dedups_before
from stages.books import Amount, StepBooks, imbalances

MOST_REASONS = 60  # of a source that are listed; a step of a user's own may name any number


def chain_of(source: SourceParts) -> dict[tuple[int, int], StepBooks]:
    """The books of a source's steps in order, of all its tasks together, by stage and position."""
    chain: dict[tuple[int, int], StepBooks] = {}
    stages = [[files.report.books for files in parts] for parts in source.parts]
    for stage, tasks in enumerate([*stages, [report.books for report in source.tokens]]):
        for task in tasks:
            for position, books in enumerate(task):
                place = (stage, position)
                if place in chain:
                    chain[place].add(books)
                else:
                    chain[place] = deepcopy(books)  # the reports stay as they are
    return {place: chain[place] for place in sorted(chain)}


def named(chain: dict[tuple[int, int], StepBooks], source: SourceParts, mixture: list[str]) -> list[StepBooks]:
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


def source_books(run: FinishedRun, source: SourceParts) -> dict[str, Any]:
    """One source's amounts ({"documents", "bytes"} each), steps, reasons (most documents first) and what is wrong with them."""
    chain = named(chain_of(source), source, [name for name, _ in run.recipe.dedup])
    dropped: dict[str, Amount] = {}
    for books in chain:
        for reason, amount in books.dropped.items():
            dropped[reason] = dropped.get(reason, Amount()) + amount
    failed = sum((books.failed for books in chain), Amount())
    into, out = (chain[0].into, chain[-1].out) if chain else (Amount(), Amount())
    gone = sum(dropped.values(), Amount())
    reasons = sorted(dropped.items(), key=lambda item: (-item[1].docs, -item[1].bytes, item[0]))
    more = sum((amount for _, amount in reasons[MOST_REASONS:]), Amount())
    return {
        "in": _amount(into),
        "kept": _amount(out),
        "dropped": _amount(gone),
        "failed": _amount(failed),
        "edited_bytes": sum(books.edited for books in chain),
        "steps": [_step(books) for books in chain],
        "reasons": [{"reason": reason, **_amount(amount)} for reason, amount in reasons[:MOST_REASONS]],
        "more_reasons": {"reasons": max(0, len(reasons) - MOST_REASONS), **_amount(more)},
        "problems": imbalances(chain) + _against_manifest(run, source, out),
    }


def _against_manifest(run: FinishedRun, source: SourceParts, out: Amount) -> list[str]:
    """What the manifest says otherwise than the ledger."""
    entry = run.manifest["sources"][source.name]
    found = []
    listed = entry["documents"] + entry["held_out"]["documents"]
    if listed != out.docs:
        found.append(f"the manifest lists {listed:,} documents, the ledger {out.docs:,}")
    counted = sum(file.tokens for report in source.tokens for file in report.files.values())
    if counted != (tokens := entry["tokens"] + entry["held_out"]["tokens"]):
        found.append(f"the manifest lists {tokens:,} tokens, the ledger {counted:,}")
    return found


def totals(run: FinishedRun, sources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All sources together, with the manifest's tokens and shards."""
    found: dict[str, Any] = {
        name: {unit: sum(s[name][unit] for s in sources.values()) for unit in ("documents", "bytes")}
        for name in ("in", "kept", "dropped", "failed")
    }
    entries = run.manifest["sources"].values()
    return found | {
        "edited_bytes": sum(s["edited_bytes"] for s in sources.values()),
        "tokens": sum(e["tokens"] for e in entries),
        "held_out_tokens": sum(e["held_out"]["tokens"] for e in entries),
        "mixture_tokens": run.manifest["mixture"]["tokens"],
        "shards": sum(len(e["shards"]) + len(e["held_out"]["shards"]) for e in entries),
    }


def _amount(amount: Amount) -> dict[str, int]:
    return {"documents": amount.docs, "bytes": amount.bytes}


def _step(books: StepBooks) -> dict[str, Any]:
    return {
        "step": books.step,
        "in": _amount(books.into),
        "out": _amount(books.out),
        "dropped": _amount(sum(books.dropped.values(), Amount())),
        "failed": _amount(books.failed),
        "edited_bytes": books.edited,
        "seconds": round(books.seconds, 4),
    }
