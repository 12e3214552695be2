"""Words of English text as spaCy's rules for English split it, and of Spanish as those for Spanish do.

The tables are those of stages/filters/english_rules.py. `spanish` leaves words with hyphens and `'s` whole.

A stretch between white space is looked up among the exceptions; else signs are taken off at both ends, one at each end in
turn, until an exception is left or no more go; what is left is whole if it is a URL, and else is split at some signs.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.english_urls import (
    CURRENCY,
    ICON,
    LOWER,
    PUNCTUATION,
    QUOTE,
    UPPER,
    is_ascii,
    is_digit,
    is_url,
    kind_at,
    kind_before,
)
from stages.kernels.hashing import hash_word, load_u8
from stages.kernels.unicode_tables import SPACE
from stages.kernels.utf8 import decode, properties, step_back

LETTER = LOWER | UPPER
LONGEST = 40  # bytes of an exception, at most
LONGEST_UNIT = 9
MOST_JOINED = 8  # words that are looked up together
SPACED = np.frombuffer(b"EE. UU.Ee. Uu.", np.uint8).reshape(2, 7)  # exceptions of Spanish with a space in them
MOST_SIGNS = 1 << 12  # at the end of one stretch; what is more stays in one word


@helper
def _place(value, hashes):
    low, high = 0, len(hashes)
    while low < high:
        middle = (low + high) // 2
        if hashes[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < len(hashes) and hashes[low] == value else -1


@helper
def _exception(data, start, end, hashes, filter):
    if end - start > LONGEST or end <= start:
        return np.int64(-1)
    value = hash_word(data, start, end)
    bit = value & np.uint64(64 * len(filter) - 1)
    if not (filter[np.int64(bit >> np.uint64(6))] >> (bit & np.uint64(63))) & np.uint64(1):
        return np.int64(-1)
    return np.int64(_place(value, hashes))


@helper
def _dots(data, at, end):
    """Where the dots at `at` end."""
    while at < end and load_u8(data, at) == 46:
        at += 1
    return at


@helper
def _dash(data, at, end):
    """Bytes of a dash longer than a hyphen at `at`; 0 for none."""
    if at + 3 <= end and load_u8(data, at) == 0xE2 and load_u8(data, at + 1) == 0x80:
        last = load_u8(data, at + 2)
        return 3 if last == 0x93 or last == 0x94 else 0
    return 0


@helper
def _is_ellipsis(data, at, end):
    return at + 3 <= end and load_u8(data, at) == 0xE2 and load_u8(data, at + 1) == 0x80 and load_u8(data, at + 2) == 0xA6


@helper
def _prefix(data, start, end, kinds):
    """Bytes of the sign that a word begins with; 0 for none."""
    byte = load_u8(data, start)
    if byte == 37 or byte == 61:  # % =
        return 1
    if byte == 0xC2 and start + 1 < end and load_u8(data, start + 1) == 0xA7:  # §
        return 2
    dash = _dash(data, start, end)
    if dash:
        return dash
    if byte == 43:
        return 0 if is_digit(data, start + 1, start, end) else 1
    if byte == 46:
        dots = _dots(data, start, end) - start
        return dots if dots > 1 else 0
    kind, after = kind_at(data, start, end, kinds)
    if kind & (PUNCTUATION | QUOTE | CURRENCY | ICON):
        return after - start
    dollar = end  # C$ A$ US$
    if byte == 67 or byte == 65:
        dollar = start + 1
    elif byte == 85 and start + 1 < end and load_u8(data, start + 1) == 83:
        dollar = start + 2
    return dollar + 1 - start if dollar < end and load_u8(data, dollar) == 36 else 0


@helper
def _suffix(data, start, end, kinds, units, spanish):
    """Bytes of the sign that a word ends with; 0 for none."""
    last = step_back(data, start, end)
    kind, _ = kind_at(data, last, end, kinds)
    byte = load_u8(data, last)
    if byte == 46:
        first = end
        while first > start and load_u8(data, first - 1) == 46:
            first -= 1
        if end - first > 1:
            return end - first
        return 1 if _dot_goes(data, start, last, end, kinds, spanish) else 0
    if not spanish and (byte == 115 or byte == 83):  # 's
        if last - 1 >= start and load_u8(data, last - 1) == 39:
            return 2
        curly = last - 3 >= start and load_u8(data, last - 3) == 0xE2 and load_u8(data, last - 2) == 0x80
        if curly and load_u8(data, last - 1) == 0x99:
            return 4
    if byte == 43:
        return 1 if is_digit(data, last - 1, start, end) else 0
    if byte == 36 and is_digit(data, last - 3, start, end) and load_u8(data, last - 2) == 85 and load_u8(data, last - 1) == 83:
        return 3
    if byte == 36 and is_digit(data, last - 2, start, end) and (load_u8(data, last - 1) == 67 or load_u8(data, last - 1) == 65):
        return 2
    if _is_ellipsis(data, last, end) and last - 3 >= start and _is_ellipsis(data, last - 3, end):  # ……
        return 6
    if kind & (PUNCTUATION | QUOTE | ICON) or _dash(data, last, end):
        return end - last
    if kind & CURRENCY:
        return end - last if is_digit(data, last - 1, start, end) else 0
    return _unit(data, start, end, units)


@helper
def _dot_goes(data, start, dot, end, kinds, spanish):
    """Whether a single dot at the end is a sign of its own: by what stands before it."""
    if dot == start:
        return False
    before = step_back(data, start, dot)
    byte = load_u8(data, before)
    kind, _ = kind_at(data, before, dot, kinds)
    if 48 <= byte <= 57 or byte == 37 or byte == 43 or byte == 45 or byte == 124 or kind & (LOWER | PUNCTUATION | QUOTE):
        return True
    if byte == 0xC2 and load_u8(data, before + 1) == 0xB2:  # ²
        return True
    if spanish and _dash(data, before, dot):
        return True
    return kind & UPPER != 0 and kind_before(data, start, before, end, kinds) & UPPER != 0


@helper
def _unit(data, start, end, units):
    """Bytes of the longest unit that stands behind a digit at the end; 0 for none."""
    for first in range(max(start + 1, end - LONGEST_UNIT), end):
        if is_digit(data, first - 1, start, end) and load_u8(data, first) & 0xC0 != 0x80:
            if _place(hash_word(data, first, end), units) >= 0:
                return end - first
    return 0


@helper
def _infix(data, at, start, end, kinds, spanish):
    """Bytes of the sign at `at` by which a word is split; 0 for none."""
    byte = load_u8(data, at)
    if byte == 46:
        dots = _dots(data, at, end)
        if dots - at > 1:
            return dots - at
        before = kind_before(data, start, at, end, kinds)
        after = kind_at(data, at + 1, end, kinds)[0] if at + 1 < end else np.int64(0)
        if spanish:
            before |= QUOTE * np.int64(at - 3 >= start and _dash(data, at - 3, at) > 0)
            after |= QUOTE * np.int64(_dash(data, at + 1, end) > 0)
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if byte >= 0x80:
        kind, after = kind_at(data, at, end, kinds)
        if kind & ICON or _is_ellipsis(data, at, end):
            return after - at
    digit = is_digit(data, at - 1, start, end)
    operator = byte == 43 or (byte == 45 and not spanish) or byte == 42 or byte == 94
    if digit and operator and (is_digit(data, at + 1, start, end) or is_ascii(data, at + 1, end, 45)):
        return 1
    hyphens = 0
    if spanish:
        hyphens = 0
    elif byte == 45:
        while hyphens < 4 and at + hyphens < end and load_u8(data, at + hyphens) == 45:
            hyphens += 1
    elif byte == 126:
        hyphens = 1
    else:
        hyphens = _dash(data, at, end)
        if hyphens and load_u8(data, at + 2) == 0x94 and _dash(data, at + 3, end) and load_u8(data, at + 5) == 0x94:
            hyphens = 6
    joins = byte == 58 or byte == 60 or byte == 62 or byte == 61 or byte == 47
    if not (byte == 44 or (0 < hyphens <= 6) or joins):
        return 0
    if byte == 45 and hyphens > 3:
        return 0
    length = max(hyphens, 1)
    letter = kind_before(data, start, at, end, kinds) & LETTER != 0
    behind = at + length < end and kind_at(data, at + length, end, kinds)[0] & LETTER != 0
    return length if behind and (letter or (digit and byte != 44)) else 0


@helper
def _put(out, count, start, end):
    if end > start:
        out[2 * count], out[2 * count + 1] = start, end
        return count + 1
    return count


@helper
def _put_exception(out, count, start, end, place, lengths):
    for part in range(2):
        if lengths[place, part]:
            count = _put(out, count, start, start + lengths[place, part])
            start += lengths[place, part]
    return _put(out, count, start, end)


@helper
def _put_rest(data, out, count, start, end, kinds, spanish):
    """What is left of a stretch without the signs around it: whole, or split at signs within."""
    if is_url(data, start, end, kinds):
        return _put(out, count, start, end)
    begin = at = start
    while at < end:
        length = _infix(data, at, start, end, kinds, spanish)
        if length and at > start:
            count = _put(out, count, begin, at)
            count = _put(out, count, at, at + length)
            begin = at = at + length
        else:
            _, at = decode(data, at, end)
    return _put(out, count, begin, end)


@helper
def _put_stretch(data, out, count, start, end, kinds, hashes, filter, lengths, units, signs, spanish):
    """The words of a stretch between white space."""
    place = np.int64(-1)
    at = start
    while at < end and 97 <= load_u8(data, at) | np.uint64(32) <= 122:
        at += 1
    if at == end:  # letters alone: whole, but for exceptions
        place = _exception(data, start, end, hashes, filter)
        if place >= 0:
            return _put_exception(out, count, start, end, place, lengths)
        return _put(out, count, start, end)
    behind = 0
    first = count
    while start < end:
        place = _exception(data, start, end, hashes, filter)
        if place >= 0:
            break
        before = _prefix(data, start, end, kinds)
        if before and start + before < end:
            place = _exception(data, start + before, end, hashes, filter)
            if place >= 0:
                count = _put(out, count, start, start + before)
                start += before
                break
        after = _suffix(data, start + before, end, kinds, units, spanish) if start + before < end else 0
        if after and start < end - after:
            place = _exception(data, start, end - after, hashes, filter)
            if place >= 0:
                signs[behind] = end
                behind += 1
                end -= after
                break
        if not before and (not after or behind + 1 >= len(signs)):
            break
        count = _put(out, count, start, start + before)
        start += before
        if after and behind + 1 < len(signs):
            signs[behind] = end
            behind += 1
            end -= after
    if start < end:
        if place >= 0:
            count = _put_exception(out, count, start, end, place, lengths)
        else:
            count = _put_rest(data, out, count, start, end, kinds, spanish)
    while behind:
        behind -= 1
        count = _put(out, count, end, signs[behind])
        end = signs[behind]
    return _join(data, out, first, count, hashes, filter, lengths)


@helper
def _join_spaced(data, out, begin, first, count):
    """`EE. UU.`, of which two words stand before the word `first` and two from it on, is one; the text begins at word `begin`."""
    if first < begin + 2 or count < first + 2 or out[2 * first + 3] - out[2 * first - 4] != SPACED.shape[1]:
        return count
    same, small = 0, np.int64(load_u8(data, out[2 * first - 4] + 1) == SPACED[1, 1])
    while same < SPACED.shape[1] and load_u8(data, out[2 * first - 4] + same) == SPACED[small, same]:
        same += 1
    if same < SPACED.shape[1]:
        return count
    out[2 * first - 3] = out[2 * first + 3]
    for i in range(2 * first + 4, 2 * count):
        out[i - 6] = out[i]
    return count - 3


@helper
def _join(data, out, first, count, hashes, filter, lengths):
    """Signs that stand together, and are an exception together, are one word: `''` and `:)`."""
    if count - first < 2:
        return count
    kept = i = first
    while i < count:
        last, place = i + 1, np.int64(-1)
        for j in range(min(count, i + MOST_JOINED), i + 1, -1):
            place = _exception(data, out[2 * i], out[2 * j - 1], hashes, filter)
            if place >= 0:
                last = j
                break
        start, end = out[2 * i], out[2 * last - 1]
        kept = _put_exception(out, kept, start, end, place, lengths) if place >= 0 else _put(out, kept, start, end)
        i = last
    return kept


@kernel(
    "int64(text, offsets, const_uint16, const_uint8, const_uint64, const_uint64, Array(int64, 2, 'C', readonly=True), "
    "const_uint64, boolean, vec_int64, vec_int64)"
)
def english_words(data, offsets, table, kinds, hashes, filter, lengths, units, spanish, out, ends):
    """Write where each word begins and ends to `out`, and how many words there are before each text to `ends` (n + 1).

    `out` must hold two numbers for each byte. Returns how many words there are. table: code_points(); spanish: by the
    rules for Spanish; the others as stages/filters/english_rules.py makes them.
    """
    count = 0
    signs = np.empty(MOST_SIGNS, np.int64)
    for row in range(len(offsets) - 1):
        ends[row] = count
        at, stop = offsets[row], offsets[row + 1]
        start = at
        while at < stop:
            byte = load_u8(data, at)
            if byte < 0x80:
                after = at + 1
                white = byte == 32 or 9 <= byte <= 13 or 28 <= byte <= 31
            else:
                point, after = decode(data, at, stop)
                white = properties(table, point) & SPACE != 0
            if white:
                if at > start:
                    first = count
                    count = _put_stretch(data, out, count, start, at, kinds, hashes, filter, lengths, units, signs, spanish)
                    count = _join_spaced(data, out, ends[row], first, count) if spanish else count
                start = after
            at = after
        if stop > start:
            first = count
            count = _put_stretch(data, out, count, start, stop, kinds, hashes, filter, lengths, units, signs, spanish)
            count = _join_spaced(data, out, ends[row], first, count) if spanish else count
    ends[len(offsets) - 1] = count
    return count
