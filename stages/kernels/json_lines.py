"""Takes JSON lines apart in one pass: the text, id and url unescaped, all other members kept as they are written.

A line is accepted only if it is strictly valid JSON (RFC 8259, and UTF-8 without lone surrogates); anything else, and
whatever is rare, is left to Python by the line's state. So nothing here has to name an error.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8, load_u64

NO_URL, URL, PYTHON = 0, 1, 2  # states of a line
_DEPTH = 64  # nested objects and arrays; deeper ones are left to Python
_LOW = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)


_KEY, _FIRST_KEY, _VALUE, _FIRST_ITEM, _END = 0, 1, 2, 3, 4  # what must come next in a line


@intrinsic
def _store_u64(typingctx, data, index, word):
    """Write a uint64 to data[index:index + 8] of a contiguous uint8 array, little-endian, without checks."""

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        builder.store(args[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(data, types.int64, types.uint64), codegen


@helper
def _at(data, p):
    return np.int64(load_u8(data, p))


@helper
def _skip_space(data, p, stop):
    while p < stop:
        c = _at(data, p)
        if c != 0x20 and c != 0x09 and c != 0x0D and c != 0x0A:
            break
        p += 1
    return p


@helper
def _plain_run(data, p, stop):
    """The position of the first byte from p on that is a quote, a backslash, a control or not ASCII; else stop."""
    while p + 8 <= stop:
        word = load_u64(data, p)
        quotes = word ^ (_LOW * np.uint64(0x22))
        slashes = word ^ (_LOW * np.uint64(0x5C))
        # Each test is exact up to the first byte that it finds, which is all that is asked.
        special = (quotes - _LOW) & ~quotes | (slashes - _LOW) & ~slashes | (word - _LOW * np.uint64(0x20)) | word
        if special & _HIGH:
            break
        p += 8
    while p < stop:
        c = _at(data, p)
        if c == 0x22 or c == 0x5C or c < 0x20 or c >= 0x80:
            break
        p += 1
    return p


@helper
def _copy(data, start, stop, out, at):
    """Copy data[start:stop] to out[at:]; returns the position behind it."""
    while start + 8 <= stop:
        _store_u64(out, at, load_u64(data, start))
        start += 8
        at += 8
    while start < stop:
        out[at] = load_u8(data, start)
        start += 1
        at += 1
    return at


@helper
def _sequence(data, p, stop):
    """Bytes of the valid UTF-8 sequence at p, which begins with a byte above 0x7F; 0 if it is not valid (RFC 3629)."""
    first = _at(data, p)
    if first < 0xC2 or first > 0xF4:
        return 0
    size = 2 if first < 0xE0 else (3 if first < 0xF0 else 4)
    if p + size > stop:
        return 0
    second = _at(data, p + 1)
    low = 0xA0 if first == 0xE0 else (0x90 if first == 0xF0 else 0x80)
    high = 0x9F if first == 0xED else (0x8F if first == 0xF4 else 0xBF)
    if second < low or second > high:
        return 0
    for i in range(2, size):
        if _at(data, p + i) & 0xC0 != 0x80:
            return 0
    return size


@helper
def _hex4(data, p, stop):
    """The number that four hexadecimal digits at p stand for; -1 if they are none."""
    if p + 4 > stop:
        return -1
    value = 0
    for i in range(4):
        c = _at(data, p + i)
        letter = c & 0xDF
        if 0x30 <= c <= 0x39:
            value = value * 16 + c - 0x30
        elif 0x41 <= letter <= 0x46:
            value = value * 16 + letter - 0x37
        else:
            return -1
    return value


@helper
def _escape(data, p, stop):
    """(code point, position behind it) of the escape whose backslash stands at p; (-1, p) if it is not valid."""
    if p + 1 >= stop:
        return -1, p
    c = _at(data, p + 1)
    if c == 0x6E:
        return 0x0A, p + 2
    if c == 0x22 or c == 0x5C or c == 0x2F:
        return c, p + 2
    if c == 0x74:
        return 0x09, p + 2
    if c == 0x72:
        return 0x0D, p + 2
    if c == 0x62:
        return 0x08, p + 2
    if c == 0x66:
        return 0x0C, p + 2
    if c != 0x75:
        return -1, p
    pair = np.int64(0)  # upper half of a surrogate pair
    while True:
        point = _hex4(data, p + 2, stop)
        p += 6
        if pair:
            if point < 0xDC00 or point > 0xDFFF:
                return -1, p
            return 0x10000 + ((pair & 0x3FF) << 10) + (point & 0x3FF), p
        if point < 0xD800 or point > 0xDFFF:
            return point, p
        if point >= 0xDC00 or p + 6 > stop or _at(data, p) != 0x5C or _at(data, p + 1) != 0x75:
            return -1, p
        pair = point


@helper
def _put(out, at, point):
    """Write a code point as UTF-8; returns the position behind it."""
    if point < 0x80:
        out[at] = point
        return at + 1
    size = 2 if point < 0x800 else (3 if point < 0x10000 else 4)
    for i in range(size - 1, 0, -1):
        out[at + i] = 0x80 | point & 0x3F
        point >>= 6
    out[at] = (0xF00 >> size) & 0xFF | point
    return at + size


@helper
def _string(data, p, stop, keep, out, at):
    """Read a string from behind its opening quote. Returns (position behind its closing quote or -1, end in `out`).

    With `keep`, its characters are written to out[at:]; they are never more bytes than they took in the line.
    """
    while p < stop:
        start = p
        p = _plain_run(data, p, stop)
        while p < stop and _at(data, p) >= 0x80:
            size = _sequence(data, p, stop)
            if size == 0:
                return -1, at
            p += size
        if keep:
            at = _copy(data, start, p, out, at)
        if p >= stop:
            break
        c = _at(data, p)
        if c == 0x22:
            return p + 1, at
        if c == 0x5C:
            point, p = _escape(data, p, stop)
            if point < 0:
                break
            if keep:
                at = _put(out, at, point)
        elif c < 0x20:
            break
    return -1, at


@helper
def _digits(data, p, stop):
    while p < stop and 0x30 <= _at(data, p) <= 0x39:
        p += 1
    return p


@helper
def _number(data, p, stop):
    """The position behind the number at p, or -1."""
    if _at(data, p) == 0x2D:
        p += 1
    start = p
    p = _digits(data, p, stop)
    if p == start or (p - start > 1 and _at(data, start) == 0x30):
        return -1
    if p < stop and _at(data, p) == 0x2E:
        start = p + 1
        p = _digits(data, start, stop)
        if p == start:
            return -1
    if p < stop and (_at(data, p) | 0x20) == 0x65:
        p += 1
        if p < stop and (_at(data, p) == 0x2B or _at(data, p) == 0x2D):
            p += 1
        start = p
        p = _digits(data, p, stop)
        if p == start or p - start > 2:  # 1e999 is no number that other readers take
            return -1
    return p


@helper
def _word(data, p, stop):
    """The position behind true, false or null at p, or -1."""
    if p + 4 > stop:
        return -1
    word = 0
    for i in range(4):
        word = word << 8 | _at(data, p + i)
    if word == 0x74727565 or word == 0x6E756C6C:
        return p + 4
    return p + 5 if word == 0x66616C73 and p + 5 <= stop and _at(data, p + 4) == 0x65 else -1


@helper
def _which(data, start, stop, keys, key_offsets):
    """The number of the key data[start:stop] among `keys`, -1 if it is none, -2 if escapes may hide one."""
    for i in range(start, stop):
        if _at(data, i) == 0x5C:
            return -2
    for k in range(len(key_offsets) - 1):
        size = key_offsets[k + 1] - key_offsets[k]
        if size == stop - start and size > 0:
            same = True
            for i in range(size):
                same &= _at(data, start + i) == keys[key_offsets[k] + i]
            if same:
                return k
    return -1


@helper
def _line(data, p, stop, keys, key_offsets, with_rest, stack, out, ends):
    """Read one line into the four regions of `out`. Returns -1 if it is left to Python, else 1 with a url, 0 without."""
    p = _skip_space(data, p, stop)
    if p >= stop or _at(data, p) != 0x7B:
        return -1
    p += 1
    stack[0] = 0x7B
    depth, state = 1, _FIRST_KEY
    begin, which, seen, members, url = p, -1, 0, 0, 0
    while True:
        p = _skip_space(data, p, stop)
        if p >= stop:
            return -1
        c = _at(data, p)
        if state == _END:
            if depth == 1 and which < 0 and with_rest:
                out[ends[3]] = 0x2C if members else 0x7B
                ends[3] = _copy(data, begin, p, out, ends[3] + 1)
                members += 1
            if c == 0x2C:
                state = _KEY if stack[depth - 1] == 0x7B else _VALUE
                p += 1
                continue
        if c == 0x22:
            if state == _END:
                return -1
            is_key = state in (_KEY, _FIRST_KEY)
            keep = depth == 1 and which >= 0 and not is_key
            start = p
            if keep:
                p, ends[which] = _string(data, p + 1, stop, True, out, ends[which])
                url |= which == 2
            else:
                p, _ = _string(data, p + 1, stop, False, out, 0)
            if p < 0:
                return -1
            state = _END
            if is_key:
                if depth == 1:
                    begin, which = start, _which(data, start + 1, p - 1, keys, key_offsets)
                    if which == -2 or (which >= 0 and seen >> which & 1):
                        return -1
                    if which >= 0:
                        seen |= 1 << which
                p = _skip_space(data, p, stop)
                if p >= stop or _at(data, p) != 0x3A:
                    return -1
                p += 1
                state = _VALUE
        elif c == 0x7D or c == 0x5D:
            if c != stack[depth - 1] + 2 or state in (_KEY, _VALUE):
                return -1
            depth -= 1
            p += 1
            if depth == 0:
                break
            state = _END
        elif state in (_KEY, _FIRST_KEY, _END):
            return -1
        elif depth == 1 and which == 0:
            return -1  # the text is no string
        elif c == 0x7B or c == 0x5B:
            if depth == len(stack) or (depth == 1 and which == 1):
                return -1
            stack[depth] = c
            depth += 1
            p += 1
            state = _FIRST_KEY if c == 0x7B else _FIRST_ITEM
        else:
            start = p
            p = _number(data, p, stop) if c == 0x2D or 0x30 <= c <= 0x39 else _word(data, p, stop)
            if p < 0:
                return -1
            if depth == 1 and which == 1 and c != 0x6E:
                if _digits(data, start, p) < p:
                    return -1  # of numbers, only integers are ids
                ends[1] = _copy(data, start, p, out, ends[1])
            state = _END
    if members:
        out[ends[3]] = 0x7D
        ends[3] += 1
    return url if seen & 1 and _skip_space(data, p, stop) == stop else -1


@kernel("void(text, const_int64, const_int64, const_uint8, const_int64, boolean, vec_uint8, vec_int64, vec_int64, vec_uint8)")
def split_lines(data, starts, stops, keys, key_offsets, with_rest, out, firsts, ends, states):
    """Lines data[starts[i]:stops[i]] taken apart, into four regions of `out`: texts, ids, urls and rests.

    keys: names of the text, id and url fields, one behind another, and their 4 offsets; an empty name is no field.
    firsts: where each region begins (4); the first three need the bytes of all lines, the last one more for each line.
    ends: (n + 1) x 4, flat; row i + 1 gets where line i ends in each region, row 0 is `firsts`.
    states: of each line URL (a document with a url), NO_URL, or PYTHON: left to Python, without bytes in any region.
    """
    stack = np.zeros(_DEPTH, np.uint8)
    last = firsts.copy()
    for k in range(4):
        ends[k] = last[k]
    for i in range(len(starts)):
        state = _line(data, starts[i], stops[i], keys, key_offsets, with_rest, stack, out, last)
        states[i] = PYTHON if state < 0 else state
        for k in range(4):
            if state < 0:
                last[k] = ends[4 * i + k]
            ends[4 * i + 4 + k] = last[k]
