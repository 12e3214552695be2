"""The JSON schema of a recipe's file, made from the models: for editors, which complete keys and mark mistakes.

Checked is what stands in the file. What is missing is not: a profile, or the command line, may give it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from pipeline.recipe.describe import meanings
from pipeline.recipe.recipe import Recipe
from stages.dedup.spec import Dedup
from stages.steps import STEPS
from stages.user_code import named

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{model}"
OWN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
"""The names of steps of a user's own by their import paths: `module:Class`."""


class _Meant(GenerateJsonSchema):
    """pydantic's own, with each key's meaning, and without what a part of a recipe need not hold."""

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        found = super().model_schema(schema)
        found.pop("required", None)
        told = meanings(schema["cls"]) if issubclass(schema["cls"], BaseModel) else {}
        for name, field in schema["cls"].model_fields.items():
            key = found.get("properties", {}).get(field.alias or name)
            if key is not None:
                for needless in ("title", "limit", "minItems", "minProperties"):
                    key.pop(needless, None)
                found["properties"][field.alias or name] = {"description": told.get(name, ""), **key}
        return found


def _unless(kind: str, other: dict[str, Any], schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """The schema of a value of this type, and that of any other: said so that a mistake is marked where it stands."""
    return {"if": {"type": kind}, "then": schema or {}, "else": other}


def recipe_schema() -> dict[str, Any]:
    """The schema, as JSON values."""
    adapters: list[tuple[str, TypeAdapter[Any]]] = [(name, TypeAdapter(step)) for name, step in STEPS.items()]
    adapters += [("dedup", TypeAdapter(Dedup)), ("recipe", TypeAdapter(Recipe))]
    wanted = [(name, "validation", adapter) for name, adapter in adapters]
    refs, whole = TypeAdapter.json_schemas(wanted, ref_template=_REF, schema_generator=_Meant)  # type: ignore[arg-type]
    models = whole["$defs"]
    settings = {name: _unless("null", refs[name, "validation"]) for name in (*STEPS, "dedup")}
    theirs_named = named("steps")
    theirs = {"type": ["object", "null"], "description": "a step of your own: its limits and keys (docs/user-filters.md)"}
    settings |= dict.fromkeys(theirs_named, theirs)
    one = {"type": "object", "properties": settings, "patternProperties": {OWN: theirs}, "additionalProperties": False}
    one |= {"minProperties": 1, "maxProperties": 1}
    names = {"type": "string", "if": {"pattern": OWN}, "else": {"enum": [*STEPS, *theirs_named]}}
    patch = {"type": "object", "description": "changes, by the name of the step; null takes it out"}
    models["Steps"] = _unless("object", {"type": "array", "items": _unless("string", one, names)}, patch)
    recipe = models.pop("Recipe")
    steps, dedup = models["Source"]["properties"]["steps"], recipe["properties"]["dedup"]
    models["Source"]["properties"]["steps"] = {"description": steps["description"], "$ref": "#/$defs/Steps"}
    dedups = [{"$ref": "#/$defs/Steps"}, refs["dedup", "validation"], {"type": "array", "items": refs["dedup", "validation"]}]
    recipe["properties"]["dedup"] = {"description": dedup["description"], "anyOf": dedups}
    models["Profile"] = {**recipe, "description": "What this profile changes."}
    profiles = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Profile"}}
    recipe = {**recipe, "properties": {**recipe["properties"], "profiles": profiles}, "required": ["name", "sources"]}
    return {"$schema": DIALECT, **recipe, "title": "A recipe of Headrace", "$defs": models}
