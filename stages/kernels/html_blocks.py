"""One pass over a page's bytes: elements, and the blocks of text in them, without a DOM.

A block of text ends where a block element begins or ends, at <hr>, and at two <br>. Time and memory are linear in the
page: no byte is read more than a few times, the stack has a bound, and so have the arrays.
"""

from __future__ import annotations

import numpy as np

from stages.kernels import html_layout as L
from stages.kernels.compile import kernel, light, light_inlined
from stages.kernels.hashing import load_u8
from stages.kernels.html_marks import contains, has, names_of, note, number_in, put_image, read_link, read_meta
from stages.kernels.html_math import child_of_math, open_math, shown_already
from stages.kernels.html_scan import (
    BANG,
    DASH,
    GREATER,
    LESS,
    LETTER,
    QUESTION,
    SLASH,
    comment_end,
    find_byte,
    kind_of,
    name_end,
    raw_end,
    read_attributes,
)  # fmt: skip
from stages.kernels.html_tables import (
    ATTRIBUTE,
    BLOCK,
    CODE_NUMBERS,
    CUSTOM,
    DISPLAY,
    INLINE,
    KATEX,
    KATEX_HTML,
    KINDS,
    LINE_NUMBERS,
    META_HEADING,
    META_JSON,
    META_LANGUAGE,
    META_TIME,
    PREFORMATTED,
    RAW,
    RENDERED,
    SKIP,
    TAG,
    TAG_TABLE,
    TAGS,
    TRANSPARENT,
    UNKNOWN,
    VOID,
    lookup,
    words,
)  # fmt: skip
from stages.kernels.html_tex import put_tex
from stages.kernels.html_text import end_block, put_byte, put_text, take_back
from stages.kernels.html_tree import end_implied, end_link, find_open, new_element, pop_to, push

(
    _A, _BR, _HR, _IMG, _META, _LINK_TAG, _SCRIPT, _STYLE, _TITLE, _HTML, _BODY, _PRE, _LISTING, _MATH, _ANNOTATION, _TIME,
    _INPUT, _IFRAME, _TD, _TH, _OL,
) = (
    TAG[name]
    for name in words(
        "a br hr img meta link script style title html body pre listing math annotation time input iframe td th ol"
    )
)  # fmt: skip
_ITEMPROP, _START, _CLASS, _ID, _HREF, _TYPE, _ENCODING, _LANG, _DATETIME, _XML_LANG = (
    ATTRIBUTE[name] for name in words("itemprop start class id href type encoding lang datetime xml:lang")
)

_INLINE_FLAGS = np.zeros(len(TAGS), np.int64)
for _names, _flag in (
    ("b strong", L.HAS_BOLD), ("i em cite var", L.HAS_ITALIC), ("code kbd samp tt", L.HAS_CODE), ("time", L.HAS_TIME),
    ("button", L.HAS_BUTTON), ("label", L.HAS_LABEL), ("small", L.HAS_SMALL), ("span font", L.HAS_SPAN), ("sup sub", L.HAS_SUP),
    ("q mark", L.HAS_QUOTE),
):  # fmt: skip
    for _name in _names.split():
        _INLINE_FLAGS[TAG[_name]] = _flag

# Block elements that end <pre>: where one stands in it, </pre> is missing.
_ENDS_PRE = np.zeros(len(TAGS), np.bool_)
for _name in words(
    "h1 h2 h3 h4 h5 h6 section article aside footer header nav main ul ol dl form fieldset figure blockquote"
):
    _ENDS_PRE[TAG[_name]] = True

# Inline elements that go on the stack wherever they stand.
_STACKED = np.zeros(len(TAGS), np.int64)
for _names, _flag in (("sup", L.IS_SUP), ("sub", L.IS_SUB), ("math", L.IS_MATH), ("code kbd samp tt", L.IS_CODE)):
    for _name in _names.split():
        _STACKED[TAG[_name]] = _flag
_MEANINGS = RENDERED | DISPLAY | KATEX | KATEX_HTML | LINE_NUMBERS | CODE_NUMBERS
_TEX_WORD, _MATH_TYPE, _LD_JSON, _MML, _DISPLAY_WORD, _PUBLISH, _ENTRY_DATE, _DATE_PUBLISHED = (
    np.frombuffer(word.encode(), np.uint8)
    for word in words("tex math/tex ld+json math/mml display publish entry-date datepublished")
)


@light_inlined
def _open_index(code, key):
    """Where `opens` counts the open elements of a name; unknown names share places by hash."""
    return np.int64(256) + np.int64(key % np.uint64(768)) if code >= CUSTOM else code


@light_inlined
def _open_block(code, key, kind, present, spans, names, values, data, at, out, s, stack, el, bl, tok, opens):
    """The start tag of a block element, or of one that has a place in the tree without breaking the text."""
    if s[L.PRE] and _ENDS_PRE[code]:
        i = s[L.SP] - 1
        while i > 0 and not stack[i, L.S_FLAGS] & L.IS_PRE:
            i -= 1
        end_block(out, s, el, bl, False)
        pop_to(i, names, values, data, at, out, s, stack, el, bl, opens)
    if kind == BLOCK:
        if s[L.PRE]:
            if code != _TD and code != _TH:
                s[L.NEWLINE] = 1
        else:
            end_block(out, s, el, bl, False)
        end_implied(code, names, values, data, at, out, s, stack, el, bl, opens)
    element = new_element(code, s, stack, el)
    if s[L.FULL]:
        return
    first = s[L.NT]
    classes, groups = names_of(data, present, spans, tok, s, min(first + L.ELEMENT_TOKENS, len(tok) - L.BLOCK_TOKENS))
    el[element, L.E_TOKS] = s[L.NT] - first
    el[element, L.E_GROUPS] |= groups
    if s[L.W] == s[L.B0]:
        s[L.BLOCK_TOK] = s[L.NT]
    el[element, L.E_FLAGS] |= classes & LINE_NUMBERS
    if code == _OL and has(present, _START):
        el[element, L.E_NUMBER] = number_in(data, spans[_START, 0], spans[_START, 1]) - 1
    flags = classes & (_MEANINGS if kind == TRANSPARENT else LINE_NUMBERS | CODE_NUMBERS | DISPLAY)
    if code == _PRE or code == _LISTING or classes & PREFORMATTED:
        flags |= L.IS_PRE
    push(code, _open_index(code, key), element, flags, kind, s, stack, opens)


@light
def _is_published(data, present, spans):
    """Whether a <time> says when its page was published, and not when a comment was."""
    begin, end = np.int64(spans[_CLASS, 0]), min(np.int64(spans[_CLASS, 1]), np.int64(spans[_CLASS, 0]) + 100)
    if has(present, _CLASS) and (contains(data, begin, end, _PUBLISH) or contains(data, begin, end, _ENTRY_DATE)):
        return True
    begin, end = np.int64(spans[_ITEMPROP, 0]), min(np.int64(spans[_ITEMPROP, 1]), np.int64(spans[_ITEMPROP, 0]) + 100)
    return has(present, _ITEMPROP) and contains(data, begin, end, _DATE_PUBLISHED)


@light_inlined
def _open_inline(code, key, slash, present, spans, names, values, data, at, stop, out, s, stack, el, bl, tok, notes, opens):
    """The start tag of an inline element; returns where to go on."""
    if code == _A:
        end_link(s)
        if has(present, _HREF):
            s[L.LINK], s[L.LINK_FROM] = s[L.SP], s[L.W]
            s[L.FLAGS] |= L.HAS_LINK
            read_link(data, present, spans, notes, s)
    elif code == _TIME and has(present, _DATETIME) and _is_published(data, present, spans):
        note(META_TIME, spans[_DATETIME, 0], spans[_DATETIME, 1], notes, s)
    elif code == _ANNOTATION and s[L.MATH]:
        end = raw_end(data, at, stop, key, 10)
        if end >= 0:
            if has(present, _ENCODING) and contains(data, spans[_ENCODING, 0], spans[_ENCODING, 1], _TEX_WORD):
                if s[L.TEX_STOP] <= s[L.TEX_START]:
                    s[L.TEX_START], s[L.TEX_STOP] = at, end
            return end
    s[L.FLAGS] |= _INLINE_FLAGS[code]
    classes = np.int64(0)
    if has(present, _CLASS) or has(present, _ID):
        classes, _ = names_of(data, present, spans, tok, s, min(s[L.BLOCK_TOK] + L.BLOCK_TOKENS, len(tok) - L.BLOCK_TOKENS))
    flags = classes & _MEANINGS | _STACKED[code]
    if flags & KATEX_HTML:
        flags = L.IS_MUTED if shown_already(s, stack) else flags & ~KATEX_HTML
    if s[L.MATH] and code != _MATH:
        if slash:
            return at
        flags |= child_of_math(code, at, out, s, stack, el, bl)
    elif flags & L.IS_MATH:
        open_math(present, spans, data, s)
    open_index = _open_index(code, key)
    if code != _A and (flags or s[L.MATH] or opens[open_index]):
        element = np.int64(stack[s[L.SP] - 1, L.S_ELEMENT])
        push(code, open_index, element, flags, INLINE, s, stack, opens)
    return at


@light
def _open_void(code, present, spans, names, values, data, at, out, s, stack, el, bl, notes):
    if code == _BR:
        if s[L.PRE] or s[L.CODE_KEPT]:
            if s[L.W] > s[L.B0]:
                put_byte(10, at, out, s, stack, el, bl)
        elif s[L.W] > s[L.B0]:
            s[L.BREAKS] += 1
    elif code == _HR:
        if not s[L.PRE]:
            end_block(out, s, el, bl, True)
    elif code == _IMG:
        put_image(data, present, spans, names, values, out, s, stack, el, bl)
    elif code == _INPUT:
        s[L.FLAGS] |= L.HAS_LABEL
    elif code == _META:
        read_meta(data, present, spans, notes, s)
    elif code == _LINK_TAG:
        read_link(data, present, spans, notes, s)


@light
def _take_rendering_back(out, s, bl):
    """The text before a script that holds a formula, where it shows that formula, goes."""
    if s[L.RENDER_END] == s[L.W] and s[L.B0] <= s[L.RENDER_START] < s[L.W]:
        take_back(out, s, s[L.RENDER_START], s[L.RENDER_PEND])
    elif s[L.W] == s[L.B0] and s[L.NB] > 0 and s[L.RENDER_BLOCK] == s[L.NB] - 1:
        s[L.NB] -= 1  # the block before shows it
        s[L.W] = s[L.B0] = np.int64(bl[s[L.NB], L.B_START])
        s[L.RENDER_BLOCK] = -1


@light
def _open_raw(code, key, length, present, spans, names, values, data, at, stop, out, s, stack, el, bl, notes):
    """A raw element: skipped, but for TeX and what is noted; returns where to go on, at its end tag.

    Where that is missing, scripts and styles go on to the end of the page, as in browsers; of others the tag is ignored.
    """
    if s[L.NO_END] >> code % 64 & 1:
        return at
    if code == _SCRIPT and has(present, _TYPE) and contains(data, spans[_TYPE, 0], spans[_TYPE, 1], _MML):
        _take_rendering_back(out, s, bl)
        return at
    end = raw_end(data, at, stop, key, length)
    if end < 0:
        if code == _SCRIPT or code == _STYLE or code == _IFRAME:
            return stop
        s[L.NO_END] |= np.int64(1) << code % 64
        return at
    if code == _TITLE and not s[L.SKIPPED]:
        note(META_HEADING, at, end, notes, s)
    elif code == _SCRIPT and has(present, _TYPE):
        begin, finish = np.int64(spans[_TYPE, 0]), np.int64(spans[_TYPE, 1])
        if contains(data, begin, min(finish, begin + 60), _MATH_TYPE):
            _take_rendering_back(out, s, bl)
            display = contains(data, begin, min(finish, begin + 60), _DISPLAY_WORD)
            put_tex(data, at, end, True, display, names, values, out, s, stack, el, bl)
        elif contains(data, begin, min(finish, begin + 60), _LD_JSON):
            note(META_JSON, at, end, notes, s)
    return end


@light_inlined
def _start_tag(data, at, stop, names, values, out, s, stack, el, bl, tok, notes, opens, spans):
    """The start tag whose `<` stands at `at`; returns where to go on."""
    end, key = name_end(data, at + 1, stop)
    length = end - at - 1
    at, present, slash = read_attributes(data, end, stop, spans)
    code = lookup(TAG_TABLE, key)
    if code == 0:
        code = UNKNOWN
        for i in range(end - min(length, 40), end):
            if load_u8(data, i) == DASH:
                code = CUSTOM
    kind = KINDS[code]
    if kind == RAW:
        return _open_raw(code, key, length, present, spans, names, values, data, at, stop, out, s, stack, el, bl, notes)
    if s[L.SKIPPED]:
        if code == s[L.SKIPPED]:
            s[L.SKIP_COUNT] += 0 if slash else 1
        if kind != BLOCK:
            return at
        s[L.SKIPPED] = 0
    if kind == SKIP:
        if not slash:
            s[L.SKIPPED], s[L.SKIP_COUNT] = code, 1
    elif kind == VOID:
        _open_void(code, present, spans, names, values, data, at, out, s, stack, el, bl, notes)
    elif kind == INLINE:
        return _open_inline(
            code, key, slash, present, spans, names, values, data, at, stop, out, s, stack, el, bl, tok, notes, opens
        )
    elif code == _HTML:
        attribute = _LANG if has(present, _LANG) else _XML_LANG
        if has(present, attribute):
            note(META_LANGUAGE, spans[attribute, 0], spans[attribute, 1], notes, s)
    elif code != _BODY or opens[_BODY] == 0:
        _open_block(code, key, kind, present, spans, names, values, data, at, out, s, stack, el, bl, tok, opens)
    return at


@light_inlined
def _end_tag(data, at, stop, names, values, out, s, stack, el, bl, opens, spans):
    """The end tag whose `</` stands at `at`; returns where to go on."""
    end, key = name_end(data, at + 2, stop)
    length = end - at - 2
    at = find_byte(data, end, stop, GREATER)
    at = min(at + 1, stop)
    code = lookup(TAG_TABLE, key)
    if code == 0:
        code = UNKNOWN
        for i in range(end - min(length, 40), end):
            if load_u8(data, i) == DASH:
                code = CUSTOM
    kind = KINDS[code]
    if s[L.SKIPPED]:
        if code == s[L.SKIPPED]:
            s[L.SKIP_COUNT] -= 1
            if s[L.SKIP_COUNT] == 0:
                s[L.SKIPPED] = 0
            return at
        if kind != BLOCK:
            return at
        s[L.SKIPPED] = 0
    if code == _A:
        end_link(s)
    elif code == _BR:
        if s[L.W] > s[L.B0]:
            s[L.BREAKS] += 1
    elif kind == INLINE or kind == TRANSPARENT or kind == BLOCK:
        place = np.int64(-1)
        if code != _HTML and code != _BODY:
            place = find_open(_open_index(code, key), kind, code, s, stack, opens)
        if kind == BLOCK:
            _end_line_or_block(place, code, out, s, stack, el, bl)
        if place > 0:
            pop_to(place, names, values, data, at, out, s, stack, el, bl, opens)
    return at


@light_inlined
def _end_line_or_block(place, code, out, s, stack, el, bl):
    """A block's end tag ends the block of text; in <pre> only a line."""
    if s[L.PRE]:
        outermost = np.int64(0)
        while outermost < s[L.SP] and not stack[outermost, L.S_FLAGS] & L.IS_PRE:
            outermost += 1
        if place < 0 or place > outermost:
            if code != _TD and code != _TH:
                s[L.NEWLINE] = 1
            return
    end_block(out, s, el, bl, False)


@light_inlined
def _begins_markup(data, at):
    """Whether what follows the `<` at `at` makes it the beginning of a tag, a comment or the like."""
    after = load_u8(data, at + 1)
    return kind_of(data, at + 1) & LETTER != 0 or after == SLASH or after == BANG or after == QUESTION


@kernel(
    "void(text, int64, int64, int64, Array(uint64, 2, 'C', readonly=True), text, vec_uint8, vec_int64, int32[:, ::1], "
    "int32[:, ::1], int32[:, ::1], vec_uint32, int32[:, ::1], vec_int32, int32[:, ::1])",
    allocates=False,
)
def html_blocks(data, at, stop, delimiter, names, values, out, s, stack, el, bl, tok, notes, opens, spans):
    """Parse the page data[at:stop] (UTF-8) into the arrays of `html_layout`; how many rows they hold is in `s`.

    `names`, `values`: `html_tables.references()`. `delimiter` of formulas: 0 dollars, 1 \\( and \\[, 2 none.
    s[L.FULL] is 1 where the page has more elements or blocks than the arrays have rows; the rows are of no use then.
    """
    s[:] = 0
    opens[:] = 0
    s[L.LINK] = s[L.FORMULA_END] = s[L.RENDER_END] = s[L.RENDER_BLOCK] = -1
    s[L.DELIMITER] = delimiter
    root = new_element(_HTML, s, stack, el)
    push(_HTML, _HTML, root, L.IS_ROOT, BLOCK, s, stack, opens)
    less = at  # from where the next tag is looked for
    while at < stop and s[L.FULL] == 0:
        less = find_byte(data, less, stop, LESS)
        if less + 1 < stop and not _begins_markup(data, less):
            less += 1  # a sign in the text
            continue
        if less + 1 == stop:
            less = stop
        if less > at and s[L.SKIPPED] == 0:
            put_text(data, at, less, names, values, out, s, stack, el, bl)
        at = less
        if at + 1 >= stop:
            break
        after = load_u8(data, at + 1)
        if kind_of(data, at + 1) & LETTER:
            at = _start_tag(data, at, stop, names, values, out, s, stack, el, bl, tok, notes, opens, spans)
        elif after == SLASH and at + 2 < stop and kind_of(data, at + 2) & LETTER:
            at = _end_tag(data, at, stop, names, values, out, s, stack, el, bl, opens, spans)
        elif after == BANG and at + 3 < stop and load_u8(data, at + 2) == DASH and load_u8(data, at + 3) == DASH:
            at = comment_end(data, at + 4, stop)
        else:
            at = min(find_byte(data, at + 2, stop, GREATER) + 1, stop)
        less = at
    if s[L.FULL] == 0:
        s[L.PRE] = 0
        end_block(out, s, el, bl, False)
        pop_to(1, names, values, data, stop, out, s, stack, el, bl, opens)
        el[0, L.E_LAST] = s[L.NB]
