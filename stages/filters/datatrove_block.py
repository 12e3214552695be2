"""Any filter, formatter or stat of datatrove as a step, at datatrove's own speed."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
import traceback
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import orjson
import pyarrow as pa
from pydantic import ConfigDict, Field, PrivateAttr

from stages.document import document_hash, replace_column
from stages.errors import DocumentFailure, DocumentsFailed, UserError
from stages.step import Bounds, Labels, Limit, Measures, Step, limit

HOMES = ("datatrove.pipeline.filters", "datatrove.pipeline.formatters", "datatrove.pipeline.stats")
NUMBER = re.compile(r"[^A-Za-z0-9_]")


class DatatroveBlock(Step):
    """A filter, formatter or stat of datatrove, or of another package built on its base classes, named by `block`.

    `block` is the name of a class in datatrove.pipeline.filters, .formatters or .stats, or a dotted path to a class
    elsewhere; `args` are its arguments, those that YAML can hold (a filter by a function is the step `python`).
    A filter's answer becomes the measures `keep` (1 or 0) and `reason`, and the reason stands in the ledger in datatrove's
    own words: `datatrove.gopher_short_doc`; where it gives none, `datatrove.keep.min`. Text that the block changed (a
    formatter, C4QualityFilter's lines) is changed in the batch. Each number of a stats block (DocStats, LineStats, ...) is a
    measure by its own name, on which `limits` sets limits; its output folder and groups are not needed: what is measured stands
    in the parts, document by document.

    Two things are set so that results do not depend on how documents are batched: a block that draws random numbers from
    `uniform` draws them from a generator seeded by the document's id and the seed that `args` names, and PIIFormatter
    begins each document with its first replacement.
    Whatever a block loads or downloads by itself it does here too; UserError names a package that it needs besides.
    """

    step: ClassVar[str] = "datatrove"
    other_measures: ClassVar[Mapping[str, str]] = {"reason": "The filter's own reason; null where it gives none."}

    block: str = Field(min_length=1)
    """The class: its name in datatrove.pipeline.filters or .formatters, or a dotted path to one elsewhere."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Its arguments."""
    keep: Limit = limit(min=1)
    """The filter's answer as a number. `keep: null` only measures: nothing is dropped."""
    limits_of: dict[str, Limit] = Field(default_factory=dict, alias="limits")
    """Of a stats block: the number's name -> its limit, as [min, max]."""

    model_config = ConfigDict(populate_by_name=True)  # `limits` in recipes: as an attribute, that is the method

    _block: Any = PrivateAttr(default=None)
    _numbers: tuple[str, ...] = PrivateAttr(default=())

    def limits(self) -> dict[str, Bounds | Labels]:
        """`keep`, and the limits on the numbers of a stats block."""
        return {**super().limits(), **self.limits_of}

    def settings(self) -> dict[str, Any]:
        """All fields but the limits."""
        return {name: value for name, value in super().settings().items() if name != "limits_of"}

    def code(self) -> str:
        """The version of the package that the block's class is from."""
        return _version(self._class().__module__.split(".")[0])

    def prepare(self) -> None:
        """Make the block. Raises UserError where `block` and `args` name none, or it needs a package that is not installed."""
        if self._block is None:
            self._block = self._make()
            if hasattr(self._block, "extract_stats"):
                self._numbers = tuple(self._stats(_example()))
                if unknown := [name for name in self.limits_of if name not in self._numbers]:
                    raise UserError(
                        f"datatrove.limits.{unknown[0]}: {self.block} gives no such number; it gives {', '.join(self._numbers)}"
                    )
            elif self.limits_of:
                raise UserError(f"datatrove.limits: {self.block} is no stats block: it gives no numbers")

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The batch with the block's texts, and `keep` (float64) and `reason` (string; null where there is none)."""
        self.prepare()
        if self._numbers:
            return docs, self._measured(docs)
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

    def _measured(self, docs: pa.RecordBatch) -> Measures:
        """The numbers of a stats block for each document (float64). Raises DocumentsFailed for those that it raises on."""
        values = np.full((len(self._numbers), docs.num_rows), np.nan)
        failures: list[DocumentFailure] = []
        for row, document in enumerate(_documents(docs)):
            try:
                found = self._stats(document)
                values[:, row] = [found.get(name, np.nan) for name in self._numbers]
            except ImportError as error:
                raise UserError(f"datatrove's {self.block} cannot run: {error}") from error
            except Exception as error:
                failures.append(DocumentFailure(row, f"{type(error).__name__}: {error}", traceback.format_exc()))
        if failures:
            good = np.setdiff1d(np.arange(docs.num_rows), [f.row for f in failures])
            result = dict(zip(self._numbers, values[:, good], strict=True))
            raise DocumentsFailed(failures, (docs.take(pa.array(good)), result), good)
        return dict(zip(self._numbers, values, strict=True))

    def _stats(self, document: Any) -> dict[str, float]:
        return {NUMBER.sub("_", name): float(value) for name, value in self._block.extract_stats(document).items()}

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
        homes = [importlib.import_module(home) for home in HOMES]
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
                f"datatrove.block = {self.block}: no such filter, formatter or stat; there are {', '.join(known)}, "
                "or name a class of your own as package.module.Class"
            )
        return found

    def _make(self) -> Any:
        kind = self._class()
        try:
            if issubclass(kind, _bases()[2]):  # nothing is written there
                return kind(**{"output_folder": "memory://headrace", "groups_to_compute": ["summary"]} | self.args)
            return kind(**self.args)
        except ImportError as error:
            raise UserError(f"datatrove's {self.block} needs a package more: {error}") from None
        except (TypeError, ValueError) as error:
            raise UserError(f"datatrove.args of {self.block}: {error}; it takes {inspect.signature(kind)}") from None


def _bases() -> tuple[type, ...]:
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.formatters.base import BaseFormatter
    from datatrove.pipeline.stats.base import BaseStats

    return BaseFilter, BaseFormatter, BaseStats


def _example() -> Any:
    """A document to see by which numbers a stats block gives."""
    from datatrove.data import Document

    return Document(text="One sentence of a text.\nAnother one, on a line of its own.\n", id="example", metadata={})


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
