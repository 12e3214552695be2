"""What is wrong with a recipe, in one sentence: the key's path, the value, the cause in our own words, the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from pipeline.recipe.overrides import nearest

# What pydantic puts into the path of an error besides keys: validators, and the members of a union.
_NO_KEY = re.compile(r"(function-|tagged-|constrained-|nullable|is-instance).*|.*\[.*|str|int|float|bool|none|tuple|list")
_CAUSES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "string_type": lambda c: "must be text, in quotes where YAML takes it for something else",
    "bool_type": lambda c: "must be true or false",
    "bool_parsing": lambda c: "must be true or false",
    "greater_than": lambda c: f"must be more than {c['gt']:g}",
    "greater_than_equal": lambda c: f"must be at least {c['ge']:g}",
    "less_than": lambda c: f"must be less than {c['lt']:g}",
    "less_than_equal": lambda c: f"must be at most {c['le']:g}",
    "finite_number": lambda c: "must be a finite number",
    "string_too_short": lambda c: "must not be empty",
    "string_too_long": lambda c: f"must be of at most {c['max_length']} characters",
    "too_long": lambda c: f"must hold at most {c['max_length']} values",
    "value_error": lambda c: str(c["error"]),
}
_CAUSES |= dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), lambda c: "must be a whole number")
_CAUSES |= dict.fromkeys(("float_type", "float_parsing"), lambda c: "must be a number")
_NAME = "letters and digits, with _ and - between them, make a name"
_FORMS = {
    "name": "letters and digits, with `.`, _ and - between them, make a name",
    "function": "write it as module:function",
    "engine": "write resiliparse, blocks, or a function of your own as module:function",
    "measure": "small letters, digits and _ make a measure's name, and a letter begins it",
    "[key]": _NAME,
}


def validate(model: Any, settings: Any, path: list[Any]) -> Any:
    """Settings as the model has them; what is wrong is told under `path` by the validation that this one is part of."""
    try:
        return TypeAdapter(model).validate_python(settings)
    except ValidationError as error:
        where, value, text = _worst(error, model)
        raise nested([*path, *where], value, text) from None


def nested(path: list[Any], value: Any, text: str) -> PydanticCustomError:
    """An error for `explain` that names its own place, below the place where it is raised."""
    return PydanticCustomError("nested", "{text}", {"text": text, "path": path, "value": value})


def explain(error: ValidationError, model: Any) -> str:
    """The error that matters most, in one sentence: `shards.byte = '1GiB': unknown key; did you mean bytes?`"""
    path, value, text = _worst(error, model)
    where = ".".join(str(p) for p in path)
    long = isinstance(value, Mapping | BaseModel) or (isinstance(value, list) and any(isinstance(one, Mapping) for one in value))
    shown = "" if value is None or long else f" = {value!r}"
    more = _count(error) - 1
    where = f"{where}{shown}: " if where or shown else ""
    return f"{where}{text}" + (f" (and {more} more)" if more else "")


def _worst(error: ValidationError, model: Any) -> tuple[list[Any], Any, str]:
    """Path, value and cause of one error: an unknown key before all, as a missing one may be missing for its sake."""
    found = min(error.errors(include_url=False), key=lambda e: {"extra_forbidden": 0, "missing": 2}.get(e["type"], 1))
    if found["type"] == "nested":
        context = found.get("ctx", {})
        return list(found["loc"]) + list(context["path"]), context["value"], context["text"]
    return _told(found, model)


def _count(error: ValidationError) -> int:
    """How many keys are wrong; one that is missing beside an unknown one is most likely the same."""
    found = {tuple(_keys(one)): one["type"] for one in error.errors(include_url=False)}
    beside = {path[:-1] for path, kind in found.items() if kind == "extra_forbidden"}
    return sum(kind != "missing" or path[:-1] not in beside for path, kind in found.items())


def _keys(error: ErrorDetails) -> list[Any]:
    return [p for p in error["loc"] if not (isinstance(p, str) and _NO_KEY.fullmatch(p))]


def _told(error: ErrorDetails, model: Any) -> tuple[list[Any], Any, str]:
    path, value, kind, context = _keys(error), error["input"], error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        owner = model_at(model, path[:-1])
        return _without_tags(model, path), value, "unknown key" + nearest(str(path[-1]), keys_of(owner) if owner else [])
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        owner = model_at(model, path)
        keys = f" with the keys {', '.join(keys_of(owner))}" if owner and kind != "dict_type" else ""
        return path, value, f"must be a mapping{keys}" + (", and is empty" if value is None else "")
    if kind == "missing":
        return path, None, "this key is needed"
    if kind in ("tuple_type", "list_type"):
        return path, value, "must be a list" + (f": write [{value}]" if isinstance(value, str | int | float) else "")
    if kind == "too_short":
        return path, value, "must not be empty" if context["min_length"] == 1 else f"needs {context['min_length']} values"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        key, tags = context["discriminator"].strip("'"), re.findall(r"'(\w+)'", context.get("expected_tags", ""))
        if kind == "union_tag_invalid":
            return [*path, key], context["tag"], f"no such {key}" + nearest(str(context["tag"]), tags)
        return path, None, f"`{key}` is needed: one of {', '.join(_tags_at(model, path, key))}"
    if kind == "literal_error":
        valid = re.findall(r"'([^']*)'", context["expected"])
        return path, value, f"must be one of {', '.join(valid)}" + _near(value, valid)
    if kind == "string_pattern_mismatch":
        last = str(error["loc"][-1]) if error["loc"] else ""
        return path, value, _FORMS.get(last, f"does not have the form {context['pattern']}")
    if kind in _CAUSES:
        return path, value, _CAUSES[kind](context)
    return path, value, error["msg"]


def _near(value: Any, valid: list[str]) -> str:
    text = nearest(value, valid) if isinstance(value, str) else ""
    return text if "did you mean" in text else ""


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys of a model as a recipe writes them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def model_at(model: Any, path: list[Any]) -> type[BaseModel] | None:
    """The pydantic model that a path of keys leads to, through dicts, tuples and unions by tag."""
    found = _models_at(model, path)
    return found[0] if found else None


def _models_at(model: Any, path: list[Any]) -> list[type[BaseModel]]:
    candidates = [model]
    for part in [None, *path]:
        found: list[Any] = []
        for candidate in candidates:
            for plain in unwrap(candidate):
                if part is None:
                    found.append(plain)
                elif isinstance(plain, type) and issubclass(plain, BaseModel):
                    if part in plain.model_fields:
                        found.append(plain.model_fields[part].annotation)
                    elif part in _tags(plain):
                        found.append(plain)
                elif get_origin(plain) in (dict, tuple, list):
                    found.extend(get_args(plain)[-1:] if get_origin(plain) is dict else get_args(plain)[:1])
        candidates = found
    return [p for c in candidates for p in unwrap(c) if isinstance(p, type) and issubclass(p, BaseModel)]


def _tags_at(model: Any, path: list[Any], key: str) -> list[str]:
    """The values of the key that chooses one of several models."""
    return [str(tag) for found in _models_at(model, path) for tag in get_args(found.model_fields[key].annotation)]


def _without_tags(model: Any, path: list[Any]) -> list[Any]:
    """A path without what pydantic adds to it: the value of the key that chose one of several models."""
    added = [n for n in range(len(path)) if any(path[n] in _tags(m) for m in _models_at(model, path[:n]))]
    return [part for n, part in enumerate(path) if n not in added]


def _tags(model: type[BaseModel]) -> list[Any]:
    """The values of a union's tag field that choose this model (`method: minhash`)."""
    return [
        a
        for field in model.model_fields.values()
        if get_origin(field.annotation) is Literal
        for a in get_args(field.annotation)
    ]


def unwrap(annotation: Any) -> list[Any]:
    """The plain types of an annotation: without marks and validators, a union in its members."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return unwrap(get_args(annotation)[0])
    if origin is not None and origin not in (dict, tuple, list, Literal):
        return [plain for inner in get_args(annotation) for plain in unwrap(inner)]
    return [annotation]
