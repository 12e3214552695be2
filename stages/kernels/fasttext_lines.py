"""A text as fastText is to see it: one line.

fastText's `predict` takes one line at a time, so its callers get rid of line breaks first, each in its own way. The ways
are matched here byte for byte, on the UTF-8 bytes of a text column.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.bytes64 import WIDE, copy_64, in_range_64
from stages.kernels.compile import helper, inlined, kernel
from stages.kernels.hashing import trailing_zeros

NEWLINE_SPACE = 0  # "\n" becomes a space
NEWLINE_REMOVE = 1  # "\n" goes, which joins the words on both sides (DCLM's language filter)
JOIN_LINES = 2  # " ".join(text.strip().splitlines()) (DCLM's quality classifier)


@helper
def _space_after(data, at, stop):
    """Bytes of the white-space character (of Python's str.isspace) that begins at `at`; 0 where none does."""
    byte = data[at]
    if byte < 0x80:
        return 1 if (9 <= byte <= 13) or (0x1C <= byte <= 0x20) else 0
    if byte == 0xC2:
        return 2 if at + 1 < stop and (data[at + 1] == 0x85 or data[at + 1] == 0xA0) else 0
    if byte < 0xE1 or byte > 0xE3 or at + 2 >= stop:
        return 0
    second, third = data[at + 1], data[at + 2]
    if byte == 0xE1:
        return 3 if second == 0x9A and third == 0x80 else 0
    if byte == 0xE3:
        return 3 if second == 0x80 and third == 0x80 else 0
    if second == 0x80:
        return 3 if 0x80 <= third <= 0x8A or third == 0xA8 or third == 0xA9 or third == 0xAF else 0
    return 3 if second == 0x81 and third == 0x9F else 0


@helper
def _strip(data, start, stop):
    """The bounds of data[start:stop] as Python's str.strip() leaves it."""
    while start < stop:
        size = _space_after(data, start, stop)
        if size == 0:
            break
        start += size
    while start < stop:
        size = 1
        while size < 3 and stop - size > start and data[stop - size] & 0xC0 == 0x80:
            size += 1
        if _space_after(data, stop - size, stop) != size:
            break
        stop -= size
    return start, stop


@helper
def _joined_bytes(data, at, until, stop, out, to):
    """Write characters of data[:stop] from `at` on to out[to:], lines joined by spaces, until `until` is reached.

    Returns (where the next character begins, where the output ends).
    """
    while at < until:
        byte = data[at]
        if byte > 0x1E and byte != 0xC2 and byte != 0xE2:
            out[to] = byte
        elif (10 <= byte <= 13) or 0x1C <= byte <= 0x1E:  # a line ends: the separators of Python's splitlines
            out[to] = 32
            if byte == 13 and at + 1 < stop and data[at + 1] == 10:
                at += 1
        elif byte == 0xC2 and at + 1 < stop and data[at + 1] == 0x85:
            out[to] = 32
            at += 1
        elif byte == 0xE2 and at + 2 < stop and data[at + 1] == 0x80 and (data[at + 2] == 0xA8 or data[at + 2] == 0xA9):
            out[to] = 32
            at += 2
        else:
            out[to] = byte
        to += 1
        at += 1
    return at, to


@inlined
def _long_separators(data, at):
    """Of data[at : at + 64], where a line break begins that is not one byte: bits; data[at + 64 : at + 66] are read too."""
    returns = in_range_64(data, at, 13, 13)
    after_c2 = in_range_64(data, at, 0xC2, 0xC2) & in_range_64(data, at + 1, 0x85, 0x85)
    after_e2 = in_range_64(data, at, 0xE2, 0xE2)
    if after_e2 != 0:
        after_e2 &= in_range_64(data, at + 1, 0x80, 0x80) & in_range_64(data, at + 2, 0xA8, 0xA9)
    return returns | after_c2 | after_e2


@helper
def _join(data, start, stop, out, to):
    """Write data[start:stop] to out[to:] with its lines joined by spaces; returns where it ends."""
    at = start
    while at + WIDE + 2 <= stop:
        if _long_separators(data, at) != 0:
            at, to = _joined_bytes(data, at, at + WIDE, stop, out, to)
            continue
        copy_64(out, to, data, at)
        breaks = in_range_64(data, at, 10, 12) | in_range_64(data, at, 0x1C, 0x1E)
        while breaks != 0:
            out[to + trailing_zeros(breaks)] = 32
            breaks &= breaks - np.uint64(1)
        at += WIDE
        to += WIDE
    return _joined_bytes(data, at, stop, stop, out, to)[1]


@helper
def _replace_newlines(data, start, stop, keep, out, to):
    """Write data[start:stop] to out[to:] with spaces for newlines where `keep` is 1, without newlines where it is 0."""
    at = start
    while at + WIDE <= stop:
        copy_64(out, to, data, at)
        newlines = in_range_64(data, at, 10, 10)
        if newlines == 0:
            at += WIDE
            to += WIDE
            continue
        before = trailing_zeros(newlines)
        out[to + before] = 32
        at += before + 1
        to += before + keep
    for k in range(at, stop):
        if data[k] != 10 or keep == 1:
            out[to] = 32 if data[k] == 10 else data[k]
            to += 1
    return to


@helper
def one_line(data, start, stop, newlines, out, to):
    """Write the text data[start:stop] to out[to:] as fastText is to see it; returns where it ends.

    What stands in the 64 bytes of `out` behind that is overwritten.
    """
    if newlines == JOIN_LINES:
        start, stop = _strip(data, start, stop)
        return _join(data, start, stop, out, to)
    return _replace_newlines(data, start, stop, 1 if newlines == NEWLINE_SPACE else 0, out, to)


@kernel("Tuple((vec_uint8, vec_int64))(text, offsets, int64, int64)")
def join_lines(data, offsets, newlines, gap):
    """The texts as fastText is to see them: (bytes, uint8; n + 1 offsets, int64) of a new text column.

    With a `gap`, that many spaces stand before each text and behind the last: offset i is where text i begins, `gap`
    bytes before offset i + 1 is where it ends. At least 2 x 64 bytes follow that mean nothing.
    """
    n = len(offsets) - 1
    out = np.empty(offsets[n] - offsets[0] + gap * (n + 1) + 2 * WIDE, np.uint8)
    begins = np.zeros(n + 1, np.int64)
    out[:gap] = 32
    begins[0] = gap
    for i in range(n):
        end = one_line(data, offsets[i], offsets[i + 1], newlines, out, begins[i])
        for k in range(gap):
            out[end + k] = 32
        begins[i + 1] = end + gap
    return out, begins


@kernel("boolean[::1](text, offsets)")
def only_punctuation(data, offsets):
    """Which texts (bool) hold nothing but spaces and ASCII punctuation, or nothing: DCLM gives them no language."""
    n = len(offsets) - 1
    found = np.ones(n, np.bool_)
    for i in range(n):
        for at in range(offsets[i], offsets[i + 1]):
            byte = data[at]
            alphanumeric = 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122
            if byte < 32 or byte > 126 or alphanumeric:
                found[i] = False
                break
    return found
