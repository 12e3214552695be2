"""Which blocks of a page are its main text, from their probabilities."""

from __future__ import annotations

import numpy as np

from stages.kernels import block_stats as T
from stages.kernels import html_layout as L
from stages.kernels.compile import helper, kernel, light
from stages.kernels.html_tables import TAG

_H1, _QUOTE, _PRE = (TAG[name] for name in ("h1", "blockquote", "pre"))
LIKELY = 0.3  # blocks above it say what is likely on this page
LONG_WORD = 120  # mean bytes of a word above which ASCII text is encoded data
LINKS = 0.4  # share of links above which a list or table leads elsewhere
_CLIMB = 24


@light
def _group(el, element):
    """The table or the outermost list that an element is in; -1 for none."""
    if el[element, L.E_TABLE] >= 0:
        return np.int64(el[element, L.E_TABLE])
    if el[element, L.E_LIST] == 0:
        return np.int64(-1)
    for _ in range(_CLIMB):
        parent = np.int64(el[element, L.E_PARENT])
        if parent < 0 or el[parent, L.E_LIST] == 0:
            break
        element = parent
    return np.int64(element)


@light
def _limit(scores, stats, blocks, limit, share):
    """min(limit, share x the mean probability of the likely blocks, by characters; of the likeliest where there are none)."""
    total = weight = most = 0.0
    for b in range(blocks):
        most = max(most, np.float64(scores[b]))
        if scores[b] > LIKELY:
            total += scores[b] * np.float64(stats[b, T.CHARS])
            weight += stats[b, T.CHARS]
    return min(limit, share * (total / weight if weight > 0 else most))


@light
def _unit(el, element):
    """What an element is part of as seen from around it: the outermost list, the table, the quotation, or itself."""
    group = _group(el, element)
    if group >= 0:
        return group
    parent = np.int64(el[element, L.E_PARENT])
    return parent if parent >= 0 and el[parent, L.E_TAG] == _QUOTE else element


@light
def _is_form(el, bl, b):
    """Whether a block is code, a formula, a quotation, or part of a list or table."""
    if bl[b, L.B_FLAGS] & (L.HAS_PRE | L.HAS_MATH):
        return True
    element = np.int64(bl[b, L.B_ELEMENT])
    unit = _unit(el, element)
    tag = el[unit, L.E_TAG]
    return unit != element or tag == _QUOTE or tag == _PRE or _group(el, element) >= 0


@helper
def _keep_between(el, bl, stats, blocks, elements, kept):
    """Keep code, formulas, quotations, lists and tables that stand between kept blocks below the same element.

    Lists and tables of links are left out, and so are other blocks.
    """
    links = np.zeros((elements, 2), np.float32)
    for b in range(blocks):
        unit = _unit(el, np.int64(bl[b, L.B_ELEMENT]))
        links[unit, 0] += stats[b, T.LINK]
        links[unit, 1] += stats[b, T.BYTES]
    before, around = np.int64(-1), np.int64(-1)  # the last kept block, and what it stands in
    plain, plain_around = np.int64(-1), np.int64(-1)  # the last that is none of these: of a table in a box a cell may be kept
    for b in range(blocks):
        if not kept[b]:
            continue
        parent = np.int64(el[_unit(el, np.int64(bl[b, L.B_ELEMENT])), L.E_PARENT])
        is_plain = not _is_form(el, bl, b)
        first = before if before >= 0 and parent == around else np.int64(b)
        if is_plain and plain >= 0 and parent == plain_around:
            first = min(first, plain)
        for between in range(first + 1, b):
            unit = _unit(el, np.int64(bl[between, L.B_ELEMENT]))
            if links[unit, 0] <= LINKS * links[unit, 1] and _is_form(el, bl, between):
                kept[between] = 1
        before, around = np.int64(b), parent
        if is_plain:
            plain, plain_around = before, parent


@kernel(
    "void(vec_int64, int32[:, ::1], int32[:, ::1], int32[:, ::1], vec_float32, float64, float64, boolean, vec_uint8)"
)
def keep_blocks(s, el, bl, stats, scores, limit, share, headline, kept):
    """Set `kept` of each block to 1 where it belongs to the main text, else 0.

    A block is kept above min(limit, share x the mean of likely blocks), or where `_keep_between` finds it. Encoded data
    goes, and without `headline` the first <h1>.
    """
    blocks = s[L.NB]
    limit = _limit(scores, stats, blocks, limit, share)
    for b in range(blocks):
        kept[b] = scores[b] > limit
    _keep_between(el, bl, stats, blocks, s[L.NE], kept)
    seen = False
    for b in range(blocks):
        words = max(stats[b, T.WORDS], 1)
        if stats[b, T.BYTES] > LONG_WORD * words and stats[b, T.BYTES] == stats[b, T.CHARS]:
            kept[b] = 0
        if el[bl[b, L.B_ELEMENT], L.E_TAG] == _H1 and not seen:
            seen = True
            if not headline:
                kept[b] = 0
