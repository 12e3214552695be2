"""Which n-grams of documents are in a given set, and to which row of that set they belong."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import kernel


@kernel("int64(const_uint64, offsets, const_uint64, const_uint32, const_uint32, int64, vec_uint32, vec_int64)")
def look_up(hashes, offsets, known, rows, index, shift, out, counts):
    """Write to `out` the row of each hash that is known, document by document; to `counts` how many each has.

    `known` is sorted, without repetition; rows[i] belongs to known[i]; those whose upper bits (hash >> shift) are b
    stand in known[index[b]:index[b + 1]]. `out` must hold one for every hash. Returns how many were written.
    """
    found = 0
    for document in range(len(offsets) - 1):
        before = found
        for i in range(offsets[document], offsets[document + 1]):
            value = hashes[i]
            bucket = value >> np.uint64(shift)
            for k in range(np.int64(index[bucket]), np.int64(index[bucket + np.uint64(1)])):
                if known[k] == value:
                    out[found] = rows[k]
                    found += 1
                    break
        counts[document] = found - before
    return found
