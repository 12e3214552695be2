"""Reading recipe files, laying a profile over a recipe, and `--set a.b=c`: all on plain data, before anything is typed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.errors import UserError


class RecipeError(UserError):
    """A recipe that cannot be used: names the key's path, the value, and the nearest valid name."""


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: `5e12` is a number, and a key given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises RecipeError naming the file, line and cause."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """The mapping in a YAML text; `name` is what errors call it."""
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{name}{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(data, dict):
        what = "the file is empty" if data is None else f"this is a {'list' if isinstance(data, list) else 'single value'}"
        raise RecipeError(f"{name}: a recipe is a mapping of keys, and {what}; `init` writes one for your own files")
    return data


def merge(base: Any, patch: Any, path: str = "") -> Any:
    """`base` with `patch` laid over it: mappings merge key by key, anything else is replaced.

    A list of steps (`- name: {...}`) may be patched by a mapping from step name to settings, or to null, which takes the step
    out; and a limit written [min, max] by one of its sides.
    """
    if isinstance(base, Mapping) and isinstance(patch, Mapping):
        merged = dict(base)
        for key, value in patch.items():
            inner = f"{path}.{key}" if path else str(key)
            merged[key] = merge(base[key], value, inner) if key in base else value
        return merged
    if _is_pair(base) and isinstance(patch, Mapping) and set(patch) <= {"min", "max"}:
        return {"min": base[0], "max": base[1], **patch}
    if isinstance(base, list) and is_step_list(base) and isinstance(patch, Mapping):
        return _merge_steps(base, patch, path)
    return patch


def _is_pair(value: Any) -> bool:
    """True for a limit written as [min, max]."""
    return isinstance(value, list) and len(value) == 2 and all(v is None or isinstance(v, int | float) for v in value)


def is_step_list(value: Any) -> bool:
    """True for a list of one-key mappings (or bare names): the way a recipe writes steps."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, str) or (isinstance(item, Mapping) and len(item) == 1) for item in value)
    )


def step_names(items: Sequence[Any]) -> list[str]:
    """A name for each entry of a step list: its own, of `module:Class` the class's; `_2`, `_3` behind it where it comes again.

    A `quality` step may give its own, as `name`.
    """
    names: list[str] = []
    counts: dict[str, int] = {}
    for item in items:
        kind, settings = (item, None) if isinstance(item, str) else next(iter(item.items()))
        given = settings.get("name") if kind == "quality" and isinstance(settings, Mapping) else None
        name = given if isinstance(given, str) else str(kind).rpartition(":")[2]
        counts[name] = counts.get(name, 0) + 1
        names.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return names


def _merge_steps(base: list, patch: Mapping, path: str) -> list:
    names = step_names(base)
    for key in patch:
        if key not in names:
            raise RecipeError(f"{path}.{key}: no such step here{nearest(str(key), names)}")
    merged = []
    for name, item in zip(names, base, strict=True):
        if name not in patch:
            merged.append(item)
            continue
        kind, settings = (item, {}) if isinstance(item, str) else next(iter(item.items()))
        if patch[name] is None:
            continue  # the step is taken out
        if not isinstance(patch[name], Mapping) or not patch[name]:
            raise RecipeError(
                f"{path}.{name} = {patch[name]!r}: a step takes settings, `{{key: value}}`; null takes the step out of the list"
            )
        merged.append({kind: merge(settings or {}, patch[name], f"{path}.{name}")})
    return merged


def apply_set(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """The data with each `a.b.c=value` (value in YAML) set. Raises RecipeError for one that is not of this form."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {assignment}: write it as key.path=value")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError:
            raise RecipeError(f"--set {assignment}: the value is not valid YAML") from None
        parts = key.strip().split(".")
        there = data.get("sources")
        if parts[0] == "sources" and parts[2:] and parts[2] != "read" and isinstance(there, Mapping) and parts[1] not in there:
            raise RecipeError(f"--set {assignment}: there is no source {parts[1]}{nearest(parts[1], list(there))}")
        patch: Any = value
        for part in reversed(parts):
            patch = {part: patch}
        data = merge(data, patch)
    return data


def nearest(name: str, valid: Sequence[str]) -> str:
    """`; did you mean X?`, or the valid names where none is near."""
    near = difflib.get_close_matches(name, list(valid), 1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; valid here: {', '.join(valid)}" if valid else ""
