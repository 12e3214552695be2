"""MinHash signatures of word n-grams, and the keys by which locality-sensitive hashing compares them.

Scheme: a word (between spaces) is hashed to 64 bits; an n-gram of words is a polynomial of their hashes, mixed; row i
of the signature is the least value of (x ^ xor_i) * multiply_i modulo 2^64 over all n-grams x of the document. The
xor breaks the linear relation between rows that multiplication alone would leave. Broder 1997 for the estimate;
Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4, for bands and rows: two documents whose sets
of n-grams have Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import NGRAM_BASE, fold, hash_word, load_u8, load_u64, mix64, trailing_zeros

BLOCK = 512  # n-grams hashed before the rows are brought up to date: both fit in the first-level cache

_SPACES = np.uint64(0x2020202020202020)
_ONES = np.uint64(0x0101010101010101)
_HIGHS = np.uint64(0x8080808080808080)
_SPLIT = np.uint64(0x9E3779B97F4A7C15)
_BAND = np.uint64(0xA0761D6478BD642F)


def row_constants(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(xor, multiply) of each row of the signature, uint64: splitmix64 (Steele et al. 2014); the second odd."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) * np.uint64(0xD1B54A32D192ED03) + np.arange(1, 2 * rows + 1, dtype=np.uint64) * _SPLIT
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z[:rows].copy(), z[rows:] | np.uint64(1)


@helper
def word_end(data, start, stop):
    """Where the word that begins at `start` ends: the next space, or `stop`."""
    while start < stop:
        if start + 8 > len(data):
            while start < stop and load_u8(data, start) != 32:
                start += 1
            return start
        x = load_u64(data, start) ^ _SPACES
        found = (x - _ONES) & ~x & _HIGHS
        if found:
            return min(start + (trailing_zeros(found) >> 3), stop)
        start += 8
    return stop


@helper
def next_ngram(data, position, stop, window, seen, power, rolling):
    """Read one more word: its hash enters the window of the last n, and the oldest leaves the polynomial.

    Returns (position behind the word, words seen, polynomial); `position` is `stop` or more at the end.
    """
    end = word_end(data, position, stop)
    hashed = hash_word(data, position, end)
    slot = seen % len(window)
    if seen >= len(window):
        rolling -= window[slot] * power
    window[slot] = hashed
    return end, seen + 1, rolling * NGRAM_BASE + hashed


@helper
def _skip_spaces(data, position, stop):
    while position < stop and data[position] == 32:
        position += 1
    return position


@helper
def _lower_rows(hashes, count, xors, multipliers, signature):
    for row in range(len(signature)):
        xor, multiplier, least = xors[row], multipliers[row], signature[row]
        for k in range(count):
            value = (hashes[k] ^ xor) * multiplier
            least = min(least, value)
        signature[row] = least


@helper
def _power(base, exponent):
    result = np.uint64(1)
    for _ in range(exponent):
        result *= base
    return result


@kernel("void(text, offsets, int64, const_uint64, const_uint64, Array(uint64, 2, 'C'), vec_int64)")
def minhash_signatures(data, offsets, ngram, xors, multipliers, signatures, counts):
    """Signature of each text (out: `signatures` (n, rows)) and its number of n-grams, repeated ones too (`counts`).

    Words stand between spaces. A text of fewer than `ngram` words has no n-gram: count 0, and rows of 2^64 - 1.
    """
    hashes = np.empty(BLOCK, np.uint64)
    window = np.empty(ngram, np.uint64)
    power = _power(NGRAM_BASE, ngram - 1)
    for document in range(len(offsets) - 1):
        signature = signatures[document]
        signature[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
        stop = offsets[document + 1]
        position = _skip_spaces(data, offsets[document], stop)
        seen = 0
        rolling = np.uint64(0)
        held = 0
        total = 0
        while position < stop:
            position, seen, rolling = next_ngram(data, position, stop, window, seen, power, rolling)
            if seen >= ngram:
                hashes[held] = mix64(rolling)
                held += 1
                if held == BLOCK:
                    _lower_rows(hashes, held, xors, multipliers, signature)
                    total += held
                    held = 0
            position = _skip_spaces(data, position, stop)
        _lower_rows(hashes, held, xors, multipliers, signature)
        counts[document] = total + held


@kernel("int64(text, offsets, int64, vec_uint64, vec_int64)")
def ngram_hashes(data, offsets, ngram, out, out_offsets):
    """The 64-bit hashes of each text's n-grams, in order, repeated ones too: those that the signatures are made of.

    `out` must hold one for every two bytes of text, rounded up; `out_offsets` gets n + 1. Returns how many.
    """
    window = np.empty(ngram, np.uint64)
    power = _power(NGRAM_BASE, ngram - 1)
    at = 0
    for document in range(len(offsets) - 1):
        out_offsets[document] = at
        stop = offsets[document + 1]
        position = _skip_spaces(data, offsets[document], stop)
        seen = 0
        rolling = np.uint64(0)
        while position < stop:
            position, seen, rolling = next_ngram(data, position, stop, window, seen, power, rolling)
            if seen >= ngram:
                out[at] = mix64(rolling)
                at += 1
            position = _skip_spaces(data, position, stop)
    out_offsets[len(offsets) - 1] = at
    return at


@kernel("void(Array(uint64, 2, 'C'), int64, Array(uint64, 2, 'C'))")
def band_keys(signatures, rows, out):
    """64-bit key of each band of each signature: out (n, bands), from signatures (n, bands * rows).

    The band's number is part of its key, so one sort finds the matches of all bands. Over 3e9 documents and 14 bands
    about 50 pairs of unequal bands are expected to share a key by chance.
    """
    for document in range(len(signatures)):
        for band in range(out.shape[1]):
            key = mix64(_BAND + np.uint64(band))
            for row in range(band * rows, (band + 1) * rows):
                key = fold(key ^ signatures[document, row], _SPLIT) + _BAND
            out[document, band] = mix64(key)


@helper
def _jaccard(ngrams, offsets, x, y):
    i, i_stop = offsets[x], offsets[x + 1]
    j, j_stop = offsets[y], offsets[y + 1]
    union = i_stop - i + j_stop - j
    common = 0
    while i < i_stop and j < j_stop:
        if ngrams[i] == ngrams[j]:
            common += 1
            i += 1
            j += 1
        elif ngrams[i] < ngrams[j]:
            i += 1
        else:
            j += 1
    return common / (union - common) if union else 0.0


@kernel("void(const_int64, const_uint64, offsets, float64, int64, vec_int64)")
def choose_verified(starts, ngrams, offsets, least, limit, kept):
    """For each member of each cluster, the member that stands for it: `kept` (n), positions; itself where it is kept.

    Members stand in order of preference; those of cluster c from starts[c] to starts[c + 1]. Each is compared to the
    first `limit` members kept so far, and goes for the first whose Jaccard similarity is `least` or more. A member's
    n-grams are ngrams[offsets[i]:offsets[i + 1]], sorted, without repetition.
    """
    heads = np.empty(limit, np.int64)
    for cluster in range(len(starts) - 1):
        held = 0
        for member in range(starts[cluster], starts[cluster + 1]):
            kept[member] = member
            for k in range(held):
                if _jaccard(ngrams, offsets, heads[k], member) >= least:
                    kept[member] = heads[k]
                    break
            if kept[member] == member and held < limit:
                heads[held] = member
                held += 1
