"""The members of a recipe's mixture: its sources, and the sub-sources that some of them are split into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from pipeline.recipe.explain import nested
from pipeline.recipe.overrides import nearest
from stages.quality.classifier import Quality
from stages.step import Step
from stages.tokens.split import DOMAIN, MOST_CELLS, YEAR, Axis, cells, members, repeats_of

Steps = Sequence[tuple[str, Any]]


def _parse_split(value: Any) -> Any:
    return (value,) if isinstance(value, Mapping) else value


Split = Annotated[tuple[Axis, ...], BeforeValidator(_parse_split, json_schema_input_type=Axis | tuple[Axis, ...])]


def members_of(sources: Mapping[str, tuple[tuple[Axis, ...], Steps]], dedups: Steps = ()) -> dict[str, str]:
    """The members of the mixture, in order, each with its source. sources: the axes and the steps of each; dedups: over all.

    Raises the error of a check (`nested`) where two would have one name, or a source is split by what no step measures.
    """
    found: dict[str, str] = {}
    for source, (axes, steps) in sources.items():
        _check(source, axes, [*steps, *dedups])
        for name in members(source, axes):
            if name in found or (name != source and name in sources):
                raise nested(["sources", source, "split"], None, f"{name} is the name of another source already")
            found[name] = source
    return found


def repeats_of_parts(splits: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """How often members are seen by what the parts of sources say. splits: the axes of each source, as data or as read."""
    found: dict[str, float] = {}
    for source, axes in splits.items():
        found |= repeats_of(source, [Axis.model_validate(axis) for axis in axes])
    return found


def _check(source: str, axes: Sequence[Axis], steps: Steps) -> None:
    """Raise the error of a check where a source is split by what none of its steps measures, as far as steps say."""
    where = ["sources", source, "split"]
    if len(cells(axes)) > MOST_CELLS:
        raise nested(where, None, f"{len(cells(axes)):,} parts are more than {MOST_CELLS:,}")
    if len({axis.by for axis in axes}) < len(axes):
        raise nested(where, None, "two axes are by the same measure")
    known: dict[str, Any] = {name: item for name, item in steps if isinstance(item, Step) or hasattr(item, "copies")}
    for axis in axes:
        name, _, measure = axis.by.rpartition(".")
        if axis.by in (DOMAIN, YEAR):
            continue
        if name not in known:
            raise nested([*where, axis.by], None, f"the source has no step {name!r}{nearest(name, list(known))}")
        if not isinstance(known[name], Step):
            if measure != "copies" or not known[name].copies:
                text = f"a dedup has no measure but copies, and that with `copies: true`: add it to {name}"
                raise nested([*where, axis.by], None, text)
            continue
        if isinstance(known[name], Quality) and known[name].of_labels(measure):
            continue
        measures = [*known[name].limits(), *known[name].other_measures]
        if type(known[name]).__module__.startswith("stages.") and measures and measure not in measures:
            raise nested([*where, axis.by], None, f"{name} has no measure {measure!r}{nearest(measure, measures)}")
