"""The open elements of a page: which end tags are implied, what an element's end does to the text."""

from __future__ import annotations

import numpy as np

from stages.kernels import html_layout as L
from stages.kernels.compile import light, light_inlined
from stages.kernels.hashing import load_u8
from stages.kernels.html_names import TAG_GROUPS
from stages.kernels.html_scan import DIGIT, LETTER, WHITE, kind_of
from stages.kernels.html_tables import (
    BLOCK,
    CODE_NUMBERS,
    DISPLAY,
    INLINE,
    KATEX,
    LINE_NUMBERS,
    RENDERED,
    TAG,
    TAGS,
    TRANSPARENT,
    words,
)  # fmt: skip
from stages.kernels.html_tex import put_tex
from stages.kernels.html_text import WIDE, digits_only, insert, take_back

_P, _LI, _DD, _CELL, _ROW, _ROWS, _LIST, _TABLE, _HEADING, _OTHER = (1 << bit for bit in range(10))
_FAR = 64  # open elements that are looked through for one whose end is implied


def _families() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each tag: its family; the families that its start tag ends; those behind which none is looked for."""
    family, ends, stops = (np.zeros(len(TAGS), np.int64) for _ in range(3))
    named = {
        _P: "p", _LI: "li", _DD: "dt dd", _CELL: "td th", _ROW: "tr", _ROWS: "thead tbody tfoot", _LIST: "ul ol menu dl",
        _TABLE: "table", _HEADING: "h1 h2 h3 h4 h5 h6",
    }  # fmt: skip
    for code, name in enumerate(TAGS):
        family[code] = next((bits for bits, names in named.items() if name in names.split()), _OTHER)
        ends[code], stops[code] = _P, ~_P
    for names, what, until in (
        ("li", _LI, _LIST | _TABLE | _CELL),
        ("dt dd", _DD, _LIST | _TABLE | _CELL),
        ("td th", _CELL, _ROW | _ROWS | _TABLE),
        ("tr", _CELL | _ROW, _ROWS | _TABLE),
        ("thead tbody tfoot", _CELL | _ROW | _ROWS, _TABLE),
        ("h1 h2 h3 h4 h5 h6", _P | _HEADING, ~(_P | _HEADING)),
    ):
        for name in names.split():
            ends[TAG[name]], stops[TAG[name]] = what, until
    return family, ends, stops


_FAMILY, _ENDS, _STOPS = _families()
_TD, _TH, _TR, _TABLE_TAG, _LI_TAG, _DT, _DD_TAG, _UL, _OL, _DL, _MENU = (
    TAG[name] for name in words("td th tr table li dt dd ul ol dl menu")
)


@light_inlined
def new_element(code, s, stack, el):
    """A row of `el` below the innermost open one; returns its number. At the array's end s[L.FULL] is set."""
    e = s[L.NE]
    if e >= len(el):
        s[L.FULL] = 1
        return np.int64(len(el) - 1)
    parent = np.int64(stack[s[L.SP] - 1, L.S_ELEMENT]) if s[L.SP] else np.int64(-1)
    s[L.NE] = e + 1
    el[e, L.E_PARENT], el[e, L.E_TAG] = parent, code
    el[e, L.E_TOK], el[e, L.E_TOKS] = s[L.NT], 0
    el[e, L.E_FIRST] = el[e, L.E_LAST] = s[L.NB]
    el[e, L.E_GROUPS] = TAG_GROUPS[code]
    el[e, L.E_CHILDREN] = el[e, L.E_NUMBER] = 0
    if parent < 0:
        el[e, L.E_DEPTH] = el[e, L.E_LIST] = el[e, L.E_FLAGS] = 0
        el[e, L.E_CELL] = el[e, L.E_ROW] = el[e, L.E_TABLE] = el[e, L.E_ITEM] = -1
        return e
    el[parent, L.E_CHILDREN] += 1
    el[e, L.E_DEPTH] = el[parent, L.E_DEPTH] + 1
    for column in (L.E_CELL, L.E_ROW, L.E_TABLE, L.E_ITEM, L.E_LIST):
        el[e, column] = el[parent, column]
    el[e, L.E_FLAGS] = el[parent, L.E_FLAGS] & LINE_NUMBERS
    if code == _TD or code == _TH:
        el[e, L.E_CELL] = e
        if el[e, L.E_ROW] >= 0:
            row = el[e, L.E_ROW]
            el[e, L.E_NUMBER] = el[row, L.E_NUMBER]
            el[row, L.E_NUMBER] += 1
    elif code == _TR:
        el[e, L.E_ROW] = e
        el[e, L.E_CELL] = -1
    elif code == _TABLE_TAG:
        el[e, L.E_TABLE] = e
        el[e, L.E_CELL] = el[e, L.E_ROW] = el[e, L.E_ITEM] = -1
        el[e, L.E_LIST] = 0
    elif code == _LI_TAG or code == _DT or code == _DD_TAG:
        el[e, L.E_ITEM] = e
        el[parent, L.E_NUMBER] += 1
        el[e, L.E_NUMBER] = el[parent, L.E_NUMBER]
    elif code == _UL or code == _OL or code == _DL or code == _MENU:
        el[e, L.E_LIST] += 1
    return e


@light_inlined
def push(code, open_index, element, flags, kind, s, stack, opens):
    """Put an element on the stack; one that is nested too deep is left out."""
    sp = s[L.SP]
    if sp >= len(stack):
        return
    stack[sp, L.S_OPEN], stack[sp, L.S_TAG], stack[sp, L.S_ELEMENT], stack[sp, L.S_FLAGS] = open_index, code, element, flags
    stack[sp, L.S_MARK], stack[sp, L.S_PEND], stack[sp, L.S_CHILDREN], stack[sp, L.S_KIND] = s[L.W], s[L.PEND], 0, kind
    opens[open_index] += 1
    s[L.SP] = sp + 1
    if flags & (L.IS_SUP | L.IS_SUB):
        s[L.APART] = 0
    if flags & RENDERED:
        s[L.RENDERINGS] += 1
        if s[L.RENDER_END] == s[L.W]:  # of the same formula
            stack[sp, L.S_MARK], stack[sp, L.S_PEND] = s[L.RENDER_START], s[L.RENDER_PEND]
    if flags & DISPLAY:
        s[L.DISPLAYS] += 1
    if flags & L.IS_MATH:
        s[L.MATH] += 1
    if flags & L.IS_PRE:
        s[L.PRE] += 1
    if flags & L.IS_CODE:
        s[L.CODE] += 1
        if s[L.W] == s[L.B0] and s[L.CODE] == 1:
            s[L.CODE_KEPT] = 1
    if flags & L.IS_MUTED and s[L.MUTE] == 0:
        s[L.MUTE] = s[L.SP]


@light
def pop_to(sp, names, values, data, at, out, s, stack, el, bl, opens):
    """End all open elements but the first `sp`; the root is never ended."""
    while s[L.SP] > max(sp, 1):
        top = s[L.SP] - 1
        flags = stack[top, L.S_FLAGS]
        opens[stack[top, L.S_OPEN]] -= 1
        if s[L.MUTE] == s[L.SP]:
            s[L.MUTE] = 0
        if stack[top, L.S_KIND] != INLINE:
            el[stack[top, L.S_ELEMENT], L.E_LAST] = s[L.NB]
        if flags:
            _end_meaning(top, flags, names, values, data, at, out, s, stack, el, bl)
        s[L.SP] = top
        if s[L.LINK] > top:
            end_link(s)


@light
def end_link(s):
    """What follows is no longer the text of a link."""
    if s[L.LINK] >= 0:
        s[L.LINK_BYTES] += max(0, s[L.W] - max(s[L.LINK_FROM], s[L.B0]))
        s[L.LINK] = -1


@light
def _end_meaning(top, flags, names, values, data, at, out, s, stack, el, bl):
    mark = np.int64(stack[top, L.S_MARK])
    if flags & L.IS_PRE:
        s[L.PRE] -= 1
    if flags & L.IS_CODE:
        s[L.CODE] -= 1
        if s[L.CODE] == 0:
            s[L.CODE_KEPT] = 0
    if flags & DISPLAY:
        s[L.DISPLAYS] -= 1
    if flags & L.IS_MATH:
        s[L.MATH] -= 1
        if s[L.MATH] == 0:
            _end_math(top, names, values, data, out, s, stack, el, bl)
    if flags & RENDERED:
        s[L.RENDERINGS] -= 1
        s[L.RENDER_START], s[L.RENDER_END], s[L.RENDER_PEND] = mark, s[L.W], stack[top, L.S_PEND]
    if mark < s[L.B0] or s[L.W] <= mark:
        return
    if flags & (L.IS_SUP | L.IS_SUB) and s[L.MATH] == 0:
        _end_script(mark, flags & L.IS_SUP != 0, out, s)
    if flags & LINE_NUMBERS or (flags & CODE_NUMBERS and s[L.PRE]):
        if digits_only(out, mark, s[L.W]):
            take_back(out, s, mark, np.int64(stack[top, L.S_PEND]))
    if flags & L.IS_GROUP and stack[top, L.S_CHILDREN] > 1:
        while mark < s[L.W] and kind_of(out, mark) & WHITE:
            mark += 1
        insert(out, s, mark, 0x28)
        out[s[L.W]] = 0x29
        s[L.W] += 1


@light
def _end_math(top, names, values, data, out, s, stack, el, bl):
    """<math> ends: its TeX takes the place of its text, and the text that renders the same formula goes."""
    mark, pend = np.int64(stack[top, L.S_MARK]), np.int64(stack[top, L.S_PEND])
    begin, end = s[L.TEX_START], s[L.TEX_STOP]
    s[L.TEX_START] = s[L.TEX_STOP] = 0
    rendered = -1
    katex = -1
    for i in range(top):
        if stack[i, L.S_FLAGS] & RENDERED and rendered < 0:
            rendered = i
        if stack[i, L.S_FLAGS] & KATEX:
            katex = i
    if end <= begin and s[L.W] == mark:
        return
    s[L.FLAGS] |= L.HAS_MATH
    if rendered >= 0 and s[L.B0] <= stack[rendered, L.S_MARK] < s[L.W]:
        to = np.int64(stack[rendered, L.S_MARK])
        if end <= begin:  # the text of <math> itself, over what was rendered
            while mark < s[L.W] and kind_of(out, mark) & WHITE:
                mark += 1
            if stack[rendered, L.S_PEND] and to > s[L.B0]:
                out[to] = 0x20
                to += 1
            while mark < s[L.W]:
                out[to] = out[mark]
                to += 1
                mark += 1
            s[L.W] = to
        else:
            take_back(out, s, to, np.int64(stack[rendered, L.S_PEND]))
    elif end > begin and s[L.B0] <= mark:
        take_back(out, s, mark, pend)
    if end > begin:
        display = s[L.TEX_DISPLAY] + s[L.DISPLAYS] > 0
        put_tex(data, begin, end, False, display, names, values, out, s, stack, el, bl)
    if rendered >= 0 and s[L.MUTE] == 0:  # nothing more of this rendering
        s[L.MUTE] = rendered + 1
    if katex >= 0:
        stack[katex, L.S_CHILDREN] = 1


_ORDINAL_WORDS = np.array(
    [int.from_bytes(word.encode(), "little") for word in words("st nd rd th er re ème eme ère nde os as te de")], np.uint64
)


@light
def _is_ordinal(out, at, stop):
    """Whether out[at:stop] is what makes an ordinal of a number: 1st, 2nd, 19e."""
    length = stop - at
    if length == 1:
        byte = load_u8(out, at)
        return byte == 0x65 or byte == 0x6F or byte == 0x61
    if length > 5:
        return False
    word = np.uint64(0)
    for i in range(length):
        word |= load_u8(out, at + i) << np.uint64(8 * i)
    for ordinal in _ORDINAL_WORDS:
        if word == ordinal:
            return True
    return False


@light
def _end_script(mark, above, out, s):
    """A superscript or subscript ends: a sign keeps it from joining what is before it, as in 10^6 and x_1.

    Ordinals (1st) join; a number that is a link refers to a note and gets brackets; what is no letter, number or sign
    (*, [1], a trademark) joins; one of several characters that are not all letters or digits gets parentheses.
    """
    begin = mark
    while begin < s[L.W] and kind_of(out, begin) & WHITE:
        begin += 1
    if begin >= s[L.W]:
        return
    joined = begin == mark and mark > s[L.B0] and not kind_of(out, mark - 1) & WHITE
    first = load_u8(out, begin)
    kind = kind_of(out, begin)
    if not joined:
        s[L.APART] = LETTER | DIGIT | WIDE
        return
    digits = digits_only(out, begin, s[L.W])
    if digits and (s[L.LINK] >= 0 or s[L.LINK_FROM] >= mark):
        insert(out, s, begin, 0x5B)
        out[s[L.W]] = 0x5D
        s[L.W] += 1
        return
    second = load_u8(out, begin + 1) if begin + 1 < s[L.W] else np.uint64(0)
    signs = first == 0x2B or first == 0x2D or first == 0x28
    if not (kind & (LETTER | DIGIT) or signs or first >= 0x80):
        return
    if (first == 0xC2 and (second == 0xAE or second == 0xA9)) or (first == 0xE2 and (second == 0x84 or second == 0x80)):
        return
    before = load_u8(out, mark - 1)
    roman = before == 0x49 or before == 0x56 or before == 0x58 or before == 0x4C or before == 0x43  # I V X L C
    if above and (kind_of(out, mark - 1) & DIGIT or roman) and _is_ordinal(out, begin, s[L.W]):
        return
    simple = True
    for i in range(begin, s[L.W]):
        at_start = i == begin and signs and first != 0x28
        if load_u8(out, i) < 0x80 and not kind_of(out, i) & (LETTER | DIGIT) and not at_start:
            simple = False
    if s[L.W] - begin > 64:  # no script but a layout
        insert(out, s, begin, 0x20)
        return
    if not simple and not (first == 0x28 and load_u8(out, s[L.W] - 1) == 0x29):
        insert(out, s, begin, 0x28)
        out[s[L.W]] = 0x29
        s[L.W] += 1
    insert(out, s, begin, 0x5E if above else 0x5F)
    s[L.APART] = DIGIT


@light
def end_implied(code, names, values, data, at, out, s, stack, el, bl, opens):
    """End what the start tag of a block ends without end tags: <p> by any block, <li> by <li>, and so on."""
    ends, stops = _ENDS[code], _STOPS[code]
    target = np.int64(-1)
    i = s[L.SP] - 1
    last = max(0, s[L.SP] - _FAR)
    while i > last:
        if stack[i, L.S_KIND] == BLOCK:
            family = _FAMILY[stack[i, L.S_TAG]]
            if family & ends:
                target = i
            elif family & stops:
                break
        elif stack[i, L.S_KIND] == TRANSPARENT and ends == _P:
            break
        i -= 1
    if target > 0:
        pop_to(target, names, values, data, at, out, s, stack, el, bl, opens)


@light_inlined
def find_open(open_index, kind, code, s, stack, opens):
    """The place on the stack of the innermost open element of this name; -1 where a table cell or a block stands between."""
    if opens[open_index] == 0:
        return np.int64(-1)
    of_table = _FAMILY[code] & (_TABLE | _CELL | _ROW | _ROWS) != 0
    i = s[L.SP] - 1
    while i > 0:
        if stack[i, L.S_OPEN] == open_index:
            return i
        if stack[i, L.S_KIND] == BLOCK:
            if kind == INLINE or (not of_table and _FAMILY[stack[i, L.S_TAG]] & (_TABLE | _CELL)):
                break
        i -= 1
    return np.int64(-1)
