"""Finding a document in a finished run: by its id, its URL, or the file and record that it was read from."""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.run_folder.finished import FinishedRun, Row, SourceParts
from pipeline.run_folder.manifest import SPLITS, shards_of
from stages.document import text_buffers
from stages.errors import UserError
from stages.tokens.shard_format import read_index

IDENTITY = ["id", "url", "file", "record", "offset"]


@dataclass
class Hit:
    """A document found: in which part of which source, and what that file says became of it there."""

    source: SourceParts
    stage: int  # of the segment; -1: in no part that is left, only in a shard's index
    ordinal: int
    kind: str  # kept, dropped, failed
    row: Row


def search(run: FinishedRun, query: str) -> list[Hit]:
    """The documents that a query names: by id, URL or FILE:RECORD. Raises UserError, with the nearest ids, where none does."""
    near = Nearest(query)
    hits = [hit for source in run.sources.values() for hit in _in_parts(run, source, 0, query, near)]
    if not hits:  # where `run.keep` removed the first parts, later ones and the shards may hold it
        for source in run.sources.values():
            for stage in range(1, len(source.parts)):
                hits += _in_parts(run, source, stage, query, near)
    if not hits:
        hits = [hit for source in run.sources.values() for hit in _in_token_files(run, source, query, near)]
    if not hits:
        hint = f"; near it are {', '.join(near.best())}" if near.best() else ""
        raise UserError(
            f"{run.uri} knows no document {query!r} by id, URL or FILE:RECORD{hint}. "
            "A document that was never read has no record: `python -m pipeline inspect --show 3` shows some ids"
        )
    by_id = [hit for hit in hits if hit.row["id"] == query]
    return by_id or hits


def _in_parts(run: FinishedRun, source: SourceParts, stage: int, query: str, near: Nearest) -> list[Hit]:
    found = []
    for ordinal, files in enumerate(source.parts[stage] if stage < len(source.parts) else ()):
        for kind, path in files.named():
            for start, batch in run.rows(path, IDENTITY):
                near.see(batch.column("id"))
                for row in np.flatnonzero(_matches(batch, query)):
                    found.append(Hit(source, stage, ordinal, kind, run.row(path, start + int(row))))
    return found


def _in_token_files(run: FinishedRun, source: SourceParts, query: str, near: Nearest) -> list[Hit]:
    """Documents of which only the token files know: dropped as copies or empty there, or in a shard."""
    found = []
    for ordinal, report in enumerate(source.tokens):
        if storage.exists(storage.join(run.uri, report.dropped)):
            for start, batch in run.rows(report.dropped):
                near.see(batch.column("id"))
                for row in np.flatnonzero(_matches(batch, query)):
                    found.append(Hit(source, -1, ordinal, "dropped", run.row(report.dropped, start + int(row))))
    for split in SPLITS:
        for shard in shards_of(run.manifest, source.name, split):
            with storage.open_stream(storage.join(run.uri, shard["index"])) as stream:
                for _, _, name, src, loc in read_index(stream):
                    if query in (name, f"{src}:{loc}", f"{src.rsplit('/', 1)[-1]}:{loc}"):
                        row = Row(id=name, url=None, file=src, record=loc, offset=None)
                        found.append(Hit(source, -1, -1, "kept", row))
    return found


def _matches(batch: pa.RecordBatch, query: str) -> np.ndarray:
    """Which rows (bool) are the document asked for: by id, by URL, or by file (its whole name or the last part) and record."""
    mask = pc.or_kleene(pc.equal(batch.column("id"), query), pc.equal(batch.column("url"), query))
    mask = np.array(mask.fill_null(False))
    place = re.fullmatch(r"(.+):(\d+)", query, re.DOTALL)
    if place and int(place[2]) < 2**63:
        mask |= rows_at(batch, place[1], int(place[2]), whole=False)
    return mask


def rows_at(batch: pa.RecordBatch, file: str, record: int, *, whole: bool = True) -> np.ndarray:
    """Which rows (bool) were read from this record of this file; with `whole` False a file's last name is enough."""
    here = np.array(pc.equal(batch.column("record"), record).fill_null(False))
    if here.any():
        named = pc.equal(batch.column("file"), file)
        if not whole:
            named = pc.or_(named, pc.ends_with(batch.column("file"), f"/{file}"))
        here &= np.asarray(named)
    return here


class Nearest:
    """The ids, of all that are shown to it, that begin and end most like a query: a few are kept, whatever their number."""

    def __init__(self, query: str, count: int = 3) -> None:
        self.query, self.count = query.encode(), count
        self.found: list[tuple[int, str]] = []

    def see(self, ids: pa.Array) -> None:
        """Look at a batch of ids."""
        data, offsets = text_buffers(ids)
        lengths = np.diff(offsets)
        same = np.minimum(_run(self.query, data, offsets[:-1], lengths, 1), lengths)
        tail = _run(self.query[::-1], data, offsets[1:] - 1, lengths, -1)
        score = np.minimum(same + tail, np.minimum(lengths, len(self.query)))
        enough = np.flatnonzero(score * 2 >= len(self.query))
        for row in enough[np.argsort(-score[enough], kind="stable")][: self.count]:
            entry = (int(score[row]), ids[int(row)].as_py())
            if entry not in self.found:
                self.found = heapq.nlargest(self.count, [*self.found, entry])

    def best(self) -> list[str]:
        return [name for _, name in self.found]


def _run(query: bytes, data: np.ndarray, at: np.ndarray, lengths: np.ndarray, direction: int) -> np.ndarray:
    """How many bytes from each place on, forwards or backwards, are those of the query (int64)."""
    count = np.zeros(len(at), np.int64)
    if not len(data):
        return count
    going = np.arange(len(at))
    for i, byte in enumerate(query):
        going = going[lengths[going] > i]
        going = going[data[at[going] + direction * i] == byte]
        if not len(going):
            break
        count[going] += 1
    return count
