"""What a recipe may hold, told from the pydantic models: the one source of `steps`, `schema` and docs/reference.md.

A key's meaning is the string below it in its class, as are the texts of classes and of the modules of readers.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import orjson
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.recipe.explain import unwrap
from pipeline.recipe.recipe import Read, Recipe
from stages.dedup.spec import METHODS
from stages.marks import Mark
from stages.step import Bounds, Labels, Step
from stages.steps import STEPS
from stages.units import UNITS

# Format -> its reader's module, and what the meanings of keys call it that are of some readers alone.
READERS = {
    "warc": ("stages.read.warc", "WARC"),
    "jsonl": ("stages.read.jsonl", "JSON"),
    "parquet": ("stages.read.parquet", "Parquet"),
    "csv": ("stages.read.csv_file", "CSV"),
    "text": ("stages.read.text", "Plain text"),
}
_PLAIN = ("left out", "its defaults", "no limit")  # defaults that are no YAML
Kind = Literal["step", "dedup", "reader", "section"]
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null", Any: "anything"}


@dataclass(frozen=True)
class Key:
    """A key of a recipe: its name, what it takes, its default as YAML (None where it must be given), its meaning."""

    name: str
    takes: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Page:
    """What is known of a step, a dedup method, a reader or a section: `measures` are (name, meaning)."""

    name: str
    kind: Kind
    text: str
    keys: tuple[Key, ...]
    measures: tuple[tuple[str, str], ...]
    code: str

    @property
    def line(self) -> str:
        """The first sentence of its text."""
        return re.split(r"(?<=[.:])\s+(?=[A-Z`])|\n\n", self.text, maxsplit=1)[0].replace("\n", " ")


@cache
def pages() -> dict[str, Page]:
    """All there is to describe, by name: steps, dedup methods, readers, then the sections of a recipe."""
    found = [_of_step(step) for step in STEPS.values()]
    found += [_of_model(name, "dedup", model) for name, model in METHODS.items()]
    found += [_of_reader(name) for name in READERS]
    found += [_of_model(name, "section", model) for name, model in _sections("recipe", Recipe)]
    for step in STEPS.values():
        found += [_of_model(name, "section", model) for name, model in _sections(step.step, step) if model is not step]
    return {page.name: page for page in found}


def _of_step(step: type[Step]) -> Page:
    told = meanings(step)
    limits = [(name, told[name]) for name, field in step.model_fields.items() if field.annotation in (Bounds, Labels)]
    return replace(_of_model(step.step, "step", step), measures=(*limits, *step.other_measures.items()))


def _of_model(name: str, kind: Kind, model: type[BaseModel]) -> Page:
    return Page(name, kind, inspect.cleandoc(model.__doc__ or ""), keys(model), (), _code(model.__module__))


def _of_reader(name: str) -> Page:
    module, label = READERS[name]
    own = tuple(key for key in keys(Read) if label in key.meaning.partition(":")[0].split(", "))
    text = inspect.cleandoc(import_module(module).__doc__ or "")
    return Page(name, "reader", f"{text}\n\nKeys of all readers: sources.read.", own, (), _code(module))


def _code(module: str) -> str:
    return module.replace(".", "/") + ".py"


def _sections(name: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """A model, and the models of its keys, each once, under the keys that lead there."""
    waiting, seen = [(name, model)], set()
    while waiting:
        name, model = waiting.pop(0)
        if model in seen or model in (Bounds, Labels):
            continue
        seen.add(model)
        yield name, model
        prefix = "" if name == "recipe" else f"{name}."
        waiting += [(f"{prefix}{key}", inner) for key, field in model.model_fields.items() for inner in _models(field.annotation)]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    for plain in unwrap(annotation):
        if isinstance(plain, type) and issubclass(plain, BaseModel):
            yield plain
        elif get_origin(plain) in (dict, tuple, list):
            for inner in get_args(plain):
                yield from _models(inner)


def keys(model: type[BaseModel]) -> tuple[Key, ...]:
    """The keys of a model in its order."""
    told = meanings(model)
    return tuple(
        Key(field.alias or name, _takes(field), _default(field), told.get(name, ""))
        for name, field in model.model_fields.items()
    )


@cache
def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What each field means: the string that stands below it in the class, or in a class that it is made from."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if kind is BaseModel or not issubclass(kind, BaseModel):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                text = below.value
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    found[field.target.id] = " ".join(inspect.cleandoc(text.value).split())
    return found


def _takes(field: FieldInfo) -> str:
    readers = (getattr(mark, "func", None) for mark in (*field.metadata, *_metadata(field.annotation)))
    unit = next((UNITS[reader] for reader in readers if reader in UNITS), None)
    text = unit or type_text(field.annotation)
    return text.replace("text", "file") if Mark.IN_FILE in field.metadata else text


def _metadata(annotation: Any) -> Iterator[Any]:
    yield from getattr(annotation, "__metadata__", ())
    for inner in get_args(annotation):
        yield from _metadata(inner)


def type_text(annotation: Any) -> str:
    """A type in a few words: `one of a, b`, `list of text`, `limit`."""
    members = list(dict.fromkeys(_word(plain) for plain in unwrap(annotation)))
    members = [m for m in members if m != "null"]
    return " or ".join(members)


def _word(plain: Any) -> str:
    if plain in _WORDS:
        return _WORDS[plain]
    origin, inner = get_origin(plain), list(get_args(plain))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}" if len(inner) > 1 else str(inner[0])
    if origin is tuple and Ellipsis not in inner:
        return "step" if inner == [str, Any] else f"[{', '.join(map(type_text, inner))}]"
    if origin in (tuple, list):
        one = type_text(inner[0])
        return f"list, each {one}" if " " in one else f"list of {one}s" if one in ("step", "file", "number") else f"list of {one}"
    if origin is dict:
        return "section for each name" if type_text(inner[1]) == "section" else f"{type_text(inner[1])} for each name"
    return {Bounds: "limit", Labels: "one value or a list"}.get(plain, "section")


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    return _shown(field.get_default(call_default_factory=True))


def _shown(value: Any) -> str:
    """A default as a recipe writes it."""
    if isinstance(value, Bounds):
        sides = [(name, side) for name, side in (("min", value.min), ("max", value.max)) if side is not None]
        both = f"[{', '.join(f'{side:g}' if abs(side) < 1e5 else f'{side:.0f}' for _, side in sides)}]"
        return both if len(sides) == 2 else f"{sides[0][0]} {sides[0][1]:g}" if sides else "no limit"
    if isinstance(value, Labels):
        return _shown(list(value.keep))
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1 << 16 and not value % (1 << 16):
        power = next(n for n in (3, 2, 1) if not value % (1 << 10 * n))
        return f"{value >> 10 * power}{('KiB', 'MiB', 'GiB')[power - 1]}"
    if value is None:
        return "left out"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return "{}" if not value else orjson.dumps(value).decode()
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def markdown() -> str:
    """docs/reference.md."""
    lines = [inspect.cleandoc(_HEAD)]
    titles = {"step": "Steps", "dedup": "Dedup methods", "reader": "Readers", "section": "The recipe's sections"}
    for kind, title in titles.items():
        lines += ["", f"## {title}"]
        for page in pages().values():
            if page.kind == kind:
                lines += ["", f"### {page.name}", "", page.text, *_tables(page)]
    return "\n".join(lines) + "\n"


_HEAD = """
# Reference: every step, dedup method, reader and key

Made from the code by `headrace steps --markdown`; `headrace steps NAME` prints one of these in a terminal. A limit is a
number, or `[min, max]`, or `{min: ..., max: ...}`; `null` takes it away. Every limit's key is also the name of its measure.
"""


def _tables(page: Page) -> Iterator[str]:
    if page.keys:
        yield from ("", "| key | takes | default | |", "|---|---|---|---|")
        for key in page.keys:
            default = "**needed**" if key.default is None else key.default if key.default in _PLAIN else f"`{key.default}`"
            yield f"| `{key.name}` | {key.takes} | {default} | {_cell(key.meaning)} |"
    others = [(name, text) for name, text in page.measures if name not in {key.name for key in page.keys}]
    if others:
        yield from ("", "Measures without a limit: " + "; ".join(f"`{name}`: {text}" for name, text in others))
    yield from ("", f"Code: `{page.code}`")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
