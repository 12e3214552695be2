"""Where the instances of a training run lie in the shards: for tracing what was read at a step. NumPy only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.loader.data import Data


class Piece(NamedTuple):
    """Tokens of one shard that follow one another: a whole instance, or a part of a packed one."""

    path: Path
    first_token: int
    tokens: int


class Place(NamedTuple):
    """One position of the training order: what stands there, and where it is read."""

    position: int
    source: int  # index into `Data.sources`
    instance: int  # number within the source
    epoch: int
    pieces: list[Piece]


def places(data: Data, first: int, count: int) -> list[Place]:
    """Where instances first..first+count-1 lie; no token is read. Raises DataError beyond the last instance."""
    train = data.train
    positions = train.positions(first, count)
    found, length = train.lookup(positions), train.sequence_length
    pieces: list[list[tuple[int, Piece]]] = [[] for _ in range(count)]
    for shards, runs in train.located(positions):
        for shard, start, size, target in np.stack(runs, axis=1).tolist():
            pieces[target // length].append((target, Piece(shards.paths[shard], start, size)))
    return [
        Place(
            first + row,
            int(found.source[row]),
            int(found.instance[row]),
            int(found.epoch[row]),
            [piece for _, piece in sorted(pieces[row])],
        )
        for row in range(count)
    ]
