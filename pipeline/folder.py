"""Kinds of folders that hold shards and a manifest: made by a run, by `import`, or by `mix`; and folders of an export.

Each kind but a run has a file of its own name in it, so that no command writes over what another one made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from pipeline import storage
from stages.errors import UserError

RUN, IMPORT, MIXTURE, EXPORT = "recipe.json", "import.json", "mixture.json", "export.json"
MADE_BY = {IMPORT: "import", MIXTURE: "mix", EXPORT: "export"}


def absolute(folder: str) -> str:
    """The same folder for every process, wherever that was started."""
    if storage.is_local(folder) and not folder.startswith("file:"):
        return str(storage.local_path(folder).absolute())
    return folder


def check_kind(out: str, kind: str) -> None:
    """Raise UserError where `out` holds what a command of another kind made."""
    for name, command in MADE_BY.items():
        if name != kind and storage.exists(storage.join(out, name)):
            raise UserError(f"{out} was made by `python -m pipeline {command}` ({name}); choose another --out")


def read_mark(out: str, kind: str) -> dict[str, Any] | None:
    """What the folder's own file says; None where there is none."""
    uri = storage.join(out, kind)
    return orjson.loads(storage.read_bytes(uri)) if storage.exists(uri) else None


def write_mark(out: str, kind: str, facts: dict[str, Any]) -> None:
    """Write the folder's own file, atomically."""
    storage.write_bytes(storage.join(out, kind), orjson.dumps(facts, option=orjson.OPT_INDENT_2) + b"\n")


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
