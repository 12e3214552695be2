"""How much of a document repeats itself, as datatrove computes it, in one call a batch.

Definitions: the filter GopherRepetitionFilter of datatrove 0.10, after Rae et al. 2021, appendix A1.1; but for words, which here
are the segments of UAX #29 that are not white space, punctuation included. Lines, paragraphs, words and n-grams are compared
by 64-bit hashes. The n-grams for n = 5..10 are compared as their words written without a space between, as there ("ab c" and
"a bc" are one): as bytes of a copy of the text that is written so.

Most n-grams of most texts occur once, and are passed over unhashed: an n-gram can only occur again where the two
(n - 1)-grams in it do (n = 3, 4), and where the first `_PREFIX` bytes of what begins there do (n = 5..10).
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8, mix64
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

_EMPTY = np.uint64(0x9AE16A3B2F90404F)
_PREFIX = 16


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
def _read_words(data, start, stop, table, hashes, ends, written, starts):
    """Each word's hash; characters (ends) and bytes (starts) of all words before it; the words without a space between (written).

    Returns how many words there are; ends and starts have one entry more.
    """
    words = chars = size = 0
    ends[0] = starts[0] = 0
    while start < stop:
        byte = load_u8(data, start)
        if byte == 0x0A or (byte == 0x20 and start + 1 < stop and load_u8(data, start + 1) < 0x80):
            start += 1  # nothing that follows belongs to the same word; of the next space or word the same is asked
            continue
        end = plain_word_end(data, start, stop)
        white = False
        length = end - start
        if end == start:
            end = word_end(data, start, stop, table)
            point, _ = decode(data, start, stop)
            white = properties(table, point) & SPACE != 0
            length = count_chars(data, start, end)
        if not white:
            hashes[words] = hash_bytes(data, start, end)
            for place in range(start, end):
                written[size] = data[place]
                size += 1
            chars += length
            words += 1
            ends[words], starts[words] = chars, size
        start = end
    return words


@helper
def _top(n, words, hashes, ends, common, grams, state, slots, keys, counts, lengths):
    """Characters of the commonest n-gram (of several, the first), with a space between its words, times its count.

    common[i]: whether the (n - 1)-gram at word i occurs again; afterwards, whether the n-gram does.
    """
    clear(state, slots, words)
    for i in range(words - n + 1):
        grams[i] = -1
        if not (common[i] and common[i + 1]):
            continue
        key = hashes[i]
        for k in range(1, n):
            key = mix64(key) + hashes[i + k]
        number = number_of(key, state, slots, keys)
        if counts[number] == 0:
            lengths[number] = ends[i + n] - ends[i] + n - 1
        counts[number] += 1
        grams[i] = number
    best = ends[n] + n - 1 if words >= n else 0  # where none occurs twice, the first one
    most = 1
    for number in range(state[0]):
        if counts[number] > most:
            most = counts[number]
            best = most * lengths[number]
    for i in range(words):
        common[i] = i < words - n + 1 and grams[i] >= 0 and counts[grams[i]] > 1
    counts[: state[0]] = 0
    return best


@helper
def _mark_common_prefixes(words, written, starts, common, grams, state, slots, keys, counts):
    """common[i]: whether the _PREFIX bytes from word i on, without spaces, also stand at the beginning of another word.

    Near the end of the text bytes of an earlier one come in: no n-gram of _PREFIX bytes begins there.
    """
    clear(state, slots, words)
    for i in range(words):
        grams[i] = number_of(hash_bytes(written, starts[i], starts[i] + _PREFIX), state, slots, keys)
        counts[grams[i]] += 1
    for i in range(words):
        common[i] = counts[grams[i]] > 1
    counts[: state[0]] = 0


@helper
def _covered(n, words, ends, written, starts, common, state, slots, keys, seen):
    """Characters of n-grams that stood before, from left to right, each word in one of them at most."""
    clear(state, slots, words // 8)
    chars = i = 0
    while i < words - n + 1:
        start, stop = starts[i], starts[i + n]
        if not common[i] and stop - start >= _PREFIX:
            i += 1
            continue
        number = number_of(hash_bytes(written, start, stop), state, slots, keys)
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
    most = _most(data, offsets) + 1
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
        words = _read_words(data, start, stop, table, hashes, ends, written, starts)
        common[: words + 1] = 1
        for n in range(2, 5):
            size = _top(n, words, hashes, ends, common, grams, state, slots, keys, counts, lengths)
            out[row, _TOP_2GRAM + n - 2] = size / chars
        _mark_common_prefixes(words, written, starts, common, grams, state, slots, keys, counts)
        for n in range(5, 11):
            size = _covered(n, words, ends, written, starts, common, state, slots, keys, counts)
            out[row, _TOP_2GRAM + n - 2] = size / chars
    return out
