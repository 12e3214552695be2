"""How much of a document repeats itself, as datatrove computes it, in one call a batch.

Definitions: the filter GopherRepetitionFilter of datatrove 0.10, after Rae et al. 2021, appendix A1.1. Words are given, or
else the segments of UAX #29 that are not white space, punctuation included. Lines, paragraphs, words and n-grams are compared
by 64-bit hashes. The n-grams for n = 5..10 are compared as their words written without a space between, as there ("ab c" and
"a bc" are one): as bytes of a copy of the text that is written so.

Most n-grams of most texts occur once, and are passed over unhashed: an n-gram can only occur again where the two
(n - 1)-grams in it do (n = 3, 4), and where the first `_PREFIX` bytes of what begins there do (n = 5..10).
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import fold, load_u8, load_u64, mix64, store_u64
from stages.kernels.numbering import clear, hash_bytes, hash_short, number_of, room
from stages.kernels.unicode_tables import SPACE
from stages.kernels.utf8 import (
    append,
    count_chars,
    decode,
    next_newline,
    properties,
    skip_space,
    skip_space_back,
)
from stages.kernels.words import quick_word, word_end

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

_EMPTY = np.uint64(0x9AE16A3B2F90404F)
_PREFIX = 16
_MARKS = 8  # bytes to mark each n-gram in: one in nine or so is taken for another one
_ONE = np.uint64(1)
_SPREAD, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)


@helper
def _most(data, offsets):
    """At least the greatest number of words, and of line feeds and one, in any of the texts.

    Words are counted where they may begin: at any character but an ASCII letter or digit behind another one.
    """
    most = 0
    for row in range(len(offsets) - 1):
        begins = breaks = 0
        before = False
        for place in range(offsets[row], offsets[row + 1]):
            byte = load_u8(data, place)
            letter = byte | np.uint64(0x20)
            plain = (letter - np.uint64(0x61) < 26) | (byte - np.uint64(0x30) < 10)
            begins += np.int64((byte & np.uint64(0xC0) != 0x80) & ~(plain & before))
            breaks += np.int64(byte == 0x0A)
            before = plain
        most = max(most, begins, breaks + 1)
    return most


@helper
def _longest(offsets):
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    return longest


@helper
def _duplicates(data, start, stop, newlines, state, slots, keys, seen):
    """(segments parted by runs of at least so many line feeds, those that stood before, characters of these)."""
    clear(state, slots, min((stop - start) // 32, len(keys)))  # in long words there is less room than in text
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
def _read_words(data, start, stop, table, hashes, ends, written, starts):
    """Each word's hash; characters (ends) and bytes (starts) of all words before it; the words without a space between (written).

    Returns how many words there are; ends and starts have one entry more. Up to 8 bytes behind what is written are overwritten.
    """
    words = chars = size = 0
    ends[0] = starts[0] = 0
    while start < stop:
        length, word = quick_word(data, start, stop)
        if length < 0:
            start += 1
            continue
        if 0 < length < 8:
            hashes[words] = hash_short(word & (_ONE << np.uint64(8 * length)) - _ONE, length)
            store_u64(written, size, word)
            size += length
            chars += length
            start += length
        else:
            end = start + length
            if length == 0:
                end = word_end(data, start, stop, table)
                point, _ = decode(data, start, stop)
                if properties(table, point) & SPACE:
                    start = end
                    continue
                length = count_chars(data, start, end)
            hashes[words] = hash_bytes(data, start, end)
            size = append(written, size, data, start, end)
            chars += length
            start = end
        words += 1
        ends[words], starts[words] = chars, size
    return words


@helper
def _given_words(data, spans, first, last, hashes, ends, written, starts):
    """As `_read_words`, of the words spans[2 * k] to spans[2 * k + 1]."""
    chars = size = 0
    ends[0] = starts[0] = 0
    for k in range(first, last):
        start, end = spans[2 * k], spans[2 * k + 1]
        hashes[k - first] = hash_bytes(data, start, end)
        size = append(written, size, data, start, end)
        chars += count_chars(data, start, end)
        ends[k - first + 1], starts[k - first + 1] = chars, size
    return last - first


@helper
def _marks(count, marks):
    """Make ready to mark `count` hashes; returns by how much a hash is shifted to be a place in `marks`."""
    size, bits = 64, 6
    while size < _MARKS * count:
        size, bits = 2 * size, bits + 1
    marks[:size] = 0
    return np.uint64(64 - bits)


@helper
def _mark(key, shift, marks):
    """Mark a hash: 1 where it is the first of its place, 2 from the second one on. Returns the place."""
    place = np.int64(key >> shift)
    marks[place] = 1 + np.uint8(marks[place] != 0)
    return place


@helper
def _common_pairs(words, hashes, grams, places, marks):
    """places: where pairs of words begin that may occur again (and few that do not); returns how many."""
    shift = _marks(words, marks)
    for i in range(words - 1):
        grams[i] = _mark((hashes[i] ^ (hashes[i + 1] >> np.uint64(32))) * _SPREAD + hashes[i + 1], shift, marks)
    kept = 0
    for i in range(words - 1):
        places[kept] = i
        kept += np.int64(marks[grams[i]] >> 1)
    return kept


@helper
def _top(n, words, kept, places, hashes, ends, grams, state, slots, keys, counts, lengths):
    """Characters of the commonest n-gram (of several, the first), with a space between its words, times its count.

    places[:kept]: where n-grams begin that may occur again. Also returns how many (n + 1)-grams may, with places of these.
    """
    clear(state, slots, kept)
    for j in range(kept):
        i = places[j]
        key = hashes[i]
        for k in range(1, n):
            key = mix64(key) + hashes[i + k]
        number = number_of(key, state, slots, keys)
        lengths[number] = ends[i + n] - ends[i] + n - 1
        counts[number] += 1
        grams[j] = number
    best = ends[n] + n - 1 if words >= n else 0  # where none occurs twice, the first one
    most = 1
    for number in range(state[0]):
        if counts[number] > most:
            most = counts[number]
            best = most * lengths[number]
    again = 0
    for j in range(kept):
        places[again] = places[j]
        again += np.int64(counts[grams[j]] > 1)
    counts[: state[0]] = 0
    left = 0
    for j in range(again - 1):
        adjacent = places[j + 1] == places[j] + 1
        places[left] = places[j]
        left += np.int64(adjacent)
    return best, left


@helper
def _common_prefixes(words, written, starts, common, grams, places, marks):
    """common[i]: whether the _PREFIX bytes from word i on, without spaces, may stand at the beginning of another word too.

    places: where 5-grams begin that may occur again: those, and those that are shorter. Returns how many. Near the end of the
    text bytes of an earlier one come in: no n-gram of _PREFIX bytes begins there.
    """
    shift = _marks(words, marks)
    for i in range(words):
        key = fold(load_u64(written, starts[i]) ^ _FIRST, load_u64(written, starts[i] + 8) ^ _SECOND)
        grams[i] = _mark(key, shift, marks)
    kept = 0
    for i in range(words):
        again = marks[grams[i]] >> 1
        common[i] = again
        short = i + 5 <= words and starts[i + 5] - starts[i] < _PREFIX
        places[kept] = i
        kept += np.int64(again | short)
    return kept


@helper
def _hash_long(data, start, stop):
    """64-bit hash of data[start:stop], by 16 bytes at once where there are as many."""
    if stop - start < 16:
        return hash_bytes(data, start, stop)
    h = _SPREAD * np.uint64(stop - start)
    last = stop - 16
    while start < last:
        h = fold(load_u64(data, start) ^ h, load_u64(data, start + 8) ^ _FIRST)
        start += 16
    return fold(load_u64(data, last) ^ h, load_u64(data, last + 8) ^ _SECOND)


@helper
def _covered(n, words, kept, places, ends, written, starts, common, state, slots, keys, seen):
    """Characters of n-grams that stood before, from left to right, each word in one of them at most.

    places[:kept]: where n-grams begin that may occur again. Also returns how many (n + 1)-grams may, with places of these.
    """
    clear(state, slots, kept // 2)
    chars = done = left = 0
    for j in range(kept):
        i = places[j]
        if i + n > words:
            break
        start, stop = starts[i], starts[i + n]
        if not common[i] and stop - start >= _PREFIX:
            continue
        places[left] = i
        left += 1
        if i < done:
            continue
        number = number_of(_hash_long(written, start, stop), state, slots, keys)
        if seen[number]:
            chars += ends[i + n] - ends[i]
            done = i + n
        seen[number] = 1
    seen[: state[0]] = 0
    return chars, left


@kernel("float64[:, ::1](text, offsets, const_uint16, const_int64, const_int64)")
def repetition_datatrove(data, offsets, table, spans, word_ends):
    """MEASURES of each text: float64 [texts, measures]; `table` is code_points(). An empty text: NaN but for the first.

    spans, word_ends: the words, as `english_words` gives them; both empty for the segments of UAX #29.
    """
    most = _most(data, offsets) + 1
    for row in range(len(word_ends) - 1):
        most = max(most, word_ends[row + 1] - word_ends[row] + 1)
    slots = np.empty(room(most), np.int32)
    keys = np.empty(most, np.uint64)
    state = np.zeros(2, np.int64)
    counts = np.zeros(most, np.int64)
    lengths = np.empty(most, np.int64)
    ends = np.empty(most, np.int64)
    starts = np.empty(most, np.int64)
    hashes = np.empty(most, np.uint64)
    grams = np.empty(most, np.int32)
    common = np.empty(most, np.uint8)
    places = np.empty(most, np.int32)
    marks = np.empty(2 * _MARKS * most + 64, np.uint8)
    written = np.zeros(_longest(offsets) + _PREFIX, np.uint8)
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
        if len(word_ends):
            words = _given_words(data, spans, word_ends[row], word_ends[row + 1], hashes, ends, written, starts)
        else:
            words = _read_words(data, start, stop, table, hashes, ends, written, starts)
        kept = _common_pairs(words, hashes, grams, places, marks)
        for n in range(2, 5):
            size, kept = _top(n, words, kept, places, hashes, ends, grams, state, slots, keys, counts, lengths)
            out[row, _TOP_2GRAM + n - 2] = size / chars
        kept = _common_prefixes(words, written, starts, common, grams, places, marks)
        for n in range(5, 11):
            size, kept = _covered(n, words, kept, places, ends, written, starts, common, state, slots, keys, counts)
            out[row, _TOP_2GRAM + n - 2] = size / chars
    return out
