"""What characters are to spaCy's rules for English, and which stretches of text are URLs to them."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper
from stages.kernels.hashing import load_u8
from stages.kernels.utf8 import decode, step_back

LOWER, UPPER, PUNCTUATION, QUOTE, ICON, CURRENCY = 1, 2, 4, 8, 16, 32


@helper
def is_ascii(data, at, stop, characters):
    """Whether there is one of up to four ASCII characters, packed into a number, at `at`."""
    if at >= stop:
        return False
    byte = load_u8(data, at)
    found = False
    for shift in range(0, 32, 8):
        found = found or byte == np.uint64((characters >> shift) & 0xFF)
    return found


@helper
def is_digit(data, at, start, stop):
    return start <= at < stop and 48 <= load_u8(data, at) <= 57


@helper
def kind_at(data, at, stop, kinds):
    """(what the character at `at` is, the position behind it)."""
    point, after = decode(data, at, stop)
    return np.int64(kinds[point]), after


@helper
def kind_before(data, start, at, stop, kinds):
    if at <= start:
        return np.int64(0)
    return kind_at(data, step_back(data, start, at), stop, kinds)[0]


@helper
def _host_byte(data, at):
    """1 letter or digit, 2 `_` or `-`, 0 other, of the names of hosts."""
    byte = load_u8(data, at)
    if 48 <= byte <= 57 or 97 <= byte | 32 <= 122 or byte >= 0x80:
        return 1
    return 2 if byte == 95 or byte == 45 else 0


@helper
def _is_host(data, at, end, kinds):
    """Whether data[at:end] is a host with a top-level domain, or an IP address, with port and path as may be."""
    labels = octets = 0
    while True:
        first = at
        numeric = True
        while at < end and _host_byte(data, at):
            numeric = numeric and 48 <= load_u8(data, at) <= 57
            at += 1
        dot = at < end and load_u8(data, at) == 46
        if at == first or (dot and (_host_byte(data, first) != 1 or _host_byte(data, at - 1) != 1 or at - first > 64)):
            return False
        octets += np.int64(numeric and at - first <= 3)
        if not dot:
            break
        labels += 1
        at += 1
    if labels == 3 and octets == 4:
        pass
    else:
        count, i = 0, first
        while i < at:
            kind, i = kind_at(data, i, end, kinds)
            if not kind & LOWER:
                return False
            count += 1
        if labels == 0 or count < 2 or count > 63:
            return False
    if at + 2 < end and load_u8(data, at) == 58 and is_digit(data, at + 1, at, end) and is_digit(data, at + 2, at, end):
        first = at + 1
        while at + 1 < end and is_digit(data, at + 1, at, end):
            at += 1
        at += 1
        if at - first > 5:
            return False
    return at == end or is_ascii(data, at, end, 47 | 63 << 8 | 35 << 16)


@helper
def is_url(data, start, end, kinds):
    dots = False
    for at in range(start, end):
        dots = dots or load_u8(data, at) == 46
    if not dots:
        return False
    at = start
    while at < end and (_host_byte(data, at) or load_u8(data, at) == 43 or load_u8(data, at) == 46):
        at += 1
    scheme = at - start >= 2 and at + 3 < end and load_u8(data, at) == 58
    if scheme and load_u8(data, at + 1) == 47 and load_u8(data, at + 2) == 47:
        start = at + 3
    if _is_host(data, start, end, kinds):
        return True
    for at in range(start + 1, end - 1):
        if load_u8(data, at) == 64 and _is_host(data, at + 1, end, kinds):
            return True
    return False
