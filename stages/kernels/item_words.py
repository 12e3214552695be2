"""Words of simplified texts as hashes, and as the numbers that a vocabulary gives them."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import kernel
from stages.kernels.hashing import hash_word
from stages.kernels.minhash import word_end


@kernel("int64(text, offsets, vec_uint64, vec_int64)")
def word_hashes(data, offsets, out, out_offsets):
    """Write the hash of each word (between spaces) of each text to `out`, and n + 1 ends to `out_offsets`.

    `out` must hold half as many as there are bytes, and one for each text. Returns how many were written.
    """
    at = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        i, stop = offsets[row], offsets[row + 1]
        while i < stop:
            if data[i] == 32:  # more than one are left where a mark stood between them
                i += 1
                continue
            end = word_end(data, i, stop)
            out[at] = hash_word(data, i, end)
            at += 1
            i = end + 1
    out_offsets[len(offsets) - 1] = at
    return at


@kernel("int64(const_uint64, const_uint64, const_uint32, int64, vec_uint32)")
def word_numbers(hashes, known, index, shift, out):
    """Write to `out` the place of each hash in `known`, from 1; 0 for one that is not there. Returns how many are.

    `known` is sorted, without repetition; those whose upper bits (hash >> shift) are b stand in known[index[b]:index[b + 1]].
    """
    found = 0
    for i in range(len(hashes)):
        value = hashes[i]
        bucket = value >> np.uint64(shift)
        out[i] = 0
        for k in range(np.int64(index[bucket]), np.int64(index[bucket + np.uint64(1)])):
            if known[k] == value:
                out[i] = k + 1
                found += 1
                break
    return found
