"""Kinds of folders that hold shards and a manifest: made by a run, by `import`, or by `mix`; and folders of an export.

Each kind but a run has a file of its own name in it, so that no command writes over what another one made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from pipeline import storage
from pipeline.recipe.recipe import Recipe
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


class Mark(msgspec.Struct, frozen=True):
    """What every folder but a run's says: whether it is finished. key: of pairs, what they are made of."""

    finished: bool = False
    key: str = ""


class HeldOutRule(msgspec.Struct, frozen=True, array_like=True):
    """By which a folder holds documents out: a salt, a share."""

    salt: str
    share: float
    folder: str


class TokenRule(msgspec.Struct, frozen=True):
    """ends: whether documents end in the end token. inside: whether texts may hold it."""

    ends: bool = True
    inside: bool = False


class MadeOf(msgspec.Struct, frozen=True):
    """A folder of a mixture."""

    run: str
    fingerprint: str


class MemberOf(msgspec.Struct, frozen=True):
    """Where a source of a mixture comes from."""

    run: str
    source: str


class MixtureMark(msgspec.Struct, frozen=True):
    """`mixture.json`. mixture: as a recipe would say it. held_out, token_rules: of the folders that it is made of."""

    mixture: dict[str, object]
    made_of: list[MadeOf]
    sources: dict[str, MemberOf]
    held_out: list[HeldOutRule] = []
    token_rules: dict[str, TokenRule] = {}
    finished: bool = False


class _ImportSettings(msgspec.Struct, frozen=True):
    salt: str
    held_out: float
    append_eos: bool


class ImportMark(msgspec.Struct, frozen=True):
    """What others read of `import.json`."""

    settings: _ImportSettings


class _Shards(msgspec.Struct, frozen=True):
    held_out: float
    held_out_salt: str | None = None


class _TokenRules(msgspec.Struct, frozen=True):
    append_eos: bool = True
    special_tokens_in_text: str = ""


class _Tokenizer(msgspec.Struct, frozen=True):
    rules: _TokenRules


class _Source(msgspec.Struct, frozen=True):
    split: list[dict[str, Any]] | None = None


class RunRecipe(msgspec.Struct, frozen=True):
    """What others read of a run's `recipe.json`. mixture: as a recipe says it."""

    name: str
    shards: _Shards
    tokenizer: _Tokenizer
    seed: int = 0
    mixture: dict[str, object] = {}
    sources: dict[str, _Source] = {}

    @property
    def held_out(self) -> tuple[str, float]:
        """Salt and share by which it chose its held-out documents; older versions took name and seed for a salt."""
        return self.shards.held_out_salt or f"{self.name}/{self.seed}", self.shards.held_out

    @property
    def token_rule(self) -> TokenRule:
        """What it did about end tokens."""
        rules = self.tokenizer.rules
        return TokenRule(rules.append_eos, rules.special_tokens_in_text == "match")


T = TypeVar("T")


def read_mark(out: str, kind: str, shape: type[T] = Mark) -> T | None:
    """What the folder's own file says; None where there is none. Raises UserError where another version wrote it."""
    uri = storage.join(out, kind)
    if not storage.exists(uri):
        return None
    try:
        return msgspec.json.decode(storage.read_bytes(uri), type=shape)
    except msgspec.DecodeError as error:
        raise UserError(f"{uri}: not as this version of Headrace writes it: {error}; make the folder again") from None


def write_mark(out: str, kind: str, facts: object) -> None:
    """Write the folder's own file (a struct), atomically."""
    storage.write_bytes(storage.join(out, kind), msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n")


def check_fresh(out: str, kind: str) -> None:
    """Raise UserError unless `out` is empty, or is an unfinished folder of this kind, which is gone on with."""
    check_kind(out, kind)
    mark = read_mark(out, kind)
    if mark is not None:
        if mark.finished:
            raise UserError(f"{out} holds a finished {MADE_BY[kind]}; choose another --out, or delete it first")
        return
    prefix = out.rstrip("/") + "/"
    there = [name for entry in storage.list_files(out) if (name := entry.uri.removeprefix(prefix)) != "run.lock"]
    if there:
        raise UserError(f"{out} is not empty (it holds {there[0]}); choose another --out")
