"""Phone numbers by their country's code, their grouping, or the word before them (ITU-T E.164 for codes and lengths).

A number token is groups of digits with one separator between two of them; one group may stand in brackets.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper
from stages.kernels.hashing import load_u8
from stages.kernels.pii_words import DIGIT, KINDS, LETTER, NO_CALL, has_word, is_called, is_kind, word_before

SPACE, HYPHEN, DOT, SLASH, WIDE = 1, 2, 4, 8, 16  # separators of groups; WIDE: a hyphen beside spaces
AREA = 32  # a slash between spaces, behind a code of an area
MOST_GROUPS = 8
_AT, _DOT, _OPEN, _CLOSE, _PLUS, _MINUS, _SLASH, _LOW, _HASH = (ord(c) for c in "@.()+-/_#")
_SQUARE, _SQUARE_END, _COMMA, _DOLLAR, _EXTENSION = (ord(c) for c in "[],$x")


def _country_codes() -> np.ndarray:
    """For the first two digits of a number in international form whether they begin a code that is in use (E.164)."""
    used = np.zeros(100, np.bool_)
    used[[10 + i for i in range(10)] + [70 + i for i in range(10)]] = True
    used[[20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, *range(51, 59), *range(60, 67)]] = True
    used[[81, 82, 84, 86, *range(90, 96), 98, 21, 22, 23, 24, 25, 26, 29, 35, 37, 38, 42, 50, 59, 67, 68, 69]] = True
    used[[80, 85, 87, 88, 96, 97, 99]] = True
    return used


_CODES = _country_codes()


@helper
def _hyphen(data, at, stop):
    """Bytes of a hyphen or a short dash at `at`; 0 for none."""
    if at < stop and load_u8(data, at) == _MINUS:
        return 1
    dash = at + 2 < stop and load_u8(data, at) == 0xE2 and load_u8(data, at + 1) == 0x80
    return 3 if dash and 0x90 <= load_u8(data, at + 2) <= 0x93 else 0


@helper
def _space(data, at, stop):
    return np.int64(at < stop and load_u8(data, at) == 32)


@helper
def _separator(data, at, stop):
    """(kind, position behind) of one separator between groups of digits; kind 0 for none."""
    if at >= stop:
        return 0, at
    byte = load_u8(data, at)
    if byte == 32:
        if at + 2 < stop and load_u8(data, at + 1) == _SLASH and load_u8(data, at + 2) == 32:
            return AREA, at + 3
        size = _hyphen(data, at + 1, stop)
        if size:
            return WIDE, at + 1 + size + _space(data, at + 1 + size, stop)
        return SPACE, at + 1
    size = _hyphen(data, at, stop)
    if size:
        space = _space(data, at + size, stop)
        return WIDE if space else HYPHEN, at + size + space
    if byte == _DOT:
        return DOT, at + 1
    if byte == _SLASH:
        return SLASH, at + 1
    if byte == 0xC2 and at + 1 < stop and load_u8(data, at + 1) == 0xA0:
        return SPACE, at + 2
    return 0, at


@helper
def _closing(data, at, stop):
    """The bracket that closes the one at `at`; 0 where none opens there."""
    byte = load_u8(data, at) if at < stop else np.uint64(0)
    return _CLOSE if byte == _OPEN else _SQUARE_END if byte == _SQUARE else 0


@helper
def _groups(data, at, stop, starts, ends, kinds):
    """Groups of digits from `at` on: where each begins and ends, and the kind of separator before it. Returns how many.

    One group may stand in brackets. More than the arrays hold: one more than they hold.
    """
    count = 0
    closed = slash = False
    while True:
        closing = _closing(data, at, stop)
        if closing and not closed:
            closed = True
            begin = at + 1
            end = begin
            while end < stop and is_kind(data, end, DIGIT):
                end += 1
            if end == begin or end >= stop or load_u8(data, end) != closing:
                return count
            at = end + 1
        else:
            begin = end = at
            while end < stop and is_kind(data, end, DIGIT):
                end += 1
            if end == begin:
                return count
            at = end
        if count == MOST_GROUPS:
            return count + 1
        starts[count], ends[count] = begin, end
        count += 1
        kind, behind = _separator(data, at, stop)
        if kind == 0 and at == end and not _closing(data, at, stop):
            return count
        if kind == AREA:
            if slash or count > 3:
                return count
            slash = True
        if count < MOST_GROUPS:
            kinds[count] = kind
        at = behind


@helper
def _international(data, starts, ends, count, skip, total):
    """Whether digits behind + (skip 0) or 00 (2) are a number with its country's code."""
    digits = np.int64(0)
    value = np.int64(0)
    zeros = np.int64(0)  # at the beginning of what follows a code of two digits
    for k in range(count):
        for i in range(starts[k], ends[k]):
            if digits >= skip and digits < skip + 2:
                value = 10 * value + np.int64(load_u8(data, i)) - 48
            elif digits >= skip + 2 and zeros == digits - skip - 2 and load_u8(data, i) == 48:
                zeros += 1
            digits += 1
    total -= skip
    if total < 9 or total > 15 or not _CODES[value] or zeros > 1:
        return False
    return total == 11 if value < 20 else True


@helper
def _russian(data, starts, ends, k, count):
    """Whether groups from k on have 3, 3, 2 and 2 digits, and the first is a code of an area or of mobile numbers."""
    if count - k != 4:
        return False
    code = load_u8(data, starts[k])
    same = code == 51 or code == 52 or code == 56 or code == 57
    for i in range(4):
        same = same and ends[k + i] - starts[k + i] == (3 if i < 2 else 2)
    return same


@helper
def _with_trunk_zero(data, starts, ends, kinds, count, total, separators, bracket):
    """Whether groups of which the first begins with one 0, of 9 to 12 digits, are a number as it is dialled within a country."""
    length = ends[0] - starts[0]
    pairs = zeros = True
    for k in range(count):
        size = ends[k] - starts[k]
        pairs = pairs and size == 2
        zeros = zeros and size == 3 and load_u8(data, starts[k]) == 48
        exchange = k > 0 and k == count - 1 and (bracket or kinds[k] == HYPHEN)  # 030 12345-0
        if (size < 2 and not exchange) or ((kinds[k] == SLASH or kinds[k] == AREA) and k > 1):
            return False
    if length == 5 and count == 2 and ends[1] - starts[1] == 4 and separators == HYPHEN:
        return False  # a ZIP code
    return not zeros and (pairs or not separators & DOT)


@helper
def _phone_groups(data, first, at, plus, starts, ends, kinds, count, whole, again):
    """Whether the first `count` groups are a phone number. whole: no more groups follow them; again: one stands before."""
    total = 0
    separators = 0
    for k in range(count):
        total += ends[k] - starts[k]
        if k:
            separators |= HYPHEN if kinds[k] == WIDE else SLASH | AREA if kinds[k] == AREA else kinds[k]
    one, two = load_u8(data, starts[0]), load_u8(data, starts[0] + 1) if ends[0] - starts[0] > 1 else np.uint64(0)
    length = ends[0] - starts[0]
    if plus:
        return _international(data, starts, ends, count, 0, total)
    number_before = not again and _is_block_before(data, first, at)
    if one == 48 and two == 48 and count > 1 and 2 <= length <= 5:
        return not number_before and _international(data, starts, ends, count, 2, total)
    if has_word(NO_CALL, word_before(data, first, at)):
        return False
    called = again or is_called(data, first, at)
    date = count > 2 and length == 2 and ends[1] - starts[1] == 2 and ends[2] - starts[2] == 4
    date = date and (count == 3 or kinds[3] == SPACE)
    bracket = starts[0] > at
    k = 1 if count > 2 and length == 1 and (one == 49 or one == 56) else 0  # a trunk prefix
    if (one == 56 or bracket or called) and _russian(data, starts, ends, k, count):
        return bracket or called or whole
    k = k if one == 49 else 0
    if count - k == 3 or count - k == 2:
        a, b = ends[k] - starts[k], ends[k + 1] - starts[k + 1]
        c = ends[k + 2] - starts[k + 2] if count - k == 3 else 0
        area = a == 3 and load_u8(data, starts[k]) >= 50
        if area and ((b == 3 and c == 4) or (b == 7 and count - k == 2 and bracket)):
            if k or bracket or called or separators & HYPHEN or separators == DOT:
                return True
            return whole and load_u8(data, starts[k + 1]) >= 50 and separators == SPACE
        if bracket and not k and a == 2 and 4 <= b <= 5 and c == 4 and kinds[2] == HYPHEN:
            return True  # (11) 91234-5678
    if one == 49 and two >= 51 and count == 3 and length == 3 and ends[1] - starts[1] == 4 and ends[2] - starts[2] == 4:
        return separators == SPACE or separators == HYPHEN
    most = 13 if called and separators & SLASH else 12  # with an extension
    if separators & AREA and not (called or bracket):
        return False
    if one == 48 and two != 48 and count > 1 and 2 <= length <= 5 and 9 <= total <= most and not date:
        if _with_trunk_zero(data, starts, ends, kinds, count, total, separators, bracket):
            return not number_before
        if number_before:
            return False
    return called and 7 <= total <= 15 and not date and not separators & SLASH


@helper
def _is_block_before(data, first, at):
    """Whether four digits and a space stand before `at`, as within an IBAN or a card's number."""
    if at - 5 < first or load_u8(data, at - 1) != 32 or (at - 6 >= first and is_kind(data, at - 6, LETTER | DIGIT)):
        return False
    four = True
    for i in range(at - 5, at - 1):
        four = four and is_kind(data, i, DIGIT)
    return four


@helper
def _is_bounded(data, first, at):
    """Whether a number may begin at `at`: it is no part of a word, of a path or of a longer number."""
    if at == first:
        return True
    byte = load_u8(data, at - 1)
    if byte < 0x80 and is_kind(data, at - 1, LETTER | DIGIT):
        return False
    if byte == _LOW or byte == _PLUS or byte == _DOLLAR or byte == _HASH:
        return False
    if byte == 32 and at - 1 > first and load_u8(data, at - 2) == _DOLLAR:
        return False
    joins = byte == _DOT or byte == _MINUS or byte == _SLASH or byte == 44
    return not (joins and at - 1 > first and is_kind(data, at - 2, LETTER | DIGIT))


@helper
def _is_again(data, last, at):
    """Whether no more than `/`, `,`, `;`, `&` or `|` and spaces stand between the last number, which ends at `last`, and `at`."""
    if last < 0 or at - last > 3 or at == last:
        return False
    signs = 0
    for i in range(last, at):
        byte = load_u8(data, i)
        if byte == _SLASH or byte == _COMMA or byte == 59 or byte == 38 or byte == 124:
            signs += 1
        elif byte != 32:
            return False
    return signs == 1


@helper
def _goes_on(data, end, stop):
    """Whether a word goes on behind a number; `x12`, an extension, is none."""
    if end >= stop:
        return False
    byte = load_u8(data, end)
    if byte | np.uint64(32) == _EXTENSION and end + 1 < stop and is_kind(data, end + 1, DIGIT):
        return False
    return (byte < 0x80 and KINDS[byte] & LETTER != 0) or byte == _LOW or byte == _AT or byte == 37


@helper
def phone_end(data, first, last, at, stop, starts, ends, kinds):
    """Where the phone number that begins at `at` ends; -1 where there is none. last: where the one before ended, or -1."""
    if not _is_bounded(data, first, at):
        return np.int64(-1)
    plus = load_u8(data, at) == _PLUS
    count = _groups(data, at + 1 if plus else at, stop, starts, ends, kinds)
    if count == 0 or count > MOST_GROUPS:
        return np.int64(-1)
    again = _is_again(data, last, at)
    for n in range(count, 0, -1):
        cut = n == count or kinds[n] == SPACE or kinds[n] == WIDE or kinds[n] == AREA
        if not cut and not (plus and kinds[n] == SLASH):
            continue
        end = ends[n - 1]
        if n == 1 and not plus and starts[0] > at:
            continue
        if _goes_on(data, end, stop):
            continue
        if _phone_groups(data, first, at, plus, starts, ends, kinds, n, n == count, again):
            return end
    return np.int64(-1)
