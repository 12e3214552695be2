"""Kinds of folders that hold shards and a manifest: made by a run, by `import`, or by `mix`; and folders of an export.

Each kind but a run has a file of its own name in it, so that no command writes over what another one made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from pipeline import storage
from pipeline.recipe import Recipe
from stages.errors import UserError

RUN, IMPORT, MIXTURE, EXPORT, PAIRS = "recipe.json", "import.json", "mixture.json", "export.json", "pairs.json"
CLAIM = "run.json"  # whose a run's folder is, from its start
MADE_BY = {IMPORT: "import", MIXTURE: "mix", EXPORT: "export", PAIRS: "pairs"}


def absolute(folder: str) -> str:
    """The same folder for every process, wherever that was started."""
    if storage.is_local(folder) and not folder.startswith("file:"):
        return str(storage.local_path(folder).absolute())
    return folder


def default_out(data: Mapping[str, Any], recipe: Recipe) -> str:
    """Where a recipe runs to: runs/NAME for its first profile, runs/NAME-PROFILE for another. data: as its file holds it."""
    first = next(iter(data.get("profiles") or [None]), None)
    return f"runs/{recipe.name}" if recipe.profile in (None, first) else f"runs/{recipe.name}-{recipe.profile}"


class RunMark(msgspec.Struct):
    """What a run's folder says from the start of whose it is. file: the recipe's file; None for one made from data.

    folder: what paths in the recipe are relative to.
    """

    recipe: str
    profile: str | None
    file: str | None
    content: str
    folder: str | None = None


def claim(out: str, recipe: Recipe, take_over: bool = False) -> None:
    """Make `out` the folder of this recipe's run, or go on in it. Raises UserError where it is somebody else's.

    A run's folder is its recipe's: the same name and profile, and the same file (or a copy of it). An empty folder is
    anybody's. With `take_over` the folder of another recipe's run is gone on with.
    """
    check_kind(out, RUN)
    uri = storage.join(out, CLAIM)
    mark = RunMark(recipe.name, recipe.profile, recipe.file, recipe.content(), recipe.folder)
    if storage.exists(uri):
        there = msgspec.json.decode(storage.read_bytes(uri), type=RunMark)
        other = _differs(there, mark)
        if other and not take_over:
            raise UserError(
                f"{out} holds the run of {other}, which this one would delete; choose another --out, or go on in it with "
                "--take-over"
            )
        if there == mark:
            return
    else:
        check_empty(out)
    write_mark(out, CLAIM, mark)


def _differs(there: RunMark, mark: RunMark) -> str | None:
    """What the folder's run is of, where that is not this recipe; None where it is."""
    if (there.recipe, there.profile) != (mark.recipe, mark.profile):
        return f"{there.recipe}" + (f" (profile {there.profile})" if there.profile else "")
    if there.file and mark.file and there.file != mark.file and there.content != mark.content:
        return f"another recipe of the name {there.recipe}, {there.file}"
    return None


def check_empty(out: str) -> None:
    """Raise UserError where a folder that is to become a run's holds files already."""
    prefix = out.rstrip("/") + "/"
    names = (entry.uri.removeprefix(prefix) for entry in storage.list_files(out))
    if there := next((name for name in names if name != "run.lock" and not name.startswith(".scratch/")), None):
        raise UserError(
            f"{out} is not empty and holds no run (it holds {there}): a run deletes what is not its own; choose another --out"
        )


def check_kind(out: str, kind: str) -> None:
    """Raise UserError where `out` holds what a command of another kind made."""
    if kind != RUN and any(storage.exists(storage.join(out, name)) for name in (CLAIM, RUN)):
        raise UserError(f"{out} holds a run; choose another --out")
    for name, command in MADE_BY.items():
        if name != kind and storage.exists(storage.join(out, name)):
            raise UserError(f"{out} was made by `python -m pipeline {command}` ({name}); choose another --out")


def read_mark(out: str, kind: str) -> dict[str, Any] | None:
    """What the folder's own file says; None where there is none."""
    uri = storage.join(out, kind)
    return orjson.loads(storage.read_bytes(uri)) if storage.exists(uri) else None


def held_out_salt(recipe: dict[str, Any]) -> str:
    """The salt by which a run chose its held-out documents, from its recipe.json; older ones took name and seed."""
    return recipe["shards"].get("held_out_salt") or f"{recipe['name']}/{recipe['seed']}"


def write_mark(out: str, kind: str, facts: object) -> None:
    """Write the folder's own file (a struct, or JSON values), atomically."""
    storage.write_bytes(storage.join(out, kind), msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")


def check_fresh(out: str, kind: str, allowed: Sequence[str] = ("run.lock",)) -> None:
    """Raise UserError unless `out` is empty, or is an unfinished folder of this kind, which is gone on with."""
    check_kind(out, kind)
    mark = read_mark(out, kind)
    if mark is not None:
        if mark.get("finished"):
            raise UserError(f"{out} holds a finished {MADE_BY[kind]}; choose another --out, or delete it first")
        return
    prefix = out.rstrip("/") + "/"
    there = [name for entry in storage.list_files(out) if (name := entry.uri.removeprefix(prefix)) not in allowed]
    if there:
        raise UserError(f"{out} is not empty (it holds {there[0]}); choose another --out")
