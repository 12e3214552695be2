"""What became of every document: the books of a whole run, checked from end to end, and the table that shows them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson
from rich.console import Console
from rich.table import Table

from pipeline.engine import BooksError, Engine
from pipeline.jobs.dedup import DedupSummary
from pipeline.jobs.documents import DocumentsReport
from pipeline.jobs.held_out import DROP_NEAR_COPIES
from pipeline.jobs.tokenize import TokenizeReport
from pipeline.manifest import whole_source
from pipeline.plan.corpus import Corpus
from pipeline.plan.graph import CONCLUSIONS
from pipeline.recipe import Recipe
from pipeline.tables import console, plain_table
from stages.books import Amount, StepBooks, add_up, imbalances
from stages.tokens.shard_format import Manifest
from stages.units import show_bytes, show_count, show_seconds

# The places of tokenization, and of what follows it, among the stages of a source: behind all segments of steps.
LATE = {"tokenize": 1_000_000, DROP_NEAR_COPIES: 1_000_001}


__all__ = ["Summary", "console", "plain_table", "show", "summarise"]


@dataclass
class SourceSummary:
    """One source: its books step by step, and what it gave to the mixture."""

    name: str
    books: list[StepBooks]
    tokens: int
    held_out_tokens: int
    shards: int
    budget_tokens: int
    notes: dict[str, int]  # records read that are no documents, by kind; documents mended, characters replaced

    @property
    def into(self) -> Amount:
        return self.books[0].into

    @property
    def out(self) -> Amount:
        return self.books[-1].out

    @property
    def failed(self) -> Amount:
        return sum((b.failed for b in self.books), Amount())

    @property
    def dropped(self) -> dict[str, Amount]:
        """Documents and bytes dropped, by reason, in the order of the steps."""
        found: dict[str, Amount] = {}
        for books in self.books:
            for reason, amount in sorted(books.dropped.items()):
                found[reason] = found.get(reason, Amount()) + amount
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "documents_in": self.into.docs,
            "bytes_in": self.into.bytes,
            "documents_kept": self.out.docs,
            "bytes_kept": self.out.bytes,
            "dropped": {r: {"documents": a.docs, "bytes": a.bytes} for r, a in self.dropped.items()},
            "failed": {"documents": self.failed.docs, "bytes": self.failed.bytes},
            "tokens": self.tokens,
            "held_out_tokens": self.held_out_tokens,
            "shards": self.shards,
            "budget_tokens": self.budget_tokens,
            "notes": self.notes,
            "steps": [b.to_json() for b in self.books],
        }


@dataclass
class Summary:
    """A run's result for people (`show`) and for scripts (`to_json`)."""

    name: str
    profile: str | None
    out: str
    sources: list[SourceSummary]
    tasks_run: int
    tasks_known: int
    seconds: float
    peak_memory: int
    notes: list[str] = field(default_factory=list)
    held_out: dict[str, Any] = field(default_factory=dict)  # as the manifest has it
    dedup: dict[str, DedupSummary] = field(default_factory=dict)  # by its place in the recipe: source (or all), and name
    unchanged: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "profile": self.profile,
            "out": self.out,
            "unchanged": self.unchanged,
            "tasks_run": self.tasks_run,
            "tasks_known": self.tasks_known,
            "seconds": round(self.seconds, 2),
            "peak_memory": self.peak_memory,
            "notes": self.notes,
            "held_out": self.held_out,
            "dedup": {name: msgspec.to_builtins(found) for name, found in self.dedup.items()},
            "sources": {s.name: s.to_json() for s in self.sources},
        }

    def to_bytes(self) -> bytes:
        return orjson.dumps(self.to_json(), option=orjson.OPT_INDENT_2)


def summarise(recipe: Recipe, manifest: Manifest, found: Corpus, engine: Engine, seconds: float) -> Summary:
    """Add up the books of all tasks of this run. Raises BooksError where a source's chain does not close."""
    chains: dict[str, dict[tuple[int, ...], StepBooks]] = {source: {} for source in recipe.sources}
    beside: defaultdict[str, Counter[str]] = defaultdict(Counter)
    notes: dict[str, None] = {}
    peak = 0
    seen: set[str] = set()
    for node in engine.walked:
        entry = engine.ledger.find(node.key)
        if entry is None or node.key in seen or node.ref.kind in CONCLUSIONS:
            continue
        seen.add(node.key)
        peak = max(peak, entry.peak_memory)
        report = entry.report_as(node.job.report)
        if isinstance(report, TokenizeReport) and report.fallback:
            notes[report.fallback] = None
        if not report.books:
            continue
        if isinstance(report, DocumentsReport | TokenizeReport):
            beside[node.ref.source].update(report.notes)
        stage = LATE[node.ref.kind] if node.ref.kind in LATE else int(node.ref.stage)
        add_up(chains[node.ref.source], (stage,), report.books)
    sources = []
    for name in recipe.sources:
        books = [chains[name][place] for place in sorted(chains[name])]
        if wrong := imbalances(books):
            raise BooksError(f"the books of source {name} do not close: {'; '.join(wrong)}")
        sources.append(_of_source(name, books, whole_source(manifest, name), beside[name]))
    return Summary(
        recipe.name,
        recipe.profile,
        engine.run_uri,
        sources,
        engine.executed,
        len(seen) - min(engine.executed, len(seen)),
        seconds,
        peak,
        list(notes),
        manifest["held_out"],
        found.dedups,
    )


def _of_source(name: str, books: list[StepBooks], entry: dict[str, Any], notes: Mapping[str, int]) -> SourceSummary:
    held = entry["held_out"]
    shards = len(entry["shards"]) + len(held["shards"])
    told = dict(sorted(notes.items()))
    return SourceSummary(name, books, entry["tokens"], held["tokens"], shards, entry["budget_tokens"], told)


COLUMNS: tuple[tuple[str, Callable[[int], str], Callable[[SourceSummary], int]], ...] = (
    ("documents", "{:,}".format, lambda s: s.into.docs),
    ("kept", "{:,}".format, lambda s: s.out.docs),
    ("dropped", "{:,}".format, lambda s: sum(amount.docs for amount in s.dropped.values())),
    ("failed", "{:,}".format, lambda s: s.failed.docs),
    ("bytes", show_bytes, lambda s: s.into.bytes),
    ("text kept", show_bytes, lambda s: s.out.bytes),
    ("tokens", show_count, lambda s: s.tokens),
    ("held out", show_count, lambda s: s.held_out_tokens),
    ("budget", show_count, lambda s: s.budget_tokens),
    ("shards", "{:,}".format, lambda s: s.shards),
)
"""Of the table of sources: heading, how a figure is shown, and what it is."""


def show(summary: Summary, console: Console) -> None:
    """Print the tables of a run's summary."""
    for table in (_sources(summary), _reasons(summary.sources), _besides(summary.sources)):
        if table.row_count:
            console.print(table)
    if told := _near_copies(summary.held_out):
        console.print(told)
    for note in summary.notes:
        console.print(f"note: {note}")
    console.print(
        f"{summary.tasks_run} tasks run, {summary.tasks_known} known from before, in {show_seconds(summary.seconds)}; "
        f"books balance; most memory of one process {show_bytes(summary.peak_memory)}"
    )


def _sources(summary: Summary) -> Table:
    title = f"{summary.name} ({summary.profile or 'no profile'})"
    table = plain_table(title, "source<", *(heading for heading, _, _ in COLUMNS))
    for one in summary.sources:
        table.add_row(one.name, *(shown(figure(one)) for _, shown, figure in COLUMNS))
    table.add_section()
    table.add_row("all", *(shown(sum(map(figure, summary.sources))) for _, shown, figure in COLUMNS))
    return table


def _reasons(sources: Sequence[SourceSummary]) -> Table:
    title = "dropped, by the recipe's key that drops"
    table = plain_table(title, "source<", "reason<", "documents", "bytes", "share")
    for one in sources:
        for reason, amount in one.dropped.items():
            share = amount.docs / max(one.into.docs, 1)
            table.add_row(one.name, reason, f"{amount.docs:,}", show_bytes(amount.bytes), f"{share:.1%}")
        if one.dropped:
            table.add_section()
    return table


def _besides(sources: Sequence[SourceSummary]) -> Table:
    table = plain_table("besides documents", "source<", "what<", "count")
    for one in sources:
        for what, count in one.notes.items():
            table.add_row(one.name, what, f"{count:,}")
    return table


def _near_copies(held_out: dict[str, Any]) -> str:
    """One line on the training documents that are near copies of held-out ones; nothing where they were not looked for."""
    if not held_out.get("near"):
        return ""
    named = [
        f"{name} {one['documents']:,} ({show_count(one['tokens'])} tokens)"
        for name, one in held_out["near"].items()
        if one["documents"]
    ]
    what = "left out of training" if held_out["near_copies"] == "drop" else "in training"
    return f"near copies of held-out documents {what}: {', '.join(named) or 'none'}"
