"""RefinedWeb's line edits as DCLM makes them: lines dropped, and three phrases of web pages cut out of short lines.

Each edit is a function of mlfoundations/dclm, baselines/mappers/modifiers.py, named below. One after another they
rewrite the whole text, and most strip its ends when done, which changes what the next one sees of the first and the
last line; so the edits are made one after another here too, in place, in a buffer that holds one text.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8, load_u64, trailing_zeros
from stages.kernels.unicode_tables import ALNUM, DECIMAL, DIGIT, SPACE, UPPER
from stages.kernels.utf8 import (
    append,
    count_chars,
    decode,
    last_bytes,
    next_newline,
    properties,
    skip_space,
    skip_space_back,
    step_back,
    white_word_end,
)
from stages.kernels.words import letters_or_digits

_NEWLINE, _UNDERSCORE, _COMMA, _DOT = (ord(char) for char in "\n_,.")
_COUNTED = b"likes shares comments retweets reposts quotes bookmarks upvotes downvotes downloads views followers"
_COUNTED = _COUNTED.split()
_NAMES = np.frombuffer(b"".join(_COUNTED), np.uint8)
_NAME_STARTS = np.cumsum([0, *map(len, _COUNTED)])
_ITEMS, _READ, _SIGN = (np.frombuffer(phrase, np.uint8) for phrase in (b"items in cart", b"read more...", b"sign-in"))
_ONES, _HIGH_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
# Added to bytes below 0x80, these set the high bit of those at or above the character.
_FROM_A, _ABOVE_Z, _FROM_0, _ABOVE_9 = (np.uint64(0x80 - ord(char)) * _ONES for char in "A[0:")
_FROM_TAB, _ABOVE_CR = (np.uint64(0x80 - byte) * _ONES for byte in (0x09, 0x0E))
_SPACES = np.uint64(0x20) * _ONES
_DOTTED_I, _DOTLESS_I, _LONG_S, _KELVIN = 0x130, 0x131, 0x17F, 0x212A


@helper
def _lower(point):
    """ASCII in lower case, and the Kelvin sign as k: all that str.lower() turns into one ASCII letter."""
    if 0x41 <= point <= 0x5A:
        return point + 0x20
    return 0x6B if point == _KELVIN else point


@helper
def _fold(point):
    """The ASCII letter that re.IGNORECASE takes a character for; else the character in lower case."""
    if point in (_DOTTED_I, _DOTLESS_I):
        return 0x69
    return 0x73 if point == _LONG_S else _lower(point)


@helper
def _share(data, start, stop, table, wanted):
    """Share of the characters that are UPPER or DIGIT, whichever is `wanted`; 0 for an empty line."""
    if start == stop:
        return 0.0
    first, beyond = (_FROM_A, _ABOVE_Z) if wanted == UPPER else (_FROM_0, _ABOVE_9)
    at = start
    found = 0
    while at < stop:
        if stop - at >= 8:
            word = load_u64(data, at)
            if not word & _HIGH_BITS:  # eight times ASCII
                bits = (word + first) & ~(word + beyond) & _HIGH_BITS
                found += np.int64(((bits >> np.uint64(7)) * _ONES) >> np.uint64(56))
                at += 8
                continue
        point, at = decode(data, at, stop)
        found += np.int64(properties(table, point) & wanted != 0)
    return found / count_chars(data, start, stop)


@helper
def _words_up_to(data, at, stop, table, most):
    """Number of words that str.split() gives, counted no further than `most`."""
    words = 0
    while words < most:
        at = skip_space(data, at, stop, table)
        if at >= stop:
            break
        at = white_word_end(data, at, stop, table)
        words += 1
    return words


@helper
def _skip_symbols(data, at, stop, table):
    """Over all that is no letter, digit or underscore (`\\W*`)."""
    while at < stop:
        point, after = decode(data, at, stop)
        if point == _UNDERSCORE or properties(table, point) & ALNUM:
            break
        at = after
    return at


@helper
def _is_counter(data, at, stop, table):
    """Whether a line is a count of reactions, such as "3 likes" or "1.2K views" (counter_line_modifier)."""
    at = _skip_symbols(data, at, stop, table)
    if at >= stop:
        return False
    point, at = decode(data, at, stop)
    if not properties(table, point) & DECIMAL:
        return False
    after = at
    while at < stop:
        point, after = decode(data, at, stop)
        if not (point in (_COMMA, _DOT) or properties(table, point) & DECIMAL):
            break
        at = after
    if at < stop and _lower(point) in (0x6B, 0x6D, 0x62):  # k, m, b
        at = after
    word = skip_space(data, at, stop, table)
    if word == at:
        return False
    for number in range(len(_NAME_STARTS) - 1):
        at = word
        letter = _NAME_STARTS[number]
        while at < stop and letter < _NAME_STARTS[number + 1]:
            point, after = decode(data, at, stop)
            if _lower(point) != _NAMES[letter]:
                break
            letter += 1
            at = after
        if letter == _NAME_STARTS[number + 1] and _skip_symbols(data, at, stop, table) == stop:
            return True
    return False


_UPPER_CASE, _DIGITS, _COUNTERS, _FEW_WORDS = range(4)


@helper
def _drop_lines(text, start, stop, table, rule, amount):
    """Close up the lines of text[start:stop] that a rule lets stay; returns the end of what is left.

    _UPPER_CASE, _DIGITS: lines whose share of such characters is above `amount` go (uppercase_ratio_line_modifier,
    numeric_ratio_line_modifier). _COUNTERS: lines that count reactions. _FEW_WORDS: lines of fewer words than `amount`,
    but not empty ones (line_length_modifier).
    """
    out = start
    at = start
    while at <= stop:
        end = next_newline(text, at, stop, 1)
        if rule == _COUNTERS:
            goes = _is_counter(text, at, end, table)
        elif rule == _FEW_WORDS:
            goes = end > at and _words_up_to(text, at, end, table, np.int64(amount)) < amount
        else:
            goes = _share(text, at, end, table, UPPER if rule == _UPPER_CASE else DIGIT) > amount
        if not goes:
            out = append(text, out, text, at, end) if out < at else end
            if end < stop:
                text[out] = _NEWLINE
            out += 1
        at = end + 1
    return max(start, out - 1)


@helper
def _phrase_end(text, at, stop, phrase):
    """Where a phrase that begins at `at` ends, in any case, a dot of it standing for any character; else -1."""
    for letter in phrase:
        if at >= stop:
            return -1
        point, at = decode(text, at, stop)
        if letter != _DOT and _fold(point) != letter:
            return -1
    return at


@helper
def _cut_anywhere(text, at, stop, out, table, phrase):
    """Copy text[at:stop] to text[out:] without a phrase, wherever it stands, nor the white space before it."""
    here = at
    while here < stop:
        end = -1
        byte = np.int64(load_u8(text, here))
        if _fold(byte) == phrase[0] or byte >= 0xC0:
            end = _phrase_end(text, here, stop, phrase)
        if end < 0:
            here += 1
            continue
        out = append(text, out, text, at, _space_before(text, at, here, table))
        at = here = end
    return append(text, out, text, at, stop)


@helper
def _ending(text, start, stop, phrase):
    """Where a phrase that ends text[start:stop] begins; stop where none does."""
    begin = stop
    for _ in range(len(phrase)):
        if begin == start:
            return stop
        begin = step_back(text, start, begin)
    return begin if _phrase_end(text, begin, stop, phrase) == stop else stop


@helper
def _space_behind(text, at, stop, table):
    """Where the one white space character at `at` ends; `at` where there is none."""
    if at < stop:
        point, after = decode(text, at, stop)
        if properties(table, point) & SPACE:
            return after
    return at


@helper
def _space_before(text, start, at, table):
    """Where the one white space character before `at` begins; `at` where there is none."""
    if at > start:
        before = step_back(text, start, at)
        point, _ = decode(text, before, at)
        if properties(table, point) & SPACE:
            return before
    return at


_ITEMS_IN_CART, _READ_MORE, _SIGN_IN = range(3)


@helper
def _cut_phrase(text, start, stop, table, which, most_words):
    """Cut a phrase (`which`) out of the lines of at most `most_words` words (substring_line_modifier).

    A line of which only white space stays goes. Returns the end of what is left.
    """
    out = left = start
    at = start
    while at <= stop:
        end = next_newline(text, at, stop, 1)
        first, last = at, end  # what is left of the line, where the phrase ends or begins it
        if which == _READ_MORE:
            last = _ending(text, at, end, _READ)
        elif which == _SIGN_IN:
            first = max(at, _phrase_end(text, at, end, _SIGN))
        stays = True
        if at < end and skip_space(text, at, end, table) == end:
            stays = False
        elif (which != _ITEMS_IN_CART and first == at and last == end) or (
            _words_up_to(text, at, end, table, most_words + 1) > most_words
        ):
            left = append(text, out, text, at, end) if out < at else end
        else:
            if which == _ITEMS_IN_CART:
                left = _cut_anywhere(text, at, end, out, table, _ITEMS)
            elif which == _READ_MORE:
                left = append(text, out, text, at, _space_before(text, at, last, table))
            else:
                left = append(text, out, text, _space_behind(text, first, end, table), end)
            stays = end == at or skip_space(text, out, left, table) < left
        if stays:
            out = left
            if end < stop:
                text[out] = _NEWLINE
            out += 1
        at = end + 1
    return max(start, out - 1)


@helper
def _count_cut_words(data, start, stop, table):
    """Number of words, cut at ASCII white space and zero bytes as by fastText, that begin with a letter or digit."""
    words = 0
    behind = np.uint64(0x80)  # this bit: the character before is one that cuts
    at = start
    while at < stop:
        if stop - at >= 8:
            word = load_u64(data, at)
            width = 8
        else:
            word = last_bytes(data, at, stop)
            width = stop - at
        low = word & ~_HIGH_BITS
        zeros = ~(low + ~_HIGH_BITS)
        spaces = ~((low ^ _SPACES) + ~_HIGH_BITS)
        cuts = (zeros | spaces | ((low + _FROM_TAB) & ~(low + _ABOVE_CR))) & ~word & _HIGH_BITS
        firsts = ~cuts & (cuts << np.uint64(8) | behind) & _HIGH_BITS
        behind = cuts >> np.uint64(56)
        words += np.int64((((firsts & letters_or_digits(word)) >> np.uint64(7)) * _ONES) >> np.uint64(56))
        others = firsts & word  # first characters that are not ASCII
        while others:
            point, _ = decode(data, at + (trailing_zeros(others) >> 3), stop)
            words += np.int64(properties(table, point) & ALNUM != 0)
            others &= others - np.uint64(1)
        at += width
    return words


@kernel(
    "int64(text, offsets, const_uint16, float64, float64, int64, int64, int64, vec_uint8, vec_int64, vec_float64)",
)
def edit_lines(
    data, offsets, table, max_upper_case, max_digits, counters, min_words, phrase_words, out, out_offsets, removed
):
    """Write the edited texts to `out` one behind another, and where each begins to `out_offsets` (n + 1).

    `removed`: the share of its words (as fastText cuts them) that each text lost; 1 for a text that had none. Returns
    the bytes written.
    """
    first = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = first
        amounts = (max_upper_case, max_digits, 0.0, np.float64(min_words))
        before = _count_cut_words(data, offsets[row], offsets[row + 1], table)
        start = first
        stop = append(out, first, data, offsets[row], offsets[row + 1])
        for rule in range(4):
            if rule != _COUNTERS or counters:
                stop = _drop_lines(out, start, stop, table, rule, amounts[rule])
            if rule != _FEW_WORDS:
                start = skip_space(out, start, stop, table)
                stop = skip_space_back(out, start, stop, table)
        for phrase in range(3 if phrase_words >= 0 else 0):
            stop = _cut_phrase(out, start, stop, table, phrase, phrase_words)
            start = skip_space(out, start, stop, table)
            stop = skip_space_back(out, start, stop, table)
        after = _count_cut_words(out, start, stop, table)
        removed[row] = (before - after) / before if before else 1.0
        first = append(out, first, out, start, stop)
    out_offsets[len(offsets) - 1] = first
    return first
