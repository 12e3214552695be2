"""How much of a document repeats itself, as datatrove computes it, in one call a batch.

Definitions: the filter GopherRepetitionFilter of datatrove 0.10, after Rae et al. 2021, appendix A1.1; but for words, which here
are the segments of UAX #29 that are not white space, punctuation included. Lines, paragraphs, words and n-grams are compared
by 64-bit hashes. The n-grams for n = 5..10 are compared as their words written without a space between, as there ("ab c" and
"a bc" are one): by a polynomial over their bytes modulo 2^61 - 1, from prefix sums.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8, mix64, multiply_high
from stages.kernels.numbering import clear, hash_bytes, number_of, room
from stages.kernels.unicode_tables import SPACE
from stages.kernels.utf8 import count_chars, decode, next_newline, properties, skip_space, skip_space_back
from stages.kernels.words import plain_word_end, word_end

MEASURES = (
    "characters",
    "duplicate_paragraphs",
    "duplicate_paragraph_chars",
    "duplicate_lines",
    "duplicate_line_chars",
    *(f"top_{n}gram" for n in (2, 3, 4)),
    *(f"duplicate_{n}grams" for n in range(5, 11)),
)
_COLUMNS = len(MEASURES)
_TOP_2GRAM = MEASURES.index("top_2gram")

_P = (1 << 61) - 1
_PRIME = np.uint64(_P)
_BASE = np.uint64(0x14C9E3779B97F4A7 % _P)
_INVERSE = np.uint64(pow(int(_BASE), -1, _P))
_EMPTY = np.uint64(0x9AE16A3B2F90404F)


@helper
def _times(a, b):
    """a * b modulo 2^61 - 1, for a and b below it."""
    high, low = multiply_high(a, b), a * b
    total = (low & _PRIME) + ((low >> np.uint64(61)) | (high << np.uint64(3)))
    total = (total & _PRIME) + (total >> np.uint64(61))
    return total - _PRIME if total >= _PRIME else total


@helper
def _plus(a, b):
    total = a + b
    return total - _PRIME if total >= _PRIME else total


@helper
def _most(data, offsets, table):
    """The greatest number of words, and of line feeds, in any of the texts."""
    most_words = most_breaks = 0
    for row in range(len(offsets) - 1):
        at, stop = offsets[row], offsets[row + 1]
        breaks = 0
        for place in range(at, stop):
            breaks += np.int64(load_u8(data, place) == 0x0A)
        words = 0
        while at < stop:
            end = plain_word_end(data, at, stop)
            at = end if end > at else word_end(data, at, stop, table)
            words += 1
        most_words, most_breaks = max(most_words, words), max(most_breaks, breaks)
    return most_words, most_breaks


@helper
def _duplicates(data, start, stop, newlines, state, slots, keys, seen):
    """(segments parted by runs of at least so many line feeds, those that stood before, characters of these)."""
    clear(state, slots, (stop - start) // 32)
    segments = copies = chars = 0
    while True:
        end = next_newline(data, start, stop, newlines)
        key = hash_bytes(data, start, end) if end > start else _EMPTY
        number = number_of(key, state, slots, keys)
        segments += 1
        if seen[number]:
            copies += 1
            chars += count_chars(data, start, end)
        seen[number] = 1
        if end >= stop:
            break
        start = end
        while start < stop and load_u8(data, start) == 0x0A:
            start += 1
    seen[: state[0]] = 0
    return segments, copies, chars


@helper
def _read_words(data, start, stop, table, hashes, ends, sums, shifts):
    """Each word's hash; characters (ends) and the polynomial (sums) of all words before it; what brings that to power 0 (shifts).

    Returns how many words there are; ends and sums have one entry more.
    """
    words = chars = 0
    power = shift = np.uint64(1)
    total = np.uint64(0)
    ends[0], sums[0] = 0, 0
    while start < stop:
        end = plain_word_end(data, start, stop)
        white = False
        if end == start:
            end = word_end(data, start, stop, table)
            point, _ = decode(data, start, stop)
            white = properties(table, point) & SPACE != 0
        if not white:
            hashes[words] = hash_bytes(data, start, end)
            shifts[words] = shift
            for place in range(start, end):
                total = _plus(total, _times(power, load_u8(data, place) + np.uint64(1)))
                power = _times(power, _BASE)
                shift = _times(shift, _INVERSE)
            chars += count_chars(data, start, end)
            words += 1
            ends[words], sums[words] = chars, total
        start = end
    return words


@helper
def _top(n, words, hashes, ends, state, slots, keys, counts, lengths):
    """Characters of the commonest n-gram (of several, the first), with a space between its words, times its count."""
    clear(state, slots, words)
    for i in range(words - n + 1):
        key = hashes[i]
        for k in range(1, n):
            key = mix64(key) + hashes[i + k]
        number = number_of(key, state, slots, keys)
        if counts[number] == 0:
            lengths[number] = ends[i + n] - ends[i] + n - 1
        counts[number] += 1
    most = best = 0
    for number in range(state[0]):
        if counts[number] > most:
            most = counts[number]
            best = most * lengths[number]
        counts[number] = 0
    return best


@helper
def _covered(n, words, ends, sums, shifts, state, slots, keys, seen):
    """Characters of n-grams that stood before, from left to right, each word in one of them at most."""
    clear(state, slots, words)
    chars = i = 0
    while i < words - n + 1:
        key = _times(_plus(sums[i + n], _PRIME - sums[i]), shifts[i])
        number = number_of(key, state, slots, keys)
        if seen[number]:
            chars += ends[i + n] - ends[i]
            i += n
        else:
            seen[number] = 1
            i += 1
    seen[: state[0]] = 0
    return chars


@kernel("float64[:, ::1](text, offsets, const_uint16)")
def repetition_datatrove(data, offsets, table):
    """MEASURES of each text: float64 [texts, measures]; `table` is code_points(). An empty text: NaN but for the first."""
    most_words, most_breaks = _most(data, offsets, table)
    most = max(most_words, most_breaks) + 2
    slots = np.empty(room(most), np.int32)
    keys = np.empty(most, np.uint64)
    state = np.zeros(2, np.int64)
    counts = np.zeros(most, np.int64)
    lengths = np.empty(most, np.int64)
    ends = np.empty(most, np.int64)
    hashes = np.empty(most, np.uint64)
    sums = np.empty(most, np.uint64)
    shifts = np.empty(most, np.uint64)
    out = np.full((len(offsets) - 1, _COLUMNS), np.nan)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        chars = count_chars(data, start, stop)
        out[row, 0] = chars
        if chars == 0:
            continue
        first = skip_space(data, start, stop, table)
        last = skip_space_back(data, first, stop, table)
        segments, copies, copied = _duplicates(data, first, last, 2, state, slots, keys, counts)
        out[row, 1], out[row, 2] = copies / segments, copied / chars
        segments, copies, copied = _duplicates(data, start, stop, 1, state, slots, keys, counts)
        out[row, 3], out[row, 4] = copies / segments, copied / chars
        words = _read_words(data, start, stop, table, hashes, ends, sums, shifts)
        for n in range(2, 5):
            out[row, _TOP_2GRAM + n - 2] = _top(n, words, hashes, ends, state, slots, keys, counts, lengths) / chars
        for n in range(5, 11):
            out[row, _TOP_2GRAM + n - 2] = _covered(n, words, ends, sums, shifts, state, slots, keys, counts) / chars
    return out
