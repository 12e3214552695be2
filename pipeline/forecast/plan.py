"""`plan`: a recipe's run foretold, and where each figure comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.forecast.calibrate import calibrate
from pipeline.forecast.cluster import Cluster, other_costs, phases
from pipeline.forecast.inputs import inputs_of, missing_files
from pipeline.forecast.rates import Rates, read_rates
from pipeline.forecast.walk import forecast
from pipeline.recipe import Recipe


def plan(recipe: Recipe, rates: Rates, cluster: Cluster, offline: bool = False) -> dict[str, Any]:
    """What the recipe's run would take on the cluster, by these rates. Raises UserError where the inputs are not known."""
    inputs = inputs_of(recipe, rates, offline)
    told, outline = forecast(recipe, inputs, rates)
    found, problems = phases(told, cluster)
    problems += [given.missing for given in inputs.values() if given.missing]
    problems += [] if offline else missing_files(recipe)
    if any(stage.phase.endswith(": filter") for stage in told.stages):
        told.assumptions.append("a Bloom filter larger than the one that was tried is as fast as that")
    if any(given.pages for given in inputs.values()):
        told.assumptions.append("the process that parses pages, one beside each such task, is not in the memory of a task")
    seconds = sum(phase.seconds for phase in found)
    prices = [sum(phase.cost or 0.0 for phase in found) if cluster.price is not None else None, *other_costs(found, cluster)]
    cost = sum(price for price in prices if price is not None) if any(price is not None for price in prices) else None
    return {
        "recipe": recipe.name,
        "profile": recipe.profile,
        "rates": rates.origin,
        "rate_notes": rates.notes,
        "cluster": cluster.to_json(),
        "phases": [asdict(phase) for phase in found],
        "stages": [asdict(stage) for stage in told.stages],
        "sources": told.sources,
        "mixture_tokens": told.mixture_tokens,
        "total": {
            "tasks": sum(phase.tasks for phase in found),
            "core_hours": sum(phase.core_seconds for phase in found) / 3600,
            "hours": seconds / 3600,
            "cost": cost,
            "costs": dict(zip(("nodes", "requests", "storage"), prices, strict=True)),
            "disk": max((phase.disk for phase in found), default=0),
            "memory": max((phase.memory for phase in found), default=0),
            "read": sum(phase.read for phase in found),
            "written": sum(phase.written for phase in found),
            "text_bytes": sum(source["text_bytes"] for source in told.sources.values()),
            "tokens": sum(source["tokens"] for source in told.sources.values()),
        },
        "assumptions": told.assumptions,
        "problems": told.problems + problems,
        "plan": [{"stage": title, "tasks": tasks} for title, tasks in outline.told()],
    }


__all__ = ["calibrate", "plan", "read_rates"]
