"""Stage 2's view of a block: dense features, of the block, of what stage 1 says around it, and of its ancestors."""

from __future__ import annotations

import numpy as np

from stages.kernels import block_stats as T
from stages.kernels import html_layout as L
from stages.kernels.compile import kernel, light
from stages.kernels.html_names import GROUPS
from stages.kernels.html_tables import TAG, TAGS

LEVELS = 6  # ancestors, the block's own element among them
_FLAGS = (
    L.HAS_LINK, L.HAS_BOLD, L.HAS_ITALIC, L.HAS_CODE, L.HAS_TIME, L.HAS_BUTTON, L.HAS_LABEL, L.HAS_SMALL, L.HAS_SPAN,
    L.HAS_IMAGE, L.HAS_BREAK, L.HAS_PRE, L.HAS_QUOTE, L.AFTER_BREAK,
)  # fmt: skip
_FLAG_BITS = np.array(_FLAGS, np.int64)
_FAR = 12  # of ancestors: a keyword further up does not count
FEATURES = 32 + len(_FLAGS) + 7 + 3 * 6 + 4 + 4 + 4 * LEVELS + 6 + 6 + GROUPS

_P, _LI, _TD, _TH = (TAG[name] for name in ("p", "li", "td", "th"))
_LEVEL_OF = np.zeros(len(TAGS), np.int64)
for _level in range(1, 7):
    _LEVEL_OF[TAG[f"h{_level}"]] = _level
LIKELY, LIKELY_CHARS, MOST_OF = 0.6, 60, 0.7

# Columns of `around`, float32, one row a block; of `kinds`, one row a signature; of `page`.
A_MEAN2, A_MEAN5, A_MEAN10, A_BEFORE, A_AFTER, A_HEADING, AROUND = range(7)
K_SUM, K_COUNT, K_CHARS, K_WEIGHTED, KINDS = range(5)
P_CONTAINER, P_FIRST, P_LAST, P_CHARS, PAGE = range(5)


@light
def _log(value):
    return np.log1p(np.float64(value))


@light
def find_context(s, el, bl, stats, sums, scores, around, kinds, page):
    """Fill `sums`' S_LIKELY, `around`, `kinds` and `page` from the scores of stage 1."""
    blocks, elements = s[L.NB], s[L.NE]
    for e in range(elements):
        sums[e, T.S_LIKELY] = 0
    for b in range(blocks):
        kinds[b, :] = 0
    total = 0.0
    first = last = np.int64(-1)
    for b in range(blocks):
        chars = np.float64(stats[b, T.CHARS])
        sums[bl[b, L.B_ELEMENT], T.S_LIKELY] += scores[b] * chars
        total += scores[b] * chars
        kind = stats[b, T.SIGNATURE]
        kinds[kind, K_SUM] += scores[b]
        kinds[kind, K_COUNT] += 1
        kinds[kind, K_CHARS] += chars
        kinds[kind, K_WEIGHTED] += scores[b] * chars
        if scores[b] > LIKELY and chars > LIKELY_CHARS:
            last = b
            if first < 0:
                first = b
    container = np.int64(0)
    for i in range(elements - 1):
        e = elements - 1 - i
        sums[el[e, L.E_PARENT], T.S_LIKELY] += sums[e, T.S_LIKELY]
        if container == 0 and sums[e, T.S_LIKELY] >= MOST_OF * total:
            container = np.int64(e)
    page[P_CONTAINER], page[P_FIRST], page[P_LAST] = container, first, last
    page[P_CHARS] = max(sums[0, T.S_CHARS], 1)
    near, heading = np.int64(-1000), np.int64(-1000)
    for b in range(blocks):
        around[b, A_BEFORE], around[b, A_HEADING] = b - near, b - heading
        if scores[b] > LIKELY and stats[b, T.CHARS] > LIKELY_CHARS:
            near = np.int64(b)
        if _LEVEL_OF[el[bl[b, L.B_ELEMENT], L.E_TAG]]:
            heading = np.int64(b)
    near = np.int64(blocks + 1000)
    for i in range(blocks):
        b = blocks - 1 - i
        around[b, A_AFTER] = near - b
        if scores[b] > LIKELY and stats[b, T.CHARS] > LIKELY_CHARS:
            near = np.int64(b)
    _window(2, A_MEAN2, blocks, stats, scores, around)
    _window(5, A_MEAN5, blocks, stats, scores, around)
    _window(10, A_MEAN10, blocks, stats, scores, around)


@light
def _window(width, column, blocks, stats, scores, around):
    """The mean score of the blocks at most `width` away, the block itself left out, weighted by their characters."""
    weight = total = 0.0
    for b in range(min(width, blocks)):
        weight += stats[b, T.CHARS]
        total += stats[b, T.CHARS] * np.float64(scores[b])
    for b in range(blocks):
        if b + width < blocks:
            weight += stats[b + width, T.CHARS]
            total += stats[b + width, T.CHARS] * np.float64(scores[b + width])
        if b > width:
            weight -= stats[b - width - 1, T.CHARS]
            total -= stats[b - width - 1, T.CHARS] * np.float64(scores[b - width - 1])
        own = np.float64(stats[b, T.CHARS])
        around[b, column] = (total - own * scores[b]) / (weight - own) if weight - own >= 0.5 else -1.0


@light
def dense_features(row, s, el, bl, stats, sums, scores, around, kinds, page, b):
    """Write the FEATURES features of block b to `row` (float32)."""
    blocks = s[L.NB]
    element = np.int64(bl[b, L.B_ELEMENT])
    tag = np.int64(el[element, L.E_TAG])
    chars, size, words = max(stats[b, T.CHARS], 1), max(stats[b, T.BYTES], 1), max(stats[b, T.WORDS], 1)
    shape, flags = np.int64(stats[b, T.SHAPE]), np.int64(bl[b, L.B_FLAGS])
    row[0], row[1] = _log(chars), _log(words)
    row[2] = stats[b, T.LINK] / size
    row[3], row[4] = stats[b, T.COMMAS] / words, stats[b, T.ENDS] / words
    row[5], row[6], row[7] = stats[b, T.DIGITS] / chars, stats[b, T.UPPER] / chars, stats[b, T.MARKS] / chars
    row[8] = chars / words
    row[9], row[10], row[11], row[12] = shape & 1, shape >> 1 & 1, shape >> 2 & 1, shape >> 3 & 1
    row[13], row[14], row[15] = tag == _P, _LEVEL_OF[tag], tag == _LI
    row[16], row[17], row[18] = el[element, L.E_CELL] >= 0, tag, el[element, L.E_DEPTH]
    row[19], row[20] = el[element, L.E_LIST], min(np.int64(bl[b, L.B_IMAGES]), 8)
    row[21] = _log(stats[b, T.SAME])
    row[22], row[23] = b / blocks, stats[b, T.BEFORE] / page[P_CHARS]
    row[24], row[25], row[26] = _log(blocks), _log(page[P_CHARS]), _log(b)
    row[27] = _log(blocks - 1 - b)
    hints = np.int64(stats[b, T.HINTS])
    row[28], row[29] = hints & 1, hints >> 1
    row[30] = stats[b - 1, T.HINTS] & 1 if b > 0 else 0
    row[31] = sums[0, T.S_PARAGRAPHS] / page[P_CHARS]
    n = 32
    for i in range(len(_FLAG_BITS)):
        row[n + i] = flags & _FLAG_BITS[i] != 0
    n += len(_FLAG_BITS)
    row[n] = scores[b]
    for i in range(3):
        row[n + 1 + i] = scores[b - 1 - i] if b - 1 - i >= 0 else -1.0
        row[n + 4 + i] = scores[b + 1 + i] if b + 1 + i < blocks else -1.0
    n += 7
    for i in range(3):
        for side in range(2):
            other = b - 1 - i if side == 0 else b + 1 + i
            at = n + 6 * i + 3 * side
            inside = 0 <= other < blocks
            row[at] = _log(stats[other, T.CHARS]) if inside else -1.0
            row[at + 1] = stats[other, T.LINK] / max(stats[other, T.BYTES], 1) if inside else -1.0
            row[at + 2] = _LEVEL_OF[el[bl[other, L.B_ELEMENT], L.E_TAG]] if inside else -1.0
    n += 18
    row[n], row[n + 1], row[n + 2] = around[b, A_MEAN2], around[b, A_MEAN5], around[b, A_MEAN10]
    row[n + 3] = min(around[b, A_HEADING], np.float32(20))
    n += 4
    kind = stats[b, T.SIGNATURE]
    row[n] = kinds[kind, K_SUM] / kinds[kind, K_COUNT]
    row[n + 1] = _log(kinds[kind, K_COUNT])
    row[n + 2] = _log(kinds[kind, K_CHARS])
    row[n + 3] = kinds[kind, K_WEIGHTED] / max(kinds[kind, K_CHARS], np.float32(1))
    n += 4
    above = element
    for _ in range(LEVELS):
        if above >= 0:
            row[n] = sums[above, T.S_LIKELY] / max(sums[above, T.S_CHARS], np.float32(1))
            row[n + 1] = _log(sums[above, T.S_CHARS])
            row[n + 2] = sums[above, T.S_LINK] / max(sums[above, T.S_BYTES], np.float32(1))
            row[n + 3] = sums[above, T.S_PARAGRAPHS] / max(sums[above, T.S_CHARS], np.float32(1))
            above = np.int64(el[above, L.E_PARENT])
        else:
            row[n] = row[n + 1] = row[n + 2] = row[n + 3] = -1.0
        n += 4
    container = np.int64(page[P_CONTAINER])
    row[n] = el[container, L.E_FIRST] <= b < el[container, L.E_LAST]
    row[n + 1] = el[element, L.E_DEPTH] - el[container, L.E_DEPTH]
    row[n + 2] = sums[container, T.S_CHARS] / page[P_CHARS]
    row[n + 3], row[n + 4] = b - el[container, L.E_FIRST], el[container, L.E_LAST] - b
    row[n + 5] = sums[container, T.S_LIKELY] / max(sums[container, T.S_CHARS], np.float32(1))
    n += 6
    first, last = page[P_FIRST], page[P_LAST]
    row[n] = min(around[b, A_BEFORE], np.float32(60))
    row[n + 1] = min(around[b, A_AFTER], np.float32(60))
    row[n + 2] = first <= b <= last
    row[n + 3] = (b - first) / (last - first + 1) if last >= 0 else -1.0
    row[n + 4] = max(min(b - first, np.float32(40)), np.float32(-40)) if last >= 0 else -41.0
    row[n + 5] = max(min(last - b, np.float32(40)), np.float32(-40)) if last >= 0 else -41.0
    n += 6
    for group in range(GROUPS):
        row[n + group] = _FAR + 1
    above = element
    for level in range(_FAR):
        if above < 0:
            break
        groups = np.int64(el[above, L.E_GROUPS])
        if groups:
            for group in range(GROUPS):
                if groups >> group & 1 and row[n + group] > _FAR:
                    row[n + group] = level
        above = np.int64(el[above, L.E_PARENT])


@kernel(
    "void(vec_int64, int32[:, ::1], int32[:, ::1], int32[:, ::1], float32[:, ::1], vec_float32, float32[:, ::1])"
)
def dense_matrix(s, el, bl, stats, sums, scores, out):
    """For training: the dense features of all blocks, out (blocks, FEATURES)."""
    blocks = s[L.NB]
    around = np.empty((blocks, AROUND), np.float32)
    kinds = np.empty((blocks, KINDS), np.float32)
    page = np.empty(PAGE, np.float64)
    find_context(s, el, bl, stats, sums, scores, around, kinds, page)
    for b in range(blocks):
        dense_features(out[b], s, el, bl, stats, sums, scores, around, kinds, page, b)


SURE, NEAR, SURE_NEAR = 0.05, 3, 0.3


@light
def _is_sure(scores, b, blocks):
    """Whether stage 1 finds a block unlikely, and those near it: stage 2 would hardly ever say otherwise."""
    if scores[b] >= SURE:
        return False
    sure = True
    for other in range(max(b - NEAR, 0), min(b + NEAR + 1, blocks)):
        sure = sure and scores[other] < SURE_NEAR
    return sure


@kernel(
    "void(vec_int64, int32[:, ::1], int32[:, ::1], int32[:, ::1], float32[:, ::1], vec_float32, const_int32, const_int32, "
    "Array(int32, 2, 'C', readonly=True), const_float32, vec_float32)"
)
def tree_scores(s, el, bl, stats, sums, scores, roots, depths, nodes, numbers, out):
    """The probability of each block by stage 2: a sigmoid of the sum of the trees' leaves. Some keep that of stage 1 (SURE).

    Node i: feature, then the node to go to where that is at most numbers[i], then the one to go to where it is above. A leaf
    leads to itself, and numbers[i] is its value. The trees begin at `roots`, and four of them, one group, are walked side by
    side, so that the processor need not wait for each step: depths[group] steps. There are whole groups only.
    """
    blocks = s[L.NB]
    around = np.empty((blocks, AROUND), np.float32)
    kinds = np.empty((blocks, KINDS), np.float32)
    page = np.empty(PAGE, np.float64)
    row = np.empty(FEATURES, np.float32)
    find_context(s, el, bl, stats, sums, scores, around, kinds, page)
    for block in range(blocks):
        if _is_sure(scores, block, blocks):
            out[block] = scores[block]
            continue
        dense_features(row, s, el, bl, stats, sums, scores, around, kinds, page, block)
        total = np.float64(0)
        for group in range(len(depths)):
            a, b = np.int64(roots[4 * group]), np.int64(roots[4 * group + 1])
            c, d = np.int64(roots[4 * group + 2]), np.int64(roots[4 * group + 3])
            for _ in range(depths[group]):
                a = np.int64(nodes[a, 1 + np.int64(row[nodes[a, 0]] > numbers[a])])
                b = np.int64(nodes[b, 1 + np.int64(row[nodes[b, 0]] > numbers[b])])
                c = np.int64(nodes[c, 1 + np.int64(row[nodes[c, 0]] > numbers[c])])
                d = np.int64(nodes[d, 1 + np.int64(row[nodes[d, 0]] > numbers[d])])
            total += np.float64(numbers[a]) + np.float64(numbers[b]) + np.float64(numbers[c]) + np.float64(numbers[d])
        out[block] = 1.0 / (1.0 + np.exp(-total))
