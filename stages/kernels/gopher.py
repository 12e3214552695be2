"""Gopher's quality heuristics, as DCLM computes them, in one call a batch.

Definitions: mlfoundations/dclm, baselines/mappers/filters/content_filters.py, after Rae et al. 2021, appendix A1.1.
A word is what str.split() gives, but in the measure `words`, which counts words as fastText cuts them.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8
from stages.kernels.unicode_tables import ALNUM, ALPHA, SPACE
from stages.kernels.utf8 import decode, last_bytes, next_newline, properties, skip_space, skip_space_back

MEASURES = (
    "words",
    "mean_word_length",
    "symbol_ratio",
    "bullet_lines",
    "ellipsis_lines",
    "non_alphabetic_words",
    "stop_words",
)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")

_COLUMNS = len(MEASURES)
_STOP = np.array([int.from_bytes(word.encode(), "little") | len(word) << 56 for word in STOP_WORDS], np.uint64)
_LONGEST_STOP = max(map(len, STOP_WORDS))
_DOT, _HASH = ord("."), ord("#")


_WHITE, _CUT, _LETTER, _NUMBER, _WIDE = 1, 2, 4, 8, 16


def _byte_kinds() -> np.ndarray:
    """What a byte is: white to str.split, a place where fastText cuts, an ASCII letter or digit, or not ASCII."""
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        char = chr(byte)
        kinds[byte] = _WHITE * char.isspace() + _CUT * (char in " \n\r\t\v\f\0")
        kinds[byte] += _LETTER * char.isalpha() + _NUMBER * char.isdigit()
    kinds[128:] = _WIDE
    return kinds


_KINDS = _byte_kinds()


@helper
def _is_stop_word(data, start, end):
    word = last_bytes(data, start, end) | np.uint64(end - start) << np.uint64(56)
    for byte in range(end - start):
        letter = (word >> np.uint64(8 * byte)) & np.uint64(0xFF)
        if letter >= 0x41 and letter <= 0x5A:
            word |= np.uint64(0x20) << np.uint64(8 * byte)
    found = False
    for stop_word in _STOP:
        found = found or word == stop_word
    return found


@helper
def _measure_words(data, start, stop, table):
    """(words as fastText cuts them, words, their characters, those without a letter, stop words) of one text."""
    cut_words = words = chars = without_letter = stop_words = 0
    fresh = True  # nothing stands between here and the last place where fastText cuts
    at = start
    while True:
        while at < stop:  # over white space
            kind = _KINDS[load_u8(data, at)]
            after = at + 1
            if kind & _WIDE:
                point, after = decode(data, at, stop)
                if not properties(table, point) & SPACE:
                    break
            elif not kind & _WHITE:
                break
            fresh = kind & _CUT != 0
            at = after
        if at >= stop:
            return cut_words, words, chars, without_letter, stop_words
        first = at
        seen = 0
        while at < stop:  # over the word
            kind = np.int64(_KINDS[load_u8(data, at)])
            after = at + 1
            if kind & (_WIDE | _WHITE | _CUT):
                if kind & _WHITE:
                    break
                if kind & _CUT:  # a zero byte
                    fresh = True
                    at = after
                    continue
                point, after = decode(data, at, stop)
                entry = properties(table, point)
                if entry & SPACE:
                    break
                chars -= after - at - 1
                if entry & ALPHA:
                    kind |= _LETTER
                if entry & ALNUM:
                    kind |= _NUMBER
            if fresh:
                cut_words += np.int64(kind & (_LETTER | _NUMBER) != 0)
                fresh = False
            seen |= kind
            at = after
        words += 1
        chars += at - first
        without_letter += np.int64(seen & _LETTER == 0)
        if at - first <= _LONGEST_STOP and _is_stop_word(data, first, at):
            stop_words += 1


@helper
def _is(data, start, stop, byte):
    return start < stop and load_u8(data, start) == byte


@helper
def _count_symbols(data, start, stop):
    """How often `#`, `...`, `. . .` and U+2026 occur, each counted as str.count does, without overlap."""
    count = 0
    spaced_from = start  # where the next `. . .` may begin
    at = start
    while at < stop:
        byte = load_u8(data, at)
        if byte == _DOT:
            end = at
            while _is(data, end, stop, _DOT):
                if end >= spaced_from and end + 5 <= stop and _is_spaced_ellipsis(data, end):
                    count += 1
                    spaced_from = end + 5
                end += 1
            count += (end - at) // 3
            at = end
        else:
            if byte == _HASH or (byte == 0xE2 and at + 3 <= stop and _is_ellipsis(data, at)):
                count += 1
            at += 1
    return count


@helper
def _is_ellipsis(data, at):
    return load_u8(data, at) == 0xE2 and load_u8(data, at + 1) == 0x80 and load_u8(data, at + 2) == 0xA6


@helper
def _is_spaced_ellipsis(data, at):
    found = True
    for i in range(5):
        found = found and load_u8(data, at + i) == (0x20 if i % 2 else _DOT)
    return found


@helper
def _begins_with_bullet(data, start, stop):
    """Whether a line begins with one of `*`, `-`, U+2022, U+25CF."""
    byte = load_u8(data, start)
    if byte == 0x2A or byte == 0x2D:
        return True
    if byte != 0xE2 or start + 3 > stop:
        return False
    rest = load_u8(data, start + 1) << np.uint64(8) | load_u8(data, start + 2)
    return rest == 0x80A2 or rest == 0x978F


@helper
def _ends_with_ellipsis(data, start, stop):
    if stop - start >= 3:
        if _is_ellipsis(data, stop - 3):
            return True
        if _is(data, stop - 1, stop, _DOT) and _is(data, stop - 2, stop, _DOT) and _is(data, stop - 3, stop, _DOT):
            return True
    return stop - start >= 5 and _is_spaced_ellipsis(data, stop - 5)


@helper
def _measure_lines(data, start, stop, table):
    """(lines, lines that begin with a bullet, lines that end in an ellipsis); stripped, empty ones left out."""
    lines = bullets = ellipses = 0
    while start < stop:
        end = next_newline(data, start, stop, 1)
        first = skip_space(data, start, end, table)
        if first < end:
            lines += 1
            bullets += np.int64(_begins_with_bullet(data, first, end))
            ellipses += np.int64(_ends_with_ellipsis(data, first, skip_space_back(data, first, end, table)))
        start = end + 1
    return lines, bullets, ellipses


@kernel("float64[:, ::1](text, offsets, const_uint16)")
def gopher(data, offsets, table):
    """MEASURES of each text: float64 [texts, measures]; `table` is code_points().

    words: number of words that fastText's cutting at ASCII white space gives and that begin with a letter or digit.
    mean_word_length: characters a word. symbol_ratio: symbols a word. stop_words: number of words in STOP_WORDS, case
    aside. The others are shares of lines or words. A text without words has symbol_ratio and non_alphabetic_words 1,
    a text without lines bullet_lines and ellipsis_lines 0: so the limits drop or keep it as the original does.
    """
    out = np.zeros((len(offsets) - 1, _COLUMNS), np.float64)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        cut_words, words, chars, without_letter, stop_words = _measure_words(data, start, stop, table)
        symbols = _count_symbols(data, start, stop)
        lines, bullets, ellipses = _measure_lines(data, start, stop, table)
        out[row, 0] = cut_words
        out[row, 1] = chars / words if words else 0.0
        out[row, 2] = symbols / words if words else 1.0
        out[row, 3] = bullets / lines if lines else 0.0
        out[row, 4] = ellipses / lines if lines else 0.0
        out[row, 5] = without_letter / words if words else 1.0
        out[row, 6] = stop_words
    return out
