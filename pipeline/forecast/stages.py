"""A recipe's stages, one after the other, with what each takes: measured rates times what is to be done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.forecast.inputs import Input
from pipeline.forecast.rates import MIXTURE, Rates, Work
from pipeline.plan.dedup import group_bytes
from pipeline.plan.parts import Segment, segments
from pipeline.plan.training import AT_ONCE
from pipeline.recipe import Recipe
from stages.dedup.footprint import footprint
from stages.errors import UserError
from stages.step import Step
from stages.tokens.mixture import MixtureError, compile_mixture


@dataclass
class Stage:
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
    core_seconds: float = 0.0
    releases: int = 0  # bytes of files that are let go when the phase is done
    steps: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Flow:
    """A source on its way: what is left of it, and the files that hold that."""

    documents: float
    bytes: float
    tasks: int
    files: float
    pages: bool
    kept: float | None = None  # the recipe's word for what the steps leave; each step is then given all
    assumed: list[str] = field(default_factory=list)


@dataclass
class Forecast:
    """All stages in order, what comes out, and what was assumed or could not be told."""

    stages: list[Stage]
    sources: dict[str, dict[str, Any]]
    mixture_tokens: int
    problems: list[str]
    assumptions: list[str]


class _Missing:
    """Names of what was not measured: counted as nothing, and told."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def work(self, found: Work | None, name: str) -> Work:
        if found is None:
            self.names[name] = None
            return Work()
        return found


def forecast(recipe: Recipe, inputs: dict[str, Input], rates: Rates) -> Forecast:
    """The stages of a recipe's run, in order, as `rates` would have them."""
    missing = _Missing()
    flows = {name: _flow(recipe, name, given) for name, given in inputs.items()}
    plans = {name: segments(source) for name, source in recipe.sources.items()}
    stages: list[Stage] = []
    for number in range(max(len(plan) for plan in plans.values())):
        for name, plan in plans.items():
            if number < len(plan) and (number == 0 or plan[number].steps):
                stages += _classifiers(name, plan[number], flows, rates, missing)
                stages.append(_segment(recipe, name, number, plan[number], flows[name], inputs[name], rates, missing))
        for name, plan in plans.items():
            if number < len(plan) and plan[number].dedup:
                stages += _dedup(
                    recipe, name, plan[number].dedup, {name: flows[name]}, f"dedup {number + 1}", rates, missing
                )
    for name, settings in recipe.dedup:
        stages += _dedup(recipe, MIXTURE, (name, settings), flows, "dedup of the mixture", rates, missing)
    for flow in flows.values():
        if flow.kept is not None:
            flow.documents, flow.bytes = flow.documents * flow.kept, flow.bytes * flow.kept
    stages += _tokens(recipe, flows, rates, missing)
    return _result(recipe, inputs, flows, stages, rates, missing)


def _flow(recipe: Recipe, name: str, given: Input) -> Flow:
    known = recipe.expected.sources.get(name) if recipe.expected else None
    return Flow(
        given.documents, given.text_bytes, given.tasks, given.file_bytes, given.pages, known.kept if known else None
    )


def _segment(
    recipe: Recipe, name: str, number: int, segment: Segment, flow: Flow, given: Input, rates: Rates, missing: _Missing
) -> Stage:
    stage = Stage("read and filter" if number == 0 else f"after dedup {number}", name, flow.tasks)
    stage.documents, stage.bytes_in, stage.read = int(flow.documents), int(flow.bytes), int(flow.files)
    reading = missing.work(rates.speed("read", name, str(number)) or rates.all("read"), "reading")
    seconds = reading.seconds_per_byte * flow.bytes
    stage.memory = (rates.of("read", name, str(number)) or reading).memory
    if flow.kept is None and number == 0:
        flow.documents *= (rates.of("read", name, "0") or reading).share("documents")
    for step_name, step in segment.steps:
        seconds += _step(stage, name, step_name, step, flow, rates, missing)
    whole = missing.work(rates.of("segment", name, str(number)) or rates.all("segment"), "what parts take on disk")
    stage.bytes_out = int(flow.bytes)
    stage.written = int(flow.bytes * whole.written / max(whole.bytes_out, 1))
    gone_bytes = max(0.0, stage.bytes_in - flow.bytes)
    aside = int(gone_bytes * whole.aside / max(whole.bytes_in - whole.bytes_out, 1)) if recipe.run.keep == "all" else 0
    stage.releases = 0 if number == 0 or recipe.run.keep == "all" else stage.read
    flow.files = stage.written
    stage.written += aside
    stage.core_seconds = seconds
    return stage


def _step(stage: Stage, source: str, name: str, step: Step, flow: Flow, rates: Rates, missing: _Missing) -> float:
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
    rate = found.bytes_in / found.seconds if found.seconds else None
    stage.steps.append(
        {
            "step": name,
            "bytes_in": int(before),
            "bytes_out": int(flow.bytes),
            "core_seconds": seconds,
            "bytes_per_core_second": rate,
            "measured_kept": own.share("bytes"),
        }
    )
    return seconds


def _classifiers(source: str, segment: Segment, flows: dict[str, Flow], rates: Rates, missing: _Missing) -> list[Stage]:
    """Training of the classifiers that the recipe trains itself, each by one task on one core."""
    found = []
    for name, step in segment.steps:
        if (wanted := getattr(step, "train", None)) is not None:
            work = missing.work(rates.of("classifier", "", f"{source}.{name}"), f"training {source}.{name}")
            kinds = (wanted.positive, wanted.negative)
            size = sum(min(wanted.max_bytes, int(sum(flows[one].bytes for one in kind))) for kind in kinds)
            stage = Stage("train classifier", source, 1, bytes_in=size, read=size, memory=work.memory)
            stage.core_seconds = work.seconds_per_byte * size
            found.append(stage)
    return found


def _dedup(
    recipe: Recipe,
    source: str,
    item: tuple[str, Any],
    flows: dict[str, Flow],
    phase: str,
    rates: Rates,
    missing: _Missing,
) -> list[Stage]:
    """One stage for each phase of a dedup: needs as the dedup states them, core time as measured."""
    name, settings = item
    documents, size = int(sum(f.documents for f in flows.values())), int(sum(f.bytes for f in flows.values()))
    files, parts = sum(f.files for f in flows.values()), sum(f.tasks for f in flows.values())
    groups = max(1, min(parts, -(-size // group_bytes(size))))
    found = []
    needs = footprint(settings, documents, size, groups)
    reading = {"scatter", "count", "filter", "holders", "edit", "measure", "repeats", "keepers"}
    for need in needs:
        kind, job = f"dedup:{settings.method}", f"{source}/{name}"
        work = missing.work(rates.speed(kind, job, need.phase), f"dedup {settings.method}, {need.phase}")
        stage = Stage(f"{phase}: {need.phase}", source, need.tasks, documents, size, size, memory=need.memory)
        stage.core_seconds = work.seconds_per_byte * size
        stage.read = int(files) if need.phase in reading else 0
        stage.written = need.disk
        found.append(stage)
    cuts = any(need.phase == "edit" for need in needs)
    if cuts and files:  # new parts in place of the old, as compact as those
        found[-1].written = int(files)
    if recipe.run.keep != "all":
        found[-1].releases = sum(stage.written for stage in found[:-1]) + (int(files) if cuts else 0)
    for one, flow in flows.items():
        if flow.kept is None:
            removed = missing.work(rates.of("removed", one, name), f"what {name} removes from {one}")
            flow.documents *= removed.share("documents")
            flow.bytes *= removed.share("bytes")
            flow.files *= removed.share("bytes") if cuts else 1.0
    return found


def _tokens(recipe: Recipe, flows: dict[str, Flow], rates: Rates, missing: _Missing) -> list[Stage]:
    found = []
    width = _token_bytes(recipe, rates)
    if recipe.tokenizer.train is not None:
        work = missing.work(rates.all("tokenizer"), "training the tokenizer")
        size = int(min(recipe.tokenizer.train.max_bytes, sum(flow.bytes for flow in flows.values())))
        seconds = work.seconds_per_byte * size
        found += _sample(recipe, flows, size, rates, missing)
        found.append(Stage("tokenizer", MIXTURE, 1, bytes_in=size, read=size, memory=work.memory, core_seconds=seconds))
    shards = []
    for name, flow in flows.items():
        work = missing.work(rates.speed("tokenize", name, ""), "tokenizing")
        size = int(flow.bytes / bytes_per_token(recipe, name, rates)) * width
        held = Stage("tokenize", name, flow.tasks, int(flow.documents), int(flow.bytes), size, int(flow.files))
        own, shard = rates.of("tokenize", name, "") or work, rates.of("shard", name, "") or Work()
        index = max(0, own.written - shard.bytes_out) / max(own.documents_out, 1)  # bytes of a document's row
        held.written = int(size + index * flow.documents)
        held.memory, held.core_seconds = own.memory, work.seconds_per_byte * flow.bytes
        found.append(held)
        work = missing.work(rates.speed("shard", name, ""), "writing shards")
        count = max(1, -(-size // recipe.shards.bytes))
        last = Stage("shard", name, count, int(flow.documents), size, size, held.written)
        index = (shard.written - shard.bytes_out) / max(shard.documents_out, 1)
        last.written = int(size + index * flow.documents)
        last.memory, last.core_seconds = work.memory, work.seconds_per_byte * size
        if recipe.run.keep != "all":
            last.releases = size + int(flow.files)
        shards.append(last)
    return [*found, *shards]


def _sample(recipe: Recipe, flows: dict[str, Flow], size: int, rates: Rates, missing: _Missing) -> list[Stage]:
    """Where there is far more text than a tokenizer is trained on, every part is read once to draw its sample."""
    if sum(flow.bytes for flow in flows.values()) <= AT_ONCE * size:
        return []
    work = missing.work(rates.all("read"), "reading")
    found = []
    for name, flow in flows.items():
        stage = Stage("sample for the tokenizer", name, flow.tasks, int(flow.documents), int(flow.bytes))
        stage.read, stage.memory = int(flow.files), work.memory
        stage.core_seconds = work.seconds_per_byte * flow.bytes
        found.append(stage)
    return found


def _token_bytes(recipe: Recipe, rates: Rates) -> int:
    """Bytes of a token: by the vocabulary that is trained; else as it was where the rates were measured."""
    if recipe.tokenizer.train is not None:
        return 2 if recipe.tokenizer.train.vocab_size <= 65_536 else 4
    shard, tokens = rates.all("shard"), rates.all("tokens")
    return round(shard.bytes_out / tokens.bytes_out) if shard and tokens and tokens.bytes_out else 2


def bytes_per_token(recipe: Recipe, name: str, rates: Rates) -> float:
    """Bytes of text a token: as the recipe expects of the source, else as measured."""
    known = recipe.expected.sources.get(name) if recipe.expected else None
    if known and known.tokens:
        return known.text_bytes / known.tokens
    work = rates.of("tokens", name, "")
    if work is None or not work.bytes_out:
        raise UserError(f"{rates.origin} made no tokens: take the rates from a run that did, or measure with --measure")
    return work.bytes_in / work.bytes_out


def _result(
    recipe: Recipe,
    inputs: dict[str, Input],
    flows: dict[str, Flow],
    stages: list[Stage],
    rates: Rates,
    missing: _Missing,
) -> Forecast:
    problems, assumptions = [], []
    tokens = {name: int(flow.bytes / bytes_per_token(recipe, name, rates)) for name, flow in flows.items()}
    held = recipe.shards.held_out
    available = {name: int(count * (1 - held)) for name, count in tokens.items()}
    asked: dict[str, Any] = {}
    try:
        asked = {budget.source: budget for budget in compile_mixture(recipe.mixture, available)}
    except MixtureError as error:
        problems.append(str(error))
    sources = {}
    for name, flow in flows.items():
        known = recipe.expected.sources.get(name) if recipe.expected else None
        given = inputs[name]
        sources[name] = {
            "documents": given.documents,
            "text_bytes": given.text_bytes,
            "file_bytes": given.file_bytes,
            "origin": given.origin,
            "documents_kept": int(flow.documents),
            "bytes_kept": int(flow.bytes),
            "kept_origin": "the recipe (expected.sources)" if flow.kept is not None else "measured",
            "bytes_per_token": round(bytes_per_token(recipe, name, rates), 3),
            "bytes_per_token_origin": "the recipe (expected.sources)" if known and known.tokens else "measured",
            "tokens": tokens[name],
            "budget_tokens": asked[name].asked if name in asked else None,
            "repeats": round(asked[name].repeats, 4) if name in asked else None,
            "core_seconds": sum(stage.core_seconds for stage in stages if stage.source == name),
        }
    if any(flow.kept is not None for flow in flows.values()):
        assumptions.append(
            "where the recipe says what its steps leave, every step is counted with all of the source's text"
        )
    if any(flow.kept is None for flow in flows.values()):
        assumptions.append(
            "what each step and dedup leaves is the share that was measured, on other documents than these"
        )
    if missing.names:
        assumptions.append(f"not measured, and counted as nothing: {', '.join(missing.names)}")
    total = sum(budget.asked for budget in asked.values())
    return Forecast(stages, sources, total, problems, assumptions)
