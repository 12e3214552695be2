"""Reading HTML byte by byte: where a tag, an attribute, a comment, a raw element or a character reference ends.

Every function returns a position behind what it read, never above `stop`, and reads nothing outside data[:stop].
What is never closed ends at `stop`. Rules: the WHATWG HTML standard, section 13.2.5, but for what is said below.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import light, light_inlined
from stages.kernels.hashing import load_u8, load_u64, trailing_zeros
from stages.kernels.html_tables import FNV_PRIME, FNV_START, attribute_code, lookup

LESS, GREATER, SLASH, BANG, QUESTION, AMPERSAND, DASH, EQUALS, QUOTE, APOSTROPHE, SEMICOLON, NUMBER = (
    ord(c) for c in "<>/!?&-=\"';#"
)

WHITE, NAME_END, LETTER, DIGIT, UPPER, VALUE_END, ATTRIBUTE_END = (1 << bit for bit in range(7))


def _byte_kinds() -> np.ndarray:
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        char = chr(byte)
        kinds[byte] = WHITE * (byte <= 0x20 or byte == 0x7F) + NAME_END * (char in "/>" or byte <= 0x20)
        kinds[byte] += LETTER * char.isalpha() + DIGIT * char.isdigit() + UPPER * char.isupper()
        kinds[byte] += VALUE_END * (char == ">" or byte <= 0x20) + ATTRIBUTE_END * (char in "/>=" or byte <= 0x20)
    return kinds


BYTE_KINDS = _byte_kinds()
_ONES, _HIGH_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


@light_inlined
def kind_of(data, at):
    """WHITE, LETTER... of the byte at `at`, int64."""
    return np.int64(BYTE_KINDS[load_u8(data, at)])


@light_inlined
def find_byte(data, at, stop, byte):
    """The first position at or behind `at` that holds `byte`; else stop."""
    pattern = np.uint64(byte) * _ONES
    while at + 8 <= stop:
        word = load_u64(data, at) ^ pattern
        found = (word - _ONES) & ~word & _HIGH_BITS
        if found != 0:
            return at + (trailing_zeros(found) >> 3)
        at += 8
    while at < stop and load_u8(data, at) != byte:
        at += 1
    return at


@light_inlined
def skip_white(data, at, stop):
    while at < stop and kind_of(data, at) & WHITE:
        at += 1
    return at


@light_inlined
def name_end(data, at, stop):
    """(position behind the tag's name that begins at `at`, its hash)."""
    key = FNV_START
    while at < stop:
        kind = kind_of(data, at)
        if kind & NAME_END:
            break
        byte = load_u8(data, at)
        if kind & UPPER:
            byte |= np.uint64(0x20)
        key = (key ^ byte) * FNV_PRIME
        at += 1
    return at, key


@light
def hash_lower(data, at, stop):
    """FNV-1a of data[at:stop], ASCII letters in lower case."""
    key = FNV_START
    while at < stop:
        byte = load_u8(data, at)
        if kind_of(data, at) & UPPER:
            byte |= np.uint64(0x20)
        key = (key ^ byte) * FNV_PRIME
        at += 1
    return key


@light_inlined
def read_attributes(data, at, stop, spans):
    """The attributes of the tag whose name ends at `at`, up to and over its `>`.

    Returns (position behind the tag, which of ATTRIBUTES are there as bits, whether it ends in `/>`). spans[i] becomes
    start and stop of the value of the i-th; of several of one name the first counts.
    """
    present = np.uint64(0)
    while True:
        slash = False
        while at < stop and (kind_of(data, at) & WHITE or load_u8(data, at) == SLASH):
            slash = load_u8(data, at) == SLASH
            at += 1
        if at >= stop:
            return stop, present, False
        if load_u8(data, at) == GREATER:
            return at + 1, present, slash
        first = at
        at += 1  # a name that begins with `=` has it as its first letter
        while at < stop and not kind_of(data, at) & ATTRIBUTE_END:
            at += 1
        code = attribute_code(data, first, at)
        at = skip_white(data, at, stop)
        begin = end = at
        if at < stop and load_u8(data, at) == EQUALS:
            begin = skip_white(data, at + 1, stop)
            end = at = begin
            if at < stop:
                quote = load_u8(data, at)
                if quote == QUOTE or quote == APOSTROPHE:
                    begin = at + 1
                    end = find_byte(data, begin, stop, quote)
                    at = min(end + 1, stop)
                else:
                    while at < stop and not kind_of(data, at) & VALUE_END:
                        at += 1
                    end = at
        if code >= 0 and not present >> np.uint64(code) & np.uint64(1):
            present |= np.uint64(1) << np.uint64(code)
            spans[code, 0], spans[code, 1] = begin, end


@light
def comment_end(data, at, stop):
    """The position behind a comment, of which `<!--` ends at `at`: also `<!-->`, `<!--->` and `--!>` end one."""
    if at < stop and load_u8(data, at) == GREATER:
        return at + 1
    if at + 1 < stop and load_u8(data, at) == DASH and load_u8(data, at + 1) == GREATER:
        return at + 2
    begin = at
    while True:
        at = find_byte(data, at, stop, GREATER)
        if at >= stop:
            return stop
        if at >= begin + 2 and load_u8(data, at - 1) == DASH and load_u8(data, at - 2) == DASH:
            return at + 1
        if at >= begin + 3 and load_u8(data, at - 1) == BANG and load_u8(data, at - 2) == DASH:
            if load_u8(data, at - 3) == DASH:
                return at + 1
        at += 1


@light
def raw_end(data, at, stop, key, length):
    """Where the end tag `</name` of a raw element begins (its name has this hash and length); -1 where there is none."""
    while True:
        at = find_byte(data, at, stop, LESS)
        if at + 2 + length > stop:
            return -1
        if load_u8(data, at + 1) == SLASH:
            end = at + 2 + length
            if (end == stop or kind_of(data, end) & NAME_END) and hash_lower(data, at + 2, end) == key:
                return at
        at += 1


# What numeric references between 0x80 and 0x9F stand for: windows-1252, as the standard has it.
_C1 = np.array(
    [ord(bytes([byte]).decode("cp1252", "replace")) if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else byte
     for byte in range(0x80, 0xA0)],
    np.int64,
)  # fmt: skip


@light
def write_point(out, at, point):
    """Write a code point as UTF-8 to out[at:]; returns the position behind it."""
    if point < 0x80:
        out[at] = point
        return at + 1
    if point < 0x800:
        out[at] = 0xC0 | point >> 6
        out[at + 1] = 0x80 | point & 0x3F
        return at + 2
    if point < 0x10000:
        out[at] = 0xE0 | point >> 12
        out[at + 1] = 0x80 | point >> 6 & 0x3F
        out[at + 2] = 0x80 | point & 0x3F
        return at + 3
    out[at] = 0xF0 | point >> 18
    out[at + 1] = 0x80 | point >> 12 & 0x3F
    out[at + 2] = 0x80 | point >> 6 & 0x3F
    out[at + 3] = 0x80 | point & 0x3F
    return at + 4


@light
def _numeric(data, at, stop, out, put):
    """The reference whose `&#` ends at `at`: (position behind it, position behind what was written); 0 where it is none."""
    base = 10
    if at < stop and load_u8(data, at) | np.uint64(0x20) == 0x78:
        base = 16
        at += 1
    first = at
    point = np.int64(0)
    while at < stop:
        byte = np.int64(load_u8(data, at))
        kind = kind_of(data, at)
        digit = byte - 0x30
        if kind & LETTER:
            digit = (byte | 0x20) - 0x57
        if not kind & (DIGIT | LETTER) or digit >= base:
            break
        point = min(point * base + digit, np.int64(0x110000))
        at += 1
    if at == first:
        return 0, put
    if at < stop and load_u8(data, at) == SEMICOLON:
        at += 1
    if 0x80 <= point < 0xA0:
        point = _C1[point - 0x80]
    if point == 0 or point >= 0x110000 or 0xD800 <= point < 0xE000:
        point = 0xFFFD
    return at, write_point(out, put, point)


@light
def read_reference(data, at, stop, names, values, out, put):
    """The character reference whose `&` stands at `at`: (position behind it, position behind what it wrote to out[put:]).

    Where it is none, the position is `at`. A reference writes at most one byte more than it takes.
    """
    first = at + 1
    if first < stop and load_u8(data, first) == NUMBER:
        end, put = _numeric(data, first + 1, stop, out, put)
        return max(end, at), put
    key = FNV_START
    best = np.int64(0)
    end = at
    i = first
    while i < min(stop, first + 33):
        byte = load_u8(data, i)
        if byte == SEMICOLON:
            value = lookup(names, (key ^ byte) * FNV_PRIME)
            if value:
                best, end = value, i + 1
            break
        if not kind_of(data, i) & (LETTER | DIGIT):
            break
        key = (key ^ byte) * FNV_PRIME
        i += 1
        if i - first <= 6:  # old names need no semicolon
            value = lookup(names, key)
            if value:
                best, end = value, i
    for j in range(best & 0xFF):
        out[put + j] = values[(best >> 8) + j]
    return end, put + (best & 0xFF)
