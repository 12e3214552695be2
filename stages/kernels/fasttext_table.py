"""The table of words that a classifier keeps: of each distinct word met, its hash and the sum of its rows.

An entry, in units of 4 bytes: the word (32 bytes, zeros behind it), then at the places below the number of its rows
(or LABEL or END), its hash, whether it was met again, and the sum of its rows. `keys` holds the entries, of `stride` units
of 8 bytes; `seen` is a hash table of 2^k slots over them, more than there are entries: high half of the hash | where the entry
ends in `keys`, 0 where the slot is free; `used[0]` is where the next free entry begins. The first ROOM entries are for
words of a block that are too long for the table: they are summed anew each time.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.bytes64 import WIDE
from stages.kernels.compile import inlined, light
from stages.kernels.hashing import load, store
from stages.kernels.vectors import copy_key, same_keys

KEY_BYTES = 32
ENTRY_COUNT, ENTRY_HASH, ENTRY_AGAIN, ENTRY_SUMS = 8, 9, 10, 12
BLOCK = 64  # words that are looked up together, at least where there are as many
ROOM = BLOCK + WIDE // 2  # and at most
LEAST_ENTRIES = 8 * ROOM

LOW_HALF = np.uint64(0xFFFFFFFF)
KEY_FACTORS = (  # odd numbers with bits in no pattern, to spread words over the table
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
    np.uint64(0xD6E8FEB86659FD93),
)


@inlined
def read_key(line, start, size, parts, to):
    """The first 32 bytes of a word of `size` bytes, zeros behind it, to parts[to : to + 4]; returns their hash.

    32 bytes from `start` on are read. The hash is cheaper than fastText's, and tells where a search in the table begins.
    """
    copy_key(parts, to, line, start, size)
    return _spread(parts, to)


@inlined
def _spread(parts, at):
    value = load(parts, at) ^ (load(parts, at + 1) * KEY_FACTORS[1]) ^ (load(parts, at + 2) * KEY_FACTORS[2])
    value = (value ^ (load(parts, at + 3) * KEY_FACTORS[3])) * KEY_FACTORS[0]
    return value ^ (value >> np.uint64(32))


@inlined
def find_entry(parts, of, value, seen, keys, stride, mask):
    """The entry of a word (of up to 32 bytes) in the table of words, or -1. Small, so that it is inlined."""
    slot = np.int64(value) & mask
    held = load(seen, slot)
    while held != 0:
        at = np.int64(held & LOW_HALF) - stride
        if (held ^ value) & ~LOW_HALF == 0 and same_keys(keys, at, parts, of):
            return at
        slot = (slot + 1) & mask
        held = load(seen, slot)
    return -1


@light
def new_entry(parts, of, value, seen, keys, stride, used):
    """An entry for a word that is not in the table of words: the next free one, which there must be."""
    mask = len(seen) - 1
    slot = np.int64(value) & mask
    while load(seen, slot) != 0:
        slot = (slot + 1) & mask
    at = load(used, 0)
    store(used, 0, at + stride)
    store(seen, slot, (value & ~LOW_HALF) | np.uint64(at + stride))
    for k in range(4):
        store(keys, at + k, load(parts, of + k))
    store(keys, at + ENTRY_AGAIN // 2, 0)
    return at


@light
def make_room(seen, keys, numbers, stride, used):
    """Have free entries for a block: of a table without, keep words met again since the last time, or none if that is most.

    `numbers`: `keys` as uint32.
    """
    if used[0] + ROOM * stride <= len(keys):
        return
    mask = len(seen) - 1
    seen[:] = 0
    to = ROOM * stride
    for at in range(ROOM * stride, used[0], stride):
        if numbers[2 * at + ENTRY_AGAIN] == 0:
            continue
        for k in range(stride):
            keys[to + k] = keys[at + k]
        numbers[2 * to + ENTRY_AGAIN] = 0
        to += stride
    if 4 * to > 3 * len(keys):
        to = ROOM * stride
    for at in range(ROOM * stride, to, stride):
        value = _spread(keys, at)
        slot = np.int64(value) & mask
        while seen[slot] != 0:
            slot = (slot + 1) & mask
        seen[slot] = (value & ~LOW_HALF) | np.uint64(at + stride)
    used[0] = to
