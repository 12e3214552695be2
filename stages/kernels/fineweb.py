"""FineWeb's quality heuristics: line ends, short lines, repeated lines, line breaks a word, in one call a batch.

Definitions: Penedo et al. 2024 (arXiv 2406.17557), section 3.6, as the filter FineWebQualityFilter of datatrove 0.10 computes
them, with the words that are given, or the segments of UAX #29 that are not white space.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.numbering import clear, hash_bytes, number_of, room
from stages.kernels.unicode_tables import SPACE
from stages.kernels.utf8 import count_chars, decode, next_newline, properties, skip_space, step_back
from stages.kernels.words import plain_word_end, word_end

MEASURES = ("lines", "line_punctuation", "short_lines", "duplicate_chars", "newlines_per_word")
_COLUMNS = len(MEASURES)

# Characters that end a sentence in some script, as inclusive ranges: Unicode's Sentence_Terminal, and U+17D6, U+17D9, U+17DA.
SENTENCE_ENDS = (
    (0x21, 0x21),
    (0x2E, 0x2E),
    (0x3F, 0x3F),
    (0x589, 0x589),
    (0x61D, 0x61F),
    (0x6D4, 0x6D4),
    (0x700, 0x702),
    (0x7F9, 0x7F9),
    (0x837, 0x837),
    (0x839, 0x839),
    (0x83D, 0x83E),
    (0x964, 0x965),
    (0x104A, 0x104B),
    (0x1362, 0x1362),
    (0x1367, 0x1368),
    (0x166E, 0x166E),
    (0x1735, 0x1736),
    (0x17D4, 0x17D6),
    (0x17D9, 0x17DA),
    (0x1803, 0x1803),
    (0x1809, 0x1809),
    (0x1944, 0x1945),
    (0x1AA8, 0x1AAB),
    (0x1B5A, 0x1B5B),
    (0x1B5E, 0x1B5F),
    (0x1B7D, 0x1B7E),
    (0x1C3B, 0x1C3C),
    (0x1C7E, 0x1C7F),
    (0x203C, 0x203D),
    (0x2047, 0x2049),
    (0x2E2E, 0x2E2E),
    (0x2E3C, 0x2E3C),
    (0x2E53, 0x2E54),
    (0x3002, 0x3002),
    (0xA4FF, 0xA4FF),
    (0xA60E, 0xA60F),
    (0xA6F3, 0xA6F3),
    (0xA6F7, 0xA6F7),
    (0xA876, 0xA877),
    (0xA8CE, 0xA8CF),
    (0xA92F, 0xA92F),
    (0xA9C8, 0xA9C9),
    (0xAA5D, 0xAA5F),
    (0xAAF0, 0xAAF1),
    (0xABEB, 0xABEB),
    (0xFE52, 0xFE52),
    (0xFE56, 0xFE57),
    (0xFF01, 0xFF01),
    (0xFF0E, 0xFF0E),
    (0xFF1F, 0xFF1F),
    (0xFF61, 0xFF61),
    (0x10A56, 0x10A57),
    (0x10F55, 0x10F59),
    (0x10F86, 0x10F89),
    (0x11047, 0x11048),
    (0x110BE, 0x110C1),
    (0x11141, 0x11143),
    (0x111C5, 0x111C6),
    (0x111CD, 0x111CD),
    (0x111DE, 0x111DF),
    (0x11238, 0x11239),
    (0x1123B, 0x1123C),
    (0x112A9, 0x112A9),
    (0x1144B, 0x1144C),
    (0x115C2, 0x115C3),
    (0x115C9, 0x115D7),
    (0x11641, 0x11642),
    (0x1173C, 0x1173E),
    (0x11944, 0x11944),
    (0x11946, 0x11946),
    (0x11A42, 0x11A43),
    (0x11A9B, 0x11A9C),
    (0x11C41, 0x11C42),
    (0x11EF7, 0x11EF8),
    (0x11F43, 0x11F44),
    (0x16A6E, 0x16A6F),
    (0x16AF5, 0x16AF5),
    (0x16B37, 0x16B38),
    (0x16B44, 0x16B44),
    (0x16E98, 0x16E98),
    (0x1BC9F, 0x1BC9F),
    (0x1DA88, 0x1DA88),
)
_FIRST = np.array([first for first, _ in SENTENCE_ENDS], np.int64)
_LAST = np.array([last for _, last in SENTENCE_ENDS], np.int64)


@helper
def in_ranges(point, first, last):
    """Whether a code point lies in one of the ranges first[i]..last[i], inclusive, ascending and apart.

    By hand: each process that loads a kernel with `np.searchsorted` in it imports much of Numba for that.
    """
    low, high = 0, len(first)
    while low < high:
        middle = (low + high) // 2
        if first[middle] <= point:
            low = middle + 1
        else:
            high = middle
    return low > 0 and point <= last[low - 1]


@helper
def _ends_sentence(point):
    if point < 0x80:
        return point == 0x21 or point == 0x2E or point == 0x3F
    return in_ranges(point, _FIRST, _LAST)


@helper
def _count_words(data, start, stop, table):
    """Segments of UAX #29 that do not begin with white space."""
    words = 0
    while start < stop:
        end = plain_word_end(data, start, stop)
        if end == start:
            end = word_end(data, start, stop, table)
            point, _ = decode(data, start, stop)
            words += np.int64(properties(table, point) & SPACE == 0)
        else:
            words += 1
        start = end
    return words


@helper
def _measure_lines(data, start, stop, table, short_line, state, slots, keys, counts):
    """(lines, of them ended by a sentence end, short ones, characters of copies of earlier ones, line breaks).

    Lines are parted by line feeds, and those of nothing but white space left out; nothing is stripped.
    """
    clear(state, slots, (stop - start) // 32)
    lines = ended = short = copied = breaks = 0
    while True:
        end = next_newline(data, start, stop, 1)
        if skip_space(data, start, end, table) < end:
            lines += 1
            chars = count_chars(data, start, end)
            point, _ = decode(data, step_back(data, start, end), end)
            ended += np.int64(_ends_sentence(point))
            short += np.int64(chars <= short_line)
            number = number_of(hash_bytes(data, start, end), state, slots, keys)
            if counts[number]:
                copied += chars
            counts[number] = 1
        if end >= stop:
            break
        breaks += 1
        start = end + 1
    counts[: state[0]] = 0
    return lines, ended, short, copied, breaks


@kernel("float64[:, ::1](text, offsets, const_uint16, int64, const_int64, const_int64)")
def fineweb(data, offsets, table, short_line, spans, ends):
    """MEASURES of each text: float64 [texts, measures]; `table` is code_points().

    short_line: the most characters of a short line. spans, ends: the words, as `english_words` gives them; both empty for the
    segments of UAX #29. A text without lines has NaN for all but `lines`.
    """
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    most = longest // 2 + 2  # lines, each of a byte and its line feed at least
    slots = np.empty(room(most), np.int32)
    keys = np.empty(most, np.uint64)
    state = np.zeros(2, np.int64)
    counts = np.zeros(most, np.int8)
    out = np.full((len(offsets) - 1, _COLUMNS), np.nan)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        lines, ended, short, copied, breaks = _measure_lines(
            data, start, stop, table, short_line, state, slots, keys, counts
        )
        out[row, 0] = lines
        if lines:
            out[row, 1] = ended / lines
            out[row, 2] = short / lines
            out[row, 3] = copied / (count_chars(data, start, stop) - breaks)
            words = ends[row + 1] - ends[row] if len(ends) else _count_words(data, start, stop, table)
            out[row, 4] = breaks / words
    return out
