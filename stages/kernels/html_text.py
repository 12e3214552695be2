"""Writing the text of a page, and ending its blocks: white space, line breaks, superscripts, formulas, line numbers.

`out` has room for twice the page's bytes and 4,096 more. Each function writes at most twice what it reads of the page.
"""

from __future__ import annotations

import numpy as np

from stages.kernels import html_layout as L
from stages.kernels.compile import light, light_inlined
from stages.kernels.hashing import load_u8, store_u8
from stages.kernels.html_scan import AMPERSAND, BYTE_KINDS, DIGIT, WHITE, kind_of, read_reference
from stages.kernels.html_tables import LINE_NUMBERS

WIDE, FORMULA = 0x80, 0x100  # kinds of what is written besides those of bytes: not ASCII, a formula
_NL, _SPACE, _CR, _TAB = 10, 32, 13, 9


@light
def end_block(out, s, el, bl, after_break):
    """End the block that is being written. One without text, or of line numbers alone, leaves nothing behind."""
    start, stop = s[L.B0], s[L.W]
    while stop > start and kind_of(out, stop - 1) & WHITE:
        stop -= 1
    first = start
    if s[L.FLAGS] & L.HAS_PRE:  # indentation stays, blank lines go
        i = start
        while i < stop and kind_of(out, i) & WHITE:
            if load_u8(out, i) == _NL:
                first = i + 1
            i += 1
    if stop > first and not _is_line_numbers(out, first, stop, s, el):
        if s[L.NB] >= len(bl):
            s[L.FULL] = 1
            return
        b = s[L.NB]
        if s[L.LINK] >= 0:
            s[L.LINK_BYTES] += max(0, stop - max(s[L.LINK_FROM], start))
        bl[b, L.B_START], bl[b, L.B_STOP] = first, stop
        bl[b, L.B_ELEMENT] = s[L.OWNER]
        bl[b, L.B_LINK] = min(s[L.LINK_BYTES], stop - first)
        bl[b, L.B_FLAGS] = s[L.FLAGS]
        bl[b, L.B_TOK], bl[b, L.B_TOKS] = s[L.BLOCK_TOK], s[L.NT] - s[L.BLOCK_TOK]
        bl[b, L.B_SOURCE] = s[L.SOURCE]
        bl[b, L.B_IMAGES] = s[L.IMAGES]
        s[L.NB] = b + 1
        if s[L.RENDER_END] == s[L.W] and s[L.RENDER_START] <= first:
            s[L.RENDER_BLOCK] = b  # nothing but a formula as it is shown
        s[L.B0] = stop
        s[L.IMAGES] = 0
    else:
        s[L.NT] = s[L.BLOCK_TOK]
    s[L.W] = s[L.B0]
    s[L.PEND] = s[L.BREAKS] = s[L.APART] = s[L.NEWLINE] = 0
    s[L.LINK_BYTES] = 0
    s[L.LINK_FROM] = s[L.W]
    s[L.BLOCK_TOK] = s[L.NT]
    s[L.FLAGS] = L.AFTER_BREAK if after_break else 0
    s[L.FORMULA_END] = -1


@light
def digits_only(out, start, stop):
    """Whether out[start:stop] holds at least one digit and besides digits only white space, dots, colons and bars."""
    digits = False
    while start < stop:
        byte = load_u8(out, start)
        if kind_of(out, start) & DIGIT:
            digits = True
        elif not (kind_of(out, start) & WHITE or byte == 0x2E or byte == 0x3A or byte == 0x7C):
            return False
        start += 1
    return digits


@light
def _counts_lines(out, start, stop):
    """Whether out[start:stop] is two lines or more that hold one number each, each one above the last."""
    before = np.int64(-1)
    lines = 0
    while start < stop:
        if not digits_only(out, start, min(start + 1, stop)):
            return False
        number = np.int64(0)
        while start < stop and kind_of(out, start) & DIGIT and number < 10_000_000:
            number = number * 10 + np.int64(load_u8(out, start)) - 0x30
            start += 1
        if lines and number != before + 1:
            return False
        before = number
        lines += 1
        while start < stop and kind_of(out, start) & WHITE:
            start += 1
    return lines >= 2


@light
def _is_line_numbers(out, start, stop, s, el):
    owner = s[L.OWNER]
    if el[owner, L.E_FLAGS] & LINE_NUMBERS and digits_only(out, start, stop):
        return True
    return s[L.FLAGS] & L.HAS_PRE != 0 and el[owner, L.E_CELL] >= 0 and _counts_lines(out, start, stop)


@light
def begin_text(at, first, out, s, stack, el, bl):
    """Before a character of kind `first` is written: the line breaks that came before it, and the space.

    Returns where to write. `at` is where the character stands in the page.
    """
    if s[L.BREAKS]:
        if s[L.W] > s[L.B0]:
            if s[L.BREAKS] > 1 and not s[L.PRE]:
                end_block(out, s, el, bl, True)
            else:
                out[s[L.W]] = _NL
                s[L.W] += 1
                s[L.FLAGS] |= L.HAS_BREAK
        s[L.BREAKS] = s[L.PEND] = 0
    w = s[L.W]
    if w == s[L.B0]:  # the first character of its block
        s[L.OWNER] = stack[s[L.SP] - 1, L.S_ELEMENT]
        s[L.SOURCE] = at
        s[L.PEND] = s[L.APART] = s[L.NEWLINE] = 0
        return w
    if s[L.NEWLINE] and load_u8(out, w - 1) != _NL:
        out[w] = _NL
        w += 1
        s[L.PEND] = 0
    elif s[L.PEND]:
        if load_u8(out, w - 1) != _NL and not (s[L.PRE] and load_u8(out, w - 1) == _SPACE):
            out[w] = _SPACE
            w += 1
    elif s[L.APART] & first:
        out[w] = _SPACE
        w += 1
    s[L.PEND] = s[L.APART] = s[L.NEWLINE] = 0
    return w


@light_inlined
def put_text(data, at, stop, names, values, out, s, stack, el, bl):
    """Write the text data[at:stop], which holds no tag: references resolved, white space folded to one space.

    In <pre>, and in code that begins its block, white space stays; in other inline code, spaces do.
    """
    if s[L.MUTE]:
        return
    if s[L.PRE] or s[L.CODE_KEPT]:
        _put_kept(data, at, stop, names, values, out, s, stack, el, bl)
        return
    spaces_stay = s[L.CODE] > 0
    fresh = True  # nothing of this text was written yet
    white = False
    w = s[L.W]
    while at < stop:
        kind = kind_of(data, at)
        byte = load_u8(data, at)
        if kind & WHITE:
            after = at + 1
            if spaces_stay and byte == _SPACE and not fresh:
                while after < stop and load_u8(data, after) == _SPACE:
                    after += 1
                if after < stop and not kind_of(data, after) & WHITE:
                    while at < after - 1:
                        out[w] = _SPACE
                        w += 1
                        at += 1
            white = True
            at = after
            continue
        if byte == 0xC2 and at + 1 < stop and load_u8(data, at + 1) == 0xA0:
            white = True
            at += 2
            continue
        if byte == AMPERSAND:
            after, end = read_reference(data, at, stop, names, values, out, w + 2)
            if after > at:
                at = after
                if end == w + 3 and kind_of(out, w + 2) & WHITE:
                    white = True
                    continue
                if end == w + 4 and load_u8(out, w + 2) == 0xC2 and load_u8(out, w + 3) == 0xA0:
                    white = True
                    continue
                count = end - w - 2
                kept = np.uint64(0)
                for i in range(count):  # at most 6 bytes, which what comes before them may write over
                    kept |= load_u8(out, w + 2 + i) << np.uint64(8 * i)
                if fresh:
                    s[L.W] = w
                    first = kept & np.uint64(0xFF)
                    kind = np.int64(BYTE_KINDS[first]) if first < 0x80 else np.int64(WIDE)
                    s[L.PEND] |= np.int64(white)
                    w = begin_text(at, kind, out, s, stack, el, bl)
                    fresh = white = False
                if white:
                    out[w] = _SPACE
                    w += 1
                    white = False
                for i in range(count):
                    out[w + i] = kept >> np.uint64(8 * i) & np.uint64(0xFF)
                w += count
                continue
        if fresh:
            s[L.W] = w
            s[L.PEND] |= np.int64(white)
            w = begin_text(at, kind if byte < 0x80 else np.int64(WIDE), out, s, stack, el, bl)
            fresh = white = False
        if white:
            store_u8(out, w, np.uint64(_SPACE))
            w += 1
            white = False
        store_u8(out, w, byte)
        w += 1
        at += 1
        while at < stop:  # over a word
            byte = load_u8(data, at)
            if byte <= 0x20 or byte == AMPERSAND or byte == 0xC2 or byte == 0x7F:
                break
            store_u8(out, w, byte)
            w += 1
            at += 1
        if at + 1 < stop and load_u8(data, at) == 0xC2 and load_u8(data, at + 1) != 0xA0:
            out[w], out[w + 1] = 0xC2, load_u8(data, at + 1)
            w += 2
            at += 2
    s[L.W] = w
    if s[L.MATH] == 0:  # in MathML white space means nothing
        s[L.PEND] |= np.int64(white)


@light
def _put_kept(data, at, stop, names, values, out, s, stack, el, bl):
    """Write data[at:stop] with its white space; line ends become newlines, no-break spaces spaces."""
    if at >= stop:
        return
    s[L.FLAGS] |= L.HAS_PRE
    w = begin_text(at, kind_of(data, at), out, s, stack, el, bl)
    while at < stop:
        byte = load_u8(data, at)
        if byte == AMPERSAND:
            after, end = read_reference(data, at, stop, names, values, out, w)
            if after > at:
                at = after
                if end == w + 2 and load_u8(out, w) == 0xC2 and load_u8(out, w + 1) == 0xA0:
                    out[w] = _SPACE
                    end = w + 1
                w = end
                continue
        at += 1
        if byte == _CR:
            if at < stop and load_u8(data, at) == _NL:
                continue
            byte = np.uint64(_NL)
        elif byte == 0xC2 and at < stop and load_u8(data, at) == 0xA0:
            byte = np.uint64(_SPACE)
            at += 1
        elif byte < 0x20 and byte != _NL and byte != _TAB:
            byte = np.uint64(_SPACE)
        out[w] = byte
        w += 1
    s[L.W] = w


@light
def put_byte(byte, at, out, s, stack, el, bl):
    """Write one ASCII character that stands for markup, joined to what is before it."""
    if s[L.MUTE]:
        return
    w = begin_text(at, 0, out, s, stack, el, bl)
    out[w] = byte
    s[L.W] = w + 1


@light
def take_back(out, s, mark, pending):
    """Forget what was written behind `mark`, before which a space was pending or not."""
    s[L.W], s[L.PEND] = mark, pending
    if s[L.FORMULA_END] == mark:
        s[L.APART] = FORMULA | DIGIT


@light
def insert(out, s, at, byte):
    """Put one byte before out[at:], the end of what is written."""
    i = s[L.W]
    while i > at:
        out[i] = out[i - 1]
        i -= 1
    out[at] = byte
    s[L.W] += 1
