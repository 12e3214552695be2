"""One number taken out of each JSON object of a column, without parsing the rest into anything."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8

_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _DOT = (ord(char) for char in '"\\,:-.')
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = (ord(char) for char in "{}[]")


@helper
def _skip_blank(data, at, stop):
    while at < stop and load_u8(data, at) <= 0x20:
        at += 1
    return at


@helper
def _string_end(data, at, stop):
    """The position of the quote that ends the string whose first character is at `at`; stop where none does."""
    while at < stop and load_u8(data, at) != _QUOTE:
        at += 2 if load_u8(data, at) == _BACKSLASH else 1
    return min(at, stop)


@helper
def _value_end(data, at, stop):
    """The position of the comma or bracket behind the value that begins at `at`."""
    depth = 0
    while at < stop:
        byte = load_u8(data, at)
        if byte == _QUOTE:
            at = _string_end(data, at + 1, stop)
        elif byte in (_OPEN, _OPEN_LIST):
            depth += 1
        elif byte in (_CLOSE, _CLOSE_LIST):
            if depth == 0:
                return at
            depth -= 1
        elif byte == _COMMA and depth == 0:
            return at
        at += 1
    return stop


@helper
def _member(data, at, stop, names, first, last):
    """Where the value of the member names[first:last] of the object at `at` begins; -1 where there is none."""
    at = _skip_blank(data, at, stop)
    if at >= stop or load_u8(data, at) != _OPEN:
        return -1
    while True:
        key = _skip_blank(data, at + 1, stop) + 1
        if key >= stop or load_u8(data, key - 1) != _QUOTE:
            return -1
        end = _string_end(data, key, stop)
        at = _skip_blank(data, _skip_blank(data, end + 1, stop) + 1, stop)  # over the colon
        same = end - key == last - first
        for i in range(last - first):
            same = same and load_u8(data, key + i) == load_u8(names, first + i)
        if same:
            return at
        at = _value_end(data, at, stop)
        if at >= stop or load_u8(data, at) != _COMMA:
            return -1


@helper
def _digits(data, at, stop):
    """(value, position behind) of the decimal digits at `at`."""
    value = 0.0
    while at < stop and 0x30 <= load_u8(data, at) <= 0x39:
        value = 10 * value + np.float64(load_u8(data, at) - np.uint64(0x30))
        at += 1
    return value, at


@helper
def _number(data, at, stop):
    """The number that begins at `at`; NaN for anything else."""
    sign = 1.0
    if at < stop and load_u8(data, at) == _MINUS:
        sign = -1.0
        at += 1
    value, end = _digits(data, at, stop)
    if end == at:
        return np.nan
    scale = 0
    if end < stop and load_u8(data, end) == _DOT:
        fraction, after = _digits(data, end + 1, stop)
        scale = end + 1 - after
        value = value * 10.0 ** (-scale) + fraction
        end = after
    if end < stop and load_u8(data, end) | np.uint64(0x20) == 0x65:  # e
        end += 1
        negative = end < stop and load_u8(data, end) == _MINUS
        if negative or (end < stop and load_u8(data, end) == 0x2B):
            end += 1
        exponent, end = _digits(data, end, stop)
        scale += np.int64(-min(exponent, 400.0) if negative else min(exponent, 400.0))
    return sign * (value * 10.0**scale if scale >= 0 else value / 10.0 ** (-scale))


@kernel("float64[::1](text, offsets, const_uint8, const_int64)")
def json_numbers(data, offsets, names, name_starts):
    """The number at a path of member names in each JSON object: float64 [rows], NaN where there is no number.

    names[name_starts[i]:name_starts[i + 1]] is the i-th name of the path, as it is written in the JSON text.
    """
    out = np.full(len(offsets) - 1, np.nan)
    for row in range(len(offsets) - 1):
        at, stop = offsets[row], offsets[row + 1]
        for i in range(len(name_starts) - 1):
            at = _member(data, at, stop, names, name_starts[i], name_starts[i + 1])
            if at < 0:
                break
        if at >= 0:
            out[row] = _number(data, at, stop)
    return out
