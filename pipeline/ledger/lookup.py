"""From 64-bit hashes to the numbers that have them, in 12 bytes each: a sorted column, and a dict of what came since."""

from __future__ import annotations

from array import array

import numpy as np

NEW_MOST = 1 << 16  # as many, or an eighth of what is sorted, are kept unsorted


class Lookup:
    """Numbers 0, 1, 2, ... by the hash of each. Several may have one hash, by chance too: who asks must check."""

    def __init__(self, hashes: array[int]) -> None:
        """hashes: signed 64-bit, one for each number. More may be appended to it later; `added` is then called."""
        self.hashes = hashes
        self._keys: np.ndarray | None = None
        self._numbers = np.zeros(0, np.uint32)
        self._new: dict[int, list[int]] = {}
        self._count = 0

    def added(self, number: int) -> None:
        """A number was appended to the column."""
        if self._keys is None:
            return
        self._new.setdefault(self.hashes[number], []).append(number)
        self._count += 1
        if self._count > max(NEW_MOST, len(self._keys) // 8):
            self._keys = None

    def sort(self) -> tuple[np.ndarray, np.ndarray]:
        """All hashes in order, and the number of each; numbers of one hash in order."""
        column = np.frombuffer(self.hashes, np.int64)  # of the same memory: gone before the column grows again
        order = np.argsort(column, kind="stable")
        self._keys, self._numbers = column[order], order.astype(np.uint32)
        self._new, self._count = {}, 0
        return self._keys, self._numbers

    def numbers(self, key: int) -> list[int]:
        """Numbers with this hash, the last one first."""
        keys = self.sort()[0] if self._keys is None else self._keys
        low, high = keys.searchsorted(key, "left"), keys.searchsorted(key, "right")
        return [*reversed(self._new.get(key, ())), *self._numbers[low:high][::-1].tolist()]
