"""Words as Unicode defines them: the default word boundaries of UAX #29 (Unicode 16.0), over UTF-8 bytes.

`word_end` finds where the segment that begins at a boundary ends; calling it again and again cuts a text into segments.
No rule of UAX #29 looks back over a boundary, so nothing else must be remembered. Segments of ASCII letters, digits
and underscores are cut without decoding; all else goes through the full rules. Time is linear in the text: what a
rule looks ahead over is never looked at again but by the segment that begins there.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, inlined, kernel
from stages.kernels.hashing import load_u8, load_u64, trailing_zeros
from stages.kernels.unicode_tables import (
    ALETTER,
    CLASS,
    CR,
    DOUBLE_QUOTE,
    EXTEND,
    EXTENDNUMLET,
    FORMAT,
    HEBREW_LETTER,
    KATAKANA,
    LF,
    MIDLETTER,
    MIDNUM,
    MIDNUMLET,
    NEWLINE,
    NUMERIC,
    PICTOGRAPHIC,
    REGIONAL_INDICATOR,
    SINGLE_QUOTE,
    WSEGSPACE,
    ZWJ,
    code_points,
)
from stages.kernels.utf8 import decode, last_bytes, properties


def _bits(*classes: int) -> int:
    return sum(1 << c for c in classes)


_BREAKS = _bits(CR, LF, NEWLINE)
_SKIPPED = _bits(EXTEND, FORMAT, ZWJ)
_LETTERS = _bits(ALETTER, HEBREW_LETTER)
_MID_LETTERS = _bits(MIDLETTER, MIDNUMLET, SINGLE_QUOTE)  # WB6, WB7
_MID_NUMBERS = _bits(MIDNUM, MIDNUMLET, SINGLE_QUOTE)  # WB11, WB12


def _joins() -> np.ndarray:
    """For each class, the set (as bits) of classes that do not break behind it: the rules that look at one pair."""
    word = _LETTERS | _bits(NUMERIC)
    joins = np.zeros(32, np.int64)
    joins[[ALETTER, HEBREW_LETTER, NUMERIC]] = word | _bits(EXTENDNUMLET)  # WB5, WB8, WB9, WB10, WB13a
    joins[KATAKANA] = _bits(KATAKANA, EXTENDNUMLET)  # WB13, WB13a
    joins[EXTENDNUMLET] = word | _bits(KATAKANA, EXTENDNUMLET)  # WB13a, WB13b
    return joins


def _ascii_kinds() -> np.ndarray:
    """What a byte is: 1 letter, digit or underscore (no break between them), 2 may stand amid a word, 3 not ASCII."""
    kinds = np.zeros(256, np.uint8)
    classes = code_points()[:128] & CLASS
    kinds[:128][np.isin(classes, [ALETTER, NUMERIC, EXTENDNUMLET])] = 1
    kinds[:128][np.isin(classes, [MIDLETTER, MIDNUM, MIDNUMLET, SINGLE_QUOTE])] = 2
    kinds[128:] = 3
    return kinds


def eightfold(byte: int) -> np.uint64:
    """Eight times the byte, as one word."""
    return np.uint64(byte * 0x0101010101010101)


_LOW_BITS, _HIGH_BITS, _CASE, _UNDERSCORES = (eightfold(byte) for byte in (0x7F, 0x80, 0x20, ord("_")))
# Added to bytes below 0x80, these set the high bit of those at or above a letter or digit.
_FROM_0, _ABOVE_9, _FROM_A, _ABOVE_Z = (eightfold(0x80 - ord(c)) for c in "0:a{")
_JOINS = _joins()
_KINDS = _ascii_kinds()


@helper
def _class_after(data, start, stop, table):
    """Class of the next character that WB4 does not skip and the position behind it; (0, stop) where there is none."""
    while start < stop:
        point, start = decode(data, start, stop)
        kind = properties(table, point) & CLASS
        if not (_SKIPPED >> kind) & 1:
            return kind, start
    return 0, stop


@helper
def _word_end_unicode(data, start, stop, table):
    """`word_end` by the full rules."""
    point, at = decode(data, start, stop)
    left = properties(table, point) & CLASS  # the last character that WB4 does not skip
    if (_BREAKS >> left) & 1:
        return at + 1 if left == CR and at < stop and load_u8(data, at) == 0x0A else at  # WB3, WB3a
    last = left  # the last character
    odd_indicators = left == REGIONAL_INDICATOR
    while at < stop:
        point, after = decode(data, at, stop)
        entry = properties(table, point)
        right = entry & CLASS
        if (_JOINS[left] >> right) & 1:
            left = right
        elif (_SKIPPED >> right) & 1:  # WB4
            last = right
            at = after
            continue
        elif (last == ZWJ and entry & PICTOGRAPHIC) or (last == WSEGSPACE and right == WSEGSPACE):  # WB3c, WB3d
            left = right
            odd_indicators = False
        elif odd_indicators and left == REGIONAL_INDICATOR and right == REGIONAL_INDICATOR:  # WB15, WB16
            odd_indicators = False
        else:
            if (_LETTERS >> left) & 1 and (_MID_LETTERS >> right) & 1:  # WB6, WB7
                wanted = _LETTERS
            elif left == NUMERIC and (_MID_NUMBERS >> right) & 1:  # WB11, WB12
                wanted = 1 << NUMERIC
            elif left == HEBREW_LETTER and right == DOUBLE_QUOTE:  # WB7b, WB7c
                wanted = 1 << HEBREW_LETTER
            else:
                return at
            following, beyond = _class_after(data, after, stop, table)
            if (wanted >> following) & 1:
                right, after = following, beyond
            elif not (left == HEBREW_LETTER and right == SINGLE_QUOTE):  # WB7a
                return at
            left = right
        last = right
        at = after
    return at


@helper
def word_end(data, start, stop, table):
    """Where the segment that begins at `start` (a boundary; start < stop) ends; `table` is code_points()."""
    kind = _KINDS[load_u8(data, start)]
    at = start + 1
    if kind == 1:
        while at < stop:
            kind = _KINDS[load_u8(data, at)]
            if kind == 1:
                at += 1
            elif kind == 0 or at + 1 == stop:
                break
            elif kind == 3:
                return _word_end_unicode(data, start, stop, table)
            else:
                byte = load_u8(data, at + 1)
                if byte >= 0x80:
                    return _word_end_unicode(data, start, stop, table)
                left = properties(table, load_u8(data, at - 1)) & CLASS
                middle = properties(table, load_u8(data, at)) & CLASS
                right = properties(table, byte) & CLASS
                letters = left == ALETTER and right == ALETTER and (_MID_LETTERS >> middle) & 1
                numbers = left == NUMERIC and right == NUMERIC and (_MID_NUMBERS >> middle) & 1
                if not (letters or numbers):
                    break
                at += 2
        return at
    if kind == 3 or (at < stop and load_u8(data, at) >= 0x80):
        return _word_end_unicode(data, start, stop, table)
    byte = load_u8(data, start)
    if byte == 0x20:
        while at < stop and load_u8(data, at) == 0x20:
            at += 1
        return _word_end_unicode(data, start, stop, table) if at < stop and load_u8(data, at) >= 0x80 else at
    return at + 1 if byte == 0x0D and at < stop and load_u8(data, at) == 0x0A else at


@helper
def letters_or_digits(word):
    """Of eight bytes, the high bit of each that is an ASCII letter or digit."""
    low = word & _LOW_BITS
    folded = low | _CASE
    digits = (low + _FROM_0) & ~(low + _ABOVE_9)
    letters = (folded + _FROM_A) & ~(folded + _ABOVE_Z)
    return (digits | letters) & ~word & _HIGH_BITS


@helper
def skip_separators(data, start, stop):
    """From a boundary: the next boundary that separators alone do not decide, for who only wants words.

    A separator is any ASCII but letters, digits and underscore; if ASCII follows it, there is a boundary behind it, or
    another separator. Returns stop, or the place of a byte that is no separator or that is not followed by ASCII.
    """
    while start < stop:
        if start + 8 <= len(data):
            word = load_u64(data, start)
            underscores = ~((word ^ _UNDERSCORES) + _LOW_BITS)
            count = trailing_zeros((letters_or_digits(word) | underscores | word) & _HIGH_BITS) >> 3
            if count == 0:
                return start
            if start + count >= stop:
                return stop
            if count == 8:
                start += 7
            elif (word >> np.uint64(8 * count)) & np.uint64(0x80):
                return start + count - 1
            else:
                return start + count
        elif _KINDS[load_u8(data, start)] & 1 or (start + 1 < stop and load_u8(data, start + 1) >= 0x80):
            return start
        else:
            start += 1
    return stop


@helper
def plain_word_end(data, start, stop):
    """Where the word that begins at `start` ends if it is all ASCII letters and digits and a separator ends it plainly.

    Else `start`, and `word_end` must be asked.
    """
    at = start
    while True:
        if at + 8 > len(data):
            return start
        word = load_u64(data, at)
        count = trailing_zeros(~letters_or_digits(word) & _HIGH_BITS) >> 3
        at += count
        if at >= stop:
            return stop
        if count < 8:
            break
    kind = _KINDS[(word >> np.uint64(8 * count)) & np.uint64(0xFF)]
    if kind == 0 or (kind == 2 and (at + 1 == stop or _KINDS[load_u8(data, at + 1)] & 1 == 0)):
        return at
    return start


@inlined
def quick_word(data, start, stop):
    """(bytes of the segment that begins at `start`, the eight bytes there); start < stop.

    -1 bytes: a white character of ASCII, no part of a word; 0: `word_end` must be asked. Else the segment is a word of ASCII
    letters and digits, or a single character of ASCII that is none of these; one of 8 bytes or more is always a word.
    """
    word = load_u64(data, start) if start + 8 <= len(data) else last_bytes(data, start, stop)
    byte = word & np.uint64(0xFF)
    plain = start + 1 >= stop or word & np.uint64(0x8000) == 0  # nothing follows that could belong to a separator
    if byte == 0x0A or (plain and (byte == 0x20 or byte - np.uint64(0x09) < 5)):
        return -1, word
    length = trailing_zeros(~letters_or_digits(word) & _HIGH_BITS) >> 3
    if length == 0:
        return np.int64(plain and byte - np.uint64(0x21) < 0x5E and byte != 0x5F), word
    if start + length >= stop:
        return stop - start, word
    if length < 8:
        kind = _KINDS[(word >> np.uint64(8 * length)) & np.uint64(0xFF)]
        if kind == 0 or (
            kind == 2 and length < 7 and _KINDS[(word >> np.uint64(8 * length + 8)) & np.uint64(0xFF)] & 1 == 0
        ):
            return length, word
    return plain_word_end(data, start, stop) - start, word


@kernel("int64(text, int64, int64, const_uint16, vec_int64)")
def word_ends(data, start, stop, table, ends):
    """Write to `ends` where each segment of data[start:stop] ends (positions in data); returns how many there are."""
    count = 0
    while start < stop:
        start = word_end(data, start, stop, table)
        ends[count] = start
        count += 1
    return count
