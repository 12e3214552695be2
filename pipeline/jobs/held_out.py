"""Training documents that are near copies of held-out ones: found by n-grams of tokens, counted, or taken out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.jobs.context import Context
from pipeline.jobs.tokenize import StoredTokens, TokenizeReport, left_out_schema, store_tokens
from pipeline.plan.node import Job, Report, Stored
from stages.books import StepBooks
from stages.marks import InFile, Setting
from stages.parts import PartWriter, read_part
from stages.tokens.near_copies import LIMIT, REASON, HeldOutNgrams, lowest, sampled, token_batches
from stages.tokens.token_file import TokenWriter

BOUNDS = ["start", "end"]
NEAR_COPIES = "near copies"  # the kind of tasks that count them
DROP_NEAR_COPIES = "drop near copies"  # and of tasks that take them out
READ_BYTES = 8 << 20


class NgramsReport(Report):
    """The file of the n-grams (uint64, sorted, each once), and how many there are."""

    ngrams: str
    count: int


@dataclass(frozen=True)
class CollectNgrams(Job):
    """Writes the `most` lowest hashes of n-grams of held-out documents."""

    report: ClassVar[type[Report]] = NgramsReport

    files: InFile[tuple[StoredTokens, ...]]
    dtype: Setting[str]
    ngram: Setting[int]
    most: Setting[int]

    def run(self, context: Context) -> NgramsReport:
        return _written(lowest(self._hashes(context), self.most), context)

    def _hashes(self, context: Context) -> Iterator[np.ndarray]:
        for file in self.files:
            if file.documents == 0:
                continue
            for tokens, offsets, _ in _batches(file, self.dtype, context, BOUNDS):
                yield sampled(tokens, offsets, self.ngram, LIMIT)[0]


@dataclass(frozen=True)
class MergeNgrams(Job):
    """Writes the `most` lowest of several files' hashes."""

    report: ClassVar[type[Report]] = NgramsReport

    files: InFile[tuple[Stored, ...]]
    most: Setting[int]

    def run(self, context: Context) -> NgramsReport:
        return _written(lowest((_ngrams_of(file, context) for file in self.files), self.most), context)


class NearReport(Report):
    """Training documents that are near copies of held-out ones, with their tokens. read_bytes: of the tokens looked at."""

    documents: int
    tokens: int
    read_bytes: int


@dataclass(frozen=True)
class CountNearCopies(Job):
    """Counts the near copies in a token file of training documents."""

    report: ClassVar[type[Report]] = NearReport

    train: InFile[StoredTokens]
    ngrams: InFile[Stored]
    dtype: Setting[str]
    ngram: Setting[int]
    most: Setting[int]

    def run(self, context: Context) -> NearReport:
        documents = tokens = 0
        for near, _, offsets, _ in _judged(self, context, BOUNDS):
            documents += int(near.sum())
            tokens += int(np.diff(offsets)[near].sum())
        return NearReport(documents=documents, tokens=tokens, read_bytes=_bytes(self.train, self.dtype))


class DroppedReport(NearReport):
    """What was taken out; the token file without it; the file of all that were dropped at tokenizing or here."""

    train: StoredTokens
    dropped: str


@dataclass(frozen=True)
class DropNearCopies(Job):
    """Writes X.train.tokens and its index without the near copies, and X.dropped.parquet. earlier: dropped at tokenizing."""

    report: ClassVar[type[Report]] = DroppedReport

    source: Setting[str]
    train: InFile[StoredTokens]
    held_out: InFile[StoredTokens]
    earlier: InFile[Stored]
    ngrams: InFile[Stored]
    dtype: Setting[str]
    ngram: Setting[int]
    most: Setting[int]

    def run(self, context: Context) -> DroppedReport:
        books = StepBooks("near copies")
        for file in (self.train, self.held_out):
            books.into.add(file.documents, file.text_bytes)
        prefix = context.interim(f"{self.source}/near")
        dropped, dtype, gone_tokens = f"{prefix}.dropped.parquet", _stored_dtype(self.dtype), 0
        with ExitStack() as stack:
            dropped_path = stack.enter_context(context.output(dropped))
            record = stack.enter_context(PartWriter(dropped_path, left_out_schema()))
            with context.open(self.earlier) as file:
                for _, batch in read_part(file, READ_BYTES):
                    record.write(batch)
            with TokenWriter(context.scratch / "near", "train") as writer:
                for near, tokens, offsets, rows in _judged(self, context):
                    _append(writer, tokens.astype(dtype), offsets, rows, ~near)
                    if near.any():
                        gone = rows.filter(pa.array(near))
                        _record(gone, record, books)
                        gone_tokens += int(np.diff(offsets)[near].sum())
        written = writer.written()
        books.out.add(written.documents, written.text_bytes)
        books.out.add(self.held_out.documents, self.held_out.text_bytes)
        return DroppedReport(
            books=[books],
            documents=self.train.documents - written.documents,
            tokens=gone_tokens,
            read_bytes=_bytes(self.train, self.dtype),
            train=store_tokens(written, f"{prefix}.train", context),
            dropped=dropped,
        )


def without_near_copies(tokenized: TokenizeReport, dropped: DroppedReport) -> TokenizeReport:
    """What became of a part in the end: as it was tokenized, without what was taken out."""
    return msgspec.structs.replace(
        tokenized,
        books=[*tokenized.books, *dropped.books],
        files={**tokenized.files, "train": dropped.train},
        dropped=dropped.dropped,
    )


def _batches(
    file: StoredTokens, dtype: str, context: Context, columns: list[str] | None
) -> Iterator[tuple[np.ndarray, np.ndarray, pa.RecordBatch]]:
    with context.open(file.file) as tokens, context.open(file.index) as index:
        yield from token_batches(tokens, index, _stored_dtype(dtype), columns)


def _judged(
    job: CountNearCopies | DropNearCopies, context: Context, columns: list[str] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, pa.RecordBatch]]:
    """The training documents in batches: which are near copies (bool), tokens, offsets and rows of the index."""
    if job.train.documents == 0:
        return
    known = _known(job.ngrams, job.most, context)
    for tokens, offsets, rows in _batches(job.train, job.dtype, context, columns):
        yield known.near(tokens, offsets, job.ngram), tokens, offsets, rows


def _append(
    writer: TokenWriter, tokens: np.ndarray, offsets: np.ndarray, rows: pa.RecordBatch, keep: np.ndarray
) -> None:
    if not keep.all():
        tokens = tokens[np.repeat(keep, np.diff(offsets))]
        rows = rows.filter(pa.array(keep))
        offsets = np.append(0, np.cumsum(np.diff(offsets)[keep]))
    id, file, record = (rows.column(name) for name in ("id", "src", "loc"))
    sizes = np.asarray(rows.column("text_bytes"), np.int64)
    writer.append(tokens, offsets[:-1], offsets[1:], id, file, record, sizes)


def _record(gone: pa.RecordBatch, file: PartWriter, books: StepBooks) -> None:
    sizes = gone.column("text_bytes")
    books.drop(REASON, gone.num_rows, int(np.asarray(sizes).sum()))
    columns = {"id": gone.column("id"), "file": gone.column("src"), "record": gone.column("loc"), "bytes": sizes}
    columns["reason"] = pa.array([REASON] * gone.num_rows, pa.large_string())
    file.write(pa.RecordBatch.from_pydict(columns))


def _stored_dtype(name: str) -> np.dtype:
    return np.dtype(name).newbyteorder("<")


def _bytes(file: StoredTokens, dtype: str) -> int:
    return file.tokens * np.dtype(dtype).itemsize


def _written(hashes: np.ndarray, context: Context) -> NgramsReport:
    name = context.interim("held_out") + ".ngrams"
    with context.output(name) as path:
        hashes.astype("<u8").tofile(path)
    return NgramsReport(ngrams=name, count=len(hashes))


def _ngrams_of(file: Stored, context: Context) -> np.ndarray:
    with context.local(file) as path:
        return np.fromfile(path, "<u8").astype(np.uint64, copy=False)


_KNOWN: dict[tuple[str, int], HeldOutNgrams] = {}


def _known(file: Stored, most: int, context: Context) -> HeldOutNgrams:
    """The n-grams of held-out documents, read once a process."""
    if (file.digest, most) not in _KNOWN:
        _KNOWN.clear()
        _KNOWN[file.digest, most] = HeldOutNgrams.of(_ngrams_of(file, context), most)
    return _KNOWN[file.digest, most]
