"""How far a run is: what its ledger holds (`status`)."""

from __future__ import annotations

import time

import msgspec
from rich.console import Console

from pipeline import storage
from pipeline.engine.run_log import FAILED, read_standing
from pipeline.ledger import Entry, Ledger
from pipeline.plan.graph import CONCLUSIONS
from pipeline.progress import Standing
from pipeline.tables import plain_table
from stages.errors import UserError
from stages.tokens.shard_format import MANIFEST
from stages.units import show_bytes, show_seconds

COUNTED = ("documents", "tokenize", "import")  # kinds of tasks whose documents are counted


class _Docs(msgspec.Struct, gc=False):
    docs: int


class _Step(msgspec.Struct, gc=False):
    into: _Docs
    out: _Docs


class _Books(msgspec.Struct, gc=False):
    """What is read of a report: of a large run, most of the time that the question takes."""

    books: list[_Step] = []


class Work(msgspec.Struct):
    """The finished tasks of one kind for one source (and stage, of document tasks)."""

    tasks: int = 0
    documents_in: int = 0
    documents_out: int = 0
    cpu_seconds: float = 0.0
    peak_memory: int = 0  # bytes, of the task that took the most

    def add(self, entry: Entry) -> None:
        """Count a finished task."""
        self.tasks += 1
        self.cpu_seconds += entry.cpu_seconds
        self.peak_memory = max(self.peak_memory, entry.peak_memory)
        if entry.ref.kind in COUNTED and (books := entry.report_as(_Books).books):
            self.documents_in += books[0].into.docs
            self.documents_out += books[-1].out.docs


class Status(msgspec.Struct, frozen=True):
    """How far a run is. holder: who writes it now, None for nobody. bytes: of all files that its tasks wrote and left there.

    standing: how far the run itself said last that it is; None before its first ten seconds are over, and for one that is
    finished.
    """

    run: str
    finished: bool
    holder: str | None
    tasks: int
    bytes: int
    standing: Standing | None
    failed: list[str]  # files that tell of attempts at tasks which failed, in this run or an earlier one
    phases: dict[str, Work]  # by KIND/SOURCE, of document tasks KIND/SOURCE/STAGE


def status(run: str) -> Status:
    """How far a run is, from its ledger. Raises UserError where the folder holds no run."""
    holder = storage.lock_holder(run)
    phases: dict[str, Work] = {}
    with Ledger(run) as ledger:
        if not ledger.count() and holder is None:
            raise UserError(f"{run}: there is no run here; start one with: python -m pipeline run RECIPE --out {run}")
        for entry in ledger.entries():
            ref = entry.ref
            if ref.kind not in CONCLUSIONS:
                name = f"{ref.kind}/{ref.source}" + (f"/{ref.stage}" if ref.kind == "documents" else "")
                phases.setdefault(name, Work()).add(entry)
        written = ledger.output_bytes()  # a large run's parts are not listed
    tasks = sum(work.tasks for work in phases.values())
    whole = storage.exists(storage.join(run, MANIFEST))
    standing = read_standing(run) if not whole or holder else None
    failed = [storage.join(FAILED, storage.name_of(entry.uri)) for entry in storage.list_files(storage.join(run, FAILED))]
    return Status(run, whole, holder, tasks, written, standing, failed, dict(sorted(phases.items())))


def show_status(found: Status, console: Console) -> None:
    """Print what `status` found."""
    table = plain_table(found.run, "work~", "tasks done", "documents in", "out", "core time", "memory")
    for name, work in found.phases.items():
        table.add_row(
            name,
            f"{work.tasks:,}",
            f"{work.documents_in:,}" if work.documents_in else "",
            f"{work.documents_out:,}" if work.documents_in else "",
            show_seconds(work.cpu_seconds),
            show_bytes(work.peak_memory),
        )
    console.print(table)
    if found.standing:
        ago = show_seconds(max(0.0, time.time() - found.standing.at))
        console.print(f"{'  '.join(found.standing.words())}; told {ago} ago", soft_wrap=True)
    if found.failed:
        console.print(f"attempts at {len(found.failed):,} tasks failed: {found.run.rstrip('/')}/{FAILED}", soft_wrap=True)
    state = "finished" if found.finished else "not finished: the run command goes on from here"
    if found.holder:
        state = f"being written by {found.holder}"
    console.print(f"{state}; {show_bytes(found.bytes)} in the folder")
