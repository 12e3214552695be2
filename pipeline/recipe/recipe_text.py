"""A recipe as YAML that people read: what it says besides defaults, with the profile and all changes in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from pipeline.recipe.recipe import Recipe
from pipeline.storage.public import public
from stages.step import Step
from stages.steps import import_path


def recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML, which carries out the same run. Addresses are without passwords and signatures."""
    return yaml.safe_dump(public(_said(recipe)), sort_keys=False, allow_unicode=True, width=120)


def _said(value: Any) -> Any:
    """Plain values without what equals a default; steps as one-key mappings."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
        said = {name: item for name in fields if (item := getattr(value, name)) != defaults[name] or name == "method"}
        return {fields[name].alias or name: _said(item) for name, item in said.items()}
    if isinstance(value, Mapping):
        return {key: _said(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_step(*item) if _is_step(item) else _said(item) for item in value]
    return value


def _is_step(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], BaseModel)


def _step(name: str, item: BaseModel) -> Any:
    kind = import_path(type(item)) or item.step if isinstance(item, Step) else "dedup"
    return {kind: settings} if (settings := _said(item)) else kind
