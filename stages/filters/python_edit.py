"""A user's own edit: a Python function that gives each document another text (docs/user-filters.md)."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr

from stages.document import replace_column
from stages.errors import DocumentFailure, DocumentsFailed, UserError
from stages.step import Measures, Step
from stages.user_code import code_digest, load


class PythonEdit(Step):
    """Changes texts by a Python function; all documents stay.

    `function` is found as the step `python` finds it. With `per: document` it is called with one document's text (str) and
    returns the new one; with `per: batch` with a pyarrow.RecordBatch, and returns one text a document, in order, as an Arrow
    array or a list. None: the text stays as it is. The measure `changed` is 1 for a document whose text is another one.
    """

    step: ClassVar[str] = "python_edit"
    tallies: ClassVar[tuple[str, ...]] = ("changed",)
    other_measures: ClassVar[Mapping[str, str]] = {"changed": "1 where the text is another one"}

    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """The function, as `package.module:name`."""
    per: Literal["document", "batch"] = "document"
    """What it is called with: one document's text, or a batch of documents."""
    edition: int = 1
    """Raise it when something that the function uses, and that is no module beside it, has changed."""

    _function: Callable[[Any], Any] | None = PrivateAttr(default=None)

    def code(self) -> str:
        """A hash of the function's module and of what it imports from beside it. Raises UserError where it is not found."""
        load(self.function)
        return code_digest(self.function)

    def prepare(self) -> None:
        """Import the function. Raises UserError where it is not found, or its module cannot be imported."""
        if self._function is None:
            self._function = load(self.function)

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The batch with the function's texts, and `changed` (int64). Raises DocumentsFailed for those that it raises on."""
        self.prepare()
        function: Any = self._function
        if docs.num_rows == 0:
            return docs, {"changed": np.zeros(0, np.int64)}
        if self.per == "batch":
            return self._with(docs, self._texts(function(docs), docs.num_rows))
        texts: list[str | None] = [None] * docs.num_rows
        failures = []
        for row, text in enumerate(docs.column("text").to_pylist()):
            try:
                texts[row] = _text(function(text))
            except Exception as error:
                failures.append(DocumentFailure(row, f"{type(error).__name__}: {error}", traceback.format_exc()))
        if failures:
            good = np.setdiff1d(np.arange(docs.num_rows), [f.row for f in failures])
            rows = pa.array(good)
            result = self._with(docs.take(rows), pa.array(texts, pa.large_string()).take(rows))
            raise DocumentsFailed(failures, result, good)
        return self._with(docs, pa.array(texts, pa.large_string()))

    def _with(self, docs: pa.RecordBatch, texts: pa.Array) -> tuple[pa.RecordBatch, Measures]:
        before = docs.column("text")
        after = pc.coalesce(texts, before)
        return replace_column(docs, "text", after), {"changed": pc.not_equal(before, after).cast(pa.int64())}

    def _texts(self, found: Any, rows: int) -> pa.Array:
        if isinstance(found, pa.ChunkedArray):
            found = found.combine_chunks()
        texts = found if isinstance(found, pa.Array) else pa.array(found, pa.large_string())
        if len(texts) != rows:
            raise UserError(f"step python_edit: {self.function} returned {len(texts)} texts for {rows} documents")
        return texts.cast(pa.large_string())


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"the function returned {type(value).__name__}, and a text (str) or None is needed")
    if value is not None:
        value.encode()  # half of a surrogate pair is no text
    return value
