"""Words that are parted behind an apostrophe within them, as French has them: `l'eau` is `l'` and `eau`."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8


@helper
def _apostrophe(data, at, end):
    """Bytes of the apostrophe at `at`, `'` or `’`; 0 where there is none."""
    byte = load_u8(data, at)
    if byte == 0x27:
        return 1
    typed = byte == 0xE2 and at + 2 < end and load_u8(data, at + 1) == 0x80 and load_u8(data, at + 2) == 0x99
    return 3 if typed else 0


@helper
def _in_letter(byte):
    """Whether a byte is an ASCII letter or part of another character."""
    return byte >= 0x80 or 0x61 <= (byte | np.uint64(0x20)) <= 0x7A


@kernel("int64(text, const_int64, const_int64, vec_int64, vec_int64)")
def split_elisions(data, spans, ends, out, out_ends):
    """Part the words `spans` (begin and end behind one another, in bytes) behind each apostrophe between two letters.

    ends: how many words stand before each text, n + 1. out: room for 2 numbers a byte of the words; out_ends: n + 1. Returns
    the number of words.
    """
    count = 0
    out_ends[0] = 0
    for row in range(len(ends) - 1):
        for word in range(ends[row], ends[row + 1]):
            begin, end = spans[2 * word], spans[2 * word + 1]
            at = begin + 1
            while at < end - 1:
                size = _apostrophe(data, at, end)
                behind = at + size
                if size and behind < end and _in_letter(load_u8(data, at - 1)) and _in_letter(load_u8(data, behind)):
                    out[2 * count], out[2 * count + 1] = begin, behind
                    count += 1
                    begin = behind
                at += max(size, 1)
            out[2 * count], out[2 * count + 1] = begin, end
            count += 1
        out_ends[row + 1] = count
    return count
