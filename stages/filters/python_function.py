"""A user's own measure: a Python function, named in the recipe by its import path (docs/user-filters.md)."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from stages.errors import DocumentFailure, DocumentsFailed, UserError
from stages.step import Bounds, Labels, Measures, Step
from stages.user_code import code_digest, load


class PythonFunction(Step):
    """A measure by a Python function, and a limit on it.

    `function` is `package.module:name`, found as Python finds modules, and in the recipe's folder. With `per: document` it
    is called with one document's text (str) and returns a number; with `per: batch` with a pyarrow.RecordBatch (columns of
    stages.document.DOCUMENT and the measures of earlier steps, `step.measure`) and returns one number a document, in
    order, as a NumPy or Arrow array or a list. None and NaN mean not measured, and pass.

    The measure and its reasons are named by `measure`: `python.vowel_share`, `python.vowel_share.min`. The source of the
    function's module, and of the modules beside it that it imports, is part of what decides the results: when one is
    edited, the step runs again (packages that it imports are not looked at: raise `edition` when these change).
    """

    model_config = ConfigDict(populate_by_name=True)  # `measure` in recipes: as an attribute, that is the method

    step: ClassVar[str] = "python"
    other_measures: ClassVar[Mapping[str, str]] = {"MEASURE": "What the function returned; `measure` gives its name."}

    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:name`, found as Python finds modules, and in the recipe's folder."""
    measure_name: str = Field(alias="measure", pattern=r"^[a-z][a-z0-9_]*$")
    """What the measure is called: small letters, digits and _."""
    per: Literal["document", "batch"] = "document"
    """What the function is called with: one document's text, or a batch of documents."""
    min: float | None = None
    """Documents below this are dropped; left out, none."""
    max: float | None = None
    """Documents above this are dropped; left out, none."""
    edition: int = 1
    """Raise it when something that the function uses, and that is no module beside it, has changed."""

    _function: Callable[[Any], Any] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _ordered(self) -> PythonFunction:
        Bounds(min=self.min, max=self.max)
        return self

    def limits(self) -> dict[str, Bounds | Labels]:
        """The one limit, under the measure's name."""
        return {self.measure_name: Bounds(min=self.min, max=self.max)}

    def settings(self) -> dict[str, Any]:
        """All fields but min and max."""
        fields = {k: v for k, v in self.model_dump(mode="json").items() if k not in ("min", "max")}
        return {"step": self.step, "version": self.version, **fields}

    def code(self) -> str:
        """A hash of the function's module and of what it imports from beside it. Raises UserError where it is not found."""
        load(self.function)
        return code_digest(self.function)

    def prepare(self) -> None:
        """Import the function. Raises UserError where it is not found, or its module cannot be imported."""
        self._loaded()

    def _loaded(self) -> Callable[[Any], Any]:
        if self._function is None:
            self._function = load(self.function)
        return self._function

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """The function's value for each document (float64). Raises DocumentsFailed for those that it raises on."""
        function = self._loaded()
        if docs.num_rows == 0:
            return {self.measure_name: np.zeros(0)}
        if self.per == "batch":
            return {self.measure_name: self._numbers(function(docs), docs.num_rows)}
        values, failures = np.full(docs.num_rows, np.nan), []
        for row, text in enumerate(docs.column("text")):
            try:
                value = function(text.as_py())
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
