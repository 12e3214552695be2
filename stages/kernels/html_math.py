"""<math> and KaTeX: where a formula's TeX is, and what stands between the parts of MathML without TeX."""

from __future__ import annotations

import numpy as np

from stages.kernels import html_layout as L
from stages.kernels.compile import light
from stages.kernels.html_marks import contains, has
from stages.kernels.html_tables import ATTRIBUTE, KATEX, TAG, words
from stages.kernels.html_text import put_byte

_MATH, _MROW, _MSUP, _MSUB, _MSUBSUP, _MFRAC, _MSQRT, _MUNDER, _MUNDEROVER, _MTR, _MTD = (
    TAG[name] for name in words("math mrow msup msub msubsup mfrac msqrt munder munderover mtr mtd")
)
_ALTTEXT, _LATEX, _DISPLAY = (ATTRIBUTE[name] for name in ("alttext", "data-latex", "display"))
_BLOCK_WORD = np.frombuffer(b"block", np.uint8)


@light
def shown_already(s, stack):
    """Whether the formula of the KaTeX element that is open was written."""
    i = s[L.SP] - 1
    while i > max(0, s[L.SP] - 8):
        if stack[i, L.S_FLAGS] & KATEX:
            return stack[i, L.S_CHILDREN] == 1
        i -= 1
    return False


@light
def child_of_math(code, at, out, s, stack, el, bl):
    """What stands between the parts of a fraction or a script, in MathML without TeX; returns the child's meaning."""
    parent = s[L.SP] - 1
    tag = stack[parent, L.S_TAG]
    before = stack[parent, L.S_CHILDREN]
    stack[parent, L.S_CHILDREN] = before + 1
    of_scripts = tag == _MSUP or tag == _MSUB or tag == _MSUBSUP or tag == _MUNDER or tag == _MUNDEROVER
    if before and (of_scripts or tag == _MFRAC):
        sign = np.int64(0x5F)
        if tag == _MFRAC:
            sign = np.int64(0x2F)
        elif tag == _MSUP or before == 2:
            sign = np.int64(0x5E)
        put_byte(sign, at, out, s, stack, el, bl)
    elif tag != _MATH and before and (code == _MTD or code == _MTR):
        if code == _MTR:
            put_byte(0x3B, at, out, s, stack, el, bl)
        s[L.PEND] = 1
    if code == _MSQRT:
        for byte in (0xE2, 0x88, 0x9A):  # the sign of a root
            put_byte(byte, at, out, s, stack, el, bl)
        return L.IS_GROUP
    return L.IS_GROUP if code == _MROW and (of_scripts or tag == _MFRAC) else 0


@light
def open_math(present, spans, data, s):
    """<math>: its TeX, where an attribute holds it."""
    s[L.TEX_START] = s[L.TEX_STOP] = 0
    for attribute in (_ALTTEXT, _LATEX):
        if has(present, attribute):
            s[L.TEX_START], s[L.TEX_STOP] = spans[attribute, 0], spans[attribute, 1]
    s[L.TEX_DISPLAY] = 0
    if has(present, _DISPLAY) and contains(data, spans[_DISPLAY, 0], spans[_DISPLAY, 1], _BLOCK_WORD):
        s[L.TEX_DISPLAY] = 1
