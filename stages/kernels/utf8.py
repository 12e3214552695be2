"""Code points in UTF-8 bytes: decode, count, step over white space, find line ends.

Nothing here reads outside the given range. Bytes that are not UTF-8 (lone surrogates that a JSON file held, a text cut
within a character) are read as some code point or U+FFFD, one to four bytes long; no input makes a kernel fail.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stages.kernels.bounds import check_range
from stages.kernels.compile import helper
from stages.kernels.hashing import load_u8, load_u64, trailing_zeros
from stages.kernels.unicode_tables import SPACE

_REPLACEMENT = 0xFFFD
_ONES, _HIGH_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_NEWLINES = np.uint64(0x0A0A0A0A0A0A0A0A)


@helper
def decode(data, start, stop):
    """(code point, position behind it) of the character that begins at `start`; start < stop."""
    b = np.int64(load_u8(data, start))
    if b < 0x80:
        return b, start + 1
    length = 2 if b < 0xE0 else (3 if b < 0xF0 else 4)
    if start + length > stop:
        return _REPLACEMENT, stop
    point = b & (0xFF >> (length + 1))
    for i in range(1, length):
        point = point << 6 | np.int64(load_u8(data, start + i)) & 0x3F
    return (point if point < 0x110000 else _REPLACEMENT), start + length


@helper
def properties(table, point):
    """The entry of `unicode_tables.code_points()` for a code point, as int64."""
    return np.int64(table[np.uint64(point)])


@helper
def last_bytes(data, start, stop):
    """The one to eight bytes data[start:stop] as a little-endian uint64; reads nothing outside data[:stop]."""
    if stop >= 8:
        return load_u64(data, stop - 8) >> np.uint64(8 * (8 - (stop - start)))
    word = np.uint64(0)
    for i in range(start, stop):
        word |= load_u8(data, i) << np.uint64(8 * (i - start))
    return word


@helper
def _continuations(word):
    """How many of eight bytes are continuation bytes (10xxxxxx)."""
    return np.int64((((word >> np.uint64(7)) & ~(word >> np.uint64(6)) & _ONES) * _ONES) >> np.uint64(56))


@helper
def count_chars(data, start, stop):
    """Characters in data[start:stop]: all bytes but the continuation bytes."""
    count = stop - start
    while stop - start >= 8:
        count -= _continuations(load_u64(data, start))
        start += 8
    if start < stop:
        count -= _continuations(last_bytes(data, start, stop))
    return count


@helper
def skip_space(data, start, stop, table):
    """The first position at or behind `start` that does not hold white space (in the sense of str.isspace)."""
    while start < stop:
        point, after = decode(data, start, stop)
        if not properties(table, point) & SPACE:
            return start
        start = after
    return start


@helper
def step_back(data, start, at):
    """Where the character that ends at `at` begins; at > start."""
    before = at - 1
    while before > start and at - before < 4 and (np.int64(load_u8(data, before)) & 0xC0) == 0x80:
        before -= 1
    return before


@helper
def skip_space_back(data, start, stop, table):
    """The least position from which all of data[position:stop] is white space; at least `start`."""
    while stop > start:
        before = step_back(data, start, stop)
        point, after = decode(data, before, stop)
        if after != stop or not properties(table, point) & SPACE:
            return stop
        stop = before
    return stop


@helper
def next_newline(data, start, stop, newlines):
    """Where the next `newlines` (1 or 2) newlines in a row begin; stop where there are none."""
    while start < stop:
        if start + 8 <= len(data):
            word = load_u64(data, start) ^ _NEWLINES
            start += trailing_zeros((word - _ONES) & ~word & _HIGH_BITS) >> 3  # to the first zero byte, else over all 8
            if start >= stop:
                break
        if load_u8(data, start) == 0x0A:
            if newlines == 1 or (start + 1 < stop and load_u8(data, start + 1) == 0x0A):
                return start
            start += 1
        elif start + 8 > len(data):
            start += 1
    return stop


@intrinsic
def _move(typingctx, out, at, data, start, count):
    """memmove of `count` bytes from data[start:] to out[at:], two contiguous uint8 arrays, without checks."""
    if not all(isinstance(a, types.Array) and a.dtype == types.uint8 and a.layout == "C" for a in (out, data)):
        return None

    def codegen(context, builder, signature, args):
        target = context.make_array(signature.args[0])(context, builder, args[0])
        source = context.make_array(signature.args[2])(context, builder, args[2])
        check_range(context, builder, target, args[1], args[4], "append, to")
        check_range(context, builder, source, args[3], args[4], "append, from")
        to, origin = builder.gep(target.data, [args[1]]), builder.gep(source.data, [args[3]])
        cgutils.raw_memmove(builder, to, origin, args[4], 1)

    return types.void(out, types.int64, data, types.int64, types.int64), codegen


@helper
def append(out, at, data, start, stop):
    """Copy data[start:stop] to out[at:], which may overlap it; returns the position behind the copy."""
    _move(out, at, data, start, stop - start)
    return at + stop - start


@helper
def white_word_end(data, start, stop, table):
    """The first position at or behind `start` that holds white space (in the sense of str.isspace); else stop."""
    while start < stop:
        byte = load_u8(data, start)
        if byte - np.uint64(0x21) < np.uint64(0x5F):  # ASCII that is neither white nor control
            start += 1
            continue
        point, after = decode(data, start, stop)
        if properties(table, point) & SPACE:
            return start
        start = after
    return stop
