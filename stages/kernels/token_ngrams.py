"""Hashes of n-grams of tokens, of which only the lowest are taken."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import kernel
from stages.kernels.hashing import NGRAM_BASE, mix64


@kernel("int64(const_uint32, offsets, int64, uint64, vec_uint64, vec_int64)")
def lowest_ngrams(tokens, offsets, ngram, limit, out, out_offsets):
    """Write to `out` the hashes below `limit` of each document's n-grams, in order, repeated ones too.

    Document i is tokens[offsets[i]:offsets[i + 1]]; one of fewer than `ngram` tokens has no n-gram. An n-gram is a
    polynomial of its tokens modulo 2^64, mixed. `out` must hold one for each token; `out_offsets` gets n + 1. Returns how
    many were written.
    """
    power = np.uint64(1)
    for _ in range(ngram):
        power *= NGRAM_BASE
    at = 0
    for document in range(len(offsets) - 1):
        out_offsets[document] = at
        first, rolling = offsets[document], np.uint64(0)
        for i in range(first, offsets[document + 1]):
            rolling = rolling * NGRAM_BASE + np.uint64(tokens[i]) + np.uint64(1)
            if i - first >= ngram:
                rolling -= power * (np.uint64(tokens[i - ngram]) + np.uint64(1))
            if i - first >= ngram - 1:
                value = mix64(rolling)
                if value < limit:
                    out[at] = value
                    at += 1
    out_offsets[len(offsets) - 1] = at
    return at
