"""What became of every document: the books of a whole run, checked from end to end, and the table that shows them."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from pipeline.engine import BooksError, Engine
from pipeline.jobs.dedup import DedupSummary
from pipeline.jobs.documents import DocumentsReport
from pipeline.jobs.held_out import DROP_NEAR_COPIES
from pipeline.jobs.tokenize import TokenizeReport
from pipeline.plan.corpus import Corpus
from pipeline.plan.graph import CONCLUSIONS
from pipeline.recipe import Recipe
from stages.books import Amount, StepBooks, imbalances
from stages.tokens.shard_format import Manifest
from stages.units import show_bytes, show_count, show_seconds

# The places of tokenization, and of what follows it, among the stages of a source: behind all segments of steps.
LATE = {"tokenize": 1_000_000, DROP_NEAR_COPIES: 1_000_001}


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
    chains: dict[str, dict[tuple[int, int], StepBooks]] = {source: {} for source in recipe.sources}
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
        chain = chains[node.ref.source]
        for position, books in enumerate(report.books):
            if (stage, position) in chain:
                chain[stage, position].add(books)
            else:
                chain[stage, position] = books
    sources = []
    for name in recipe.sources:
        books = [chains[name][place] for place in sorted(chains[name])]
        if wrong := imbalances(books):
            raise BooksError(f"the books of source {name} do not close: {'; '.join(wrong)}")
        sources.append(_of_source(name, books, manifest["sources"][name], beside[name]))
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


def plain_table(title: str) -> Table:
    """A table that reads well on a terminal, in a log and pasted into a page."""
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def console() -> Console:
    """Where tables go; in a file or a pipe they are as wide as they need to be."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the tables of a run's summary (as `Summary.to_json` gives it)."""
    sources = summary["sources"]
    table = plain_table(f"{summary['name']} ({summary['profile'] or 'no profile'})")
    table.add_column("source", no_wrap=True)
    for heading in (
        "documents",
        "kept",
        "dropped",
        "failed",
        "bytes",
        "text kept",
        "tokens",
        "held out",
        "budget",
        "shards",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    total: dict[str, int] = dict.fromkeys(
        ("in", "kept", "dropped", "failed", "bytes_in", "bytes", "tokens", "held", "budget", "shards"), 0
    )
    for name, s in sources.items():
        row = {
            "in": s["documents_in"],
            "kept": s["documents_kept"],
            "dropped": sum(a["documents"] for a in s["dropped"].values()),
            "failed": s["failed"]["documents"],
            "bytes_in": s["bytes_in"],
            "bytes": s["bytes_kept"],
            "tokens": s["tokens"],
            "held": s["held_out_tokens"],
            "budget": s["budget_tokens"],
            "shards": s["shards"],
        }
        total = {key: total[key] + row[key] for key in total}
        table.add_row(name, *_cells(row))
    table.add_section()
    table.add_row("all", *_cells(total))
    console.print(table)
    reasons = plain_table("dropped, by the recipe's key that drops")
    columns: tuple[tuple[str, JustifyMethod], ...] = (
        ("source", "left"),
        ("reason", "left"),
        ("documents", "right"),
        ("bytes", "right"),
        ("share", "right"),
    )
    for heading, justify in columns:
        reasons.add_column(heading, justify=justify, no_wrap=True)
    for name, s in sources.items():
        for reason, amount in s["dropped"].items():
            share = amount["documents"] / max(s["documents_in"], 1)
            reasons.add_row(name, reason, f"{amount['documents']:,}", show_bytes(amount["bytes"]), f"{share:.1%}")
        if s["dropped"]:
            reasons.add_section()
    if reasons.row_count:
        console.print(reasons)
    beside = plain_table("besides documents")
    columns = (("source", "left"), ("what", "left"), ("count", "right"))
    for heading, justify in columns:
        beside.add_column(heading, justify=justify, no_wrap=True)
    for name, s in sources.items():
        for what, count in s.get("notes", {}).items():
            beside.add_row(name, what, f"{count:,}")
    if beside.row_count:
        console.print(beside)
    if told := _near_copies(summary.get("held_out", {})):
        console.print(told)
    for note in summary["notes"]:
        console.print(f"note: {note}")
    console.print(
        f"{summary['tasks_run']} tasks run, {summary['tasks_known']} known from before, in {show_seconds(summary['seconds'])}; "
        f"books balance; most memory of one process {show_bytes(summary['peak_memory'])}"
    )


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


def _cells(row: dict[str, int]) -> list[str]:
    return [
        f"{row['in']:,}",
        f"{row['kept']:,}",
        f"{row['dropped']:,}",
        f"{row['failed']:,}",
        show_bytes(row["bytes_in"]),
        show_bytes(row["bytes"]),
        show_count(row["tokens"]),
        show_count(row["held"]),
        show_count(row["budget"]),
        f"{row['shards']:,}",
    ]
