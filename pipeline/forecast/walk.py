"""Walks the plan of a recipe without carrying it out: each stage is priced, and answered with what it would have made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.forecast.answers import Answers
from pipeline.forecast.inputs import Input
from pipeline.forecast.rates import Rates
from pipeline.forecast.stages import Costs, Forecast, SourceForecast, bytes_per_token
from pipeline.jobs.dedup import DedupReport
from pipeline.plan.corpus import MIXTURE, Inputs, corpus
from pipeline.plan.graph import Conclude, Outline, Request
from pipeline.plan.node import Done, Named, Node, Stage
from pipeline.recipe.recipe import Recipe
from stages.dedup.footprint import Need, filter_memory, footprint, index_bytes
from stages.dedup.spec import Filtering, Substring
from stages.marks import named_files
from stages.tokens.mixture import Budget, MixtureError, compile_mixture
from stages.units import show_bytes

ROOM = 1 << 60  # bytes


class _Walk:
    """One walk: costs and answers side by side, and the outline of what was walked."""

    def __init__(self, recipe: Recipe, inputs: dict[str, Input], rates: Rates) -> None:
        self.recipe, self.costs = recipe, Costs(recipe, inputs, rates)
        self.answers = Answers(self.costs)
        self.outline = Outline()
        self.needs: dict[tuple[str, str], Sequence[Need]] = {}
        self.problems: list[str] = []
        self.indexes: list[str] = []

    def answer(self, request: Request) -> Any:
        """What the plan is sent for a request."""
        if isinstance(request, Stage):
            return self._stage(request)
        if isinstance(request, Conclude):
            if isinstance(request.report, DedupReport):
                ref = request.node.ref
                number = self._number(ref.source, ref.stage)
                needs = request.report.summary.needs
                self.costs.deduplicated(ref.source, ref.stage, needs, number)
                if kept := index_bytes(self._settings(ref.source, ref.stage), needs):
                    who = f"{ref.source}: " * (ref.source != MIXTURE)
                    self.indexes.append(f"{who}{number} keeps an index for later runs, of {show_bytes(kept)} at most")
            return Done(f"{request.node.ref}", (), request.report)
        return None

    def _stage(self, stage: Stage) -> list[Done[Any]]:
        self.outline.add(stage)
        groups: dict[tuple[str, str, str], list[Node]] = {}
        for node in stage.nodes:
            place = node.ref.stage if node.ref.kind != "shard" else ""
            groups.setdefault((node.ref.kind, node.ref.source, place), []).append(node)
        before = self._core_seconds()
        for (kind, _, _), group in groups.items():
            self._price(kind, group)
        self.outline.core_seconds.append(self._core_seconds() - before)
        self.answers.begin(stage.nodes)
        return [self.answers.of(node) for node in stage.nodes]

    def _core_seconds(self) -> float:
        return sum(stage.core_seconds for stage in self.costs.stages.values())

    def _price(self, kind: str, group: list[Node]) -> None:
        if kind == "tokenizer":
            self.costs.finish_steps()
        if kind == "dedup":
            source, name = group[0].ref.source, group[0].ref.stage.partition(" ")[0]
            settings = self._settings(source, name)
            self.costs.dedup(group, self._needs(source, name, settings), settings.method, self._number(source, name))
            self._check_room(group, f"{source}/{name}", settings)
        else:
            getattr(self.costs, kind.replace(" ", "_"))(group)
        stage = self.costs.last
        stage.start_seconds += self.costs.rates.start(group[0].ref)
        stage.scratch = max(stage.scratch, *(node.scratch for node in group))
        weights = [node.weight for node in group]
        stage.longest = max(stage.longest, max(weights) / sum(weights)) if sum(weights) else stage.longest

    def _check_room(self, group: list[Node], name: str, settings: Any) -> None:
        """Tell of a filter or suffix array that will be larger than the recipe allows, at which the run would stop."""
        most = max(node.memory for node in group)
        phase = group[0].ref.stage.partition(" ")[2]
        if (
            isinstance(settings, Filtering | Substring)
            and phase in ("filter", "repeats")
            and most > filter_memory(settings.memory, group[0].cores)
        ):
            self.problems.append(
                f"dedup {name}: a task of {phase} would need {show_bytes(most)}, and memory is {show_bytes(settings.memory)}: "
                "raise memory or shards"
            )

    def _settings(self, source: str, name: str) -> Any:
        items = self.recipe.dedup if source == MIXTURE else self.recipe.sources[source].steps
        return dict(items)[name]

    def _needs(self, source: str, name: str, settings: Any) -> Sequence[Need]:
        """What a dedup states that it needs, at its start."""
        if (source, name) not in self.needs:
            flows = list(self.costs.flows.values()) if source == MIXTURE else [self.costs.flows[source]]
            documents, size = int(sum(f.documents for f in flows)), int(sum(f.bytes for f in flows))
            self.needs[source, name] = footprint(settings, documents, size, 1)
        return self.needs[source, name]

    def _number(self, source: str, name: str) -> str:
        """What people call a dedup: by its place among those of its source."""
        if source == MIXTURE:
            return "dedup of the mixture"
        plan = self.costs.plans[source]
        return f"dedup {1 + next(i for i, s in enumerate(plan) if s.dedup and s.dedup[0] == name)}"


def forecast(recipe: Recipe, inputs: dict[str, Input], rates: Rates) -> tuple[Forecast, Outline]:
    """The stages of a recipe's run as `rates` would have them, and the plan's outline."""
    walk = _Walk(recipe, inputs, rates)
    plan = corpus(_with_room(recipe), _inputs(recipe, inputs))
    answer: Any = None
    while True:
        try:
            request = plan.send(answer)
        except StopIteration:
            told = _result(walk.costs)
            told.problems[:0] = walk.problems
            told.assumptions += walk.indexes
            return told, walk.outline
        answer = walk.answer(request)


def _with_room(recipe: Recipe) -> Recipe:
    """The recipe with all the memory that a filter or suffix array may want: what is too large is told, and priced too."""

    def roomy(items: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
        return tuple(
            (name, item.model_copy(update={"memory": ROOM}) if isinstance(item, Filtering | Substring) else item)
            for name, item in items
        )

    sources = {name: source.model_copy(update={"steps": roomy(source.steps)}) for name, source in recipe.sources.items()}
    return recipe.model_copy(update={"sources": sources, "dedup": roomy(recipe.dedup)})


def _inputs(recipe: Recipe, inputs: dict[str, Input]) -> Inputs:
    """What the plan is made from; versions of files that the recipe names are not known here, and decide no count."""
    items = [item for source in recipe.sources.values() for _, item in source.steps] + [item for _, item in recipe.dedup]
    uris = {uri for item in items for some in named_files(item).values() for uri in some}
    if recipe.tokenizer.train is None:
        uris.add(recipe.tokenizer.uri())
    named = {uri: Named(uri, "") for uri in uris}
    return Inputs("plan", {name: given.files for name, given in inputs.items()}, named, dict.fromkeys(uris, 0))


def _result(costs: Costs) -> Forecast:
    recipe, inputs, rates, flows = costs.recipe, costs.inputs, costs.rates, costs.flows
    stages, missing = list(costs.stages.values()), costs.missing
    problems, assumptions = [], []
    tokens = {name: int(flow.bytes / bytes_per_token(recipe, name, rates)) for name, flow in flows.items()}
    held = recipe.shards.held_out
    available = {name: int(count * (1 - held)) for name, count in tokens.items()}
    asked: dict[str, Budget] = {}
    if any(source.split for source in recipe.sources.values()):
        assumptions.append("how a source's tokens fall to its parts is known when they are measured: no budget is told before")
        available = {}
    try:
        asked = {} if not available else {budget.source: budget for budget in compile_mixture(recipe.mixture, available)}
    except MixtureError as error:
        problems.append(str(error))
    sources = {}
    for name, flow in flows.items():
        known = recipe.expected.sources.get(name) if recipe.expected else None
        given = inputs[name]
        sources[name] = SourceForecast(
            documents=given.documents,
            text_bytes=given.text_bytes,
            file_bytes=given.file_bytes,
            origin=given.origin,
            documents_kept=int(flow.documents),
            bytes_kept=int(flow.bytes),
            kept_origin="the recipe (expected.sources)" if flow.kept_now is not None else "measured",
            bytes_per_token=round(bytes_per_token(recipe, name, rates), 3),
            bytes_per_token_origin="the recipe (expected.sources)" if known and known.tokens else "measured",
            tokens=tokens[name],
            budget_tokens=asked[name].asked if name in asked else None,
            repeats=round(asked[name].repeats, 4) if name in asked else None,
            core_seconds=sum(stage.core_seconds for stage in stages if stage.source == name),
        )
    if any(flow.kept_now is not None for flow in flows.values()):
        assumptions.append(
            "where the recipe says what its steps leave, every step is counted with all of the source's text"
        )
    if any(flow.kept_now is None for flow in flows.values()):
        assumptions.append("what each step and dedup leaves is the share that was measured, on other documents than these")
        if any(stage.phase.startswith("dedup") for stage in stages):
            assumptions.append(
                "a dedup removes the share that it removed of what was measured: of more text, in which more copies meet, it "
                "removes more (expected.sources.S.kept says how much stays)"
            )
    if missing.names:
        assumptions.append(f"not measured, and counted as nothing: {', '.join(missing.names)}")
    total = sum(budget.asked for budget in asked.values())
    return Forecast(stages, sources, total, problems, assumptions)
