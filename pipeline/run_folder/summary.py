"""What became of every document: the books of a whole run, checked from end to end, and the table that shows them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.table import Table

from pipeline.engine.engine import BooksError, Engine
from pipeline.jobs.documents import DocumentsReport
from pipeline.jobs.held_out import DROP_NEAR_COPIES
from pipeline.jobs.tokenize import TokenizeReport
from pipeline.plan.corpus import Corpus
from pipeline.plan.graph import CONCLUSIONS
from pipeline.recipe.recipe import Recipe
from pipeline.run_folder.manifest import whole_source
from pipeline.run_folder.run_summary import Amount, RunSummary, SourceSummary, steps_of
from pipeline.tables import plain_table
from stages.books import Amount as BookAmount
from stages.books import StepBooks, add_up, imbalances
from stages.tokens.manifest_shape import HeldOutEntry, Manifest, SourceEntry
from stages.units import show_bytes, show_count, show_seconds

# The places of tokenization, and of what follows it, among the stages of a source: behind all segments of steps.
LATE = {"tokenize": 1_000_000, DROP_NEAR_COPIES: 1_000_001}


def summarise(recipe: Recipe, manifest: Manifest, found: Corpus, engine: Engine, seconds: float) -> RunSummary:
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
    sources = {}
    for name in recipe.sources:
        books = [chains[name][place] for place in sorted(chains[name])]
        if wrong := imbalances(books):
            raise BooksError(f"the books of source {name} do not close: {'; '.join(wrong)}")
        sources[name] = _of_source(books, whole_source(manifest, name), beside[name])
    return RunSummary(
        name=recipe.name,
        profile=recipe.profile,
        out=engine.run_uri,
        tasks_run=engine.executed,
        tasks_known=len(seen) - min(engine.executed, len(seen)),
        seconds=round(seconds, 2),
        peak_memory=peak,
        notes=tuple(notes),
        held_out=manifest.get("held_out"),
        dedup=found.dedups,
        sources=sources,
    )


def _of_source(books: list[StepBooks], entry: SourceEntry, notes: Mapping[str, int]) -> SourceSummary:
    into, out, held = books[0].into, books[-1].out, entry["held_out"]
    failed = sum((one.failed for one in books), BookAmount())
    dropped: dict[str, BookAmount] = {}
    for one in books:
        for reason, amount in sorted(one.dropped.items()):
            dropped[reason] = dropped.get(reason, BookAmount()) + amount
    return SourceSummary(
        documents_in=into.docs,
        bytes_in=into.bytes,
        documents_kept=out.docs,
        bytes_kept=out.bytes,
        dropped={reason: Amount(amount.docs, amount.bytes) for reason, amount in dropped.items()},
        failed=Amount(failed.docs, failed.bytes),
        tokens=entry["tokens"],
        held_out_tokens=held["tokens"],
        shards=len(entry["shards"]) + len(held["shards"]),
        budget_tokens=entry["budget_tokens"],
        notes=dict(sorted(notes.items())),
        steps=steps_of(books),
    )


COLUMNS: tuple[tuple[str, Callable[[int], str], Callable[[SourceSummary], int]], ...] = (
    ("documents", "{:,}".format, lambda s: s.documents_in),
    ("kept", "{:,}".format, lambda s: s.documents_kept),
    ("dropped", "{:,}".format, lambda s: sum(amount.documents for amount in s.dropped.values())),
    ("failed", "{:,}".format, lambda s: s.failed.documents),
    ("bytes", show_bytes, lambda s: s.bytes_in),
    ("text kept", show_bytes, lambda s: s.bytes_kept),
    ("tokens", show_count, lambda s: s.tokens),
    ("held out", show_count, lambda s: s.held_out_tokens),
    ("budget", show_count, lambda s: s.budget_tokens),
    ("shards", "{:,}".format, lambda s: s.shards),
)
"""Of the table of sources: heading, how a figure is shown, and what it is."""


def show(summary: RunSummary, console: Console) -> None:
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
        f"books balance; most memory of one task {show_bytes(summary.peak_memory)}"
    )


def _sources(summary: RunSummary) -> Table:
    title = f"{summary.name} ({summary.profile or 'no profile'})"
    table = plain_table(title, "source<", *(heading for heading, _, _ in COLUMNS))
    for name, one in summary.sources.items():
        table.add_row(name, *(shown(figure(one)) for _, shown, figure in COLUMNS))
    table.add_section()
    table.add_row("all", *(shown(sum(map(figure, summary.sources.values()))) for _, shown, figure in COLUMNS))
    return table


def _reasons(sources: Mapping[str, SourceSummary]) -> Table:
    title = "dropped, by the recipe's key that drops"
    table = plain_table(title, "source<", "reason<", "documents", "bytes", "share")
    for name, one in sources.items():
        for reason, amount in one.dropped.items():
            share = amount.documents / max(one.documents_in, 1)
            table.add_row(name, reason, f"{amount.documents:,}", show_bytes(amount.bytes), f"{share:.1%}")
        if one.dropped:
            table.add_section()
    return table


def _besides(sources: Mapping[str, SourceSummary]) -> Table:
    table = plain_table("besides documents", "source<", "what<", "count")
    for name, one in sources.items():
        for what, count in one.notes.items():
            table.add_row(name, what, f"{count:,}")
    return table


def _near_copies(held_out: HeldOutEntry | None) -> str:
    """One line on the training documents that are near copies of held-out ones; nothing where they were not looked for."""
    if not held_out or not held_out.get("near"):
        return ""
    named = [
        f"{name} {one['documents']:,} ({show_count(one['tokens'])} tokens)"
        for name, one in held_out.get("near", {}).items()
        if one["documents"]
    ]
    what = "left out of training" if held_out.get("near_copies") == "drop" else "in training"
    return f"near copies of held-out documents {what}: {', '.join(named) or 'none'}"
