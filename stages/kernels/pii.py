"""Where e-mail addresses, phone numbers and IPv4 addresses stand in texts, and masks put in their place.

The patterns are those of Dolma's tagger (allenai/dolma, python/dolma/taggers/pii.py, pii_regex_with_counts_fast_v2):

    e-mail  [.\\s@,?!;:)(]*([^\\s@]+@[^\\s@,?!;:)(]+?)[.\\s@,?!;:)(]?[\\s\\n\\r]      with a dot behind the @
    phone   \\s+\\(?(\\d{3})\\)?[-\\. ]*(\\d{3})[-. ]?(\\d{4})
    IP      (octet\\.){3}octet, without boundaries

but for what stands around an address: its text must not end there, nor must white space follow punctuation. They are
found without backtracking: from each `@`, from white space, from each dot. Time is linear in the text.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8
from stages.kernels.unicode_tables import DECIMAL, SPACE
from stages.kernels.utf8 import append, decode, properties, step_back

EMAIL, PHONE, IP = range(3)

_AT, _DOT, _OPEN, _CLOSE = (ord(c) for c in "@.()")
_AROUND, _NOT_HOST, _DIGIT, _BETWEEN = 1, 2, 4, 8

# First and last address of the blocks of the IANA IPv4 Special-Purpose Address Registry (RFC 6890) that are not
# globally reachable, and of those reserved for future use (RFC 1112, section 4).
_PRIVATE = np.array(
    [
        (0x00000000, 0x00FFFFFF),
        (0x0A000000, 0x0AFFFFFF),
        (0x64400000, 0x647FFFFF),
        (0x7F000000, 0x7FFFFFFF),
        (0xA9FE0000, 0xA9FEFFFF),
        (0xAC100000, 0xAC1FFFFF),
        (0xC0000000, 0xC00000FF),
        (0xC0000200, 0xC00002FF),
        (0xC0A80000, 0xC0A8FFFF),
        (0xC6120000, 0xC613FFFF),
        (0xC6336400, 0xC63364FF),
        (0xCB007100, 0xCB0071FF),
        (0xF0000000, 0xFFFFFFFF),
    ],
    np.int64,
)


def _byte_kinds() -> np.ndarray:
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        char = chr(byte)
        kinds[byte] = _AROUND * (char in ".@,?!;:)(") + _NOT_HOST * (char in "@,?!;:)(")
        kinds[byte] += _DIGIT * char.isdigit() + _BETWEEN * (char in "-. ")
    return kinds


_KINDS = _byte_kinds()


@helper
def _is_kind(data, at, kind):
    return _KINDS[load_u8(data, at)] & kind != 0


@helper
def _is_white(data, at, stop, table):
    point, _ = decode(data, at, stop)
    return properties(table, point) & SPACE != 0


@helper
def _find_email(data, free, at, stop, table):
    """(start, end, where to go on) of the address whose @ stands at `at`, from `free` on; start -1 where there is none."""
    start = at
    while start > free:
        before = step_back(data, free, start)
        if load_u8(data, before) == _AT or _is_white(data, before, stop, table):
            break
        start = before
    if start == at:
        return -1, at, at + 1
    while start < at - 1 and _is_kind(data, start, _AROUND):
        start += 1
    if start == at - 1 and load_u8(data, start) == _OPEN:
        return -1, at, at + 1
    end = at + 1
    dots = 0
    while end < stop and not _is_kind(data, end, _NOT_HOST):
        _, after = decode(data, end, stop)
        if _is_white(data, end, stop, table):
            break
        dots += np.int64(load_u8(data, end) == _DOT)
        end = after
    behind = end
    if end < stop and load_u8(data, end) == _AT and end + 1 < stop and not _is_white(data, end + 1, stop, table):
        return -1, at, behind  # the next @ may have an address
    if end > at + 2 and load_u8(data, end - 1) == _DOT:
        end -= 1
        dots -= 1
    return (start if dots > 0 else -1), end, behind


@helper
def _digits_end(data, at, stop, table, count):
    """The position behind `count` decimal digits that begin at `at`; -1 where there are fewer."""
    for _ in range(count):
        if at >= stop:
            return -1
        point, after = decode(data, at, stop)
        if not properties(table, point) & DECIMAL:
            return -1
        at = after
    return at


@helper
def _phone_end(data, at, stop, table):
    """Where the phone number that begins at `at` ends; -1 where there is none."""
    at = _digits_end(data, at + 1 if load_u8(data, at) == _OPEN else at, stop, table, 3)
    if at < 0:
        return at
    if at < stop and load_u8(data, at) == _CLOSE:
        at += 1
    while at < stop and _is_kind(data, at, _BETWEEN):
        at += 1
    at = _digits_end(data, at, stop, table, 3)
    if 0 <= at < stop and _is_kind(data, at, _BETWEEN):
        at += 1
    return _digits_end(data, at, stop, table, 4) if at >= 0 else at


@helper
def octet(data, at, stop):
    """(value, position behind it) of the longest octet that begins at `at`; value -1 where there is none."""
    value, end = -1, at
    while end < stop and end - at < 3 and _is_kind(data, end, _DIGIT):
        longer = max(value, 0) * 10 + np.int64(load_u8(data, end)) - 0x30
        if longer > 255:
            break
        value = longer
        end += 1
    return value, end


@helper
def _find_ip(data, free, dot, stop):
    """(start, end, address) of the IPv4 address whose first dot stands at `dot`, from `free` on; address -1: none."""
    start = dot
    address = np.int64(-1)
    for length in range(1, 4):
        at = dot - length
        if at < free or not _is_kind(data, at, _DIGIT):
            break
        value, end = octet(data, at, dot)
        if end == dot:
            address, start = value, at
    at = dot
    for _ in range(3):
        if address < 0 or at >= stop or load_u8(data, at) != _DOT:
            return start, at, np.int64(-1)
        value, at = octet(data, at + 1, stop)
        address = address << 8 | value if value >= 0 else np.int64(-1)
    return start, at, address


@helper
def is_private(address):
    found = False
    for i in range(len(_PRIVATE)):
        found = found or _PRIVATE[i, 0] <= address <= _PRIVATE[i, 1]
    return found


@kernel("int64(text, offsets, const_uint16, int64, boolean, vec_int64, vec_int64)")
def find_pii(data, offsets, table, kind, private, spans, counts):
    """Write start and end of each item of one kind to `spans`, how many each text has to `counts`; returns all of them.

    `spans` must hold two numbers for every three bytes. `private`: IP addresses that are not public are found, too.
    `table` is code_points().
    """
    found = 0
    for row in range(len(offsets) - 1):
        free, stop = offsets[row], offsets[row + 1]
        start, at = free, free
        before = found
        while at < stop:
            byte = load_u8(data, at)
            first, end, next_at = np.int64(-1), at, at + 1
            if kind == EMAIL:
                if byte == _AT:
                    first, end, next_at = _find_email(data, free, at, stop, table)
            elif kind == PHONE:
                may_begin = byte == _OPEN or byte >= 0xC0 or _KINDS[byte] & _DIGIT != 0
                if may_begin and (at == start or _is_white(data, step_back(data, start, at), stop, table)):
                    end = _phone_end(data, at, stop, table)
                    first = at if end >= 0 else np.int64(-1)
            elif byte == _DOT and at + 1 < stop and _is_kind(data, at + 1, _DIGIT):
                first, end, address = _find_ip(data, free, at, stop)
                if address >= 0 and not private and is_private(address):
                    free = next_at = end
                    first = np.int64(-1)
                elif address < 0:
                    first = np.int64(-1)
            if first >= 0:
                spans[2 * found], spans[2 * found + 1] = first, end
                found += 1
                free = next_at = end
            at = next_at
        counts[row] = found - before
    return found


@kernel("int64(text, offsets, const_int64, const_int64, text, vec_uint8, vec_int64)")
def replace_spans(data, offsets, spans, counts, mask, out, out_offsets):
    """The texts with each span replaced by the mask; returns the bytes written. `spans` and `counts` as of `find_pii`."""
    at = span = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        start = offsets[row]
        for _ in range(counts[row]):
            at = append(out, at, data, start, spans[2 * span])
            at = append(out, at, mask, 0, len(mask))
            start = spans[2 * span + 1]
            span += 1
        at = append(out, at, data, start, offsets[row + 1])
    out_offsets[len(offsets) - 1] = at
    return at
