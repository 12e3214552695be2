"""What the stages of a plan take: measured rates times what is to be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from pipeline.forecast.inputs import Input
from pipeline.forecast.rates import ROUNDS, Rates, Work
from pipeline.plan.corpus import MIXTURE
from pipeline.plan.node import Node
from pipeline.plan.parts import segments
from pipeline.plan.sources import is_outside
from pipeline.recipe.recipe import Recipe
from stages.dedup.footprint import Need
from stages.errors import UserError
from stages.step import Step

# What the training of a tokenizer takes grows by these powers of its text, as all words are counted and distinct ones held and
# merged (Heaps' law): measured from 1 MB to 56 MB of web pages.
TRAINING_MEMORY = 0.4
TRAINING_TIME = 0.75
TRAINED_BYTES = 1 << 20  # of less text the memory is that of libraries, which does not grow
READ = "read and filter"  # the phase that reads source files
READING = {"scatter", "count", "filter", "holders", "edit", "measure", "repeats", "keepers", "index"}  # phases that read parts


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of a stage takes. measured_kept: the share of its bytes that it left where it was measured."""

    step: str
    bytes_in: int
    bytes_out: int
    core_seconds: float
    bytes_per_core_second: float | None
    measured_kept: float


class Stage(msgspec.Struct):
    """Work of one kind over one source: what can run side by side. bytes_in: of text; read, written: of files."""

    phase: str
    source: str
    tasks: int
    documents: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    read: int = 0
    written: int = 0
    memory: int = 0  # of one task
    cores: int = 1  # that one task makes use of
    core_seconds: float = 0.0
    start_seconds: float = 0.0  # that each process takes once besides, with its first task
    releases: int = 0  # bytes of files that are let go when the phase is done
    outside: int = 0  # of `read`, what does not lie in the cluster's own storage: on the hub, on web servers
    longest: float = 0.0  # the share of the work that the largest task has; 0: all have as much
    scratch: int = 0  # of its node's disk, at a time, that one task states; 0: it states none
    steps: list[StepCost] = []


@dataclass
class Flow:
    """A source on its way: what is left of it, and the files that hold that."""

    documents: float
    bytes: float
    files: float
    pages: bool
    kept: float | None = None  # the recipe's word for what the steps leave; each step is then given all
    kept_now: float | None = None  # the same, once it is taken off


class SourceForecast(msgspec.Struct, frozen=True, kw_only=True):
    """One source: what goes in, what its steps leave, its tokens and place in the mixture. *origin: where a figure is from."""

    documents: int
    text_bytes: int
    file_bytes: int
    origin: str
    documents_kept: int
    bytes_kept: int
    kept_origin: str
    bytes_per_token: float
    bytes_per_token_origin: str
    tokens: int
    budget_tokens: int | None  # None where the mixture cannot be had
    repeats: float | None
    core_seconds: float


@dataclass
class Forecast:
    """All stages in order, what comes out, and what was assumed or could not be told."""

    stages: list[Stage]
    sources: dict[str, SourceForecast]
    mixture_tokens: int
    problems: list[str]
    assumptions: list[str]


class Missing:
    """Names of what was not measured: counted as nothing, and told."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def work(self, found: Work | None, name: str) -> Work:
        if found is None:
            self.names[name] = None
            return Work()
        return found


Group = Sequence[Node]
"""Nodes of one kind and source in one stage of a plan."""


class Costs:
    """What groups of nodes take, by measured rates; the flow of each source goes on without what its steps drop."""

    def __init__(self, recipe: Recipe, inputs: dict[str, Input], rates: Rates) -> None:
        self.recipe, self.inputs, self.rates, self.missing = recipe, inputs, rates, Missing()
        self.flows = {name: self._flow(name, given) for name, given in inputs.items()}
        self.plans = {name: segments(source) for name, source in recipe.sources.items()}
        self.stages: dict[tuple[str, str], Stage] = {}
        self.last = Stage("", "", 0)  # the one that was entered last

    def _flow(self, name: str, given: Input) -> Flow:
        known = self.recipe.expected.sources.get(name) if self.recipe.expected else None
        kept = known.kept if known else None
        return Flow(given.documents, given.text_bytes, given.file_bytes, given.pages, kept)

    def add(self, stage: Stage) -> Stage:
        """Enter what a group takes; rounds of one phase are entered together."""
        there = self.last = self.stages.setdefault((stage.phase, stage.source), stage)
        if there is not stage:
            there.tasks += stage.tasks
            there.memory = max(there.memory, stage.memory)
            there.cores = max(there.cores, stage.cores)
            there.written += stage.written
        return there

    def documents(self, group: Group) -> None:
        """Tasks that take documents through a segment of steps."""
        name, number = group[0].ref.source, int(group[0].ref.stage)
        flow, rates, missing = self.flows[name], self.rates, self.missing
        segment = self.plans[name][number]
        stage = Stage(READ if number == 0 else f"after dedup {number}", name, len(group))
        stage.documents, stage.bytes_in, stage.read = int(flow.documents), int(flow.bytes), int(flow.files)
        stage.outside = stage.read if number == 0 and any(map(is_outside, self.recipe.sources[name].read.paths)) else 0
        reading = missing.work(rates.speed("read", name, str(number)) or rates.all("read"), "reading")
        seconds = reading.seconds_per_byte * flow.bytes + self._passed_over(group)
        stage.memory = (rates.of("read", name, str(number)) or reading).memory
        if flow.kept is None and number == 0:
            flow.documents *= (rates.of("read", name, "0") or reading).share("documents")
        for step_name, step in segment.steps:
            seconds += _step(stage, name, step_name, step, flow, rates, missing)
        whole = missing.work(rates.of("segment", name, str(number)) or rates.all("segment"), "what parts take on disk")
        stage.bytes_out = int(flow.bytes)
        stage.written = int(flow.bytes * whole.written / max(whole.bytes_out, 1))
        gone_bytes = max(0.0, stage.bytes_in - flow.bytes)
        aside = gone_bytes * whole.aside / max(whole.bytes_in - whole.bytes_out, 1)
        stage.releases = 0 if number == 0 or self.recipe.run.keep == "all" else stage.read
        flow.files = stage.written
        stage.written += int(aside) if self.recipe.run.keep == "all" else 0
        stage.core_seconds = seconds
        self.add(stage)

    def cut(self, group: Group) -> None:
        """Files are looked into for places to cut them: lines in whole, Parquet by its footer."""
        source = group[0].ref.source
        read = sum(node.weight for node in group if getattr(node.job, "format", "") == "jsonl")
        work = self.rates.speed("cut", source, "") or Work()  # of plain files, for which it was not measured, next to nothing
        stage = Stage("find where to cut", source, len(group), read=read, memory=work.memory)
        stage.core_seconds = work.seconds_per_byte * read
        self.add(stage)

    def _passed_over(self, group: Group) -> float:
        """Core seconds to decompress what stands before parts of compressed files."""
        files = [file for node in group for file in getattr(node.job, "files", ()) if file.member and file.lines]
        work = self.rates.speed("cut", group[0].ref.source, "")
        return work.seconds_per_byte * sum(file.lines[0] for file in files) if work else 0.0

    def classifier(self, group: Group) -> None:
        """Training of a classifier on documents of the run, by one task on one core."""
        ref = group[0].ref
        name = f"{ref.source}.{ref.stage}"
        work = self.missing.work(self.rates.of("classifier", "", name), f"training {name}")
        stage = Stage("train classifier", ref.source, len(group), bytes_in=group[0].weight, read=group[0].weight)
        stage.memory, stage.core_seconds = work.memory, work.seconds_per_byte * group[0].weight
        self.add(stage)

    def sample(self, group: Group) -> None:
        """Parts are read once to draw a sample of them."""
        work = self.missing.work(self.rates.all("read"), "reading")
        size = sum(node.weight for node in group)
        purpose = getattr(group[0].job, "purpose", "")
        stage = Stage(f"sample for the {purpose}", group[0].ref.source or MIXTURE, len(group), bytes_in=size)
        stage.read, stage.memory = int(sum(flow.files for flow in self.flows.values())), work.memory
        stage.core_seconds = work.seconds_per_byte * size
        self.add(stage)

    def dedup(self, group: Group, needs: Sequence[Need], method: str, number: str) -> None:
        """One phase of a dedup: memory and files as it states them, core time as measured. number: what people call it."""
        source, (name, _, phase) = group[0].ref.source, group[0].ref.stage.partition(" ")
        kind = phase.split("-")[0]
        kind = "components" if kind in ROUNDS else kind
        flows = self._flows_of(source)
        documents, size = int(sum(f.documents for f in flows)), int(sum(f.bytes for f in flows))
        work = self.missing.work(self.rates.speed(f"dedup:{method}", f"{source}/{name}", kind), f"dedup {method}, {kind}")
        need = next((need for need in needs if need.phase == kind), None)
        title, memory = f"{number}: {kind}", max(node.memory for node in group)
        stage = Stage(title, source, len(group), documents, size, size, memory=memory)
        stage.cores = max(node.cores for node in group)
        again = (title, source) in self.stages  # one of several rounds, which were measured and stated together
        stage.core_seconds = 0.0 if again else work.seconds_per_byte * size
        stage.read = int(sum(f.files for f in flows)) if kind in READING else 0
        stage.written = need.disk if need and not again else 0
        self.add(stage)

    def deduplicated(self, source: str, name: str, needs: Sequence[Need], number: str) -> None:
        """A dedup is whole: what it removed is gone from the flow of each source that it ran over."""
        titles = [(f"{number}: {need.phase}", source) for need in needs]
        stages = [self.stages[title] for title in titles if title in self.stages]
        files = int(sum(flow.files for flow in self._flows_of(source)))
        cuts = any(need.phase == "edit" for need in needs)
        if stages and cuts and files:  # new parts in place of the old, as compact as those
            stages[-1].written = files
        if stages and self.recipe.run.keep != "all":
            stages[-1].releases = sum(stage.written for stage in stages[:-1]) + (files if cuts else 0)
        for one in [source] if source != MIXTURE else list(self.flows):
            flow = self.flows[one]
            if flow.kept is None:
                removed = self.missing.work(self.rates.of("removed", one, name), f"what {name} removes from {one}")
                flow.documents *= removed.share("documents")
                flow.bytes *= removed.share("bytes")
                flow.files *= removed.share("bytes") if cuts else 1.0

    def _flows_of(self, source: str) -> list[Flow]:
        return list(self.flows.values()) if source == MIXTURE else [self.flows[source]]

    def finish_steps(self) -> None:
        """All steps and dedups are behind: where the recipe says what they leave, that is what goes on."""
        for flow in self.flows.values():
            if flow.kept is not None:
                flow.documents, flow.bytes = flow.documents * flow.kept, flow.bytes * flow.kept
                flow.kept_now = flow.kept
                flow.kept = None

    def tokenizer(self, group: Group) -> None:
        """Training of the tokenizer; one that is copied takes no time worth telling."""
        stage = Stage("tokenizer", MIXTURE, len(group))
        if self.recipe.tokenizer.train is not None:
            work = self.missing.work(self.rates.all("tokenizer"), "training the tokenizer")
            stage.bytes_in = stage.read = group[0].weight
            base = min(work.held or self.rates.least_memory(), work.memory)
            more = stage.bytes_in / max(work.bytes_in, 1)
            stage.core_seconds = work.seconds * more**TRAINING_TIME
            beyond = max(1.0, stage.bytes_in / max(work.bytes_in, TRAINED_BYTES))
            stage.memory = int(base + (work.memory - base) * beyond**TRAINING_MEMORY)
        self.add(stage)

    def tokenize(self, group: Group) -> None:
        """Token files of a source's parts."""
        name = group[0].ref.source
        flow, rates = self.flows[name], self.rates
        work = self.missing.work(rates.speed("tokenize", name, ""), "tokenizing")
        size = self.token_bytes_of(name)
        stage = Stage("tokenize", name, len(group), int(flow.documents), int(flow.bytes), size, int(flow.files))
        own, shard = rates.of("tokenize", name, "") or work, rates.of("shard", name, "") or Work()
        index = max(0, own.written - shard.bytes_out) / max(own.documents_out, 1)  # bytes of a document's row
        stage.written = int(size + index * flow.documents)
        stage.memory, stage.core_seconds = own.memory, work.seconds_per_byte * flow.bytes
        self.add(stage)

    def held_out(self, group: Group) -> None:
        """N-grams of held-out documents are collected: these are few, and take no time worth telling."""
        self.add(Stage("held-out n-grams", MIXTURE, len(group), memory=self.rates.memory("held out")))

    def near_copies(self, group: Group) -> None:
        """Token files are read for near copies of held-out documents."""
        self._near_copies(group, written=False)

    def drop_near_copies(self, group: Group) -> None:
        """Token files are read, and written again without near copies of held-out documents."""
        self._near_copies(group, written=True)

    def _near_copies(self, group: Group, written: bool) -> None:
        name = group[0].ref.source
        size = self.token_bytes_of(name)
        stage = Stage("near copies", name, len(group), int(self.flows[name].documents), size, size, size)
        work = self.missing.work(self.rates.speed("near", name, ""), "looking for near copies of held-out documents")
        stage.memory, stage.core_seconds, stage.written = work.memory, work.seconds_per_byte * size, size if written else 0
        self.add(stage)

    def split_values(self, group: Group) -> None:
        """Measures are read, of all that a part holds the smallest."""
        self.add(Stage("values to split by", group[0].ref.source, len(group)))

    def split_cuts(self, group: Group) -> None:
        """Quantiles are looked up in sorted values."""
        self.add(Stage("where to split", group[0].ref.source, len(group)))

    def split(self, group: Group) -> None:
        """Token files are read and written again by sub-source: as fast as shards are made of them."""
        name = group[0].ref.source
        size = self.token_bytes_of(name)
        work = self.missing.work(self.rates.speed("shard", name, ""), "writing shards")
        stage = Stage("split", name, len(group), int(self.flows[name].documents), size, size, size, size)
        stage.memory, stage.core_seconds = work.memory, work.seconds_per_byte * size
        self.add(stage)

    def plan_shards(self, group: Group) -> None:
        """The indexes of token files are looked into for where shards begin."""
        self.add(Stage("plan shards", group[0].ref.source, len(group), memory=self.rates.memory("plan shards")))

    def shard(self, group: Group) -> None:
        """The shards of a source, of training and held out."""
        name = group[0].ref.source
        flow = self.flows[name]
        work = self.missing.work(self.rates.speed("shard", name, ""), "writing shards")
        shard = self.rates.of("shard", name, "") or Work()
        size = self.token_bytes_of(name)
        there = self.stages.get(("tokenize", name))
        read = there.written if there else size
        stage = Stage("shard", name, len(group), int(flow.documents), size, size, read)
        index = (shard.written - shard.bytes_out) / max(shard.documents_out, 1)
        stage.written = int(size + index * flow.documents)
        stage.memory, stage.core_seconds = work.memory, work.seconds_per_byte * size
        if self.recipe.run.keep != "all":
            stage.releases = size + int(flow.files)
        self.add(stage)

    def token_bytes_of(self, name: str) -> int:
        """Bytes of a source's tokens."""
        return int(self.flows[name].bytes / bytes_per_token(self.recipe, name, self.rates)) * self.token_width()

    def token_width(self) -> int:
        """Bytes of a token: by the vocabulary that is trained; else as it was where the rates were measured."""
        if self.recipe.tokenizer.train is not None:
            return 2 if self.recipe.tokenizer.train.vocab_size <= 65_536 else 4
        shard, tokens = self.rates.all("shard"), self.rates.all("tokens")
        return round(shard.bytes_out / tokens.bytes_out) if shard and tokens and tokens.bytes_out else 2


def _step(stage: Stage, source: str, name: str, step: Step, flow: Flow, rates: Rates, missing: Missing) -> float:
    """Core seconds of one step; the flow goes on without what it drops."""
    if step.takes_pages and not flow.pages:
        return 0.0  # documents come as text: there is nothing to extract
    kind = f"step:{step.step}"
    found = missing.work(rates.speed(kind, source, name) or rates.all(kind), f"step {name}")
    own = rates.of(kind, source, name) or found
    seconds = found.seconds_per_byte * flow.bytes
    before = flow.bytes
    if flow.kept is None or step.takes_pages:
        flow.documents *= own.share("documents")
        flow.bytes *= own.share("bytes")
    flow.pages = flow.pages and not step.takes_pages
    stage.steps.append(
        StepCost(
            step=name,
            bytes_in=int(before),
            bytes_out=int(flow.bytes),
            core_seconds=seconds,
            bytes_per_core_second=found.bytes_in / found.seconds if found.seconds else None,
            measured_kept=own.share("bytes"),
        )
    )
    return seconds


def bytes_per_token(recipe: Recipe, name: str, rates: Rates) -> float:
    """Bytes of text a token: as the recipe expects of the source, else as measured."""
    known = recipe.expected.sources.get(name) if recipe.expected else None
    if known and known.tokens:
        return known.text_bytes / known.tokens
    work = rates.of("tokens", name, "")
    if work is None or not work.bytes_out:
        raise UserError(f"{rates.origin} made no tokens: take the rates from a run that did, or measure with --measure")
    return work.bytes_in / work.bytes_out


