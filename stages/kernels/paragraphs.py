"""Whole paragraphs: their hashes, and a table that knows for sure which of them stood before."""

from __future__ import annotations

import numpy as np

from stages.kernels.bloom import is_white_space
from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import fold, load_u64, mix64, multiply_high, prefetch
from stages.kernels.utf8 import count_chars

NEWLINE = np.uint64(0x0A0A0A0A0A0A0A0A)
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_FIRST, _SECOND = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
_AHEAD = 64  # how many paragraphs ahead of the look-ups their slots are asked for


@helper
def _paragraph_end(data, start, stop):
    """Where the paragraph that begins at `start` ends: at the next newline, or at `stop`."""
    while start + 8 <= stop:
        word = load_u64(data, start) ^ NEWLINE
        if (word - _ONES) & ~word & _HIGHS != 0:
            break
        start += 8
    while start < stop and data[start] != 0x0A:
        start += 1
    return start


@helper
def _hash_pair(data, start, stop, seed):
    """Two hashes of data[start:stop], 128 bits together."""
    first = mix64(seed ^ np.uint64(stop - start))
    second = ~first
    while start + 8 <= stop:
        word = load_u64(data, start)
        first = fold(first ^ word, _FIRST)
        second = fold(second + word, _SECOND)
        start += 8
    word = np.uint64(0)
    for k in range(start, stop):
        word = (word << np.uint64(8)) | np.uint64(data[k])
    return mix64(fold(first ^ word, _FIRST)), mix64(fold(second + word, _SECOND))


@kernel(
    "UniTuple(int64, 2)(text, offsets, const_uint16, int64, uint64, vec_uint64, vec_uint64, vec_int64, vec_int64, vec_int64)"
)
def hash_paragraphs(data, offsets, table, min_chars, seed, hashes, others, unit_stops, unit_reaches, document_reaches):
    """Cut texts behind every newline and hash each paragraph, without its newline.

    A paragraph of fewer than `min_chars` characters or of nothing but white space has no hash. Outputs are those of
    `hash_ngrams` (stages/kernels/bloom.py), with one hash a paragraph at most, and `others`: 64 more bits of each.
    Returns (units, hashes).
    """
    units = at = 0
    for document in range(len(offsets) - 1):
        start, stop = offsets[document], offsets[document + 1]
        while start < stop:
            end = _paragraph_end(data, start, stop)
            large = end - start >= 4 * min_chars or count_chars(data, start, end) >= min_chars
            if large and not is_white_space(data, start, end, table):
                hashes[at], others[at] = _hash_pair(data, start, end, seed)
                at += 1
            start = min(end + 1, stop)
            unit_stops[units] = start
            unit_reaches[units] = at
            units += 1
        document_reaches[document] = units
    return units, at


@helper
def _slot(hashed, slots):
    return np.int64(multiply_high(hashed, np.uint64(slots))) << 1


@kernel(
    "UniTuple(int64, 2)(offsets, const_uint64, const_uint64, const_int64, const_int64, const_int64, vec_uint64,"
    " int64, vec_int64, vec_int64, vec_int64, vec_uint64, Array(int64, 2, 'C'))"
)
def known_paragraphs(
    offsets, hashes, others, unit_stops, unit_reaches, document_reaches, known, free, rows, starts, stops, probes, counts
):  # fmt: skip
    """Find the paragraphs that stood before, in order, and enter the others into the table `known`.

    known: pairs of hashes, (0, 0) where a slot is free; `free` more of them may be taken. The rest as for `bff`. Returns
    (spans, paragraphs entered); entered is -1 where the table would have been overfull.
    """
    slots = len(known) >> 1
    found = entered = unit = at = 0
    for i in range(min(_AHEAD, len(hashes))):
        prefetch(known, _slot(hashes[i], slots))
    for document in range(len(offsets) - 1):
        begin, from_hash, before = offsets[document], at, found
        while unit < document_reaches[document]:
            if unit_reaches[unit] > at:
                if at + _AHEAD < len(hashes):
                    prefetch(known, _slot(hashes[at + _AHEAD], slots))
                first, second = hashes[at], others[at] | np.uint64(1)  # never (0, 0)
                place = _slot(first, slots)
                while known[place + 1] != 0 and (known[place] != first or known[place + 1] != second):
                    place = place + 2 if place + 2 < len(known) else 0
                if known[place + 1] != 0:
                    rows[found] = document
                    starts[found] = begin - offsets[document]
                    stops[found] = unit_stops[unit] - offsets[document]
                    probes[found] = first
                    found += 1
                else:
                    if entered == free:
                        return found, -1
                    known[place], known[place + 1] = first, second
                    entered += 1
                at = unit_reaches[unit]
            begin = unit_stops[unit]
            unit += 1
        counts[document, 0] = at - from_hash
        counts[document, 1] = found - before
    return found, entered
