"""Which blocks of a page are its main text, from their probabilities."""

from __future__ import annotations

import numpy as np

from stages.kernels import block_stats as T
from stages.kernels import html_layout as L
from stages.kernels.compile import helper, kernel, light
from stages.kernels.html_tables import TAG

_H1 = TAG["h1"]
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
def _beside(el, bl, kept, b, blocks, parent):
    """Whether block b is kept and stands in `parent`, in one of its children, or in a list or table that is one."""
    if b < 0 or b >= blocks or not kept[b]:
        return False
    element = np.int64(bl[b, L.B_ELEMENT])
    group = _group(el, element)
    if group >= 0:
        element = group
    return element == parent or el[element, L.E_PARENT] == parent


@helper
def _keep_between(el, bl, stats, blocks, elements, kept):
    """Keep lists and tables, but for those of links, that stand between kept blocks below the same element."""
    first = np.full(elements, -1, np.int32)
    last = np.full(elements, -1, np.int32)
    links = np.zeros((elements, 2), np.float32)
    for b in range(blocks):
        group = _group(el, np.int64(bl[b, L.B_ELEMENT]))
        if group >= 0:
            if first[group] < 0:
                first[group] = b
            last[group] = b
            links[group, 0] += stats[b, T.LINK]
            links[group, 1] += stats[b, T.BYTES]
    before = np.int64(-1)
    for b in range(blocks):
        group = _group(el, np.int64(bl[b, L.B_ELEMENT]))
        if group >= 0 and first[group] == b and links[group, 0] <= LINKS * links[group, 1]:
            parent = np.int64(el[group, L.E_PARENT])
            after = np.int64(last[group]) + 1
            if _beside(el, bl, kept, before, blocks, parent) and _leads_on(el, bl, kept, after, blocks, parent, first, links):
                for i in range(b, after):
                    kept[i] = 1
        if group < 0 or last[group] == b:
            before = np.int64(b)


@light
def _leads_on(el, bl, kept, b, blocks, parent, first, links):
    """Whether a kept block of `parent` follows, over other lists and tables of it that are not of links."""
    for _ in range(8):
        if b >= blocks:
            return False
        group = _group(el, np.int64(bl[b, L.B_ELEMENT]))
        if group < 0 or first[group] != b or el[group, L.E_PARENT] != parent:
            return _beside(el, bl, kept, b, blocks, parent)
        if links[group, 0] > LINKS * links[group, 1]:
            return False
        while b < blocks and _group(el, np.int64(bl[b, L.B_ELEMENT])) == group:
            b += 1
    return False


@kernel(
    "void(vec_int64, int32[:, ::1], int32[:, ::1], int32[:, ::1], vec_float32, float64, float64, boolean, vec_uint8)"
)
def keep_blocks(s, el, bl, stats, scores, limit, share, headline, kept):
    """Set `kept` of each block to 1 where it belongs to the main text, else 0.

    A block is kept above min(limit, share x the mean of likely blocks); and lists and tables, but for those of links, that
    stand between kept blocks below the same element. Encoded data goes, and without `headline` the first <h1>.
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
