"""How fast work went where it was measured: read from a finished run's ledger, never written down here.

A rate is core time over bytes of text, without what a process spends at its first task of a stage (starts.py). Of a map task,
each step's own time is on record in its books, and what is left is reading and writing; both are taken as shares of the task's
processor time, in which that of the process that parses pages is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from pipeline import storage
from pipeline.forecast.starts import told_apart
from pipeline.jobs.classifier import ClassifierReport
from pipeline.jobs.cut import CutReport
from pipeline.jobs.documents import DocumentsReport
from pipeline.jobs.held_out import DROP_NEAR_COPIES, NEAR_COPIES, NearReport
from pipeline.jobs.shards import ShardReport
from pipeline.jobs.tokenize import TokenizeReport
from pipeline.jobs.tokenizer import TokenizerReport
from pipeline.ledger import Entry, Ref
from pipeline.plan.corpus import MIXTURE
from pipeline.plan.parts import Segment, segments
from pipeline.plan.sources import list_files
from pipeline.recipe.recipe import Recipe
from pipeline.run_folder.finished import open_finished, read_recipe
from pipeline.run_folder.manifest import read_manifest
from stages.books import StepBooks
from stages.errors import UserError
from stages.step import Step

ENOUGH = 2_000_000  # bytes of text from which on a source's own rate is taken

START = "start"  # kind of the work that is done once a process
TRAINING = ("tokenizer", "classifier")  # by one task each, which does not take as much longer as its text is more
ROUNDS = ("large", "small")  # the rounds of a dedup's `components`


class Work(msgspec.Struct):
    """What some tasks, or one step in them, took: core seconds, and documents and bytes of text that went in and came out.

    written: bytes of the files with what goes on; aside: of those with what was dropped or failed. memory: the peak of a task;
    held: of that, what its process had before, where that decides what more text takes.
    """

    seconds: float = 0.0
    tasks: int = 0
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    written: int = 0
    aside: int = 0
    memory: int = 0
    held: int = 0

    def add(self, other: Work) -> None:
        for name in ("seconds", "tasks", "documents_in", "documents_out", "bytes_in", "bytes_out", "written", "aside"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.memory = max(self.memory, other.memory)
        self.held = max(self.held, other.held)

    @property
    def seconds_per_byte(self) -> float:
        return self.seconds / max(self.bytes_in, 1)

    def share(self, what: str) -> float:
        """The share of the documents or bytes that came out."""
        there = getattr(self, f"{what}_in")
        return getattr(self, f"{what}_out") / there if there else 1.0


@dataclass
class Rates:
    """All that was measured. `work` goes by (kind, source, name): see `of` and `speed`. `origin` says where, for the reader."""

    origin: str
    work: dict[tuple[str, str, str], Work] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, source: str, name: str, work: Work) -> None:
        self.work.setdefault((kind, source, name), Work()).add(work)

    def of(self, kind: str, source: str, name: str) -> Work | None:
        """What was measured for this source, else for all sources together that have work of this kind and name."""
        return self.work.get((kind, source, name)) or self.all(kind, name)

    def speed(self, kind: str, source: str, name: str) -> Work | None:
        """As `of`, but where the source had little text, all sources together: a task's beginning weighs more than its work."""
        found = self.work.get((kind, source, name))
        return found if found and found.bytes_in >= ENOUGH else self.all(kind, name) or found

    def all(self, kind: str, name: str | None = None) -> Work | None:
        """Everything of a kind (and name) together; None where nothing was measured."""
        found = [work for (k, _, n), work in self.work.items() if k == kind and name in (None, n)]
        if not found:
            return None
        whole = Work()
        for work in found:
            whole.add(work)
        return whole

    def start(self, ref: Ref) -> float:
        """Core seconds that a process spends once, at its first task of such a stage; 0 where that was not told apart."""
        found = self.of(START, ref.source, f"{ref.kind} {ref.stage}")
        return found.seconds / max(found.tasks, 1) if found else 0.0

    def memory(self, kind: str) -> int:
        """The most that a task of a kind took; 0 where none was measured."""
        found = self.all(kind)
        return found.memory if found else 0

    def least_memory(self) -> int:
        """What a task takes at least: libraries and kernels, and next to nothing of its own."""
        return min((work.memory for work in self.work.values() if work.memory), default=0)

    def write(self, path: str | Path) -> None:
        """Write a file for `read_rates`."""
        rows = [(*key, work) for key, work in sorted(self.work.items())]
        data = msgspec.json.encode(RatesFile(origin=self.origin, notes=self.notes, work=rows))
        Path(path).write_bytes(msgspec.json.format(data, indent=2))


class RatesFile(msgspec.Struct, kw_only=True):
    """Rates as a file holds them."""

    format: Literal["headrace-rates-1"] = "headrace-rates-1"
    origin: str
    notes: list[str]
    work: list[tuple[str, str, str, Work]]


def read_rates(where: str) -> Rates:
    """Rates from a finished run's folder, or from a file that `plan --measure --save` wrote. Raises UserError."""
    if where.endswith(".json"):
        try:
            found = msgspec.json.decode(Path(where).read_bytes(), type=RatesFile)
            return Rates(found.origin, {(kind, source, name): work for kind, source, name, work in found.work}, found.notes)
        except OSError as error:
            raise UserError(f"--rates {where}: cannot be read ({error.strerror})") from None
        except msgspec.MsgspecError as error:
            raise UserError(
                f"--rates {where}: holds no rates ({error}); make them with: plan RECIPE --measure --save FILE"
            ) from None
    return rates_of_run(where)


@dataclass(frozen=True)
class Small:
    """Of a run over a part of a recipe's files: the bytes of the files that it read of each source, and the run before it in the
    same process, over this share of them, which loaded what a process loads once."""

    stored: Mapping[str, int]
    before: str | None
    share: float


def rates_of_run(run: str, origin: str | None = None, small: Small | None = None) -> Rates:
    """Rates from the ledger of a finished run. Raises UserError where there is none."""
    manifest = read_manifest(run)
    if not storage.exists(storage.join(run, "recipe.json")):
        raise UserError(
            f"{run} holds no run of a recipe, and so no rates: name the folder of a run, or measure with --measure"
        )
    recipe = read_recipe(run)
    rates = Rates(origin or f"the ledger of {run}")
    plans = {name: segments(source) for name, source in recipe.sources.items()}
    plans[MIXTURE] = [Segment(dedup=item) for item in recipe.dedup]
    told = {
        "cut": _cut,
        "documents": _documents,
        "dedup": _dedup,
        "classifier": _train,
        "tokenizer": _tokenizer,
        "tokenize": _tokenize,
        NEAR_COPIES: _near_copies,
        DROP_NEAR_COPIES: _near_copies,
        "shard": _shard,
        "held out": _memory,
        "plan shards": _memory,
    }
    stages, earlier = _by_stage(run), _by_stage(small.before) if small and small.before else {}
    for (kind, source, stage), entries in stages.items():
        if tell := told.get(kind):
            entries, start = told_apart(entries, earlier.get((kind, source, stage), ()), small.share if small else 1.0)
            if kind not in TRAINING:
                rates.add(START, source, f"{kind} {stage}", Work(start.seconds, start.tasks))
            for entry in entries:
                tell(rates, entry, plans)
    for name, entry in manifest["sources"].items():
        held = entry["held_out"]
        facts = {fact: entry[fact] + held[fact] for fact in ("tokens", "documents", "text_bytes")}
        rates.add(
            "tokens",
            name,
            "",
            Work(documents_in=facts["documents"], bytes_in=facts["text_bytes"], bytes_out=facts["tokens"]),
        )
    for (kind, job, _), work in rates.work.items():  # a dedup's tasks read what its removals were counted over
        if kind.startswith("dedup:"):
            source, name = job.split("/", 1)
            over = rates.all("removed", name) if source == MIXTURE else rates.work.get(("removed", source, name))
            if over is not None:
                work.documents_in, work.bytes_in = over.documents_in, over.bytes_in
    _file_sizes(rates, recipe, small.stored if small else {})
    return rates


def _by_stage(run: str) -> dict[tuple[str, str, str], list[Entry]]:
    """The tasks of a run, those of a stage together."""
    found: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in open_finished(run).entries:
        found.setdefault((entry.ref.kind, entry.ref.source, entry.ref.stage), []).append(entry)
    return found


def _file_sizes(rates: Rates, recipe: Recipe, stored: Mapping[str, int]) -> None:
    """Bytes of the source files beside the bytes that came out of them: as they are told, else of files that are still there."""
    for name, source in recipe.sources.items():
        read = rates.work.get(("read", name, "0"))
        try:
            size = stored.get(name) or sum(file.size for file in list_files(name, source.read.paths, recipe.folder))
        except (UserError, storage.StorageError) as error:
            rates.notes.append(f"{name}: its files are not there to be measured ({error})")
            continue
        if read is not None and size:
            rates.add("files", name, "", Work(bytes_in=read.bytes_in, bytes_out=size, documents_in=read.documents_in))


def _outputs(entry: Entry, *kinds: str) -> int:
    return sum(o.bytes for o in entry.outputs if o.path.rsplit(".", 2)[-2] in kinds)


def _cut(rates: Rates, entry: Entry, plans: dict[str, list[Segment]]) -> None:
    if size := entry.report_as(CutReport).read_bytes:
        rates.add("cut", entry.ref.source, "", Work(entry.cpu_seconds, 1, bytes_in=size, memory=entry.peak_memory))


def _documents(rates: Rates, entry: Entry, plans: dict[str, list[Segment]]) -> None:
    report = entry.report_as(DocumentsReport)
    source, number = entry.ref.source, int(entry.ref.stage)
    steps = dict(plans[source][number].steps)
    inside = sum(books.seconds for books in report.books[1:])
    whole_task = max(entry.seconds, inside, 1e-9)
    busy = entry.cpu_seconds / whole_task  # below 1 where others had the core for a part of the time, above with helpers beside
    for books in report.books[1:]:
        step = steps.get(books.step)
        kind = step.step if isinstance(step, Step) else books.step
        work = _of_books(books)
        work.seconds *= busy
        rates.add(f"step:{kind}", source, books.step, work)
    first, last = report.books[0], report.books[-1]
    work = Work(
        (whole_task - inside) * busy,
        1,
        first.into.docs,
        first.out.docs,
        first.into.bytes,
        first.out.bytes,
        _outputs(entry, "kept") - report.before_edits,
        _outputs(entry, "dropped", "failed") + report.before_edits,
        entry.peak_memory,
    )
    rates.add("read", source, str(number), work)
    whole = Work(0, 1, first.into.docs, last.out.docs, first.into.bytes, last.out.bytes, work.written, work.aside)
    rates.add("segment", source, str(number), whole)
    if number and (dedup := plans[source][number - 1].dedup):  # the first books of what follows a dedup tell what it took
        rates.add("removed", source, dedup[0], _of_books(first))


def _of_books(books: StepBooks) -> Work:
    return Work(books.seconds, 1, books.into.docs, books.out.docs, books.into.bytes, books.out.bytes)


def _dedup(rates: Rates, entry: Entry, plans: dict[str, list[Segment]]) -> None:
    name, _, phase = entry.ref.stage.partition(" ")
    kind = phase.split("-")[0]
    work = Work(entry.cpu_seconds, 1, written=sum(o.bytes for o in entry.outputs), memory=entry.peak_memory)
    dedups = dict(segment.dedup for segment in plans[entry.ref.source] if segment.dedup)
    job = f"{entry.ref.source}/{name}"
    rates.add(f"dedup:{dedups[name].method}", job, "components" if kind in ROUNDS else kind, work)


def _tokenize(rates: Rates, entry: Entry, plans: dict[str, list[Segment]]) -> None:
    report, source = entry.report_as(TokenizeReport), entry.ref.source
    into, out = report.books[0], report.books[-1]
    work = Work(
        entry.cpu_seconds,
        1,
        into.into.docs,
        out.out.docs,
        into.into.bytes,
        out.out.bytes,
        _outputs(entry, "train", "held_out"),
        _outputs(entry, "dropped"),
        entry.peak_memory,
    )
    rates.add("tokenize", source, "", work)
    last = (plans[MIXTURE] or plans[source])[-1]
    if last.dedup:
        rates.add("removed", source, last.dedup[0], _of_books(into))


def _near_copies(rates: Rates, entry: Entry, plans: dict[str, list[Segment]]) -> None:
    size = entry.report_as(NearReport).read_bytes
    rates.add("near", entry.ref.source, "", Work(entry.cpu_seconds, 1, bytes_in=size, memory=entry.peak_memory))


def _shard(rates: Rates, entry: Entry, plans: dict[str, list[Segment]]) -> None:
    shard = entry.report_as(ShardReport).shard
    size = sum(o.bytes for o in entry.outputs)
    tokens = sum(o.bytes for o in entry.outputs if o.path.endswith(".npy"))
    work = Work(entry.cpu_seconds, 1, shard["documents"], shard["documents"], tokens, tokens, size, 0, entry.peak_memory)
    rates.add("shard", entry.ref.source, "", work)


def _memory(rates: Rates, entry: Entry, plans: dict[str, list[Segment]]) -> None:
    """Of a kind that takes no time worth telling."""
    rates.add(entry.ref.kind, "", "", Work(tasks=1, memory=entry.peak_memory))


def _tokenizer(rates: Rates, entry: Entry, plans: dict[str, list[Segment]]) -> None:
    if entry.ref.stage == "train":  # a copied tokenizer takes no time worth telling
        size = entry.report_as(TokenizerReport).bytes
        work = Work(entry.cpu_seconds, 1, bytes_in=size, memory=entry.peak_memory, held=entry.held)
        rates.add("tokenizer", "", "", work)


def _train(rates: Rates, entry: Entry, plans: dict[str, list[Segment]]) -> None:
    size = sum(kind["text_bytes"] for kind in entry.report_as(ClassifierReport).card["documents"].values())
    name = f"{entry.ref.source}.{entry.ref.stage}"
    rates.add("classifier", "", name, Work(entry.cpu_seconds, 1, bytes_in=size, memory=entry.peak_memory))
