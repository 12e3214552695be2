"""Where the instances of some shards lie: in which files, at which bytes. Nothing here reads tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stages.tokens.shard_format import check_tokens
from trainer.loader.files import DataError, Reader
from trainer.loader.packing import PIECE, Pack
from trainer.loader.whole import Scattered, Whole


class Extents(NamedTuple):
    """Bytes to be copied, as `Reader.read` takes them: int64 arrays of one length."""

    files: np.ndarray
    offsets: np.ndarray  # bytes, in the file
    sizes: np.ndarray  # bytes
    targets: np.ndarray  # bytes, in the batch


class Pieces(NamedTuple):
    """The documents, or pieces of them, that some instances are made of: int64 arrays of one length."""

    rows: np.ndarray  # of the batch
    columns: np.ndarray  # where the piece begins in its instance, in tokens
    lengths: np.ndarray  # tokens

    def used(self, count: int) -> np.ndarray:
        """How many tokens each of `count` rows holds, padding not counted."""
        return np.bincount(self.rows, self.lengths, count).astype(np.int64)


class Located(NamedTuple):
    """Runs of tokens of shards, and where they go: int64 arrays of one length, all but the first in tokens."""

    shards: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    targets: np.ndarray  # in the batch


class _Shards:
    """Token files, or ranges of others (`whole`), whose instances are numbered through, in order."""

    def __init__(
        self,
        run_dir: Path,
        shards: Sequence[Mapping[str, Any]],
        counts: Sequence[int],
        dtype: np.dtype,
        length: int,
        reader: Reader,
        whole: Whole | None,
    ) -> None:
        self.dtype, self.length, self.reader = dtype, length, reader
        self.paths = [run_dir / shard["path"] for shard in shards]
        self.count = sum(counts)
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._starts = self._ends - np.array(counts, np.int64)
        self.scattered = None if whole is None else Scattered(run_dir, shards, whole)
        if whole is None:
            for path, shard in zip(self.paths, shards, strict=True):
                check_tokens(path, dtype, shard["tokens"])
            self._first = reader.add(self.paths)

    def shards_of(self, instances: np.ndarray) -> np.ndarray:
        """The number of the shard that each instance lies in."""
        return np.searchsorted(self._ends, instances, side="right")

    def locate(self, instances: np.ndarray, rows: np.ndarray) -> tuple[Located, Pieces | None]:
        """The runs of shards' tokens that fill these rows of a batch with these instances, and with best-fit packing the
        pieces that they are."""
        raise NotImplementedError

    def plan(self, instances: np.ndarray, rows: np.ndarray) -> tuple[Extents, Pieces | None]:
        """What to read so that these instances fill these rows of a batch, and with best-fit packing its pieces."""
        (shards, starts, sizes, targets), pieces = self.locate(instances, rows)
        if self.scattered is None:
            files = self._first + shards
        else:
            files, starts, sizes, targets = self.scattered.find(shards, starts, sizes, targets)
        width = self.dtype.itemsize
        return Extents(files, starts * width, sizes * width, targets * width), pieces


class Chunks(_Shards):
    """`concatenate`: every `length` tokens of a shard are an instance; the remainder of the shard is none."""

    def __init__(
        self,
        run_dir: Path,
        shards: Sequence[Mapping[str, Any]],
        dtype: np.dtype,
        length: int,
        reader: Reader,
        whole: Whole | None = None,
    ) -> None:
        super().__init__(run_dir, shards, [shard["tokens"] // length for shard in shards], dtype, length, reader, whole)
        self.tokens = self.count * length

    def locate(self, instances: np.ndarray, rows: np.ndarray) -> tuple[Located, None]:
        shards = self.shards_of(instances)
        starts = (instances - self._starts[shards]) * self.length
        return Located(shards, starts, np.full(len(rows), self.length, np.int64), rows * self.length), None


class Packed(_Shards):
    """`best_fit`: an instance is some pieces of its shard, which a file of packed instances lists (packing.py)."""

    def __init__(
        self,
        run_dir: Path,
        shards: Sequence[Mapping[str, Any]],
        packs: Sequence[Pack],
        dtype: np.dtype,
        length: int,
        reader: Reader,
        whole: Whole | None = None,
    ) -> None:
        super().__init__(run_dir, shards, [pack.instances for pack in packs], dtype, length, reader, whole)
        self.tokens = sum(pack.tokens for pack in packs)
        self._packs = [pack.path for pack in packs]
        self._first_pack = reader.add(self._packs)
        self._bounds_at = np.array([pack.bounds_at for pack in packs], np.int64)
        self._shard_tokens = np.array([shard["tokens"] for shard in shards], np.int64)

    def locate(self, instances: np.ndarray, rows: np.ndarray) -> tuple[Located, Pieces]:
        shards, number = self.shards_of(instances), np.arange(len(instances))
        packs = self._first_pack + shards
        bounds = np.empty((len(instances), 2), "<i8")
        at = self._bounds_at[shards] + (instances - self._starts[shards]) * 8
        self.reader.read(packs, at, np.full(len(instances), 16), number * 16, bounds)
        counts = bounds[:, 1] - bounds[:, 0]
        self._refuse(shards, (counts < 1) | (counts > self.length) | (bounds[:, 0] < 0))

        found = np.empty(int(counts.sum()), PIECE)
        before = np.cumsum(counts) - counts
        width = PIECE.itemsize
        self.reader.read(packs, bounds[:, 0] * width, counts * width, before * width, found)
        owner = np.repeat(number, counts)
        starts, lengths = found["start"].astype(np.int64), found["length"].astype(np.int64)
        columns = np.cumsum(lengths) - lengths
        columns -= columns[before][owner]
        shard = shards[owner]
        self._refuse(
            shard,
            (lengths < 1)
            | (starts < 0)
            | (starts + lengths > self._shard_tokens[shard])
            | (columns + lengths > self.length),
        )

        located = Located(shard, starts, lengths, rows[owner] * self.length + columns)
        return located, Pieces(rows[owner], columns, lengths)

    def _refuse(self, shards: np.ndarray, wrong: np.ndarray) -> None:
        if wrong.any():
            raise DataError(f"{self._packs[shards[wrong.argmax()]]}: is damaged; remove it, and it is made again")


class Holding(NamedTuple):
    """What a source's shards hold: instances, and the tokens in them."""

    count: int
    tokens: int


def asked_of(entries: Sequence[Mapping[str, Any]], shards: Sequence[Chunks | Packed | Holding]) -> list[int]:
    """Instances of each source that hold the tokens of its budget; whole epochs are whole, and none is begun that the
    budget does not begin.

    Fractions of an instance are dealt by largest remainders, so that a budget of n instances' tokens gives n.
    """
    exact = []
    for entry, one in zip(entries, shards, strict=True):
        budget, tokens = entry["budget_tokens"], entry["tokens"]
        whole = budget % tokens == 0 if tokens else True
        most = -(-budget // tokens) * one.count if tokens else 0
        exact.append(Fraction(most) if whole else min(Fraction(budget * one.count, max(1, one.tokens)), Fraction(most)))
    floors = [int(value) for value in exact]
    by_rest = sorted(range(len(exact)), key=lambda number: exact[number] - floors[number], reverse=True)
    for number in by_rest[: int(sum(exact)) - sum(floors)]:
        floors[number] += 1
    return floors
