"""What attributes say: names of classes and their like, notes about the page, images of formulas."""

from __future__ import annotations

import numpy as np

from stages.kernels import html_layout as L
from stages.kernels.compile import light, light_inlined
from stages.kernels.hashing import load_u8
from stages.kernels.html_names import CLASS_NAME, PROPERTY, ROLE, add_names, add_token
from stages.kernels.html_scan import DIGIT, WHITE, hash_lower, kind_of, skip_white
from stages.kernels.html_tables import (
    ATTRIBUTE,
    CLASS_TABLE,
    EMOJI,
    FORMULA_IMAGE,
    META_LICENSE,
    META_TABLE,
    lookup,
    name_hash,
    words,
)
from stages.kernels.html_tex import put_tex
from stages.kernels.html_text import put_text

(_ID, _CLASS, _ROLE, _ITEMPROP, _HREF, _ALT, _SRC, _HIDDEN, _ARIA_HIDDEN, _STYLE_A, _NAME, _PROPERTY, _CONTENT, _REL,
 _HTTP_EQUIV) = (
    ATTRIBUTE[name] for name in
    words(
    "id class role itemprop href alt src hidden aria-hidden style name property content rel http-equiv"
)
)  # fmt: skip
_HIDDEN_KEY, _NONE_KEY = np.uint64(name_hash("hidden")), np.uint64(name_hash("displaynone"))
_LICENSE_WORD, _CC, _NONE, _LATEX, _MATHTEX, _MIMETEX, _CODECOGS = (
    np.frombuffer(word, np.uint8)
    for word in (b"license", b"creativecommons.org/", b"display:none", b"latex", b"mathtex", b"mimetex", b"codecogs")
)


@light
def contains(data, at, stop, word):
    """Whether data[at:stop] holds a word of small letters, spaces left out and case aside."""
    first = at
    while first < stop:
        i = first
        found = 0
        while i < stop and found < len(word):
            byte = load_u8(data, i)
            if 0x41 <= byte <= 0x5A:
                byte |= np.uint64(0x20)
            if byte == word[found]:
                found += 1
            elif byte != 0x20 or found == 0:
                break
            i += 1
        if found == len(word):
            return True
        first += 1
    return False


@light
def number_in(data, at, stop):
    """The number, of at most seven digits, that data[at:stop] begins with; 1 where there is none."""
    number = np.int64(0)
    first = at
    while at < min(stop, first + 7) and kind_of(data, at) & DIGIT:
        number = number * 10 + np.int64(load_u8(data, at)) - 0x30
        at += 1
    return number if at > first else np.int64(1)


@light_inlined
def has(present, attribute):
    return present >> np.uint64(attribute) & np.uint64(1) != 0


@light
def note(kind, at, stop, notes, s):
    if s[L.NN] < len(notes) and stop > at:
        notes[s[L.NN], 0], notes[s[L.NN], 1], notes[s[L.NN], 2] = kind, at, stop
        s[L.NN] += 1


@light
def names_of(data, present, spans, tok, s, most):
    """Tokens of an element's class, id, role and itemprop to `tok`; returns (bits of CLASSES, bits of KEYWORDS)."""
    classes = groups = np.int64(0)
    for attribute, kind in ((_CLASS, CLASS_NAME), (_ID, CLASS_NAME), (_ROLE, ROLE), (_ITEMPROP, PROPERTY)):
        if has(present, attribute):
            found = add_names(data, spans[attribute, 0], min(spans[attribute, 1], spans[attribute, 0] + 400), kind, tok, s, most)
            groups |= found[1]
            if attribute == _CLASS:
                classes |= found[0]
    if has(present, _HIDDEN) or has(present, _ARIA_HIDDEN):
        add_token(_HIDDEN_KEY, ROLE, tok, s, most)
    if has(present, _STYLE_A) and contains(data, spans[_STYLE_A, 0], min(spans[_STYLE_A, 1], spans[_STYLE_A, 0] + 200), _NONE):
        add_token(_NONE_KEY, ROLE, tok, s, most)
        groups |= 1 << 10
    return classes, groups


@light
def read_meta(data, present, spans, notes, s):
    for attribute in (_NAME, _PROPERTY, _ITEMPROP, _HTTP_EQUIV):
        if has(present, attribute) and has(present, _CONTENT):
            kind = lookup(META_TABLE, hash_lower(data, spans[attribute, 0], spans[attribute, 1]))
            if kind:
                note(kind, spans[_CONTENT, 0], spans[_CONTENT, 1], notes, s)
                return


@light
def read_link(data, present, spans, notes, s):
    """Links to licences: rel=license, and what leads to creativecommons.org."""
    if not has(present, _HREF):
        return
    at, stop = np.int64(spans[_HREF, 0]), np.int64(spans[_HREF, 1])
    told = has(present, _REL) and contains(data, spans[_REL, 0], min(spans[_REL, 1], spans[_REL, 0] + 100), _LICENSE_WORD)
    if told or contains(data, at, min(stop, at + 40), _CC):
        note(META_LICENSE, at, stop, notes, s)


@light
def put_image(data, present, spans, names, values, out, s, stack, el, bl):
    """An image of a formula is its alt text, the TeX; an emoji is its alt text; any other is counted."""
    s[L.IMAGES] += 1
    s[L.FLAGS] |= L.HAS_IMAGE
    if not has(present, _ALT) or s[L.MUTE]:
        return
    at, stop = np.int64(spans[_ALT, 0]), np.int64(spans[_ALT, 1])
    if stop - at == 0 or stop - at > 4000:
        return
    classes = np.int64(0)
    if has(present, _CLASS):
        classes = _classes_of(data, spans[_CLASS, 0], min(spans[_CLASS, 1], spans[_CLASS, 0] + 400))
    if classes & EMOJI and stop - at <= 32:
        put_text(data, at, stop, names, values, out, s, stack, el, bl)
        return
    formula = classes & FORMULA_IMAGE != 0 and _looks_like_tex(data, at, stop)
    if not formula and has(present, _SRC):
        source, end = np.int64(spans[_SRC, 0]), min(np.int64(spans[_SRC, 1]), np.int64(spans[_SRC, 0]) + 100)
        formula = contains(data, source, end, _LATEX) or contains(data, source, end, _MATHTEX)
        formula = formula or contains(data, source, end, _MIMETEX) or contains(data, source, end, _CODECOGS)
    if formula:
        display = s[L.DISPLAYS] > 0
        put_tex(data, at, stop, False, display, names, values, out, s, stack, el, bl)


@light
def _looks_like_tex(data, at, stop):
    if stop - at <= 3:
        return True
    for i in range(at, stop):
        byte = load_u8(data, i)
        if byte == 0x5C or byte == 0x5E or byte == 0x5F or byte == 0x3D or byte == 0x7B:  # \ ^ _ = {
            return True
    return False


@light
def _classes_of(data, at, stop):
    """Bits of CLASSES of the names in data[at:stop]."""
    flags = np.int64(0)
    while at < stop:
        at = skip_white(data, at, stop)
        end = at
        while end < stop and not kind_of(data, end) & WHITE:
            end += 1
        if end > at:
            flags |= lookup(CLASS_TABLE, hash_lower(data, at, end))
        at = end
    return flags
