"""Training data from a finished run: the manifest's shards as instances of one sequence length, in the mixture's order.

OLMo's rule: each shard is cut into instances of `sequence_length` tokens and its remainder is dropped. Labels are
inside an instance (position t predicts t + 1), so it trains sequence_length - 1 predictions. Documents run on across
instances; the end token stands between them.

Where a run stands is one number, the instances read so far, together with `Data.fingerprint`, which another corpus,
sequence length or seed does not have. Batch size and ranks are the caller's: `batch(first, count)` is a pure function.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.tokens.shard_format import ShardError, canonical_json, check_tokens, load_manifest
from trainer.errors import TrainerError
from trainer.order import Instances as Found
from trainer.order import Order, Permutation, key

OPEN_FILES = 512  # token files kept open at once, over all sources; the usual limit of a process is 1,024
BLOCK = 4096  # positions of the order looked up at once
ENTROPY_TOKENS = 10_000_000
ENTROPY_BATCH = 1 << 20  # tokens counted at once


class DataError(TrainerError):
    """A run whose data cannot be trained on as asked; the text says why and what would help."""


class Files:
    """Token files kept open for reading: the least recently used is closed when there are too many.

    Files are read (`preadv`), not mapped: a training run reads 4 to 16 KiB at random places, where a page fault costs
    more than a call, and pages of a map would count as this process's memory until it holds the whole corpus.
    """

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self.limit = limit
        self.lock = threading.Lock()  # held for a whole read: a file in use must not be closed
        self._open: OrderedDict[Path, int] = OrderedDict()

    def descriptor(self, path: Path) -> int:
        """The open file's descriptor. Raises DataError where it cannot be opened."""
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        try:
            found = self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{path}: the token file cannot be read ({error.strerror})") from None
        if len(self._open) > self.limit:
            os.close(self._open.popitem(last=False)[1])
        return found

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


class Shards:
    """The instances of one split of one source, numbered over its shards in order."""

    def __init__(
        self,
        run_dir: Path,
        entry: Mapping[str, Any],
        dtype: np.dtype,
        length: int,
        vocab_size: int,
        files: Files,
    ) -> None:
        self.dtype, self.length, self.vocab_size = dtype, length, vocab_size
        self.paths = [run_dir / shard["path"] for shard in entry["shards"]]
        for path, shard in zip(self.paths, entry["shards"], strict=True):
            check_tokens(path, dtype, shard["tokens"])
        counts = [shard["tokens"] // length for shard in entry["shards"]]
        self.ends = np.cumsum(counts, dtype=np.int64)
        self.starts = self.ends - np.array(counts, np.int64)
        self.count = int(sum(counts))
        self._files = files

    def read(self, instances: np.ndarray, out: np.ndarray, rows: np.ndarray) -> None:
        """Copy instances (any order) to these rows of `out` [any, length]: contiguous, the shards' dtype."""
        shards = np.searchsorted(self.ends, instances, side="right")
        size = self.length * self.dtype.itemsize
        offsets = (instances - self.starts[shards]) * size
        view = memoryview(out).cast("B")
        with self._files.lock:
            for row, shard, offset in zip(rows.tolist(), shards.tolist(), offsets.tolist(), strict=True):
                descriptor = self._files.descriptor(self.paths[shard])
                if os.preadv(descriptor, [view[row * size : (row + 1) * size]], offset) != size:
                    raise DataError(f"{self.paths[shard]}: ends before byte {offset + size}; it was cut while in use")

    def check(self, instances: np.ndarray, tokens: np.ndarray) -> None:
        """Raise DataError, naming the shards, where the tokens read for these instances are beyond the vocabulary."""
        if tokens.size and (largest := int(tokens.max())) >= self.vocab_size:
            shards = np.unique(np.searchsorted(self.ends, instances, side="right"))
            names = ", ".join(str(self.paths[shard]) for shard in shards)
            raise DataError(f"token {largest} lies beyond the vocabulary of {self.vocab_size}: damaged data in {names}")


class HeldOut:
    """The held-out instances of one source, in a fixed shuffled order, so that the first few stand for all of them."""

    def __init__(self, shards: Shards, tokens: int, text_bytes: int) -> None:
        self.tokens, self.text_bytes = tokens, text_bytes  # of the whole split: for bits per byte
        self._shards = shards
        self._order = Permutation(shards.count, key(0))

    def __len__(self) -> int:
        return self._shards.count

    def batch(self, first: int, count: int) -> np.ndarray:
        """Instances first..first+count-1: int64 [count, sequence_length]. Raises DataError beyond the last."""
        _check_range(first, count, len(self))
        out = np.empty((count, self._shards.length), self._shards.dtype)
        instances = self._order.apply(np.arange(first, first + count))
        self._shards.read(instances, out, np.arange(count))
        self._shards.check(instances, out)
        return out.astype(np.int64)


class Instances:
    """The training instances in order, over all epochs that the mixture asks for."""

    def __init__(self, shards: Sequence[Shards], order: Order, length: int, dtype: np.dtype) -> None:
        self._shards, self._order, self._length, self._dtype = shards, order, order.total, dtype
        self.sequence_length = length
        self._vocab_size = max((source.vocab_size for source in shards), default=0)
        self._block = (0, Found(*(np.zeros(0, np.int64) for _ in range(3))))

    def __len__(self) -> int:
        return self._length

    def limit(self, instances: int) -> None:
        """Let the data end after so many instances: every start of the order has the mixture's proportions."""
        self._length = min(self._length, instances)

    def tokens(self, first: int, count: int) -> np.ndarray:
        """Instances first..first+count-1 as they are stored: uint16 or uint32 [count, sequence_length]."""
        _check_range(first, count, len(self))
        found = self._lookup(first, count)
        out = np.empty((count, self.sequence_length), self._dtype)
        for source in np.unique(found.source):
            where = np.flatnonzero(found.source == source)
            self._shards[source].read(found.instance[where], out, where)
        if int(out.max()) >= self._vocab_size:
            for source in np.unique(found.source):
                where = np.flatnonzero(found.source == source)
                self._shards[source].check(found.instance[where], out[where])
        return out

    def batch(self, first: int, count: int) -> np.ndarray:
        """Instances first..first+count-1: int64 [count, sequence_length]. Raises DataError beyond the last."""
        return self.tokens(first, count).astype(np.int64)

    def source_of(self, first: int, count: int) -> np.ndarray:
        """The number of the source (index into `Data.sources`) of each instance: int64 [count]."""
        _check_range(first, count, len(self))
        return self._lookup(first, count).source.copy()

    def _lookup(self, first: int, count: int) -> Found:
        """The order at these positions. Looked up by the block, since one call costs as much as a thousand lookups."""
        start, known = self._block
        if not (start <= first and first + count <= start + len(known.source)):
            start = first // BLOCK * BLOCK
            stop = min(max(start + BLOCK, first + count), len(self))
            known = self._order.instances(np.arange(start, stop))
            self._block = (start, known)  # one assignment: a thread that reads ahead sees a whole block
        return Found(*(part[first - start : first - start + count] for part in known))

    def batches(self, first: int, count: int, ahead: int = 2) -> Iterator[np.ndarray]:
        """Batches of `count` instances from `first` on, read in a thread up to `ahead` of the one in use.

        Ends with the last whole batch. An error while reading is raised here.
        """
        ready: queue.Queue[np.ndarray | BaseException | None] = queue.Queue(maxsize=ahead)
        stop = threading.Event()

        def put(item: np.ndarray | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def fill() -> None:
            try:
                for start in range(first, len(self) - count + 1, count):
                    if stop.is_set():
                        return
                    put(self.batch(start, count))
                put(None)
            except BaseException as error:
                put(error)

        threading.Thread(target=fill, name="headrace-data", daemon=True).start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()


class Data:
    """A run's data, opened by `open_data`."""

    def __init__(
        self, manifest: Mapping[str, Any], sources: list[str], train: Instances, held_out: dict[str, HeldOut], seed: int
    ) -> None:
        self.sources, self.train, self.held_out, self.seed = sources, train, held_out, seed
        self.vocab_size: int = manifest["tokenizer"]["vocab_size"]
        self.eos_id: int = manifest["tokenizer"]["eos_id"]
        self.pad_id: int = manifest["tokenizer"]["pad_id"]
        identity = {"corpus": manifest["fingerprint"], "sequence_length": train.sequence_length, "seed": seed}
        self.fingerprint = hashlib.sha256(canonical_json(identity)).hexdigest()

    def check(self, fingerprint: str) -> None:
        """Raise DataError unless a checkpoint that carries this fingerprint was trained on this very order of data."""
        if fingerprint != self.fingerprint:
            raise DataError(
                f"the checkpoint was trained on other data (fingerprint {fingerprint[:12]}, "
                f"here {self.fingerprint[:12]}):"
                " the corpus, the sequence length or the seed differs; start a new run, or name the old data"
            )


def open_data(
    run_dir: str | Path, sequence_length: int, seed: int | None = None, max_tokens: int | None = None
) -> Data:
    """Open a finished run for training with instances of `sequence_length` tokens.

    `seed` sets the order (None: the mixture's own). `max_tokens` ends training early; it does not change the order.
    A source is seen as often as its budget says in tokens: whole epochs are whole, remainders of shards do not count.
    Raises DataError for a missing or damaged run, a source too small for one instance, or nothing to train on.
    """
    run_dir = Path(run_dir)
    if sequence_length < 2:
        raise DataError(f"sequence_length is {sequence_length}: an instance needs two tokens to predict one")
    try:
        manifest = load_manifest(run_dir)
        dtype, vocab_size = np.dtype(manifest["dtype"]), manifest["tokenizer"]["vocab_size"]
        sources = list(manifest["mixture"]["sources"])
        entries = [manifest["sources"][name] for name in sources]
        files = Files()
        shards = [Shards(run_dir, entry, dtype, sequence_length, vocab_size, files) for entry in entries]
        kept = [Shards(run_dir, entry["held_out"], dtype, sequence_length, vocab_size, files) for entry in entries]
    except ShardError as error:
        raise DataError(str(error)) from None
    asked = []
    for name, entry, source in zip(sources, entries, shards, strict=True):
        if entry["budget_tokens"] and not source.count:
            raise DataError(
                f"source {name}: none of its shards ({entry['tokens']} tokens in {len(source.paths)}) holds one "
                f"instance of {sequence_length} tokens; make the sequence shorter, or leave the source out"
            )
        asked.append(entry["budget_tokens"] * source.count // entry["tokens"] if entry["tokens"] else 0)
    seed = manifest["mixture"]["seed"] if seed is None else seed
    last = manifest["mixture"]["reshuffle_last_tokens"] // sequence_length
    train = Instances(shards, Order([source.count for source in shards], asked, seed, last), sequence_length, dtype)
    if max_tokens is not None:
        train.limit(max_tokens // sequence_length)
    if len(train) == 0:
        raise DataError(
            f"{run_dir}: there is nothing to train on (no whole instance of {sequence_length} tokens is asked for)"
        )
    held_out = {
        name: HeldOut(split, entry["held_out"]["tokens"], entry["held_out"]["text_bytes"])
        for name, entry, split in zip(sources, entries, kept, strict=True)
        if split.count
    }
    return Data(manifest, sources, train, held_out, seed)


def unigram_entropy(data: Data, max_tokens: int = ENTROPY_TOKENS) -> float:
    """Entropy of the training tokens' frequencies, in nats a token: the loss of a model that knows no context.

    Counts the first `max_tokens` tokens in training order, which have the mixture's proportions; memory is bounded.
    """
    counts = np.zeros(data.vocab_size, np.int64)
    length = data.train.sequence_length
    instances = min(len(data.train), max(1, max_tokens // length))
    step = max(1, ENTROPY_BATCH // length)
    for first in range(0, instances, step):
        tokens = data.train.tokens(first, min(step, instances - first))
        counts += np.bincount(tokens.reshape(-1), minlength=data.vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _check_range(first: int, count: int, total: int) -> None:
    if first < 0 or count < 1 or first + count > total:
        raise DataError(f"instances {first} to {first + count - 1} were asked for; there are {total} (numbered from 0)")
