"""What is known of a run at a moment: how far it is, what became of its documents until now, and some that were dropped."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.engine.run_log import FAILED, read_standing
from pipeline.jobs.documents import DocumentsReport
from pipeline.jobs.tokenize import TokenizeReport
from pipeline.ledger import Entry, Ledger, Ref
from pipeline.plan.graph import CONCLUSIONS
from pipeline.plan.node import Report
from pipeline.progress import Standing
from pipeline.run_folder.folder import CLAIM, RUN
from pipeline.run_folder.summary import LATE
from stages.books import StepBooks, add_up
from stages.errors import UserError
from stages.tokens.shard_format import MANIFEST

SAMPLES = 24  # dropped documents that are kept to be shown
OF_A_PART = 3  # of these, as many come from one part
ROWS = 64  # of a part are looked at for them
CHARACTERS = 400  # of a text are shown
FAILURES = 10  # attempts that failed, of which is told


class Step(msgspec.Struct, frozen=True):
    """Documents that came into a step, and what became of them."""

    name: str
    into: int
    out: int
    dropped: int
    failed: int


class Source(msgspec.Struct, frozen=True):
    """A source until now, over the tasks that are done. reasons: documents dropped, by the recipe's key, most first."""

    name: str
    steps: list[Step]
    read: int
    left: int
    dropped: int
    failed: int
    tokens: int
    reasons: dict[str, int]


class Work(msgspec.Struct, frozen=True):
    """Tasks of one kind for one source that are done. bytes: of text that came in; 0 where that is not counted."""

    name: str
    tasks: int
    documents: int
    bytes: int
    core_seconds: float


class Dropped(msgspec.Struct, frozen=True):
    """A document that a step dropped. text: its beginning as that step was given it; None where it was not kept."""

    source: str
    id: str
    reason: str
    text: str | None


class Failure(msgspec.Struct, frozen=True):
    """A task of which attempts failed, and what is told of them."""

    task: str
    told: str


class Now(msgspec.Struct, frozen=True):
    """A run at a moment. state: running, finished or stopped. holder: who writes it. seconds: that it took until now."""

    run: str
    state: str
    holder: str | None
    seconds: float | None
    standing: Standing | None
    tasks: int
    sources: list[Source]
    work: list[Work]
    dropped: list[Dropped]
    failures: list[Failure]
    failed: int


@dataclass(frozen=True)
class _Done:
    """What is kept of a task that is done."""

    ref: Ref
    books: list[StepBooks]
    tokens: int
    core_seconds: float


class Watch:
    """Looks at one run again and again. What earlier looks read of the ledger is not read again; memory grows with the tasks."""

    def __init__(self, run: str) -> None:
        """Raises UserError where the folder holds no run."""
        self.run = run.rstrip("/")
        if not any(storage.exists(storage.join(self.run, name)) for name in (CLAIM, RUN)):
            raise UserError(f"{run}: there is no run here; start one with: python -m pipeline run RECIPE --out {run}")
        self._done: dict[str, _Done] = {}
        self._samples: deque[Dropped] = deque(maxlen=SAMPLES)

    def look(self) -> Now:
        """What is known of the run now. Raises UserError where its ledger is damaged."""
        holder = storage.lock_holder(self.run)
        self._read_ledger()
        whole = storage.exists(storage.join(self.run, MANIFEST)) and holder is None
        standing = None if whole else read_standing(self.run)
        failures = [entry.uri for entry in storage.list_files(storage.join(self.run, FAILED))]
        current = list({done.ref: done for done in self._done.values()}.values())  # of one task's entries the last holds
        return Now(
            run=self.run,
            state="finished" if whole else "running" if holder else "stopped",
            holder=holder,
            seconds=self._seconds(standing, whole, running=holder is not None),
            standing=standing,
            tasks=len(current),
            sources=_sources(current),
            work=_work(current),
            dropped=list(reversed(self._samples)),
            failures=[_failure(uri) for uri in failures[-FAILURES:]],
            failed=len(failures),
        )

    def _read_ledger(self) -> None:
        """Take in the tasks that were done since the last look; forget those that the ledger has forgotten."""
        with Ledger(self.run) as ledger:
            keys = ledger.keys()
            there = set(keys)
            self._done = {key: done for key, done in self._done.items() if key in there}
            added: list[Entry] = []
            for key in keys:
                if key not in self._done and (entry := ledger.entry(key)) and entry.ref.kind not in CONCLUSIONS:
                    self._done[key] = _done(entry)
                    added = [*added[1 - SAMPLES :], entry] if entry.ref.kind == "documents" else added
        for entry in added[-SAMPLES // OF_A_PART :]:
            with suppress(storage.StorageError):  # let go meanwhile
                self._samples.extend(_some_dropped(self.run, entry))

    def _seconds(self, standing: Standing | None, whole: bool, running: bool) -> float | None:
        if standing:
            return standing.elapsed + (max(0.0, time.time() - standing.at) if running else 0.0)
        if whole:
            with suppress(storage.StorageError, msgspec.MsgspecError):
                data = storage.read_bytes(storage.join(self.run, "summary.json"))
                return msgspec.json.decode(data, type=_Took).seconds
        return None


class _Took(msgspec.Struct):
    seconds: float


def _done(entry: Entry) -> _Done:
    report: Report = entry.report_as(Report)
    tokens = 0
    if entry.ref.kind == "tokenize":
        tokens = sum(files.tokens for files in entry.report_as(TokenizeReport).files.values())
    return _Done(entry.ref, report.books, tokens, entry.cpu_seconds)


def _sources(done: Iterable[_Done]) -> list[Source]:
    chains: dict[str, dict[tuple[int, ...], StepBooks]] = {}
    tokens: dict[str, int] = {}
    for one in done:
        if one.ref.kind == "documents" or one.ref.kind in LATE:
            stage = LATE[one.ref.kind] if one.ref.kind in LATE else int(one.ref.stage)
            add_up(chains.setdefault(one.ref.source, {}), (stage,), one.books)
            tokens[one.ref.source] = tokens.get(one.ref.source, 0) + one.tokens
    return [_source(name, [chain[place] for place in sorted(chain)], tokens[name]) for name, chain in sorted(chains.items())]


def _source(name: str, books: list[StepBooks], tokens: int) -> Source:
    steps = [
        Step(one.step, one.into.docs, one.out.docs, sum(amount.docs for amount in one.dropped.values()), one.failed.docs)
        for one in books
    ]
    reasons: dict[str, int] = {}
    for one in books:
        for reason, amount in one.dropped.items():
            reasons[reason] = reasons.get(reason, 0) + amount.docs
    dropped, failed = sum(step.dropped for step in steps), sum(step.failed for step in steps)
    read = steps[0].into if steps else 0
    ordered = dict(sorted(reasons.items(), key=lambda item: -item[1]))
    return Source(name, steps, read, read - dropped - failed, dropped, failed, tokens, ordered)


def _work(done: Iterable[_Done]) -> list[Work]:
    found: dict[str, Work] = {}
    for one in done:
        name = f"{one.ref.kind} {one.ref.source}".strip()
        into = one.books[0].into if one.books else None
        before = found.get(name, Work(name, 0, 0, 0, 0.0))
        found[name] = Work(
            name,
            before.tasks + 1,
            before.documents + (into.docs if into else 0),
            before.bytes + (into.bytes if into else 0),
            before.core_seconds + one.core_seconds,
        )
    return list(found.values())


def _some_dropped(run: str, entry: Entry) -> list[Dropped]:
    """Of the documents that a task dropped the first of some reasons."""
    path = entry.report_as(DocumentsReport).dropped
    output = next((o for o in entry.outputs if o.path == path), None)
    if output is None or path in entry.released:
        return []
    with storage.open_random(storage.join(run, path)) as stream, pq.ParquetFile(stream, pre_buffer=False) as part:
        columns = [name for name in ("id", "reason", "text") if name in part.schema_arrow.names]
        batch = next(part.iter_batches(ROWS, columns=columns, use_threads=False), None)
    rows = batch.to_pylist() if batch else []
    by_reason = {row["reason"]: row for row in reversed(rows)}
    return [_dropped(entry.ref.source, row) for row in list(by_reason.values())[:OF_A_PART]]


def _dropped(source: str, row: dict[str, str | None]) -> Dropped:
    text = row.get("text")
    return Dropped(source, row["id"] or "", row["reason"] or "", None if text is None else text[:CHARACTERS])


def _failure(uri: str) -> Failure:
    name = uri.rsplit("/", 1)[-1].removesuffix(".txt")
    try:
        return Failure(name, storage.read_bytes(uri).decode(errors="replace")[:2000])
    except storage.StorageError as error:
        return Failure(name, str(error))
