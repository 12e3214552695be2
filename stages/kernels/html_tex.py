"""TeX as text: without the signs and comments of its page, between delimiters, once for each formula."""

from __future__ import annotations

import numpy as np

from stages.kernels import html_layout as L
from stages.kernels.compile import light
from stages.kernels.hashing import load_u8
from stages.kernels.html_scan import AMPERSAND, DIGIT, LETTER, WHITE, kind_of, read_reference
from stages.kernels.html_text import FORMULA, begin_text

_NL, _SPACE = 10, 32
_BACKSLASH, _DOLLAR, _PERCENT, _CLOSE = (ord(c) for c in "\\$%}")


@light
def _trim(data, at, stop):
    while at < stop and kind_of(data, at) & WHITE:
        at += 1
    while stop > at and kind_of(data, stop - 1) & WHITE:
        stop -= 1
    return at, stop


@light
def _starts(data, at, stop, word):
    if stop - at < len(word):
        return False
    for i in range(len(word)):
        if load_u8(data, at + i) != word[i]:
            return False
    return True


_DISPLAYSTYLE = np.frombuffer(b"{\\displaystyle", np.uint8)
_TEXTSTYLE = np.frombuffer(b"{\\textstyle", np.uint8)
_BARE_STYLE = np.frombuffer(b"\\displaystyle", np.uint8)


@light
def _unwrap(out, start, stop):
    """The TeX inside of out[start:stop] without delimiters and style: (start, stop, whether it said that it is displayed)."""
    display = False
    start, stop = _trim(out, start, stop)
    while stop - start >= 4 and load_u8(out, start) == _DOLLAR and load_u8(out, start + 1) == _DOLLAR:
        if load_u8(out, stop - 1) != _DOLLAR or load_u8(out, stop - 2) != _DOLLAR:
            break
        start, stop, display = start + 2, stop - 2, True
    if stop - start >= 2 and load_u8(out, start) == _DOLLAR and load_u8(out, stop - 1) == _DOLLAR:
        start, stop = start + 1, stop - 1
    if stop - start >= 4 and load_u8(out, start) == _BACKSLASH and load_u8(out, stop - 2) == _BACKSLASH:
        opener, closer = load_u8(out, start + 1), load_u8(out, stop - 1)
        if (opener == 0x28 and closer == 0x29) or (opener == 0x5B and closer == 0x5D):
            display = opener == 0x5B
            start, stop = start + 2, stop - 2
    start, stop = _trim(out, start, stop)
    if stop > start and load_u8(out, stop - 1) == _CLOSE:
        if _starts(out, start, stop, _DISPLAYSTYLE):
            start, stop = start + len(_DISPLAYSTYLE), stop - 1
        elif _starts(out, start, stop, _TEXTSTYLE):
            start, stop = start + len(_TEXTSTYLE), stop - 1
    if _starts(out, start, stop, _BARE_STYLE) and not kind_of(out, min(start + 13, stop - 1)) & LETTER:
        start += len(_BARE_STYLE)
    start, stop = _trim(out, start, stop)
    return start, stop, display


@light
def _delimit(out, w, style, display, closing):
    """Write the sign before or behind a formula; `style` 0: dollars, 1: \\( and \\[, 2: none."""
    if style == 0:
        out[w] = _DOLLAR
        w += 1
        if display:
            out[w] = _DOLLAR
            w += 1
    elif style == 1:
        out[w] = _BACKSLASH
        if display:
            out[w + 1] = 0x5D if closing else 0x5B
        else:
            out[w + 1] = 0x29 if closing else 0x28
        w += 2
    return w


@light
def _fold_tex(out, start, stop):
    """Fold white space of the TeX out[start:stop] and take comments out of it, in place; returns where it ends.

    A comment is what stands behind a % up to the end of its line; or of the TeX, where that is the end of a CDATA section.
    """
    w = at = start
    white = False
    while at < stop:
        byte = load_u8(out, at)
        if byte == _PERCENT and (at == start or load_u8(out, at - 1) != _BACKSLASH):
            end = at
            while end < stop and load_u8(out, end) != _NL:
                end += 1
            if end < stop or load_u8(out, stop - 1) == 0x3E:
                at = end
                continue
        at += 1
        if kind_of(out, at - 1) & WHITE:
            white = True
            continue
        if white:
            out[w] = _SPACE
            w += 1
            white = False
        out[w] = byte
        w += 1
    return w


@light
def put_tex(data, at, stop, decoded, display, names, values, out, s, stack, el, bl):
    """Write the TeX data[at:stop] between its delimiters, on one line and without comments; once, where it stood already.

    `decoded`: whether it is raw text (of a script), without references.
    """
    if s[L.MUTE]:
        return
    source = at
    first = s[L.W] + 16  # behind all that may come before it
    end = first
    while at < stop:
        byte = load_u8(data, at)
        if byte == AMPERSAND and not decoded:
            after, written = read_reference(data, at, stop, names, values, out, end)
            if after > at:
                at, end = after, written
                continue
        out[end] = byte
        end += 1
        at += 1
    w = _fold_tex(out, first, end)
    first, w, said = _unwrap(out, first, w)
    display = display or said
    if w <= first:
        return
    length = w - first
    if s[L.FORMULA_END] == s[L.W] and _same(out, s[L.FORMULA_START], s[L.FORMULA_END], first, length):
        return
    put = begin_text(source, FORMULA, out, s, stack, el, bl)  # writes 16 bytes at most
    start = put
    put = _delimit(out, put, s[L.DELIMITER], display, False)
    for i in range(length):
        out[put + i] = out[first + i]
    put = _delimit(out, put + length, s[L.DELIMITER], display, True)
    s[L.W] = s[L.FORMULA_END] = put
    s[L.FORMULA_START] = start
    s[L.FLAGS] |= L.HAS_MATH
    s[L.APART] = FORMULA | DIGIT


@light
def _same(out, start, stop, first, length):
    """Whether the formula out[start:stop] holds out[first:first + length] between its delimiters."""
    start += (stop - start - length) // 2
    if stop - start < length:
        return False
    for i in range(length):
        if out[start + i] != out[first + i]:
            return False
    return True
