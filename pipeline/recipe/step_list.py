"""Lists of steps and dedups as a recipe writes them, parsed: each with the name by which keys and reasons call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from pipeline.recipe.explain import nested, validate
from pipeline.recipe.overrides import nearest, step_names
from stages.dedup.spec import METHODS, Dedup
from stages.errors import UserError
from stages.step import Step
from stages.steps import STEPS, step_class


def _parse_steps(items: Any) -> Any:
    """A recipe's list of steps -> ((name, Step | Dedup), ...), with the key's path in any error."""
    if isinstance(items, tuple):
        return items
    if items is None:
        return ()
    if not isinstance(items, list):
        raise ValueError("steps are a list, one `- name: {settings}` a step")
    for position, item in enumerate(items):
        if isinstance(item, Mapping) and len(item) > 1 and next(iter(item.values())) is None:
            step, other = list(item)[:2]
            raise nested([step], None, f"`{other}` is a key of this step: indent it further than `{step}`")
        if not (isinstance(item, str) or (isinstance(item, Mapping) and len(item) == 1)):
            raise nested([position], item, "a step is one name with its settings: `- name: {settings}`")
    parsed = []
    for name, item in zip(step_names(items), items, strict=True):
        kind, settings = (item, {}) if isinstance(item, str) else next(iter(item.items()))
        if kind == "dedup":
            parsed.append((name, validate(Dedup, settings or {}, [name])))
        elif (found := _step_class(str(kind), name)) is not None:
            parsed.append((name, validate(found, settings or {}, [name])))
        elif kind in METHODS:
            raise nested([name], None, f"is a method of dedup: write `dedup: {{method: {kind}}}`")
        else:
            raise nested([name], settings, "no such step" + nearest(str(kind), ["dedup", *STEPS]))
    return tuple(parsed)


def _step_class(kind: str, name: str) -> type[Step] | None:
    try:
        return step_class(kind)
    except UserError as error:
        raise nested([name], None, str(error)) from None


def _parse_dedups(items: Any) -> Any:
    """The recipe's own `dedup`: a list as a source's steps are, or the settings of one dedup or several without the name."""
    if isinstance(items, Mapping) and ("method" in items or "dedup" in items):
        items = [items]
    if isinstance(items, list):
        items = [{"dedup": item} if isinstance(item, Mapping) and "method" in item else item for item in items]
    return _parse_steps(items)


Steps = Annotated[tuple[tuple[str, Any], ...], BeforeValidator(_parse_steps)]
Dedups = Annotated[tuple[tuple[str, Any], ...], BeforeValidator(_parse_dedups)]
