"""Training data from a finished run: the manifest's shards as instances of one sequence length, in the mixture's order.

Two packings. `concatenate` is OLMo's rule: each shard is cut into instances of `sequence_length` tokens and its
remainder is dropped; documents run on across instances, the end token stands between them. `best_fit` keeps documents
whole where it can, and pads (packing.py). Labels are inside an instance (position t predicts t + 1), so it trains
sequence_length - 1 predictions.

Where a run stands is one number, the instances read so far, together with `Data.fingerprint`, which another corpus,
sequence length, packing or seed does not have. Batch size and ranks are the caller's: `read(first, count)` is a pure
function. What `materialize.py` wrote is opened the same way, reads the same and has the same fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from stages.tokens.shard_format import Manifest, ShardError, canonical_json, load_manifest
from trainer.loader.ahead import AHEAD, read_ahead
from trainer.loader.files import DataError, Reader
from trainer.loader.order import Order, Permutation, key
from trainer.loader.packing import open_pack, pack_shards, packing_folder
from trainer.loader.sources import Chunks, Extents, Located, Packed, Pieces, asked_of
from trainer.loader.whole import Wholes

BLOCK = 1 << 14  # positions of the order looked up at once: one call costs as much as some thousand lookups
MATERIALIZED = "materialized"  # the manifest's key in a folder that materialize.py wrote

Packing = Literal["concatenate", "best_fit"]


class Batch(NamedTuple):
    """Some instances, with their documents where those were asked for."""

    tokens: np.ndarray  # uint16 or uint32 [count, sequence_length], as stored
    documents: np.ndarray | None  # int32 like tokens: numbered from 0 in each instance; -1 where there is padding


class Found(NamedTuple):
    """What stands at some positions: arrays of one length, int64."""

    source: np.ndarray  # number of the source
    instance: np.ndarray  # number of the instance within the source
    epoch: np.ndarray
    files: np.ndarray | None  # where an instance lies that is one piece of a file: the reader's number of the file,
    offsets: np.ndarray | None  # and the byte in it


class HeldOut:
    """The held-out instances of one source, in a fixed shuffled order, so that the first few stand for all of them."""

    def __init__(self, chunks: Chunks, tokens: int, text_bytes: int, vocab_size: int) -> None:
        self.tokens, self.text_bytes = tokens, text_bytes  # of the whole split: for bits per byte
        self._chunks, self._vocab_size = chunks, vocab_size
        self._order = Permutation(chunks.count, key(0))

    def __len__(self) -> int:
        return self._chunks.count

    def batch(self, first: int, count: int) -> np.ndarray:
        """Instances first..first+count-1: int64 [count, sequence_length]. Raises DataError beyond the last."""
        _check_range(first, count, len(self))
        chunks = self._chunks
        out = np.empty((count, chunks.length), chunks.dtype)
        instances = self._order.apply(np.arange(first, first + count))
        chunks.reader.read(*chunks.plan(instances, np.arange(count))[0], out)
        _check_tokens(out, self._vocab_size, chunks, instances)
        return out.astype(np.int64)


class Instances:
    """The training instances in order, over all epochs that the mixture asks for.

    `shards` are those of each source; or, where `ordered`, a single one whose instances already stand in order.
    """

    def __init__(
        self,
        shards: Sequence[Chunks | Packed],
        order: Order,
        vocab_size: int,
        eos_id: int,
        pad_id: int,
        ordered: bool = False,
    ) -> None:
        self._shards, self._order, self._ordered = shards, order, ordered
        self._length = shards[0].count if ordered else order.total
        self._vocab_size, self._eos_id, self._pad_id = vocab_size, eos_id, pad_id
        self._block = (0, Found(*(np.zeros(0, np.int64) for _ in Found._fields)))
        self._last = -1  # the position looked up last
        self.sequence_length, self.dtype = shards[0].length, shards[0].dtype
        self.reader, self.padded = shards[0].reader, isinstance(shards[0], Packed)
        # Whether each instance is one piece of a file; where these lie is then looked up with the order, for many at a time.
        self._direct = not (self.padded or ordered or any(one.scattered for one in shards))

    def __len__(self) -> int:
        return self._length

    def limit(self, instances: int) -> None:
        """Let the data end after so many instances: every start of the order has the mixture's proportions."""
        self._length = min(self._length, instances)

    def read(self, first: int, count: int, documents: bool = False, out: np.ndarray | None = None) -> Batch:
        """Instances first..first+count-1 as they are stored, and the document of each token if asked for.

        `out`, if given, takes the tokens: contiguous, of the shape and dtype of `Batch.tokens`.
        Raises DataError beyond the last instance, and for tokens beyond the vocabulary.
        """
        return self.read_at(self.positions(first, count), documents, out)

    def read_at(self, positions: np.ndarray, documents: bool = False, out: np.ndarray | None = None) -> Batch:
        """The same for any positions in range, which ascend."""
        out, pieces = self.read_pieces(positions, out)
        if not documents:
            return Batch(out, None)
        if pieces is None:
            return Batch(out, document_numbers(out, self._eos_id))
        numbers = np.zeros(out.shape, np.int32)
        numbers[pieces.rows, pieces.columns] = pieces.columns > 0
        np.cumsum(numbers, axis=1, out=numbers)
        numbers[np.arange(self.sequence_length) >= pieces.used(len(out))[:, None]] = -1
        return Batch(out, numbers)

    def read_pieces(self, positions: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, Pieces | None]:
        """The tokens of `read_at`, and with best-fit packing the pieces that they are, by row and column."""
        shape = (len(positions), self.sequence_length)
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be a contiguous {self.dtype} array of shape {shape}")
        extents, pieces = self.plan(positions)
        if self.padded:
            out.fill(self._pad_id)
        self.reader.read(*extents, out)
        if int(out.max()) >= self._vocab_size:
            for shards, instances, rows in self._where(positions):
                _check_tokens(out[rows], self._vocab_size, shards, instances)
        return out, pieces

    def plan(self, positions: np.ndarray) -> tuple[Extents, Pieces | None]:
        """What to read for a batch of these positions, which ascend, and with best-fit packing its pieces."""
        if self._direct:
            found, size = self.lookup(positions), self.sequence_length * self.dtype.itemsize
            assert found.files is not None and found.offsets is not None
            rows = np.arange(len(positions))
            return Extents(found.files, found.offsets, np.full(len(rows), size), rows * size), None
        planned = [shards.plan(instances, rows) for shards, instances, rows in self._where(positions)]
        if len(planned) == 1:
            return planned[0]
        extents = Extents(*(np.concatenate(arrays) for arrays in zip(*(some for some, _ in planned), strict=True)))
        parts = [pieces for _, pieces in planned if pieces is not None]
        if not parts:
            return extents, None
        pieces = Pieces(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        order = np.lexsort((pieces.columns, pieces.rows))
        return extents, Pieces(*(part[order] for part in pieces))

    def lookup(self, positions: np.ndarray) -> Found:
        """What the order says of these positions, which ascend."""
        start, block = self._block
        follows, self._last = 0 < positions[0] - self._last <= BLOCK // 8, int(positions[-1])
        if not (start <= positions[0] and positions[-1] < start + len(block.source)):
            span = positions[-1] - positions[0]
            if not follows or span >= BLOCK or span > max(BLOCK // 8, 16 * len(positions)):
                return self._find(positions)  # here and there: what lies between is not wanted
            start = int(positions[0])
            block = self._find(np.arange(start, min(start + BLOCK, len(self))))
            self._block = (start, block)  # one assignment: a thread that reads ahead sees a whole block
        at = positions - start
        return Found(*(None if part is None else part[at] for part in block))

    def _find(self, positions: np.ndarray) -> Found:
        found = Found(*self._order.instances(positions), None, None)
        if not self._direct:
            return found
        files, offsets = np.empty((2, len(positions)), np.int64)
        for shards, instances, rows in self._by_source(found):
            extents, _ = shards.plan(instances, rows)
            files[rows], offsets[rows] = extents.files, extents.offsets
        return found._replace(files=files, offsets=offsets)

    def located(self, positions: np.ndarray) -> list[tuple[Chunks | Packed, Located]]:
        """Which tokens of which shards stand at these positions, which ascend; each of the shards once."""
        return [(shards, shards.locate(instances, rows)[0]) for shards, instances, rows in self._where(positions)]

    def _where(self, positions: np.ndarray) -> list[tuple[Chunks | Packed, np.ndarray, np.ndarray]]:
        if self._ordered:
            return [(self._shards[0], positions, np.arange(len(positions)))]
        return self._by_source(self.lookup(positions))

    def _by_source(self, found: Found) -> list[tuple[Chunks | Packed, np.ndarray, np.ndarray]]:
        """(shards, instances of them, rows of the batch), for each of the shards that has some of the instances."""
        rows = [(source, np.flatnonzero(found.source == source)) for source in np.unique(found.source)]
        return [(self._shards[source], found.instance[where], where) for source, where in rows]

    def positions(self, first: int, count: int) -> np.ndarray:
        """first..first+count-1. Raises DataError where there are none such."""
        _check_range(first, count, len(self))
        return np.arange(first, first + count)

    def tokens(self, first: int, count: int) -> np.ndarray:
        """The tokens of `read`: uint16 or uint32 [count, sequence_length]."""
        return self.read(first, count).tokens

    def batch(self, first: int, count: int) -> np.ndarray:
        """Instances first..first+count-1: int64 [count, sequence_length]. Raises DataError beyond the last."""
        return self.tokens(first, count).astype(np.int64)

    def source_of(self, first: int, count: int) -> np.ndarray:
        """The number of the source (index into `Data.sources`) of each instance: int64 [count]."""
        return self.lookup(self.positions(first, count)).source

    def batches(self, first: int, count: int, ahead: int = AHEAD) -> Iterator[np.ndarray]:
        """Batches (`batch`) of `count` instances from `first` on, up to `ahead` of them read before they are wanted.

        Ends with the last whole batch. An error while reading is raised here.
        """
        starts = range(first, len(self) - count + 1, count)
        return read_ahead((lambda start=start: self.batch(start, count) for start in starts), ahead)


class Plan(NamedTuple):
    """All that the order of a run's instances follows from, beside the corpus. Materialized data carry it."""

    sequence_length: int
    packing: Packing
    seed: int
    available: list[int]  # instances of each source
    asked: list[int]  # instances of each source over all of training
    reshuffle_last: int  # instances
    padding: float  # share of the asked positions that hold no token


class Data:
    """A run's data, opened by `open_data`."""

    def __init__(
        self, manifest: Manifest, corpus: str, plan: Plan, train: Instances, held_out: dict[str, HeldOut]
    ) -> None:
        self.sources: list[str] = list(manifest["mixture"]["sources"])
        self.train, self.held_out = train, held_out
        self.corpus, self.plan = corpus, plan
        self.seed, self.packing, self.padding = plan.seed, plan.packing, plan.padding
        self.vocab_size: int = manifest["tokenizer"]["vocab_size"]
        self.eos_id: int = manifest["tokenizer"]["eos_id"]
        self.pad_id: int = manifest["tokenizer"]["pad_id"]
        self.tokenizer_sha256: str = manifest["tokenizer"]["sha256"]
        self.held_out_facts: dict[str, Any] = manifest.get("held_out", {})  # share, salt, and near copies in training
        identity = {"corpus": corpus, "sequence_length": plan.sequence_length, "seed": plan.seed, "asked": plan.asked}
        if plan.packing != "concatenate":
            identity["packing"] = plan.packing
        self.fingerprint = hashlib.sha256(canonical_json(identity)).hexdigest()

    def check(self, fingerprint: str) -> None:
        """Raise DataError unless a checkpoint that carries this fingerprint was trained on this very order of data."""
        if fingerprint != self.fingerprint:
            raise DataError(
                f"the checkpoint was trained on other data (fingerprint {fingerprint[:12]}, "
                f"here {self.fingerprint[:12]}): the corpus, the sequence length, the packing or the seed differs; "
                "start a new run, or name the old data"
            )


def open_data(
    run_dir: str | Path,
    sequence_length: int,
    seed: int | None = None,
    max_tokens: int | None = None,
    packing: Packing = "concatenate",
    held_out_only: bool = False,
) -> Data:
    """Open a finished run, or what `materialize` made of one, for training with instances of `sequence_length` tokens.

    `seed` sets the order (None: the mixture's own). `max_tokens` ends training early; it does not change the order.
    A source is seen as often as its budget says in tokens: whole epochs are whole, remainders of shards do not count.
    What `best_fit` needs to know of a shard is worked out at the first opening and kept (`packing_folder`).
    `held_out_only` opens what is to be scored: there need be nothing to train on.
    Raises DataError for a missing or damaged run, a source too small for one instance, or nothing to train on.
    """
    run_dir, reader = Path(run_dir), Reader()
    if sequence_length < 2:
        raise DataError(f"sequence_length is {sequence_length}: an instance needs two tokens to predict one")
    try:
        manifest = load_manifest(run_dir)
        ordered = MATERIALIZED in manifest
        opened = _open_materialized if ordered else _open_sources
        plan, shards = opened(run_dir, manifest, sequence_length, seed, packing, reader)
        sources, dtype = manifest["mixture"]["sources"], np.dtype(manifest["dtype"])
        splits = [manifest["sources"][name]["held_out"] for name in sources]
        files = Wholes(run_dir, manifest, reader)
        kept = [
            Chunks(run_dir, split["shards"], dtype, sequence_length, reader, files.of(split["shards"])) for split in splits
        ]
    except ShardError as error:
        raise DataError(str(error)) from None
    if not (sum(plan.asked) or held_out_only) or (max_tokens is not None and max_tokens < sequence_length):
        raise DataError(
            f"{run_dir}: there is nothing to train on (no whole instance of {sequence_length} tokens is asked for)"
        )
    vocab_size, eos_id, pad_id = (manifest["tokenizer"][name] for name in ("vocab_size", "eos_id", "pad_id"))
    order = Order(plan.available, plan.asked, plan.seed, plan.reshuffle_last)
    train = Instances(shards, order, vocab_size, eos_id, pad_id, ordered)
    if max_tokens is not None:
        if len(train) < min(order.total, max_tokens // sequence_length):
            raise DataError(
                f"{run_dir}: {len(train) * sequence_length:,} tokens were materialized, {max_tokens:,} are asked for; "
                "ask for fewer, or materialize more"
            )
        train.limit(max_tokens // sequence_length)
    held_out = {
        name: HeldOut(chunks, split["tokens"], split["text_bytes"], vocab_size)
        for name, split, chunks in zip(sources, splits, kept, strict=True)
        if chunks.count
    }
    corpus = manifest[MATERIALIZED]["of"] if ordered else manifest["fingerprint"]
    return Data(manifest, corpus, plan, train, held_out)


def _open_sources(
    run_dir: Path, manifest: Manifest, length: int, seed: int | None, packing: Packing, reader: Reader
) -> tuple[Plan, list[Chunks | Packed]]:
    dtype, sources = np.dtype(manifest["dtype"]), manifest["mixture"]["sources"]
    shards: list[Chunks | Packed] = []
    files = Wholes(run_dir, manifest, reader)
    for name in sources:
        entry = manifest["sources"][name]
        whole = files.of(entry["shards"])
        one: Chunks | Packed
        if packing == "best_fit":
            packs = pack_shards(run_dir, entry["shards"], length, packing_folder(run_dir))
            one = Packed(run_dir, entry["shards"], packs, dtype, length, reader, whole)
        else:
            one = Chunks(run_dir, entry["shards"], dtype, length, reader, whole)
        if entry["budget_tokens"] and not one.count:
            raise DataError(
                f"source {name}: none of its shards ({entry['tokens']} tokens in {len(one.paths)}) holds one "
                f"instance of {length} tokens; make the sequence shorter, or leave the source out"
            )
        shards.append(one)
    asked = asked_of([manifest["sources"][name] for name in sources], shards)
    positions = sum(asked) * length
    held = sum(count * one.tokens / max(1, one.count) for count, one in zip(asked, shards, strict=True))
    seed = manifest["mixture"]["seed"] if seed is None else seed
    last = manifest["mixture"]["reshuffle_last_tokens"] // length
    padding = 1 - held / positions if positions else 0.0
    return Plan(length, packing, seed, [one.count for one in shards], asked, last, padding), shards


def _open_materialized(
    run_dir: Path, manifest: Manifest, length: int, seed: int | None, packing: Packing, reader: Reader
) -> tuple[Plan, list[Chunks | Packed]]:
    facts, dtype = manifest[MATERIALIZED], np.dtype(manifest["dtype"])
    plan = Plan(**facts["plan"])
    wanted = {"sequence_length": length, "packing": packing, "seed": plan.seed if seed is None else seed}
    for name, value in wanted.items():
        if getattr(plan, name) != value:
            raise DataError(
                f"{run_dir}: was materialized with {name} {getattr(plan, name)}, {value} is asked for; "
                "name the run it was made from, or materialize it anew"
            )
    shards = facts["shards"]
    if packing == "concatenate":
        return plan, [Chunks(run_dir, shards, dtype, length, reader)]
    packs = [open_pack(run_dir / shard["pack"], shard["sha256"], length) for shard in shards]
    return plan, [Packed(run_dir, shards, packs, dtype, length, reader)]


def document_numbers(tokens: np.ndarray, eos_id: int) -> np.ndarray:
    """The document of each token, counted within its instance: int32 [count, length]. An end token is its last."""
    ends = tokens == eos_id
    numbers = np.cumsum(ends, axis=1, dtype=np.int32)
    numbers -= ends
    return numbers


def _check_tokens(tokens: np.ndarray, vocab_size: int, shards: Chunks | Packed, instances: np.ndarray) -> None:
    """Raise DataError, naming the shards, where the tokens read for these instances are beyond the vocabulary."""
    if tokens.size and (largest := int(tokens.max())) >= vocab_size:
        names = ", ".join(str(shards.paths[shard]) for shard in np.unique(shards.shards_of(instances)))
        raise DataError(f"token {largest} lies beyond the vocabulary of {vocab_size}: damaged data in {names}")


def _check_range(first: int, count: int, total: int) -> None:
    if first < 0 or count < 1 or first + count > total:
        raise DataError(f"instances {first} to {first + count - 1} were asked for; there are {total} (numbered from 0)")
