"""The recipe: what a run is made of, typed. Read from YAML, one profile laid over it, `--set` on top, then checked whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, TypeAdapter, ValidationError, model_validator

from pipeline.engine.attempts import Tasks
from pipeline.recipe.against import with_indexes
from pipeline.recipe.explain import explain, nested
from pipeline.recipe.members import Split, members_of, repeats_of_parts
from pipeline.recipe.overrides import RecipeError, apply_set, merge, nearest, read_yaml
from pipeline.recipe.shipped import find_recipe, is_shipped
from pipeline.recipe.step_list import Dedups, Steps
from pipeline.storage.public import public
from pipeline.storage.uri import as_written, located, possible
from stages.marks import HowMuch, in_key, named_files
from stages.read import ReadSpec
from stages.read.format import RECORD_COPIES
from stages.step import Settings, Step, content_key
from stages.steps import import_path
from stages.tokens.mixture import Mixture, MixtureError, check_mixture, with_repeats
from stages.tokens.tokenizer import EncodeRules
from stages.units import Bytes, Count
from stages.user_code import add_folder

Chosen = TypeVar("Chosen", bound=BaseModel)


class Read(ReadSpec):
    """Where a source lies and how it is read."""

    paths: tuple[Annotated[str, BeforeValidator(possible)], ...] = Field(min_length=1)
    """Files, folders and patterns (`data/**/*.jsonl`): on disk, relative to the recipe's folder, or at `s3://`, `gs://`,
    `az://`, `https://`, `hf://`; `sample:` is the sample corpus."""


class ExpectedInput(Settings):
    """How much a source is known to have; fewer is an error."""

    files: Count | None = Field(default=None, ge=0)
    """Files that its paths name."""
    documents: Count | None = Field(default=None, ge=0)
    """Documents that are read, before any step."""


class Source(Settings):
    """One member of the mixture: where it is read, and the ordered steps that its documents go through."""

    read: Read
    """Where it lies and how it is read."""
    steps: Steps = ()
    """What its documents go through, in order: `- name: {settings}`, filters, edits and dedups."""
    allow_empty: bool = False
    """Let it be empty; else a source of which no document is read or left is an error."""
    expected: ExpectedInput = ExpectedInput()
    """What it is known to have."""
    split: Split = ()
    """Cut it into sub-sources, each a member of the mixture: one axis, or a list of them, which span a grid."""
    license: HowMuch[str | None] = None
    """The licence of its documents, as the dataset card names it (`odc-by`)."""
    citation: HowMuch[str | None] = None
    """What to cite for it, for the dataset card."""


class TrainTokenizer(Settings):
    """Train a byte-level BPE tokenizer on the run's own documents."""

    vocab_size: int = Field(default=8192, ge=300, le=2**31 - 1)
    """Entries of the vocabulary."""
    max_bytes: Bytes = Field(default=32 * 2**20, gt=0)
    """Text that it is trained on at most, sampled evenly over all sources."""


class Tokenizer(Settings):
    """Which tokenizer: a `tokenizer.json` by path or URI, a model on the hub, or one trained in the run."""

    path: str | None = None
    """A `tokenizer.json`: a file, relative to the recipe's folder, or a URI."""
    hub: str | None = None
    """A model on the Hugging Face hub, `ORG/NAME`, whose tokenizer.json is taken."""
    train: TrainTokenizer | None = None
    """Train one on the run's own documents."""
    engine: HowMuch[Literal["auto", "fastokens", "tokenizers"]] = "auto"
    """What encodes: the fast engine where it can (`auto`), or one of the two; all give the same tokens."""
    eos_token: str | None = None
    """The token that ends a document; left out, the usual name that the vocabulary has."""
    pad_token: str | None = None
    """The token that fills up an instance; left out, the usual name that the vocabulary has."""
    rules: EncodeRules = EncodeRules()
    """What is done to a text before and after encoding."""

    @model_validator(mode="after")
    def _one(self) -> Tokenizer:
        named = [k for k in ("path", "hub", "train") if getattr(self, k) is not None]
        if len(named) != 1:
            raise ValueError(f"name exactly one of path, hub and train, not {' and '.join(named) or 'none'}")
        return self

    def uri(self) -> str:
        """Where the tokenizer lies that is not trained in the run."""
        return self.path or f"hf://{self.hub}/tokenizer.json"


class Shards(Settings):
    """How token arrays are cut, and how many documents are held out from training."""

    bytes: Bytes = Field(default=2**30, ge=4096)
    """Size of a shard, about."""
    held_out: float = Field(default=0.005, ge=0, le=1)
    """Share of the documents held out from training, to measure loss on; 1 makes a folder to evaluate on, and no other."""
    held_out_salt: str = "headrace"
    """Salt of the hash that chooses them: recipes that share it hold out the same documents."""
    near_held_out: Literal["count", "drop", "ignore"] = "count"
    """What becomes of training documents that are near copies of held-out ones."""


class Failures(Settings):
    """What may fail before the run stops with the first cause."""

    documents: HowMuch[float] = Field(default=0.001, ge=0, le=1)
    """Share of all documents of a stage."""
    files: HowMuch[int] = Field(default=0, ge=0)
    """Source files that could not be read to their end."""


class Run(Settings):
    """How the work is cut and bounded. Nothing here changes a byte of the result, but for `failures`."""

    split_bytes: HowMuch[Bytes | None] = Field(default=None, gt=0)
    """What one task reads, about; None: by the source's size. The first cut of a source stays."""
    batch_bytes: HowMuch[Bytes] = Field(default=8 * 2**20, gt=0)
    """Text of one batch, about."""
    task_memory: HowMuch[Bytes] = Field(default=1536 * 2**20, gt=0)
    """Memory that any task may take; a task that states more has it reserved."""
    cache_bytes: HowMuch[Bytes] = Field(default=20 * 2**30, gt=0)
    """Disk that a node's cache of remote files may take."""
    stage_inputs: HowMuch[bool] = False
    """Copy remote inputs to the node's cache before reading; else they are streamed."""
    keep: Literal["all", "measures", "none"] = "all"
    """Which interim files stay: all, the measures of every document, or who was dropped and why."""
    check_inputs: HowMuch[Literal["version", "content"]] = "version"
    """What tells an input from another: its version (date, size, ETag), or its bytes."""
    tasks: Tasks = Tasks()
    """How tasks get along with machines and servers that fail."""
    failures: Failures = Failures()
    """What may fail before the run stops."""


class ExpectedSource(Settings):
    """What is known ahead of one source, before its steps."""

    documents: Count
    """Documents in it."""
    text_bytes: Bytes
    """UTF-8 bytes of their text."""
    tokens: Count | None = None
    """Tokens that they become, if known."""
    kept: float | None = Field(default=None, gt=0, le=1)
    """Share of its bytes that its steps leave, if known."""
    file_bytes: Bytes | None = None
    """Bytes of its files as they are stored, if known: for `plan` where they cannot be listed."""


class Expected(Settings):
    """How much a run reads, as far as it is known ahead: a run that is large for the machine asks for `--yes`."""

    documents: Count
    """Documents in all sources."""
    text_bytes: Bytes
    """UTF-8 bytes of their text."""
    file_bytes: Bytes | None = None
    """Bytes of their files as they are stored, if known: for `plan` where the files of a single source cannot be listed."""
    sources: dict[str, ExpectedSource] = Field(default_factory=dict)
    """The same by source, for `plan` where the files cannot be listed."""


class Recipe(Settings):
    """A whole recipe under one profile."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """What the run is called; its folder is runs/NAME unless --out says otherwise."""
    profile: str | None = None
    """The profile that is laid over the recipe; set by `--profile`."""
    seed: int = 0
    """Of what is drawn at random in a run."""
    sources: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], Source] = Field(min_length=1)
    """The members of the mixture, by name."""
    dedup: Dedups = ()
    """Dedup over the whole mixture, after all sources' own steps: one, or a list."""
    tokenizer: Tokenizer
    """Which tokenizer."""
    shards: Shards = Shards()
    """How tokens are stored, and which documents are held out."""
    mixture: Mixture
    """How much of each source training sees."""
    run: Run = Run()
    """How the work is cut and bounded."""
    expected: HowMuch[Expected | None] = None
    """How much there is to read, where it is known ahead."""

    _file: str | None = PrivateAttr(default=None)
    _folder: str | None = PrivateAttr(default=None)

    @property
    def folder(self) -> str | None:
        """The folder that its paths are relative to, and where functions that it names are looked for.

        That of its file, the current one for a shipped recipe; None, for the current one too, where it was made from data.
        """
        return self._folder

    @property
    def file(self) -> str | None:
        """The recipe's file, by its full path; None for one that was built from data. No part of the recipe's content."""
        return self._file

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if "all" in self.sources:
            raise nested(["sources", "all"], None, "`all` stands for the whole mixture; give the source another name")
        for source, settings in self.sources.items():
            largest = settings.read.max_record_bytes
            if "max_record_bytes" in settings.read.model_fields_set and largest * RECORD_COPIES > self.run.task_memory:
                text = f"a task holds {RECORD_COPIES} times that of a record, and run.task_memory is {self.run.task_memory:,}"
                path = ["sources", source, "read", "max_record_bytes"]
                raise nested(path, largest, f"{text} bytes; raise the one or lower the other")
            for name, step in settings.steps:
                train = getattr(step, "train", None)
                for kind in ("positive", "negative") if train else ():
                    for other in getattr(train, kind):
                        if other not in self.sources:
                            path = ["sources", source, "steps", name, "train", kind]
                            raise nested(path, other, "no such source" + nearest(other, list(self.sources)))
        for name, item in self.dedup:
            if isinstance(item, Step):
                raise nested(
                    ["dedup", name], None, "only dedup may run over the whole mixture; put steps into a source"
                )
        for name in self.expected.sources if self.expected else ():
            if name not in self.sources:
                raise nested(["expected", "sources", name], None, "no such source" + nearest(name, list(self.sources)))
        known = self.members()
        for name in self.mixture.per_source:
            if name not in known:
                raise nested(["mixture", "per_source", name], None, "no such source" + nearest(name, list(known)))
        try:
            check_mixture(self.asked_mixture(), known)
        except MixtureError as error:
            raise nested(["mixture"], None, str(error)) from None
        return self

    def members(self) -> dict[str, str]:
        """The members of the mixture, in order, each with its source: sources, and the parts of those that are split."""
        return members_of({name: (source.split, source.steps) for name, source in self.sources.items()}, self.dedup)

    def asked_mixture(self) -> Mixture:
        """The mixture, with the repeats that the parts of sources say of themselves."""
        return with_repeats(self.mixture, repeats_of_parts({name: one.split for name, one in self.sources.items()}))

    def content(self) -> str:
        """A hash of all that decides the bytes of the result: the recipe but for `run` and what is marked HowMuch."""
        sources = {name: _content_of(source.steps) | {"read": dump(source.read)} for name, source in self.sources.items()}
        for name, source in self.sources.items():
            if source.split:
                sources[name]["split"] = in_key(source.split)
        rest = {name: in_key(getattr(self, name)) for name in ("name", "profile", "seed", "tokenizer", "shards")}
        rest["mixture"] = in_key(self.asked_mixture())
        if self.shards.near_held_out != "drop":  # to count them changes no byte of the shards
            del rest["shards"]["near_held_out"]
        return content_key(*public(as_written([rest, sources, _content_of(self.dedup)], self.folder)))


def _content_of(steps: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Steps and dedups as they decide bytes, with the names of the files that they read."""
    return {name: [type(item).__name__, in_key(item), named_files(item)] for name, item in steps}


def dump(value: Any) -> Any:
    """Recipe data as plain JSON values; of steps by a user's class with its import path as `class`."""
    if isinstance(value, BaseModel):
        path = import_path(type(value)) if isinstance(value, Step) else None
        return ({"class": path} if path else {}) | {name: dump(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {k: dump(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [dump(v) for v in value]
    return value


def public_dump(recipe: Recipe) -> Any:
    """`dump` with addresses as documents and messages name them: no password or signature, and equal for all signatures."""
    return public(dump(recipe))


def load_recipe(path: str | Path, profile: str | None = None, assignments: Sequence[str] = ()) -> Recipe:
    """Read, lay the profile and the assignments over it, check. Raises RecipeError.

    path: a file, or a shipped recipe by name (`dclm_mix`). The profile is `profile`, else the recipe's first one; a recipe
    without profiles is used as it stands. Paths in a recipe are relative to its folder; in a shipped one to the current.
    """
    file = find_recipe(path)
    folder = str(Path.cwd() if is_shipped(file) else file.resolve().parent)
    add_folder(folder)
    recipe = build_recipe(read_yaml(file), profile, assignments, str(path))
    recipe._file = str(file.resolve())
    return at_home(recipe, folder)


def at_home(recipe: Recipe, folder: str | None) -> Recipe:
    """The recipe in the folder that its paths are relative to: files that it names for steps by their full paths.

    Paths of sources stay as they are written, for documents are known by them; `located` says where they lie.
    """
    sources = {n: s.model_copy(update={"steps": _steps_at(s.steps, folder)}) for n, s in recipe.sources.items()}
    tokenizer = recipe.tokenizer
    if tokenizer.path:
        tokenizer = tokenizer.model_copy(update={"path": located(tokenizer.path, folder)})
    changes = {"sources": sources, "dedup": _steps_at(recipe.dedup, folder), "tokenizer": tokenizer}
    found = recipe.model_copy(update=changes)
    found._folder = folder
    return found


def _steps_at(steps: Sequence[tuple[str, Any]], folder: str | None) -> tuple[tuple[str, Any], ...]:
    found = []
    for name, item in steps:
        changes: dict[str, Any] = {}
        for field, uris in named_files(item).items():
            if field == "against":
                continue
            full = tuple(located(uri, folder) for uri in uris)
            changes[field] = full[0] if isinstance(getattr(item, field), str) else full
        item = item.model_copy(update=changes) if changes else item
        found.append((name, with_indexes(item, folder) if hasattr(item, "against") else item))
    return tuple(found)


def build_recipe(
    data: dict[str, Any], profile: str | None = None, assignments: Sequence[str] = (), name: str = "recipe"
) -> Recipe:
    """A recipe from plain data, as `load_recipe` reads it from a file."""
    data = dict(data)
    profiles = data.pop("profiles", None) or {}
    if not isinstance(profiles, Mapping):
        raise RecipeError(f"{name}: profiles is a mapping from profile name to the keys that it changes")
    if profile is None and profiles:
        profile = next(iter(profiles))
    if profile is not None:
        if not profiles:
            raise RecipeError(f"--profile {profile}: {name} has no profiles; leave --profile out")
        if profile not in profiles:
            raise RecipeError(f"{name} has no profile {profile!r}{nearest(profile, list(profiles))}")
        data = merge(data, profiles[profile] or {})
        data["profile"] = profile
    data = apply_set(data, assignments)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{name}: {explain(error, Recipe)}") from None


def read_steps(items: Sequence[Any]) -> tuple[tuple[str, Any], ...]:
    """Steps as a recipe lists them, each with its name. Raises RecipeError."""
    try:
        return TypeAdapter(Steps).validate_python(list(items))
    except ValidationError as error:
        raise RecipeError(f"steps: {explain(error, Recipe)}") from None


def settings_of(model: type[Chosen], assignments: Sequence[str]) -> Chosen:
    """A command's settings, from its `--set`. Raises RecipeError."""
    try:
        return model.model_validate(apply_set({}, assignments))
    except ValidationError as error:
        raise RecipeError(f"--set: {explain(error, model)}") from None


__all__ = ["Count", "Recipe", "RecipeError", "build_recipe", "dump", "explain", "load_recipe", "read_steps"]
