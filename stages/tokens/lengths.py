"""Lengths of documents, counted in a histogram of fixed size: quantiles of any number of them in bounded memory."""

from __future__ import annotations

import numpy as np

EXACT = 12  # lengths below 2**EXACT have a bucket each; above, buckets are 2**-(EXACT - 1) = 0.05% of a length wide
LARGEST = 48  # bits of the longest length
_HALF = EXACT - 1
_BUCKETS = (LARGEST - EXACT + 2) << _HALF


def _bucket(lengths: np.ndarray) -> np.ndarray:
    shift = np.maximum(np.frexp(lengths.astype(np.float64))[1] - EXACT, 0)
    return (shift.astype(np.int64) << _HALF) + (lengths >> shift)


def _middle(bucket: int) -> int:
    """The length in the middle of a bucket."""
    shift = max((bucket >> _HALF) - 1, 0)
    return ((bucket - (shift << _HALF)) << shift) + ((1 << shift) >> 1)


class Lengths:
    """Counts of lengths (whole numbers below 2^48). Quantiles are exact below 4,096, and within 0.05% above."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BUCKETS, np.int64)
        self.documents = self.total = self.max = 0
        self.min = 1 << LARGEST

    def add(self, lengths: np.ndarray) -> None:
        """Count these lengths (int64, none negative)."""
        if not len(lengths):
            return
        self.counts += np.bincount(_bucket(lengths), minlength=_BUCKETS)
        self.documents += len(lengths)
        self.total += int(lengths.sum())
        self.min, self.max = min(self.min, int(lengths.min())), max(self.max, int(lengths.max()))

    def merge(self, other: Lengths) -> None:
        """Count what another one has counted."""
        self.counts += other.counts
        self.documents += other.documents
        self.total += other.total
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)

    def quantile(self, share: float) -> int:
        """The smallest length that at least `share` of the documents do not pass (nearest rank)."""
        rank = max(1, int(np.ceil(share * self.documents)))
        if rank >= self.documents:
            return self.max
        found = _middle(int(np.searchsorted(np.cumsum(self.counts), rank)))
        return min(max(found, self.min), self.max)

    def to_json(self) -> dict[str, float | int] | None:
        """{"min", "median", "p90", "p99", "max", "mean"}; None where there are no documents."""
        if not self.documents:
            return None
        return {
            "min": self.min,
            "median": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "max": self.max,
            "mean": round(self.total / self.documents, 2),
        }
