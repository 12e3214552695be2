"""`plan`: a recipe's run foretold, and where each figure comes from."""

from __future__ import annotations

import msgspec

from pipeline.forecast.cluster import Cluster, Phase, other_costs, phases
from pipeline.forecast.inputs import Listing, inputs_of, list_sources, missing_files
from pipeline.forecast.rates import Rates
from pipeline.forecast.stages import SourceForecast, Stage
from pipeline.forecast.usual import usual_rates
from pipeline.forecast.walk import forecast
from pipeline.recipe.recipe import Recipe

BY_AMOUNT = ("dedup", "held out", "shard")  # kinds of tasks of which there are as many as there is text


class StageOfPlan(msgspec.Struct, frozen=True):
    """One stage of the plan, and its tasks by kind and source; None where their number is not known without rates."""

    stage: str
    tasks: dict[str, int | None]


class Tree(msgspec.Struct, frozen=True):
    """The plan itself: its stages in their order."""

    recipe: str
    profile: str | None
    plan: list[StageOfPlan]


class Costs(msgspec.Struct, frozen=True):
    """What the nodes cost, requests to the storage, and what lies there while the run goes on; None without a price."""

    nodes: float | None
    requests: float | None
    storage: float | None

    def all(self) -> float | None:
        """The sum of those that have a price; None where none has."""
        known = [cost for cost in (self.nodes, self.requests, self.storage) if cost is not None]
        return sum(known) if known else None


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """All phases together. disk, scratch, memory: at the fullest moment, of the fullest node, of the largest task."""

    tasks: int
    core_hours: float
    hours: float
    cost: float | None
    costs: Costs
    disk: int
    scratch: int
    memory: int
    read: int
    written: int
    text_bytes: int
    tokens: int


class Foretold(Tree, frozen=True, kw_only=True):
    """What a recipe's run would take on a cluster."""

    rates: str
    rate_notes: list[str]
    cluster: Cluster
    phases: list[Phase]
    stages: list[Stage]
    sources: dict[str, SourceForecast]
    mixture_tokens: int
    total: Total
    assumptions: list[str]
    problems: list[str]


def tree(recipe: Recipe, offline: bool = False) -> Tree:
    """The stages of a recipe's plan, for which nothing need be measured. Raises UserError for files that cannot be listed."""
    rates = usual_rates()  # they decide no stage, and only counts of tasks that are not told
    inputs = inputs_of(recipe, rates, list_sources(recipe, offline))
    _, outline = forecast(recipe, inputs, rates)
    unlisted = {name for name, given in inputs.items() if not given.listed}
    found = []
    for title, counts in outline.stages:
        tasks: dict[str, int | None] = {}
        for (kind, source, _), count in counts.items():
            name = f"{kind} {source}".strip()
            unknown = kind in BY_AMOUNT or source in unlisted
            tasks[name] = None if unknown else (tasks.get(name) or 0) + count
        found.append(StageOfPlan(title, tasks))
    return Tree(recipe.name, recipe.profile, found)


def plan(
    recipe: Recipe, rates: Rates, cluster: Cluster, offline: bool = False, listing: Listing | None = None
) -> Foretold:
    """What the recipe's run would take on the cluster, by these rates. listing: of its sources, where they are listed already.

    Raises UserError where the inputs are not known.
    """
    inputs = inputs_of(recipe, rates, listing or list_sources(recipe, offline))
    told, outline = forecast(recipe, inputs, rates)
    found, problems = phases(told, cluster)
    problems += [given.missing for given in inputs.values() if given.missing]
    problems += [] if offline else missing_files(recipe)
    if any(stage.phase.endswith(": filter") for stage in told.stages):
        told.assumptions.append("a Bloom filter larger than the one that was tried is as fast as that")
    nodes = sum(phase.cost or 0.0 for phase in found) if cluster.price is not None else None
    costs = Costs(nodes, *other_costs(found, cluster))
    return Foretold(
        recipe.name,
        recipe.profile,
        [StageOfPlan(title, {**tasks}) for title, tasks in outline.told()],
        rates=rates.origin,
        rate_notes=rates.notes,
        cluster=cluster,
        phases=found,
        stages=told.stages,
        sources=told.sources,
        mixture_tokens=told.mixture_tokens,
        total=Total(
            tasks=sum(phase.tasks for phase in found),
            core_hours=sum(phase.core_seconds for phase in found) / 3600,
            hours=sum(phase.seconds for phase in found) / 3600,
            cost=costs.all(),
            costs=costs,
            disk=max((phase.disk for phase in found), default=0),
            scratch=max((phase.scratch for phase in found), default=0),
            memory=max((phase.memory for phase in found), default=0),
            read=sum(phase.read for phase in found),
            written=sum(phase.written for phase in found),
            text_bytes=sum(source.text_bytes for source in told.sources.values()),
            tokens=sum(source.tokens for source in told.sources.values()),
        ),
        assumptions=told.assumptions,
        problems=told.problems + problems,
    )
