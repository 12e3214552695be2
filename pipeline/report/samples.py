"""Some documents of a source to look at: of the kept, and of those dropped for each reason, the same ones every time.

A document is taken by the hash of its file and record: the sample is the lowest hashes of what the parts hold.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.questions.measured import MeasuredValue, document_keys, measures_of_row
from pipeline.run_folder.finished import FinishedRun, Row, SourceParts
from stages.dedup.address import read_rows
from stages.document import text_buffers
from stages.kernels.hashing import hash_texts
from stages.step import Step

SEED = 0x5EED
REASONS = 24  # of a source of which documents are shown: those that dropped most of them in the parts read

Pick = tuple[int, str, int, str | None]  # minus the hash, path, row, copy that stays: in a heap of the lowest hashes


class StepMeasure(MeasuredValue, frozen=True, kw_only=True):
    """What a step of this name measured of a document."""

    step: str


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A sampled document. text: its beginning (`cut`: there is more), None where it was let go."""

    id: str | None
    url: str | None
    file: str
    record: int
    bytes: int | None
    text: str | None
    cut: bool
    representative: str | None  # the id of the copy that stays
    measures: list[StepMeasure]


class OfReason(msgspec.Struct, frozen=True):
    """Some of the documents that were dropped for a reason."""

    reason: str
    documents: list[Document]


class Samples(msgspec.Struct, frozen=True):
    """Some documents of a source."""

    kept: list[Document]
    dropped: list[OfReason]

    def all(self) -> list[Document]:
        return [*self.kept, *(document for entry in self.dropped for document in entry.documents)]


def samples_of(
    run: FinishedRun, source: SourceParts, ordinals: list[int], each: int, chars: int
) -> tuple[Samples, list[str]]:
    """Documents of the parts named; and what is missing.

    each: documents shown for a reason, and kept ones to stand beside them. chars: of each text.
    """
    missing: list[str] = []
    kept: list[Pick] = []
    dropped = _ByReason(each)
    last = len(source.parts) - 1
    for ordinal in ordinals:
        for parts in source.parts:
            if (path := parts[ordinal].dropped) is not None:
                for start, batch in run.rows(path, ["file", "record", "reason"]):
                    rows = np.arange(start, start + batch.num_rows)
                    dropped.add(path, rows, _hashes(document_keys(batch)), batch.column("reason"))
        late = _dropped_late(run, source, ordinal)
        if last >= 0 and (path := source.parts[last][ordinal].kept) is not None:
            for start, batch in run.rows(path, ["file", "record"]):
                keys = document_keys(batch)
                hashes = _hashes(keys)
                place = pc.index_in(keys, value_set=late.keys)
                stays = np.asarray(place.is_null())
                rows = np.arange(start, start + batch.num_rows)
                _take(kept, path, rows[stays], hashes[stays], each * 4)  # they stand beside the reasons in turn
                place = place.drop_null()
                dropped.add(path, rows[~stays], hashes[~stays], late.reasons.take(place), late.copies.take(place))
        elif ordinal < len(source.tokens):
            path = source.tokens[ordinal].dropped
            dropped.add(path, np.arange(len(late.keys)), _hashes(late.keys), late.reasons, late.copies)
    counts, picked = dropped.counts, dropped.picked
    chosen = sorted(picked, key=lambda reason: (-counts[reason], reason))[:REASONS]
    steps = [item for item in run.recipe.sources[source.name].steps if isinstance(item[1], Step)]
    read = _read(run, [*kept, *(pick for reason in chosen for pick in picked[reason])], steps, chars)
    if last >= 0 and any(source.parts[last][o].kept is None for o in ordinals):
        missing.append(f"Kept documents: they were let go (run.keep is {run.recipe.run.keep}).")
    elif any(document.text is None for document in read.values()):
        missing.append(f"The text of some documents was let go (run.keep is {run.recipe.run.keep}).")
    found = [OfReason(reason, _in_order(picked[reason], read)) for reason in chosen]
    return Samples(_in_order(kept, read), found), missing


@dataclass
class _Late:
    """The documents of a part that went at the tokenizer: taken by the last dedup, or empty."""

    keys: pa.Array
    reasons: pa.Array
    copies: pa.Array  # the ids of the copies that stay; null for those that are no copies


def _dropped_late(run: FinishedRun, source: SourceParts, ordinal: int) -> _Late:
    found = []
    if ordinal < len(source.tokens):
        columns = ["file", "record", "reason", "representative"]
        found = [batch for _, batch in run.rows(source.tokens[ordinal].dropped, columns)]
    keys = [document_keys(batch) for batch in found]
    columns = [[batch.column(name) for batch in found] for name in ("reason", "representative")]
    return _Late(*(pa.concat_arrays(arrays or [pa.array([], pa.large_string())]) for arrays in (keys, *columns)))


def _hashes(keys: pa.Array) -> np.ndarray:
    """A hash (uint64) of each name."""
    data, offsets = text_buffers(keys)
    out = np.empty((len(keys), 2), np.uint64)
    hash_texts(data, offsets, np.uint64(SEED), out)
    return out[:, 0]


def _take(
    heap: list[Pick], path: str, rows: np.ndarray, hashes: np.ndarray, most: int, copies: pa.Array | None = None
) -> None:
    """Keep the `most` lowest hashes."""
    few = np.argpartition(hashes, most)[:most] if len(hashes) > most else np.arange(len(hashes))
    for i in few:
        copy = copies[int(i)].as_py() if copies is not None else None
        pick = (-int(hashes[i]), path, int(rows[i]), copy)
        if len(heap) < most:
            heapq.heappush(heap, pick)
        elif pick[:3] > heap[0][:3]:
            heapq.heapreplace(heap, pick)


@dataclass
class _ByReason:
    """The documents picked for each reason, and how many there were."""

    each: int
    picked: dict[str, list[Pick]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(
        self, path: str, rows: np.ndarray, hashes: np.ndarray, reasons: pa.Array, copies: pa.Array | None = None
    ) -> None:
        """Look at some rows of a part."""
        coded = reasons.dictionary_encode()
        codes = np.asarray(coded.indices)
        for code, reason in enumerate(coded.dictionary.to_pylist()):
            mine = np.flatnonzero(codes == code)
            self.counts[reason] = self.counts.get(reason, 0) + len(mine)
            theirs = copies.take(pa.array(mine)) if copies is not None else None
            _take(self.picked.setdefault(reason, []), path, rows[mine], hashes[mine], self.each, theirs)


def _in_order(heap: list[Pick], read: dict[tuple[str, int], Document]) -> list[Document]:
    return [
        msgspec.structs.replace(read[path, row], representative=copy) if copy else read[path, row]
        for _, path, row, copy in sorted(heap, key=lambda pick: pick[:3], reverse=True)
    ]


def _read(
    run: FinishedRun, picks: Iterable[Pick], steps: list[tuple[str, Step]], chars: int
) -> dict[tuple[str, int], Document]:
    """The documents picked, whole rows, of each part those row groups that hold one."""
    by_path: dict[str, set[int]] = {}
    for _, path, row, _ in picks:
        by_path.setdefault(path, set()).add(row)
    found = {}
    for path, rows in by_path.items():
        wanted = np.array(sorted(rows), np.int64)
        columns = [name for name in run.columns(path) if name not in ("metadata", "html", "row")]
        with storage.open_random(storage.join(run.uri, path)) as file:
            for piece, batch in read_rows(file, path, columns, wanted):
                for row, values in zip(wanted[piece].tolist(), batch.to_pylist(), strict=True):
                    found[path, row] = _document(values, steps, chars)
    return found


def _document(row: Row, steps: list[tuple[str, Step]], chars: int) -> Document:
    text, size = row.get("text"), row.get("bytes")
    return Document(
        id=row["id"],
        url=row["url"],
        file=storage.redact(row["file"]),
        record=row["record"],
        bytes=len(text.encode(errors="replace")) if size is None and text is not None else size,
        text=text[:chars] if text is not None else None,
        cut=text is not None and len(text) > chars,
        representative=row.get("representative"),
        measures=[
            StepMeasure(m.name, m.value, m.limit, m.passes, step=name)
            for name, step in steps
            for m in measures_of_row(name, step, row)
            if m.value is not None
        ],
    )
