"""Quality classifiers that a recipe trains itself, before the segment that applies them."""

from __future__ import annotations

from pipeline.engine import Engine
from pipeline.plan.segments import Part, Segment
from pipeline.recipe import Recipe


def with_trained_models(
    recipe: Recipe, segment: Segment, source: str, parts: dict[str, list[Part]], engine: Engine
) -> Segment:
    """The segment with each `quality` step that is to be trained pointing to its trained model."""
    return segment
