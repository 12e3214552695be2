"""Gopher's quality heuristics as datatrove computes them, in one call a batch.

Definitions: the filter GopherQualityFilter of datatrove 0.10, after Rae et al. 2021, appendix A1.1. Words are given, or
else the segments of UAX #29 that are not white space, punctuation included.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.c4 import line_end
from stages.kernels.compile import helper, inlined, kernel
from stages.kernels.fineweb import SENTENCE_ENDS, in_ranges
from stages.kernels.hashing import hash_word, load_u8, load_u64, trailing_zeros
from stages.kernels.unicode_tables import ALPHA, SPACE
from stages.kernels.utf8 import count_chars, decode, last_bytes, properties, skip_space, skip_space_back
from stages.kernels.vectors import count_bits
from stages.kernels.words import eightfold, letters_or_digits, quick_word, word_end

MEASURES = (
    "words",
    "mean_word_length",
    "hash_ratio",
    "ellipsis_ratio",
    "bullet_lines",
    "ellipsis_lines",
    "alphabetic_words",
    "stop_words",
)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
MOST_STOP_WORDS = 60  # each is a bit of an int64
_COLUMNS = len(MEASURES)
_SHORT = 7  # bytes of a word that is its own key

# Characters of which a word may consist and not count, as inclusive ranges; those that end sentences are more of them.
SYMBOLS = (
    (0x0, 0x8),
    (0xB, 0x1F),
    (0x22, 0x2D),
    (0x2F, 0x2F),
    (0x3A, 0x3E),
    (0x40, 0x40),
    (0x5B, 0x60),
    (0x7B, 0x9F),
    (0xAB, 0xAB),
    (0xB4, 0xB4),
    (0xBB, 0xBB),
    (0x2013, 0x2014),
    (0x2019, 0x2019),
    (0x201C, 0x201E),
    (0x2026, 0x2026),
    (0x2236, 0x2236),
    (0x2501, 0x2501),
    (0x25BA, 0x25BA),
    (0x3001, 0x3001),
    (0x3008, 0x300D),
    (0x3010, 0x3011),
    (0xFF05, 0xFF05),
    (0xFF08, 0xFF09),
    (0xFF0C, 0xFF0C),
    (0xFF11, 0xFF11),
    (0xFF1A, 0xFF1B),
    (0xFF5E, 0xFF5E),
)
_RANGES = sorted(SYMBOLS + SENTENCE_ENDS)
_FIRST = np.array([first for first, _ in _RANGES], np.int64)
_LAST = np.array([last for _, last in _RANGES], np.int64)
# Whether a word that begins with this ASCII letter or digit, or is this other character, holds more than symbols.
_COUNTS = np.array([not any(first <= c <= last for first, last in _RANGES) for c in range(128)], np.uint8)
_ONE = np.uint64(1)
_ONES, _HIGH_BITS, _DOTS, _E2 = (eightfold(byte) for byte in (0x01, 0x80, 0x2E, 0xE2))


@helper
def _word_kind(data, start, end, table):
    """(whether a word holds more than symbols, whether it holds a letter)."""
    counts = alpha = False
    while start < end and not (counts and alpha):
        point, start = decode(data, start, end)
        letter = properties(table, point) & ALPHA != 0
        alpha = alpha or letter
        counts = counts or letter or not in_ranges(point, _FIRST, _LAST)
    return counts, alpha


@inlined
def _stop_key(word, length):
    """The key of a word of at most 7 bytes, given as a little-endian number."""
    return word | np.uint64(length) << np.uint64(56)


@inlined
def _stop_word(key, stop_keys):
    """The bit of the stop word that has this key; 0 for other words."""
    found = 0
    for i in range(len(stop_keys)):
        found |= np.int64(key == stop_keys[i]) << i
    return found


@helper
def _stop_word_of(data, start, end, stop_keys, longest):
    """The bit of the stop word data[start:end]; 0 for other words."""
    if end - start > longest:
        return 0
    if end - start <= _SHORT:
        return _stop_word(_stop_key(last_bytes(data, start, end), end - start), stop_keys)
    return _stop_word(_stop_key(hash_word(data, start, end) >> np.uint64(8), end - start), stop_keys)


@kernel("void(text, offsets, vec_uint64)")
def stop_keys_of(data, offsets, keys):
    """The key of each of some words of 1 to 255 bytes: of up to 7 bytes they and their length, of longer ones a hash and it."""
    for word in range(len(offsets) - 1):
        start, end = offsets[word], offsets[word + 1]
        number = hash_word(data, start, end) >> np.uint64(8)
        if end - start <= _SHORT:
            number = last_bytes(data, start, end)
        keys[word] = _stop_key(number, end - start)


@helper
def _measure_words(data, start, stop, table, stop_keys, longest):
    """(words, of them more than symbols, characters of these, words with a letter, stop words that occur, as bits)."""
    words = counted = chars = alphabetic = found = 0
    while start < stop:
        length, word = quick_word(data, start, stop)
        if 0 < length < 8:
            word &= (_ONE << np.uint64(8 * length)) - _ONE
            letters = letters_or_digits(word) & (word << _ONE)  # of letters and digits, the letters have the bit 0x40
            counts = np.int64(_COUNTS[word & np.uint64(0xFF)])
            words += 1
            alphabetic += np.int64(letters != 0)
            counted += counts
            chars += counts * length
            if length <= longest:
                found |= _stop_word(_stop_key(word, length), stop_keys)
            start += length
            continue
        if length < 0:
            start += 1
            continue
        end = start + length if length else word_end(data, start, stop, table)
        point, _ = decode(data, start, stop)
        if properties(table, point) & SPACE == 0:
            words += 1
            counts, alpha = _word_kind(data, start, end, table)
            alphabetic += np.int64(alpha)
            if counts:
                counted += 1
                chars += count_chars(data, start, end)
            found |= _stop_word_of(data, start, end, stop_keys, longest)
        start = end
    return words, counted, chars, alphabetic, found


@helper
def _is_dots(data, at, stop):
    return (
        at + 3 <= stop and load_u8(data, at) == 0x2E and load_u8(data, at + 1) == 0x2E and load_u8(data, at + 2) == 0x2E
    )


@helper
def _is_ellipsis(data, at, stop):
    return (
        at + 3 <= stop and load_u8(data, at) == 0xE2 and load_u8(data, at + 1) == 0x80 and load_u8(data, at + 2) == 0xA6
    )


@helper
def _count_symbols(data, start, stop):
    """(number of `#`; of `...`, not overlapping, and of the character for it)."""
    hashes = 0
    for place in range(start, stop):
        hashes += np.int64(load_u8(data, place) == 0x23)
    ellipses = 0
    while start < stop:
        if start + 8 <= len(data):  # over eight bytes at once that hold neither of what an ellipsis may begin with
            word = load_u64(data, start)
            dots, other = word ^ _DOTS, word ^ _E2
            found = (((dots - _ONES) & ~dots) | ((other - _ONES) & ~other)) & _HIGH_BITS
            start += trailing_zeros(found) >> 3
            if found == 0 or start >= stop:
                continue
        if _is_dots(data, start, stop) or _is_ellipsis(data, start, stop):
            ellipses += 1
            start += 2
        start += 1
    return hashes, ellipses


@helper
def _measure_lines(data, start, stop, table):
    """(lines as str.splitlines() parts them, those that begin with a bullet or hyphen, those that end in an ellipsis)."""
    lines = bullets = ellipses = 0
    while start < stop:
        end, following = line_end(data, start, stop)
        lines += 1
        first = skip_space(data, start, end, table)
        last = skip_space_back(data, first, end, table)
        if first < last:
            byte = load_u8(data, first)
            bullet = (
                byte == 0xE2
                and first + 3 <= last
                and load_u8(data, first + 1) == 0x80
                and load_u8(data, first + 2) == 0xA2
            )
            bullets += np.int64(byte == 0x2D or bullet)
            dots = last - first >= 3 and (_is_dots(data, last - 3, last) or _is_ellipsis(data, last - 3, last))
            ellipses += np.int64(dots)
        start = following
    return lines, bullets, ellipses


@helper
def _measure_given(data, spans, first, last, table, stop_keys, longest):
    """As `_measure_words`, of the words spans[2 * k] to spans[2 * k + 1]."""
    counted = chars = alphabetic = found = 0
    for k in range(first, last):
        start, end = spans[2 * k], spans[2 * k + 1]
        counts, alpha = _word_kind(data, start, end, table)
        alphabetic += np.int64(alpha)
        if counts:
            counted += 1
            chars += count_chars(data, start, end)
        found |= _stop_word_of(data, start, end, stop_keys, longest)
    return last - first, counted, chars, alphabetic, found


@kernel("float64[:, ::1](text, offsets, const_uint16, const_int64, const_int64, const_uint64, int64)")
def gopher_datatrove(data, offsets, table, spans, ends, stop_keys, longest):
    """MEASURES of each text: float64 [texts, measures]; `table` is code_points(). NaN where there is no word or line.

    spans, ends: the words, as `english_words` gives them; both empty for the segments of UAX #29. stop_keys, longest: the
    keys of the stop words (`stop_keys_of`, at most MOST_STOP_WORDS), and the bytes of the longest one.
    """
    out = np.full((len(offsets) - 1, _COLUMNS), np.nan)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        if len(ends):
            first, last = ends[row], ends[row + 1]
            words, counted, chars, alphabetic, found = _measure_given(
                data, spans, first, last, table, stop_keys, longest
            )
        else:
            words, counted, chars, alphabetic, found = _measure_words(data, start, stop, table, stop_keys, longest)
        lines, bullets, ellipses = _measure_lines(data, start, stop, table)
        out[row, 0] = counted
        if counted:
            out[row, 1] = chars / counted
        if words:
            hashes, dots = _count_symbols(data, start, stop)
            out[row, 2] = hashes / words
            out[row, 3] = dots / words
            out[row, 6] = alphabetic / words
        if lines:
            out[row, 4] = bullets / lines
            out[row, 5] = ellipses / lines
        out[row, 7] = count_bits(np.uint64(found))
    return out
