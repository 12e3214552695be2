"""Which blocks of a page are its main text, from their probabilities."""

from __future__ import annotations

import numpy as np

from stages.kernels import block_stats as T
from stages.kernels import html_layout as L
from stages.kernels.compile import helper, kernel
from stages.kernels.html_tables import TAG

_H1 = TAG["h1"]
LIKELY = 0.3  # blocks above it say what is likely on this page
LONG_WORD = 120  # mean bytes of a word above which ASCII text is encoded data
UNLIKELY = 0.25  # of the page's limit: below it a block is left out of a list or table that is kept
_CLIMB = 24


@helper
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


@helper
def _limit(scores, stats, blocks, limit, share):
    """min(limit, share x the mean probability of the likely blocks, by characters; of the likeliest where there are none)."""
    total = weight = most = 0.0
    for b in range(blocks):
        most = max(most, np.float64(scores[b]))
        if scores[b] > LIKELY:
            total += scores[b] * np.float64(stats[b, T.CHARS])
            weight += stats[b, T.CHARS]
    return min(limit, share * (total / weight if weight > 0 else most))


@kernel(
    "void(vec_int64, int32[:, ::1], int32[:, ::1], int32[:, ::1], vec_float32, float64, float64, boolean, vec_uint8)"
)
def keep_blocks(s, el, bl, stats, scores, limit, share, headline, kept):
    """Set `kept` of each block to 1 where it belongs to the main text, else 0.

    A block is kept above min(limit, share x the mean of likely blocks). Lists and tables that are as a whole above it
    keep their less likely items and cells. Encoded data goes, and without `headline` the first <h1>.
    """
    blocks = s[L.NB]
    limit = _limit(scores, stats, blocks, limit, share)
    sums = np.zeros((s[L.NE], 3), np.float32)
    for b in range(blocks):
        kept[b] = scores[b] > limit
        group = _group(el, bl[b, L.B_ELEMENT])
        if group >= 0:
            sums[group, 0] += scores[b] * np.float32(stats[b, T.CHARS])
            sums[group, 1] += stats[b, T.CHARS]
            sums[group, 2] += kept[b] * stats[b, T.CHARS]
    seen = False
    for b in range(blocks):
        element = np.int64(bl[b, L.B_ELEMENT])
        group = _group(el, element)
        if group >= 0 and not kept[b] and scores[b] > UNLIKELY * limit:
            kept[b] = sums[group, 0] > limit * sums[group, 1]
        words = max(stats[b, T.WORDS], 1)
        if stats[b, T.BYTES] > LONG_WORD * words and stats[b, T.BYTES] == stats[b, T.CHARS]:
            kept[b] = 0
        if not headline and el[element, L.E_TAG] == _H1 and not seen:
            kept[b] = 0
            seen = True
