"""What the losses of arms and seeds say: means, spread, and paired differences with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

Z = 1.959963984540054  # 95% of a normal distribution lie within so many standard errors


class Loss(msgspec.Struct, frozen=True):
    """A document's summed loss, as `trainer eval --text --out` keeps it."""

    file: str
    id: str
    bytes: int
    tokens: int
    nats: float


class Score(msgspec.Struct, frozen=True):
    """Bits per byte of an arm on a file: of each seed, their mean and their standard deviation (None for one seed)."""

    seeds: list[float]
    mean: float
    spread: float | None


class Difference(msgspec.Struct, frozen=True):
    """Bits per byte of an arm less those of the first one on a file, with a 95% interval. noise: it holds 0."""

    difference: float
    low: float
    high: float
    noise: bool


def score(seeds: Sequence[Sequence[Loss]], file: str) -> Score:
    """An arm's score on a file, from the losses of each of its seeds."""
    values = [_bits(losses, file) for losses in seeds]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Score(values, float(np.mean(values)), spread)


def _bits(losses: Sequence[Loss], file: str) -> float:
    mine = [one for one in losses if one.file == file]
    return sum(one.nats for one in mine) / math.log(2) / sum(one.bytes for one in mine)


def difference(arm: Sequence[Sequence[Loss]], base: Sequence[Sequence[Loss]], weights: Mapping[str, float]) -> Difference:
    """The paired difference of two arms, document by document and seed by seed. weights: of each file in it; {file: 1.0} for one.

    Its variance is that of a mean over documents (of a ratio: bits to bytes) of the differences averaged over seeds, and that
    of a mean over seeds of the differences of each, added: one says what other documents would give, the other what other
    seeds would. With one seed the second is not known, and counted as nothing.
    """
    found = variance = 0.0
    each = np.zeros(len(arm))
    for file, weight in weights.items():
        pairs = [_paired(ours, theirs, file) for ours, theirs in zip(arm, base, strict=True)]
        size = np.array([one.bytes for one in arm[0] if one.file == file], float)
        bits = np.mean(pairs, axis=0)  # of each document
        value = bits.sum() / size.sum()
        if len(size) > 1:
            variance += weight**2 * np.var(bits - value * size, ddof=1) / len(size) / size.mean() ** 2
        found += weight * value
        each += weight * np.array([one.sum() / size.sum() for one in pairs])
    if len(each) > 1:
        variance += np.var(each, ddof=1) / len(each)
    error = Z * math.sqrt(variance)
    return Difference(float(found), float(found - error), float(found + error), bool(abs(found) <= error))


def _paired(ours: Sequence[Loss], theirs: Sequence[Loss], file: str) -> np.ndarray:
    """Bits of each document of a file in one less those in the other."""
    mine, known = [one for one in ours if one.file == file], [one for one in theirs if one.file == file]
    if [one.id for one in mine] != [one.id for one in known]:
        raise ValueError(f"{file}: the documents that were scored are not the same")
    return np.array([(a.nats - b.nats) / math.log(2) for a, b in zip(mine, known, strict=True)])
