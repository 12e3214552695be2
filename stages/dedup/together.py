"""Batches of texts through a Bloom filter by several threads; the result is that of one (stages/kernels/bloom_threads.py)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa

from stages.dedup.bloom import Filter
from stages.dedup.spec import Bff
from stages.document import text_buffers
from stages.kernels import bloom
from stages.kernels.atomics import STATE, STOPPED
from stages.kernels.bloom_threads import BLOCK_BITS, UNIT_BITS, bff_thread, spans_of_units
from stages.kernels.unicode_tables import code_points

T = TypeVar("T")

MODES = {"old-both": bloom.OLD_BOTH, "document": bloom.DOCUMENT, "paragraph": bloom.PARAGRAPH}
ROUND = 1024  # n-grams of a thread in a round: their blocks, 64 KiB, are still in its caches when they are entered
AHEAD = 1  # batches that are read while one goes through the filter
NEWLINE = 10


@dataclass
class Threads:
    """Threads of one task, and the room in which they work, used again from batch to batch: fresh pages cost time."""

    count: int
    pool: ThreadPoolExecutor
    round: int = ROUND
    room: dict[str, np.ndarray] = field(default_factory=dict)

    def array(self, name: str, size: int, kind: type) -> np.ndarray:
        """An array of at least this size, with whatever is in it."""
        there = self.room.get(name)
        if there is None or len(there) < size:
            there = self.room[name] = np.empty(size, kind)  # pages never written take no memory
        return there


@contextmanager
def start_threads(count: int) -> Iterator[Threads]:
    """So many threads, until the block is left."""
    with ThreadPoolExecutor(count, thread_name_prefix="bff") as pool:
        yield Threads(count, pool)


@dataclass
class Units:
    """Units of a batch (paragraphs, or texts): where each stops in its data, its n-grams; units up to each document."""

    hashes: np.ndarray
    stops: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    documents: np.ndarray


def hash_together(texts: pa.Array, spec: Bff, threads: Threads) -> Units:
    """The n-grams of texts, a share of them by each thread."""
    data, offsets = text_buffers(texts)
    hashes = threads.array("hashes", int(offsets[-1] - offsets[0]), np.uint64)
    wanted = np.linspace(offsets[0], offsets[-1], threads.count + 1)[1:-1]
    cuts = [0, *np.searchsorted(offsets, wanted).tolist(), len(texts)]

    def share(begin: int, end: int) -> tuple[np.ndarray, ...]:
        first = int(offsets[begin] - offsets[0])  # a text has no more n-grams than bytes
        some = offsets[begin : end + 1]
        whole = spec.mode == "document"
        room = end - begin + (0 if whole else int(np.count_nonzero(data[some[0] : some[-1]] == NEWLINE)))
        stops, reaches, documents = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(end - begin, np.int64)
        units, _ = bloom.hash_ngrams(
            data, some, code_points(), spec.ngram, whole, spec.seed, hashes[first:], stops, reaches, documents
        )
        reaches = reaches[:units] + first
        return stops[:units], np.concatenate([[first], reaches[:-1]])[:units], reaches, documents

    shares = list(threads.pool.map(share, cuts[:-1], cuts[1:]))
    before = np.cumsum([0, *(len(stops) for stops, *_ in shares)])
    stops, begins, ends = (np.concatenate([found[i] for found in shares]).astype(np.int64) for i in range(3))
    documents = np.concatenate([found[3] + units for found, units in zip(shares, before[:-1], strict=True)])
    return Units(hashes, stops, begins, ends, documents)


def fits(units: int, filter: Filter) -> bool:
    """Whether a claim has room for the numbers of so many units and of the filter's blocks: up to 4 TiB."""
    return units + 1 < 1 << UNIT_BITS and len(filter.bits) // 8 < 1 << BLOCK_BITS


def pass_together(
    texts: pa.Array, spec: Bff, filter: Filter, threads: Threads
) -> tuple[int, tuple[np.ndarray, ...]] | None:
    """Take texts through the filter: spans, and (rows, starts, stops, probes, held_by, counts) as the kernel `bff` writes them.

    None, and nothing is done, where there are too many units for the threads to number.
    """
    units = hash_together(texts, spec, threads)
    if not fits(len(units.stops), filter):
        return None
    held, probes, stays = _decide(units, spec, filter, threads)
    room = len(units.stops) + len(texts)
    rows, starts, stops = (np.empty(room, np.int64) for _ in range(3))
    found, counts = np.empty(room, np.uint64), np.empty((len(texts), 2), np.int64)
    offsets = text_buffers(texts)[1]
    of_units = (units.stops, units.begins, units.ends, units.documents, held, probes, stays)
    out = (rows, starts, stops, found, counts)
    spans = spans_of_units(offsets, *of_units, spec.threshold, MODES[spec.mode], *out)
    return spans, (*out[:-1], np.zeros(spans, np.uint16), counts)


def _decide(units: Units, spec: Bff, filter: Filter, threads: Threads) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What becomes of each unit: n-grams held, the first of them, and 1 where it was entered."""
    reaches = np.cumsum(units.ends - units.begins)
    total = int(reaches[-1]) if len(reaches) else 0
    rounds = -(-total // (threads.round * threads.count)) or 1
    pieces = rounds * threads.count
    cuts = np.searchsorted(reaches, np.arange(1, pieces) * total // pieces)
    cuts = np.concatenate([[0], cuts, [len(reaches)]]).astype(np.int64)
    of_rounds = np.diff(np.concatenate([[0], reaches])[cuts[:: threads.count]])  # n-grams of each, as units are not cut
    claim_bits = max(4, int(of_rounds.max()).bit_length() + 1)
    size = len(units.hashes)
    claims = threads.array("claims", 1 << claim_bits, np.uint64)[: 1 << claim_bits]
    claims[:] = 0
    places, known = threads.array("places", size, np.int32), threads.array("known", size, np.uint8)
    held, probes = np.empty(len(reaches), np.int64), np.empty(len(reaches), np.uint64)
    stays, state = np.empty(len(reaches), np.uint8), np.zeros(STATE, np.int64)
    of_filter = (spec.threshold, filter.k, filter.bits)
    room = (claims, claim_bits, places, known, held, probes, stays, state)

    def work(thread: int) -> int:
        try:
            return bff_thread(thread, threads.count, units.hashes, units.begins, units.ends, cuts, *of_filter, *room)
        except BaseException:
            state[STOPPED] = 1  # for those that wait for this one
            raise

    try:
        waiting = [threads.pool.submit(work, i) for i in range(threads.count)]
        filter.inserted += sum(one.result() for one in waiting)
    except BaseException:
        state[STOPPED] = 1  # one may not have begun
        raise
    return held, probes, stays


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, read by a thread of their own while the ones before are used."""
    waiting: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(AHEAD)
    left = threading.Event()

    def put(item: T | None, error: BaseException | None) -> bool:
        while not left.is_set():
            try:
                waiting.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            with closing(items):  # type: ignore[type-var]
                for item in items:
                    if not put(item, None):
                        return
            put(None, None)
        except BaseException as error:
            put(None, error)

    reader = threading.Thread(target=read, name="bff-reader", daemon=True)
    reader.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        left.set()
        reader.join()
