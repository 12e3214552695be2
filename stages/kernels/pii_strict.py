"""Where e-mail addresses, phone numbers and public IP addresses stand in texts, by what they look like and stand in.

One pass: an address is looked for at each `@`, numbers where digits, `+` or `(` begin. An e-mail address ends in a real
top-level domain. An IP address is no part of something longer, and has no word like `version` before it. Reserved blocks are
those of the IANA registries (RFC 6890).
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8
from stages.kernels.pii import EMAIL, IP, PHONE, is_private, octet
from stages.kernels.pii_phone import MOST_GROUPS, phone_end
from stages.kernels.pii_words import (
    DIGIT,
    HEX,
    HOST,
    LETTER,
    LOCAL,
    NO_IP,
    STARTS,
    has_word,
    is_kind,
    word_before,
    word_hash,
    words_hash,
)
from stages.kernels.utf8 import append, step_back

SMALL = 30  # octets up to here may be numbers of sections
DIGITS = 9  # and up to here the first three of a version: 2.5.0.36
_AT, _DOT, _OPEN, _SQUARE, _PLUS, _MINUS, _SLASH, _COLON, _LOW, _QUOTE = (ord(c) for c in '@.([+-/:_"')
_GIT = np.uint64(word_hash("git"))


@helper
def _of_name(data, at, stop, ascii):
    """Whether the byte at `at` may be part of a name: no punctuation, and in ASCII no other script."""
    byte = load_u8(data, at)
    if byte < 0xC2:
        return True
    second = load_u8(data, at + 1) if at + 1 < stop else np.uint64(0)
    punctuation = byte == 0xC2 or (byte == 0xE2 and second <= 0x82) or (byte == 0xE3 and second == 0x80)
    return not (punctuation or (byte == 0xEF and second >= 0xBC) or (ascii and byte >= 0xE1))


@helper
def _in_url(data, first, start):
    """Whether what ends at `start` is the user of a URL: `//` stands before it, and no other slash or space between."""
    at = start
    while at > first and start - at < 64:
        byte = load_u8(data, at - 1)
        if byte <= 32:
            return False
        if byte == _SLASH:
            return at - 1 > first and load_u8(data, at - 2) == _SLASH
        at -= 1
    return False


@helper
def _is_scale(data, at, stop):
    """`2x.` of image names."""
    while at < stop and is_kind(data, at, DIGIT):
        at += 1
    return at + 1 < stop and load_u8(data, at) == 120 and load_u8(data, at + 1) == _DOT and is_kind(data, at - 1, DIGIT)


@helper
def _is_version(data, at, stop):
    """`1.0` of package names."""
    begin = at
    while at < stop and is_kind(data, at, DIGIT):
        at += 1
    return begin < at and at + 1 < stop and load_u8(data, at) == _DOT and is_kind(data, at + 1, DIGIT)


@helper
def _quoted(data, free, at):
    """Where the quoted name of an address that ends at `at` begins; `at` where there is none."""
    if at - 3 < free or load_u8(data, at - 1) != _QUOTE:
        return at
    start = at - 2
    while start > free and at - start < 66 and load_u8(data, start) >= 32 and load_u8(data, start) != _QUOTE:
        start -= 1
    alone = start == free or not is_kind(data, start - 1, LETTER | DIGIT)
    return start if load_u8(data, start) == _QUOTE and start < at - 2 and alone else at


@helper
def _top_level(data, start, end, domains):
    x, n = load_u8(data, start) | np.uint64(32), load_u8(data, min(start + 1, end - 1)) | np.uint64(32)
    if end - start > 4 and x == 120 and n == 110 and load_u8(data, start + 2) == _MINUS and load_u8(data, start + 3) == _MINUS:
        return True  # xn--: any name in Punycode
    return has_word(domains, words_hash(data, start, end))


@helper
def _email(data, first, free, at, stop, domains):
    """(start, end) of the e-mail address whose @ is at `at`, from `free` on; start -1 where there is none."""
    start = at
    ascii = at > free and load_u8(data, at - 1) < 0x80
    while start > free and is_kind(data, start - 1, LOCAL):
        before = step_back(data, free, start)
        if not _of_name(data, before, stop, ascii):
            break
        start = before
    for i in range(start, at):  # no path is part of an address, and no user of a URL
        if load_u8(data, i) == _SLASH:
            start = i + 1
    while start < at and not is_kind(data, start, LETTER | DIGIT):
        start += 1
    quoted = _quoted(data, free, at)
    start = min(start, quoted)
    if start == at or (quoted == at and not (is_kind(data, at - 1, LETTER | DIGIT) or load_u8(data, at - 1) == _LOW)):
        return np.int64(-1), at
    if (start > first and load_u8(data, start - 1) == _AT) or _in_url(data, first, start):
        return np.int64(-1), at
    end, labels, label = at + 1, 0, at + 1
    last = np.int64(-1)  # behind the longest host that ends in a top-level domain
    while end <= stop:
        if end < stop and (is_kind(data, end, LETTER | DIGIT) or (load_u8(data, end) == _MINUS and end > label)):
            if _of_name(data, end, stop, end > label and load_u8(data, label) < 0x80):
                end += 1
                continue
        if end == label:
            break
        labels += 1
        dot = end < stop and load_u8(data, end) == _DOT and end + 1 < stop and is_kind(data, end + 1, LETTER | DIGIT)
        capital = dot and 65 <= load_u8(data, end + 1) <= 90  # the next sentence, without a space
        if labels > 1 and (not dot or capital) and _top_level(data, label, end, domains):
            last = end
        if not dot:
            break
        label = end = end + 1
    if last < 0 or _is_scale(data, at + 1, stop) or _is_version(data, at + 1, stop):
        return np.int64(-1), at
    if at - start == 3 and last < stop and load_u8(data, last) == _COLON and words_hash(data, start, at) == _GIT:
        return np.int64(-1), at
    return start, last


@helper
def _is_resolver(address):
    """Well-known resolvers: one octet four times, 8.8.4.4 and 1.0.0.1."""
    return address == (address & 0xFF) * 0x01010101 or address == 0x08080404 or address == 0x01000001


@helper
def _ip4(data, first, at, stop):
    """Where the public IPv4 address that begins at `at` ends; -1 where there is none."""
    address, end, small, version = np.int64(0), at, True, True
    for k in range(4):
        if k:
            if end >= stop or load_u8(data, end) != _DOT:
                return np.int64(-1)
            end += 1
        value, behind = octet(data, end, stop)
        if value < 0 or (behind - end > 1 and load_u8(data, end) == 48):
            return np.int64(-1)
        small = small and value <= SMALL
        version = version and (value <= DIGITS or k == 3)
        address, end = address << 8 | value, behind
    if end < stop:
        byte = load_u8(data, end)
        if (byte < 0x80 and is_kind(data, end, LETTER | DIGIT)) or byte == _LOW or byte == _AT:
            return np.int64(-1)
        if (byte == _DOT or byte == _MINUS) and end + 1 < stop and is_kind(data, end + 1, DIGIT if byte == _DOT else LETTER):
            return np.int64(-1)
    word = word_before(data, first, at)
    if is_private(address) or address >> 28 == 14 or has_word(NO_IP, word):
        return np.int64(-1)
    service = end + 1 < stop and (load_u8(data, end) == _COLON or load_u8(data, end) == _SLASH) and is_kind(data, end + 1, DIGIT)
    if (small or version) and not service and not has_word(HOST, word) and not _is_resolver(address):
        return np.int64(-1)  # so small in all four are numberings, and one address in 5,000; of versions, one in 16,000
    if at > first and (load_u8(data, at - 1) == _DOT or load_u8(data, at - 1) == _AT):
        return np.int64(-1)
    if at > first + 1 and load_u8(data, at - 1) == _SLASH and load_u8(data, at - 2) != _SLASH:
        return np.int64(-1)  # Chrome/91.0.4472.124
    return end


@helper
def _ip6(data, first, at, stop):
    """Where the public IPv6 address that begins at `at` ends; -1 where there is none. Public ones begin with 2 or 3."""
    end, count, gap = at, 0, False
    one = two = np.int64(0)
    while count < 8:
        begin, value = end, np.int64(0)
        while end < stop and end - begin < 4 and is_kind(data, end, HEX):
            byte = np.int64(load_u8(data, end))
            value = value << 4 | (byte - 48 if byte < 58 else (byte | 32) - 87)
            end += 1
        if end == begin:
            break
        count += 1
        if count == 1:
            one = value
        elif count == 2 and not gap:
            two = value
        if end + 1 < stop and load_u8(data, end) == _COLON:
            if load_u8(data, end + 1) == _COLON and not gap:
                gap = True
                end += 2
            elif is_kind(data, end + 1, HEX) and count < 8:
                end += 1
            else:
                break
        else:
            break
    if end < stop and (is_kind(data, end, LETTER | DIGIT) and load_u8(data, end) < 0x80):
        return np.int64(-1)
    if end + 1 < stop and load_u8(data, end) == _COLON and is_kind(data, end + 1, HEX):
        return np.int64(-1)
    whole = 2 <= count <= 7 or (count == 1 and end - at > 5) if gap else count == 8
    reserved = (one == 0x2001 and (two == 0xDB8 or two < 0x200)) or (one == 0x3FFF and two < 0x1000)
    return end if whole and 0x2000 <= one <= 0x3FFF and not reserved else np.int64(-1)


@kernel("int64(text, offsets, const_uint64, int64, vec_int64, vec_int64)")
def find_strict(data, offsets, domains, kinds, spans, counts):
    """Write (start, end, kind) of each item to `spans`, how many each text has of each kind to `counts`; returns all.

    domains: `word_set` of top-level domains. kinds: bit 1 << kind for each kind that is looked for. `spans` must hold three
    numbers for every four bytes; `counts`, three a text, is added to.
    """
    found = 0
    starts, ends = np.empty(MOST_GROUPS, np.int64), np.empty(MOST_GROUPS, np.int64)
    separators = np.zeros(MOST_GROUPS, np.int64)
    for row in range(len(offsets) - 1):
        first, stop = offsets[row], offsets[row + 1]
        at = free = first
        last = np.int64(-1)  # behind the last phone number
        while at < stop:
            if not is_kind(data, at, STARTS):
                at += 1
                continue
            byte = load_u8(data, at)
            start, end, kind = np.int64(-1), np.int64(-1), PHONE
            behind = at + 1
            if byte == _AT:
                if kinds >> EMAIL & 1:
                    start, end = _email(data, first, free, at, stop, domains)
                    kind = EMAIL
            else:
                while byte != _PLUS and byte != _OPEN and byte != _SQUARE and behind < stop and is_kind(data, behind, DIGIT):
                    behind += 1
                if byte != _PLUS and byte != _OPEN and byte != _SQUARE and kinds >> IP & 1:
                    bounded = at == first or not is_kind(data, at - 1, LETTER | DIGIT) or load_u8(data, at - 1) >= 0x80
                    if bounded and load_u8(data, at - 1 if at > first else at) != _LOW:
                        if behind - at <= 3 and behind < stop and load_u8(data, behind) == _DOT:
                            end = _ip4(data, first, at, stop)
                        elif (byte == 50 or byte == 51) and (at == first or load_u8(data, at - 1) != _COLON):
                            end = _ip6(data, first, at, stop)
                        kind = IP
                if end < 0 and kinds >> PHONE & 1:
                    end = phone_end(data, first, last, at, stop, starts, ends, separators)
                    kind = PHONE
                start = at if end >= 0 else start
            if start >= 0:
                spans[3 * found], spans[3 * found + 1], spans[3 * found + 2] = start, end, kind
                counts[3 * row + kind] += 1
                found += 1
                free = behind = end
                last = end if kind == PHONE else last
            at = behind
    return found


@kernel("int64(text, offsets, const_int64, int64, text, offsets, vec_uint8, vec_int64)")
def replace_kinds(data, offsets, spans, found, masks, mask_offsets, out, out_offsets):
    """The texts with each span of `find_strict` replaced by the mask of its kind; returns the bytes written."""
    at = span = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        start = offsets[row]
        while span < found and spans[3 * span] < offsets[row + 1]:
            kind = spans[3 * span + 2]
            at = append(out, at, data, start, spans[3 * span])
            at = append(out, at, masks, mask_offsets[kind], mask_offsets[kind + 1])
            start = spans[3 * span + 1]
            span += 1
        at = append(out, at, data, start, offsets[row + 1])
    out_offsets[len(offsets) - 1] = at
    return at
