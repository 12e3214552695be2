"""A user's own measure: a Python function, named in the recipe by its import path (docs/user-filters.md)."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from stages.errors import DocumentFailure, DocumentsFailed, UserError
from stages.step import Bounds, Measures, Step

_loaded: dict[str, str] = {}  # module name -> hash of the source that was executed


def add_folder(folder: str | Path) -> None:
    """Let functions be found in this folder too, behind all that Python finds already. Idempotent."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


class PythonFunction(Step):
    """A measure by a Python function, and a limit on it.

    `function` is `package.module:name`, found as Python finds modules, and in the recipe's folder. With `per: document` it
    is called with one document's text (str) and returns a number; with `per: batch` with a pyarrow.RecordBatch (columns of
    stages.document.DOCUMENT and the measures of earlier steps, `step.measure`) and returns one number a document, in
    order, as a NumPy or Arrow array or a list. None and NaN mean not measured, and pass.

    The measure and its reasons are named by `measure`: `python.vowel_share`, `python.vowel_share.min`. The source file of
    the function is part of what decides the results: when it is edited, the step runs again (files that it imports are
    not looked at: raise `edition` when these change).
    """

    model_config = ConfigDict(populate_by_name=True)  # `measure` in recipes: as an attribute, that is the method

    step: ClassVar[str] = "python"

    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    measure_name: str = Field(alias="measure", pattern=r"^[a-z][a-z0-9_]*$")
    per: Literal["document", "batch"] = "document"
    min: float | None = None
    max: float | None = None
    edition: int = 1

    _function: Callable[[Any], Any] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _ordered(self) -> PythonFunction:
        Bounds(min=self.min, max=self.max)
        return self

    def limits(self) -> dict[str, Bounds]:
        """The one limit, under the measure's name."""
        return {self.measure_name: Bounds(min=self.min, max=self.max)}

    def settings(self) -> dict[str, Any]:
        """All fields but min and max."""
        fields = {k: v for k, v in self.model_dump(mode="json").items() if k not in ("min", "max")}
        return {"step": self.step, "version": self.version, **fields}

    def code(self) -> str:
        """A hash of the function's source file. Raises UserError where the function is not found."""
        path = _source(_module_name(self.function))
        load(self.function)
        return _digest(path)

    def prepare(self) -> None:
        """Import the function. Raises UserError where it is not found, or its module cannot be imported."""
        if self._function is None:
            self._function = load(self.function)

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """The function's value for each document (float64). Raises DocumentsFailed for those that it raises on."""
        self.prepare()
        if docs.num_rows == 0:
            return {self.measure_name: np.zeros(0)}
        if self.per == "batch":
            return {self.measure_name: self._numbers(self._function(docs), docs.num_rows)}
        values, failures = np.full(docs.num_rows, np.nan), []
        for row, text in enumerate(docs.column("text")):
            try:
                value = self._function(text.as_py())
                values[row] = np.nan if value is None else float(value)
            except Exception as error:
                failures.append(DocumentFailure(row, f"{type(error).__name__}: {error}", traceback.format_exc()))
        if failures:
            good = np.setdiff1d(np.arange(docs.num_rows), [f.row for f in failures])
            raise DocumentsFailed(failures, (docs.take(pa.array(good)), {self.measure_name: values[good]}), good)
        return {self.measure_name: values}

    def _numbers(self, found: Any, rows: int) -> np.ndarray:
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        if not isinstance(found, np.ndarray):
            found = found if isinstance(found, pa.Array) else pa.array(found)
            if pa.types.is_boolean(found.type):
                found = found.cast(pa.int8())
            found = found.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        if found.shape != (rows,):
            raise UserError(
                f"step python: {self.function} returned shape {found.shape} for {rows} documents, not ({rows},)"
            )
        return found.astype(np.float64)


def load(function: str) -> Callable[[Any], Any]:
    """The function of an import path `package.module:name`; imported anew where its file was edited since.

    Raises UserError where there is no such module or function, or where importing it raises.
    """
    name, attribute = _module_name(function), function.split(":")[1]
    module = _import(name)
    found = getattr(module, attribute, None)
    if not callable(found):
        there = [key for key, value in vars(module).items() if callable(value) and value.__module__ == name]
        raise UserError(f"function {function}: {name} has no function {attribute}; it has {', '.join(there) or 'none'}")
    return found


def _module_name(function: str) -> str:
    return function.split(":")[0]


def _source(name: str) -> Path:
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise UserError(
            f"function {name}: there is no module {name} on Python's path or in the recipe's folder; "
            "put the file beside the recipe, or its folder on PYTHONPATH"
        )
    return Path(spec.origin)


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=10).hexdigest()


def _import(name: str) -> ModuleType:
    path = _source(name)
    digest = _digest(path)
    try:
        module = importlib.import_module(name)
        if _loaded.get(name, digest) != digest:
            # Without the cached bytecode, which is told apart by whole seconds and size alone.
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    except Exception as error:
        raise UserError(f"function {name}: importing {path} raised {type(error).__name__}: {error}") from error
    _loaded[name] = digest
    return module
