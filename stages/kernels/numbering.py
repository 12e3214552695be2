"""Equal 64-bit keys get equal numbers 0, 1, 2, ... in the order of first occurrence: the hash table of a document.

The table grows with the distinct keys that it holds, so a text of few distinct words stays within the processor's
caches however long it is. It lies in three arrays that a kernel allocates once and uses again for each document:

    slots   int32[room(n)]   numbers, -1 where free; only slots[:state[1] + 1] are in use
    keys    uint64[n]        the key of each number
    state   int64[2]         how many numbers are given, and the mask of slots in use
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper
from stages.kernels.hashing import fold, load_u64
from stages.kernels.utf8 import last_bytes

_SEED, _STEP, _LAST = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_SMALLEST, _LARGEST_FIRST = 64, 1 << 15
_SPARE = 3  # at least this many slots a key: chains are short, so that the processor's guess of their end is right


@helper
def room(count):
    """Length of `slots` that is enough for `count` distinct keys."""
    size = _SMALLEST
    while size < _SPARE * (count + 1):
        size *= 2
    return size


@helper
def clear(state, slots, expected):
    """Forget all keys, and make ready for about `expected` distinct ones."""
    size = min(room(expected), _LARGEST_FIRST)
    state[0] = 0
    state[1] = size - 1
    slots[:size] = -1


@helper
def _slot(key, mask):
    return np.int64((key * _SPREAD) >> np.uint64(32)) & mask


@helper
def _grow(state, slots, keys):
    size = 2 * (state[1] + 1)
    mask = size - 1
    slots[:size] = -1
    for number in range(state[0]):
        at = _slot(keys[number], mask)
        while slots[at] >= 0:
            at = (at + 1) & mask
        slots[at] = number
    state[1] = mask


@helper
def number_of(key, state, slots, keys):
    """The number of a key (int64): that of its equals, else the next one, state[0] before the call.

    Whether a key is new is not branched upon: in text that cannot be foretold, and a wrong guess costs more than the
    stores that are made needlessly.
    """
    fresh = state[0]
    mask = state[1]
    at = _slot(key, mask)
    number = np.int64(slots[at])
    while number >= 0 and keys[number] != key:
        at = (at + 1) & mask
        number = np.int64(slots[at])
    new = number < 0
    number = fresh if new else number
    slots[at] = number
    keys[number] = key
    state[0] = fresh + np.int64(new)
    if _SPARE * fresh > mask:
        _grow(state, slots, keys)
    return number


@helper
def hash_bytes(data, start, stop):
    """64-bit hash of data[start:stop] (stop > start). Reads nothing outside data[:stop], so it needs no padding."""
    h = _SEED + np.uint64(stop - start) * _SPREAD  # spread, so that no byte of the text can undo a difference of length
    while stop - start > 8:
        h = fold(h ^ load_u64(data, start), _STEP)
        start += 8
    return fold(h ^ last_bytes(data, start, stop), _LAST)


@helper
def hash_short(word, length):
    """What `hash_bytes` gives for `length` bytes, one to eight, that are the little-endian `word`."""
    return fold(_SEED + np.uint64(length) * _SPREAD ^ word, _LAST)
