"""The protocol of a step: measure, decide, edit.

A step is one entry of a source's list in the recipe. Its class is its configuration (pydantic, so a recipe is checked
when it is loaded), and its methods are what it does to one batch:

    class WordLength(Step):
        '''Mean word length in characters.'''
        step = "word_length"
        mean: Limit = limit(min=3, max=10)          # a limit on the measure of the same name

        def measure(self, docs: pa.RecordBatch) -> Measures:
            data, offsets = text_buffers(docs.column("text"))
            return {"mean": mean_word_length(data, offsets)}

All else is in the base and the runner: the limits decide which documents go, with the recipe's own key as the reason
(`word_length.mean.max`), the measures are kept beside the document, the books are balanced, and a document that
raises is quarantined. Measures never depend on limits: that is what lets a changed limit be decided again
without running a kernel.

A step that changes documents (extraction, line edits) defines `edit` in place of `measure`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stages.marks import in_key
from stages.user_code import add_folder, code_digest, folder_of, load

Measures = Mapping[str, "np.ndarray | pa.Array"]
"""Measure name -> one value a document: float64, int64, bool or string; NaN or null means not measured, and passes."""


class Settings(BaseModel):
    """Base of everything a recipe holds: unknown keys are refused, values are frozen."""

    # Of all the steps and formats that a recipe may name, pydantic builds the checks of those that it does name.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)


class Bounds(Settings):
    """A document passes when min <= measure <= max; a bound left out does not limit."""

    min: float | None = None
    """The least value that passes."""
    max: float | None = None
    """The greatest value that passes."""

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: no document could pass")
        return self

    def decide(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Which documents each bound drops: {"min": mask, "max": mask}. NaN passes."""
        drops = {}
        if self.min is not None:
            drops["min"] = values < self.min
        if self.max is not None:
            drops["max"] = values > self.max
        return drops


class Labels(Settings):
    """A document passes when its (string) measure is one of `keep`."""

    keep: tuple[str, ...]
    """The values that pass."""

    def decide(self, values: pa.Array) -> dict[str, np.ndarray]:
        """Which documents are dropped: {"keep": mask}. Null passes."""
        kept = pc.is_in(values, value_set=pa.array(self.keep, values.type))
        return {"keep": ~(np.asarray(kept) | np.asarray(pc.is_null(values)))}


def limit(*, min: float | None = None, max: float | None = None) -> Any:
    """The default of a `Limit` field. In the recipe a plain number stands for the one bound that the default sets."""
    side = None if min is not None and max is not None else "min" if min is not None else "max"
    return Field(default=Bounds(min=min, max=max), json_schema_extra={"limit": side})


def _read_limit(value: Any) -> Any:
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError("a limit in brackets has two numbers: [min, max]")
        return {"min": value[0], "max": value[1]}
    if value is None:
        return {}
    if isinstance(value, str):
        raise ValueError("a limit is a number, or two in brackets: [min, max]")
    return value


def _read_labels(value: Any) -> Any:
    if isinstance(value, str):
        return {"keep": [value]}
    if isinstance(value, list | tuple):
        return {"keep": value}
    return value


Limit = Annotated[
    Bounds, BeforeValidator(_read_limit, json_schema_input_type=Bounds | float | tuple[float | None, float | None] | None)
]
OneOf = Annotated[Labels, BeforeValidator(_read_labels, json_schema_input_type=Labels | str | list[str])]


class Step(Settings):
    """Base of all steps. Set `step` (the recipe's name for it) and define `measure` or `edit`."""

    step: ClassVar[str]
    takes_pages: ClassVar[bool] = False  # True for a step that makes text of `html`, which is gone after it
    other_measures: ClassVar[Mapping[str, str]] = {}  # measures without a limit, each with its meaning
    tallies: ClassVar[tuple[str, ...]] = ()  # measures whose sum over all documents is told in a run's summary
    version: ClassVar[int] = 1  # raise it when the same settings give other results than before

    @model_validator(mode="before")
    @classmethod
    def _plain_numbers_are_limits(cls, values: Any) -> Any:
        """Let the recipe write `top_2gram: 0.2` for `top_2gram: {max: 0.2}`."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and "limit" in extra and isinstance(values.get(name), int | float):
                side = extra["limit"]
                if isinstance(values[name], bool):
                    raise ValueError(f"{name}: a limit is a number, not {values[name]}")
                if side is None:
                    raise ValueError(f"{name}: this limit has two sides; write [min, max], or {{min: {values[name]}}}")
                values[name] = {str(side): values[name]}
        return values

    def prepare(self) -> None:
        """Load what the step needs (a model, a word list), once a process, before the first batch. Idempotent."""

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """Measures of each document of the batch, by name. Must not depend on the limits."""
        return {}

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The batch with documents changed (same rows, same order), and measures of what was done."""
        return docs, self.measure(docs)

    def edits(self) -> bool:
        """Whether the step changes documents. One that does so by some settings alone overrides this."""
        return type(self).edit is not Step.edit

    def limits(self) -> dict[str, Bounds | Labels]:
        """Measure name -> the limit that the recipe sets on it, in the order in which they decide."""
        return {
            name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Bounds | Labels)
        }

    def settings(self) -> dict[str, Any]:
        """All fields but the limits: what the measures and edits depend on (with `version`), as JSON values.

        Files that the step names count by their content, which is not in here (`stages.marks.named_files`).
        """
        limits = self.limits()
        return {
            "step": self.step,
            "version": self.version,
            **{k: v for k, v in in_key(self).items() if k not in limits},
        }

    def code(self) -> str | None:
        """A hash of code outside this project that the step runs, for the keys of tasks; None for none.

        Of a class outside of it that is its own source, and what that imports from beside it.
        """
        kind = type(self)
        return code_digest(f"{kind.__module__}:{kind.__qualname__}") if _is_user_class(kind) else None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A user's class is found by its folder in other processes, which need not have it on their path."""
        kind = type(self)
        if not _is_user_class(kind):
            return super().__reduce_ex__(protocol)
        return _of_user, (folder_of(kind.__module__), f"{kind.__module__}:{kind.__qualname__}", self.__getstate__())

    def decide(self, measures: Measures) -> np.ndarray:
        """For each document the index into `reasons()` of the limit that drops it, or -1 where it is kept (int32)."""
        verdict: np.ndarray | None = None
        reason = 0
        for name, bounds in self.limits().items():
            values = measures.get(name)
            sides = (
                ["keep"]
                if isinstance(bounds, Labels)
                else [s for s in ("min", "max") if getattr(bounds, s) is not None]
            )
            if values is None:
                reason += len(sides)
                continue
            if isinstance(bounds, Bounds):
                values = np.asarray(values, np.float64)
            drops = bounds.decide(values)
            if verdict is None:
                verdict = np.full(len(values), -1, np.int32)
            for side in sides:
                verdict[(verdict < 0) & drops[side]] = reason
                reason += 1
        if verdict is None:
            length = len(next(iter(measures.values()))) if measures else 0
            verdict = np.full(length, -1, np.int32)
        return verdict

    def reasons(self) -> list[str]:
        """The reasons that `decide` may give, each the key in the recipe of the limit that drops: `word_length.mean.max`."""
        found = []
        for name, bounds in self.limits().items():
            sides = (
                ["keep"]
                if isinstance(bounds, Labels)
                else [s for s in ("min", "max") if getattr(bounds, s) is not None]
            )
            found += [f"{name}.{side}" for side in sides]
        return found

    def drop_reasons(self, verdict: np.ndarray, measures: Measures) -> list[str]:
        """The reason of each document that `verdict` (of `decide`) drops, in order, without the step's name.

        A step that knows better than its limits why a document goes overrides this: with what its measures say.
        """
        reasons = self.reasons()
        return [reasons[index] for index in verdict[verdict >= 0]]


def _is_user_class(kind: type[Step]) -> bool:
    return not kind.__module__.startswith("stages.")


def _of_user(folder: str, path: str, state: Any) -> Step:
    """A step of a user's class, as another process made it."""
    add_folder(folder)
    kind: Any = load(path)
    step = kind.__new__(kind)
    step.__setstate__(state)
    return step


def content_key(*parts: Any) -> str:
    """A short name (20 hex digits) for any JSON-able settings: equal settings, equal key, on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
