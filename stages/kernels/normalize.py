"""Text simplified for comparison: lower case, numbers to 0, punctuation to spaces, white space to one space, no marks.

The rules and their order are those of datatrove's `simplify_text` with its default settings; the tables are made by
`stages.dedup.normalize`, and hold for every code point what all the rules together make of it.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8
from stages.kernels.utf8 import decode

# An entry of the table, from the low bits: class (2), flags (4), length of the emission in bytes (4; 0: the
# character's own bytes), its place (22).
DROP, SPACE, DIGIT, EMIT = 0, 1, 2, 3
SEPARATOR, CASED, IGNORABLE, SIGMA = 4, 8, 16, 32
LENGTH_SHIFT, LENGTH_MASK, PLACE_SHIFT = 6, 15, 10


def _letters() -> np.ndarray:
    """For each byte the lower case of the ASCII letter that it is, else 0."""
    letters = np.zeros(256, np.uint8)
    lower = np.arange(ord("a"), ord("z") + 1)
    letters[lower] = lower
    letters[lower - 32] = lower
    return letters


_LETTERS = _letters()


@helper
def _entry(pages, table, point):
    return np.int64(table[(np.int64(pages[point >> 8]) << 8) | (point & 0xFF)])


@helper
def _followed_by_cased(data, position, stop, pages, table):
    """Unicode's Final_Sigma condition, looking ahead: a cased letter comes next, case-ignorable characters aside."""
    while position < stop:
        point, position = decode(data, position, stop)
        entry = _entry(pages, table, point)
        if not entry & IGNORABLE:
            return (entry & CASED) != 0
    return False


@kernel("int64(text, offsets, const_uint16, const_uint32, const_uint8, vec_uint8, vec_int64)")
def simplify(data, offsets, pages, table, emissions, out, out_offsets):
    """Write the simplified texts to `out` one behind another, and where each begins to `out_offsets` (n + 1).

    `out` must hold 3 bytes for each byte of text (a Hangul syllable becomes three letters of 3 bytes), plus 16.
    Returns the bytes written. Canonical reordering of combining marks is left out: only marks that are not dropped
    (a few, of musical notation) could show it.
    """
    at = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        first = at
        i, stop = offsets[row], offsets[row + 1]
        spaces = 0  # spaces owed before the next emission
        in_space = True  # the character before, marks included, was a space
        in_number = 0  # 1 within the digits before a separator, 2 behind it
        after_cased = False  # for the sigma rule: the last character that is not case-ignorable is cased
        while i < stop:
            begin = i
            point = np.int64(load_u8(data, i))
            letter = _LETTERS[point]
            if letter:  # most of most texts: a run of ASCII letters, of which only the first has anything to settle
                if spaces:
                    if at > first:
                        for _ in range(spaces):
                            out[at] = 32
                            at += 1
                    spaces = 0
                while True:
                    out[at] = letter
                    at += 1
                    i += 1
                    if i == stop:
                        break
                    letter = _LETTERS[load_u8(data, i)]
                    if letter == 0:
                        break
                in_space = False
                in_number = 0
                after_cased = True
                continue
            if point < 0x80:
                entry = np.int64(table[point])
                i += 1
            else:
                point, i = decode(data, i, stop)
                entry = _entry(pages, table, point)
            kind = entry & 3
            if kind == EMIT and not entry & SEPARATOR:
                in_number = 0
                in_space = False
                if spaces:
                    if at > first:
                        for _ in range(spaces):
                            out[at] = 32
                            at += 1
                    spaces = 0
                length = (entry >> LENGTH_SHIFT) & LENGTH_MASK
                place = entry >> PLACE_SHIFT
                if length == 1:
                    out[at] = place  # a single byte is its own place
                    at += 1
                elif length == 0:
                    while begin < i:
                        out[at] = data[begin]
                        at += 1
                        begin += 1
                else:
                    if entry & SIGMA and after_cased and not _followed_by_cased(data, i, stop, pages, table):
                        place += length  # the final form stands behind the other
                    for k in range(length):
                        out[at + k] = emissions[place + k]
                    at += length
            elif kind == DIGIT:
                in_space = False
                if in_number == 0:
                    if spaces:
                        if at > first:
                            for _ in range(spaces):
                                out[at] = 32
                                at += 1
                        spaces = 0
                    out[at] = 48
                    at += 1
                    in_number = 1
            elif entry & SEPARATOR and in_number == 1 and _is_digit(data, i, stop, pages, table):
                in_number = 2
            else:
                in_number = 0
                if kind == SPACE:
                    if not in_space:
                        spaces += 1
                        in_space = True
                else:
                    in_space = False
                    if kind == EMIT:  # a separator of numbers that is no punctuation
                        if at > first:
                            for _ in range(spaces):
                                out[at] = 32
                                at += 1
                        spaces = 0
                        while begin < i:
                            out[at] = data[begin]
                            at += 1
                            begin += 1
            if not entry & IGNORABLE:
                after_cased = (entry & CASED) != 0
    out_offsets[len(offsets) - 1] = at
    return at


@helper
def _is_digit(data, position, stop, pages, table):
    if position >= stop:
        return False
    point, _ = decode(data, position, stop)
    return _entry(pages, table, point) & 3 == DIGIT


@kernel("int64(text, offsets, const_uint16, const_uint32, vec_uint8, vec_int64)")
def squeeze_space(data, offsets, pages, table, out, out_offsets):
    """Every run of white space to one space, none at the ends: `out` must hold the bytes of the texts.

    White space are the characters of class SPACE in `table`. Returns the bytes written.
    """
    at = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        first = at
        i, stop = offsets[row], offsets[row + 1]
        owed = False
        while i < stop:
            begin = i
            point, i = decode(data, i, stop)
            if _entry(pages, table, point) & 3 == SPACE:
                owed = at > first
                continue
            if owed:
                out[at] = 32
                at += 1
                owed = False
            while begin < i:
                out[at] = data[begin]
                at += 1
                begin += 1
    out_offsets[len(offsets) - 1] = at
    return at
