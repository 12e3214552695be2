"""Any filter or formatter of datatrove as a step, at datatrove's own speed."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import traceback
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import orjson
import pyarrow as pa
from pydantic import Field, PrivateAttr

from stages.document import document_hash, replace_column
from stages.errors import DocumentFailure, DocumentsFailed, UserError
from stages.step import Limit, Measures, Step, limit

HOMES = ("datatrove.pipeline.filters", "datatrove.pipeline.formatters")


class DatatroveBlock(Step):
    """A filter or formatter of datatrove, or of another package built on its base classes, named by `block`.

    `block` is the name of a class in datatrove.pipeline.filters or datatrove.pipeline.formatters, or a dotted path to a
    class elsewhere; `args` are its arguments, those that YAML can hold (a filter by a function is the step `python`).
    A filter's answer becomes the measures `keep` (1 or 0) and `reason`, and the reason stands in the ledger in datatrove's
    own words: `datatrove.gopher_short_doc`; where it gives none, `datatrove.keep.min`. Text that the block changed (a
    formatter, C4QualityFilter's lines) is changed in the batch.

    Two things are set so that results do not depend on how documents are batched: a block that draws random numbers from
    `uniform` draws them from a generator seeded by the document's id and the seed that `args` names, and PIIFormatter
    begins each document with its first replacement.
    Needs datatrove: UserError names the package. Whatever a block loads or downloads by itself it does here too.
    """

    step: ClassVar[str] = "datatrove"
    other_measures: ClassVar[Mapping[str, str]] = {"reason": "The filter's own reason; null where it gives none."}

    block: str = Field(min_length=1)
    """The class: its name in datatrove.pipeline.filters or .formatters, or a dotted path to one elsewhere."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Its arguments."""
    keep: Limit = limit(min=1)
    """The filter's answer as a number. `keep: null` only measures: nothing is dropped."""

    _block: Any = PrivateAttr(default=None)

    def code(self) -> str:
        """The version of the package that the block's class is from."""
        return _version(self._class().__module__.split(".")[0])

    def prepare(self) -> None:
        """Make the block. Raises UserError where datatrove is not installed, or `block` and `args` name no block."""
        if self._block is None:
            self._block = self._make()

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The batch with the block's texts, and `keep` (float64) and `reason` (string; null where there is none)."""
        self.prepare()
        keep, reasons, texts = np.ones(docs.num_rows), [None] * docs.num_rows, [None] * docs.num_rows
        failures: list[DocumentFailure] = []
        changed = False
        for row, document in enumerate(_documents(docs)):
            text = document.text
            try:
                keep[row], reasons[row] = self._ask(document)
                if not isinstance(document.text, str):
                    raise TypeError(f"{self.block} made {type(document.text).__name__} of the text")
                document.text.encode()
            except (ImportError, UserError) as error:
                raise UserError(f"datatrove's {self.block} cannot run: {error}") from error
            except Exception as error:
                failures.append(DocumentFailure(row, f"{type(error).__name__}: {error}", traceback.format_exc()))
            texts[row] = document.text
            changed |= document.text is not text and document.text != text
        good = np.setdiff1d(np.arange(docs.num_rows), [f.row for f in failures])
        if changed:
            texts = [
                text if row_ok else ""
                for text, row_ok in zip(texts, np.isin(np.arange(docs.num_rows), good), strict=True)
            ]
            docs = replace_column(docs, "text", pa.array(texts, pa.large_string()))
        measures = {"keep": keep, "reason": pa.array(reasons, pa.string())}
        if failures:
            rows = pa.array(good)
            result = {"keep": keep[good], "reason": measures["reason"].take(rows)}
            raise DocumentsFailed(failures, (docs.take(rows), result), good)
        return docs, measures

    def drop_reasons(self, verdict: np.ndarray, measures: Measures) -> list[str]:
        """The filter's own reason for each dropped document."""
        reasons = super().drop_reasons(verdict, measures)
        if "reason" not in measures:
            return reasons
        own = pa.array(measures["reason"]).filter(pa.array(verdict >= 0)).to_pylist()
        return [mine or reason for mine, reason in zip(own, reasons, strict=True)]

    def _ask(self, document: Any) -> tuple[float, str | None]:
        """One document through the block: whether it stays, and the reason. Its text is changed in place."""
        block = self._block
        if hasattr(block, "uniform"):
            block.uniform = np.random.default_rng(document_hash(document.id, str(self.args.get("seed")))).uniform
        if hasattr(block, "format"):
            for replacer in (getattr(block, name, None) for name in ("emails_replacer", "ip_replacer")):
                if replacer is not None:
                    replacer._replace_i = 0
            document.text = block.format(document.text)
            return 1.0, None
        answer = block.filter_batch([document])[0]
        kept, reason = answer if isinstance(answer, tuple) else (answer, None)
        return (1.0 if kept else 0.0), None if kept or reason is None else str(reason)

    def _class(self) -> type:
        try:
            homes = [importlib.import_module(home) for home in HOMES]
        except ImportError as error:
            raise UserError(
                f"the step datatrove needs the package datatrove: pip install datatrove ({error})"
            ) from None
        if "." in self.block:
            module, _, name = self.block.rpartition(".")
            try:
                found = getattr(importlib.import_module(module), name, None)
            except ImportError as error:
                raise UserError(f"datatrove.block = {self.block}: {error}") from None
        else:
            found = next((getattr(home, self.block) for home in homes if hasattr(home, self.block)), None)
        bases = _bases()
        if not (isinstance(found, type) and issubclass(found, bases)):
            known = sorted(name for home in homes for name, value in vars(home).items() if isinstance(value, type))
            raise UserError(
                f"datatrove.block = {self.block}: no such filter or formatter; there are {', '.join(known)}, "
                "or name a class of your own as package.module.Class"
            )
        return found

    def _make(self) -> Any:
        kind = self._class()
        try:
            return kind(**self.args)
        except ImportError as error:
            raise UserError(f"datatrove's {self.block} needs a package more: {error}") from None
        except (TypeError, ValueError) as error:
            raise UserError(f"datatrove.args of {self.block}: {error}; it takes {inspect.signature(kind)}") from None


def _bases() -> tuple[type, ...]:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.formatters.base import BaseFormatter

    return BaseFilter, BaseFormatter


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package


def _documents(docs: pa.RecordBatch) -> Any:
    """datatrove's documents of a batch's rows, one at a time; the record's other fields, and its URL, are its metadata."""
    from datatrove.data import Document

    columns = [docs.column(name) for name in ("id", "text", "url", "metadata")]
    for name, text, url, metadata in zip(*columns, strict=True):
        fields = orjson.loads(metadata.as_py()) if metadata.is_valid else {}
        if url.is_valid:
            fields.setdefault("url", url.as_py())
        yield Document(text=text.as_py(), id=name.as_py(), metadata=fields)
