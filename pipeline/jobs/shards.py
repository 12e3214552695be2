"""From token files to shards: planning which documents go to which shard of a source, and writing one shard."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import numpy as np
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.jobs.context import Context
from pipeline.jobs.tokenize import StoredTokens
from pipeline.plan.node import Job, Report
from stages.marks import InFile, OutFile, Setting
from stages.tokens.manifest_shape import ShardFacts
from stages.tokens.shard import Piece, plan_shards, shard_tokens, write_shard

AHEAD = 16  # indexes read at once while shards are planned; each holds the ends of one token file,
AHEAD_DOCUMENTS = 1 << 20  # and all of them no more than so many, but for one file that has more


class ShardPlanReport(Report):
    """For each shard its pieces: runs of documents of the token files, by their number."""

    shards: list[list[Piece]]


@dataclass(frozen=True)
class PlanShards(Job):
    """Decides where the shards of one split of a source begin and end. Reads indexes, and of them only few."""

    report: ClassVar[type[Report]] = ShardPlanReport

    files: InFile[tuple[StoredTokens, ...]]
    shard_bytes: Setting[int]
    dtype: Setting[str]

    def run(self, context: Context) -> ShardPlanReport:
        def read(file: StoredTokens) -> np.ndarray:
            with context.open(file.index) as stream:
                return document_ends(stream, file.documents)

        limit = shard_tokens(self.shard_bytes, np.dtype(self.dtype))
        described = [file.described(file.file.path, file.index.path) for file in self.files]
        of_index = {file.index.path: file for file in self.files}
        with read_ahead(self.files, limit, read) as ends:
            shards = plan_shards(described, limit, lambda file: ends(of_index[file.index_path]))
        return ShardPlanReport(shards=shards)


class ShardReport(Report):
    shard: ShardFacts


@dataclass(frozen=True)
class WriteShard(Job):
    """Writes one shard of a source from runs of documents in its token files. files: those that the pieces name."""

    report: ClassVar[type[Report]] = ShardReport

    files: InFile[tuple[StoredTokens, ...]]
    pieces: InFile[tuple[Piece, ...]]  # what of the files is read
    dtype: Setting[str]
    output: OutFile[tuple[str, str]]  # the tokens, and their index

    def run(self, context: Context) -> ShardReport:
        with ExitStack() as stack:
            local = [
                file.described(*(str(stack.enter_context(context.local(one))) for one in (file.file, file.index)))
                for file in self.files
            ]
            path, index = (stack.enter_context(context.output(name)) for name in self.output)
            facts = write_shard(local, self.pieces, path, index, np.dtype(self.dtype))
        return ShardReport(shard=facts)


@contextmanager
def read_ahead(
    files: Sequence[StoredTokens], max_tokens: int, read: Callable[[StoredTokens], np.ndarray]
) -> Iterator[Callable[[StoredTokens], np.ndarray]]:
    """`read`, with the files that shard boundaries will fall into read ahead by a few threads, `AHEAD` at a time.

    Where a boundary falls is known when the one before it is: a shard further on, less a part of a document. So the
    guess is right but for a few files, and those are read when they are asked for.
    """
    bounds = np.cumsum([0, *(file.tokens for file in files)], dtype=np.int64)
    place = {file.index.path: number for number, file in enumerate(files)}
    pending: dict[int, Future[np.ndarray]] = {}
    expected = max_tokens  # about where the next boundary lies, in tokens from the start of the first file

    with ThreadPoolExecutor(AHEAD) as pool:

        def ends(file: StoredTokens) -> np.ndarray:
            nonlocal expected
            here = place[file.index.path]
            expected = min(max(expected, int(bounds[here])), int(bounds[here + 1]) - 1)
            expected += max_tokens * max(1, -(-(int(bounds[here + 1]) - expected) // max_tokens))
            cuts = expected + max_tokens * np.arange(AHEAD)
            guesses = np.searchsorted(bounds, cuts[cuts < bounds[-1]], side="right") - 1
            for number in [number for number in pending if number < here]:
                pending.pop(number).cancel()
            found = pending.pop(here).result() if here in pending else read(file)
            for number in np.unique(guesses).tolist():
                held = sum(files[other].documents for other in pending)
                if number in pending or number == here:
                    continue
                if len(pending) >= AHEAD or (pending and held + files[number].documents > AHEAD_DOCUMENTS):
                    break
                pending[number] = pool.submit(read, files[number])
            return found

        try:
            yield ends
        finally:
            for future in pending.values():
                future.cancel()


def document_ends(index: BinaryIO, documents: int) -> np.ndarray:
    """Where each document of a token file ends, in tokens (int64), from its index of so many documents.

    An imported file may have any number of them: where they are many the ends lie on disk, as a memory map.
    """
    with pq.ParquetFile(index, pre_buffer=False, buffer_size=1 << 20) as opened:
        if documents <= AHEAD_DOCUMENTS:
            return opened.read(["end"]).column("end").to_numpy()
        with tempfile.TemporaryFile(dir=storage.cache_folder()) as file:
            for rows in opened.iter_batches(columns=["end"]):
                file.write(memoryview(np.ascontiguousarray(rows.column("end"))).cast("B"))
            file.flush()
            return np.memmap(file, np.int64, "r")
