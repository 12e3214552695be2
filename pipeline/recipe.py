"""The recipe: what a run is made of, typed. Read from YAML, one profile laid over it, `--set` on top, then checked whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pipeline.attempts import Tasks
from pipeline.overrides import RecipeError, apply_set, merge, nearest, read_yaml, step_names
from pipeline.storage.public import public
from stages.dedup.spec import Dedup
from stages.errors import UserError
from stages.marks import HowMuch, in_key, named_files
from stages.read import ReadSpec
from stages.read.format import RECORD_COPIES
from stages.step import Settings, Step, content_key
from stages.steps import STEPS, import_path, step_class
from stages.tokens.mixture import Mixture, MixtureError, check_mixture
from stages.tokens.tokenizer import EncodeRules
from stages.units import Bytes, Count
from stages.user_code import add_folder


class Read(ReadSpec):
    """Where a source lies and how it is read."""

    paths: tuple[str, ...] = Field(min_length=1)


def _parse_steps(items: Any) -> Any:
    """A recipe's list of steps -> ((name, Step | Dedup), ...), with the key's path in any error."""
    if isinstance(items, tuple):
        return items
    if items is None:
        return ()
    if not isinstance(items, list):
        raise ValueError("steps are a list, one `- name: {settings}` a step")
    parsed = []
    for position, item in enumerate(items):
        if not (isinstance(item, str) or (isinstance(item, Mapping) and len(item) == 1)):
            raise _nested([position], item, "a step is one name with its settings: `- name: {settings}`")
    for name, item in zip(step_names(items), items, strict=True):
        kind, settings = (item, {}) if isinstance(item, str) else next(iter(item.items()))
        if kind == "dedup":
            parsed.append((name, _validate(Dedup, settings or {}, [name])))
        elif (found := _step_class(str(kind), name)) is not None:
            parsed.append((name, _validate(found, settings or {}, [name])))
        else:
            raise _nested([name], settings, "no such step" + nearest(str(kind), ["dedup", *STEPS]))
    return tuple(parsed)


def _step_class(kind: str, name: str) -> type[Step] | None:
    try:
        return step_class(kind)
    except UserError as error:
        raise _nested([name], None, str(error)) from None


Steps = Annotated[tuple[tuple[str, Any], ...], BeforeValidator(_parse_steps)]


class ExpectedInput(Settings):
    """How much a source is known to have; fewer is an error."""

    files: Count | None = None
    documents: Count | None = None  # read, before any step


class Source(Settings):
    """One member of the mixture: where it is read, and the ordered steps that its documents go through."""

    read: Read
    steps: Steps = ()
    allow_empty: bool = False  # else a source of which no document is read or left is an error
    expected: ExpectedInput = ExpectedInput()
    license: HowMuch[str | None] = None  # of its documents, as the dataset card names it (`odc-by`)
    citation: HowMuch[str | None] = None  # for the dataset card


class TrainTokenizer(Settings):
    """Train a byte-level BPE tokenizer on the run's own documents."""

    vocab_size: int = Field(default=8192, ge=300, le=2**31 - 1)
    max_bytes: Bytes = Field(default=32 * 2**20, gt=0)  # of text, sampled evenly over all sources


class Tokenizer(Settings):
    """Which tokenizer: a `tokenizer.json` by path or URI, a model on the hub, or one trained in the run."""

    path: str | None = None
    hub: str | None = None
    train: TrainTokenizer | None = None
    engine: HowMuch[Literal["auto", "fastokens", "tokenizers"]] = "auto"  # all give the same tokens
    eos_token: str | None = None  # None: the usual name that the vocabulary has
    pad_token: str | None = None
    rules: EncodeRules = EncodeRules()

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
    """How token arrays are cut: shards of about `bytes`, and the share of documents held out from training."""

    bytes: Bytes = Field(default=2**30, ge=4096)
    held_out: float = Field(default=0.005, ge=0, lt=1)
    held_out_salt: str = "headrace"  # of the hash that chooses them: recipes that share it hold out the same documents
    near_held_out: Literal["count", "drop", "ignore"] = "count"  # training documents that are near copies of held-out ones


class Failures(Settings):
    """What may fail before the run stops with the first cause."""

    documents: HowMuch[float] = Field(default=0.001, ge=0, le=1)  # share of all documents of a stage
    files: HowMuch[int] = Field(default=0, ge=0)  # source files that could not be read to their end


class Run(Settings):
    """How the work is cut and bounded. Nothing here changes a byte of the result, but for `failures`."""

    split_bytes: HowMuch[Bytes] = Field(default=256 * 2**20, gt=0)  # what one task reads, about; the first cut of a source stays
    batch_bytes: HowMuch[Bytes] = Field(default=8 * 2**20, gt=0)
    task_memory: HowMuch[Bytes] = Field(default=1536 * 2**20, gt=0)  # what any task may take; who states more has it reserved
    cache_bytes: HowMuch[Bytes] = Field(default=20 * 2**30, gt=0)
    stage_inputs: HowMuch[bool] = False  # copy remote inputs to the node's cache before reading; else they are streamed
    keep: Literal["all", "measures", "none"] = "all"  # which interim files stay
    check_inputs: HowMuch[Literal["version", "content"]] = "version"  # what tells an input from another; content: its bytes
    tasks: Tasks = Tasks()
    failures: Failures = Failures()


class ExpectedSource(Settings):
    """What is known ahead of one source, before its steps; `kept` is the share of its bytes that they leave, if known."""

    documents: Count
    text_bytes: Bytes
    tokens: Count | None = None
    kept: float | None = Field(default=None, gt=0, le=1)


class Expected(Settings):
    """How much a run reads, as far as it is known ahead: a run that is large for the machine asks for `--yes`."""

    documents: Count
    text_bytes: Bytes
    sources: dict[str, ExpectedSource] = Field(default_factory=dict)  # for `plan`, where the files cannot be listed


class Recipe(Settings):
    """A whole recipe under one profile."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    profile: str | None = None
    seed: int = 0
    sources: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], Source] = Field(min_length=1)
    dedup: Steps = ()  # over the whole mixture, after all sources' own steps
    tokenizer: Tokenizer
    shards: Shards = Shards()
    mixture: Mixture
    run: Run = Run()
    expected: HowMuch[Expected | None] = None

    _file: str | None = PrivateAttr(default=None)

    @property
    def folder(self) -> str | None:
        """The folder of the recipe's file, where functions that it names are looked for; None for one made from data."""
        return str(Path(self._file).parent) if self._file else None

    @property
    def file(self) -> str | None:
        """The recipe's file, by its full path; None for one that was built from data. No part of the recipe's content."""
        return self._file

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if "all" in self.sources:
            raise _nested(["sources", "all"], None, "`all` stands for the whole mixture; give the source another name")
        for source, settings in self.sources.items():
            largest = settings.read.max_record_bytes
            if "max_record_bytes" in settings.read.model_fields_set and largest * RECORD_COPIES > self.run.task_memory:
                text = f"a task holds {RECORD_COPIES} times that of a record, and run.task_memory is {self.run.task_memory:,}"
                path = ["sources", source, "read", "max_record_bytes"]
                raise _nested(path, largest, f"{text} bytes; raise the one or lower the other")
            for name, step in settings.steps:
                train = getattr(step, "train", None)
                for kind in ("positive", "negative") if train else ():
                    for other in getattr(train, kind):
                        if other not in self.sources:
                            path = ["sources", source, "steps", name, "train", kind]
                            raise _nested(path, other, "no such source" + nearest(other, list(self.sources)))
        for name, item in self.dedup:
            if isinstance(item, Step):
                raise _nested(
                    ["dedup", name], None, "only dedup may run over the whole mixture; put steps into a source"
                )
        for name in self.expected.sources if self.expected else ():
            if name not in self.sources:
                raise _nested(["expected", "sources", name], None, "no such source" + nearest(name, list(self.sources)))
        for name in self.mixture.per_source:
            if name not in self.sources:
                raise _nested(
                    ["mixture", "per_source", name], None, "no such source" + nearest(name, list(self.sources))
                )
        try:
            check_mixture(self.mixture, self.sources)
        except MixtureError as error:
            raise _nested(["mixture"], None, str(error)) from None
        return self

    def content(self) -> str:
        """A hash of all that decides the bytes of the result: the recipe but for `run` and what is marked HowMuch."""
        sources = {name: _content_of(source.steps) | {"read": dump(source.read)} for name, source in self.sources.items()}
        rest = {name: in_key(getattr(self, name)) for name in ("name", "profile", "seed", "tokenizer", "shards", "mixture")}
        if self.shards.near_held_out != "drop":  # to count them changes no byte of the shards
            del rest["shards"]["near_held_out"]
        return content_key(*public([rest, sources, _content_of(self.dedup)]))


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

    The profile is `profile`, else the recipe's first one; a recipe without profiles is used as it stands.
    """
    data, file = read_yaml(path), Path(path).resolve()
    add_folder(file.parent)
    recipe = build_recipe(data, profile, assignments, str(path))
    recipe._file = str(file)
    return recipe


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


def _validate(model: Any, settings: Any, path: list) -> Any:
    try:
        return TypeAdapter(model).validate_python(settings)
    except ValidationError as error:
        where, value, text = _first(error, model)
        raise _nested([*path, *where], value, text) from None


def _nested(path: list, value: Any, text: str) -> PydanticCustomError:
    return PydanticCustomError("nested", "{text}", {"text": text, "path": path, "value": value})


def explain(error: ValidationError, model: Any) -> str:
    """The first error in one sentence: `sources.dclm.steps.repetition.top_2gran = 0.2: unknown key; did you mean top_2gram?`"""
    path, value, text = _first(error, model)
    where = ".".join(str(p) for p in path)
    shown = "" if value is None or isinstance(value, Mapping | BaseModel) else f" = {value!r}"
    more = error.error_count() - 1
    where = f"{where}{shown}: " if where or shown else ""
    return f"{where}{text}" + (f" (and {more} more)" if more else "")


def _first(error: ValidationError, model: Any) -> tuple[list, Any, str]:
    details = error.errors(include_url=False)[0]
    path, value, text = list(details["loc"]), details["input"], details["msg"]
    if details["type"] == "nested":
        context = details.get("ctx", {})
        return path + list(context["path"]), context["value"], context["text"]
    path = [p for p in path if not (isinstance(p, str) and (p.startswith(("function-", "tagged-")) or "[" in p))]
    if details["type"] == "extra_forbidden":
        owner = _model_at(model, path[:-1])
        names = list(owner.model_fields) if owner else []
        return path, value, "unknown key" + nearest(str(path[-1]), names)
    if details["type"] in ("model_type", "dict_type"):
        owner = _model_at(model, path)
        keys = f" with the keys {', '.join(owner.model_fields)}" if owner and details["type"] == "model_type" else ""
        return path, value, f"must be a mapping{keys}" + (", and is empty" if value is None else "")
    if details["type"] == "missing":
        return path, None, "this key is needed"
    return (
        path,
        value,
        text.removeprefix("Value error, ").removeprefix("Input should be ").replace("Field required", ""),
    )


def _model_at(model: Any, path: list) -> type[BaseModel] | None:
    """The pydantic model that a path of keys leads to, through dicts, tuples and unions by tag."""
    candidates = [model]
    for part in [None, *path]:
        found: list[Any] = []
        for candidate in candidates:
            for plain in _unwrap(candidate):
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
    models = [p for c in candidates for p in _unwrap(c) if isinstance(p, type) and issubclass(p, BaseModel)]
    return models[0] if models else None


def _tags(model: type[BaseModel]) -> list[Any]:
    """The values of a union's tag field that choose this model (`method: minhash`)."""
    return [
        a
        for field in model.model_fields.values()
        if get_origin(field.annotation) is Literal
        for a in get_args(field.annotation)
    ]


def _unwrap(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _unwrap(get_args(annotation)[0])
    if origin is not None and origin not in (dict, tuple, list, Literal):
        return [plain for inner in get_args(annotation) for plain in _unwrap(inner)]
    return [annotation]


__all__ = ["Count", "Recipe", "RecipeError", "build_recipe", "dump", "explain", "load_recipe", "read_steps"]
