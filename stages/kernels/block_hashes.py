"""Stage 1 of the block model: a logistic regression over hashed features of a block, its neighbours and its ancestors."""

from __future__ import annotations

import numpy as np

from stages.kernels import block_stats as T
from stages.kernels import html_layout as L
from stages.kernels.compile import kernel, light
from stages.kernels.hashing import load_u8

BITS = 18  # of a feature's hash
MOST = 320  # features of one block
_NAMES_OF_ONE = 12  # class names of one element that count
_ANCESTORS = 12
_SHORT = 12  # words of a block whose words are features
_M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@light
def _add(buffer, n, kind, value):
    """Append the feature `value` of a kind; returns how many there are."""
    key = (np.uint64(value) + np.uint64(kind) * _M1) * _M2
    key ^= key >> np.uint64(29)
    key *= _M1
    buffer[n] = key >> np.uint64(64 - BITS)
    return n + 1


@light
def log_bin(value):
    """0 for 0, else 1 + the binary logarithm in halves: 1, 3, 4 or 5, ..."""
    if value <= 0:
        return np.int64(0)
    power = np.int64(0)
    while value >> power > 1:
        power += 1
    half = np.int64(value >> (power - 1) & 1) if power > 0 else np.int64(0)
    return 1 + 2 * power + half


@light
def link_bin(stats, b):
    """The share of a block's text that is links, in 6 steps."""
    share = stats[b, T.LINK] / max(stats[b, T.BYTES], 1)
    if share == 0.0:
        return np.int64(0)
    return np.int64(1 + min(4, int(share * 4.5)))


@light
def _add_neighbour(buffer, n, kind, el, bl, stats, b, blocks):
    if b < 0 or b >= blocks:
        return _add(buffer, n, kind, 1 << 20)
    tag = np.int64(el[bl[b, L.B_ELEMENT], L.E_TAG])
    size, links = log_bin(stats[b, T.CHARS]), link_bin(stats, b)
    n = _add(buffer, n, kind, tag * 64 + size)
    n = _add(buffer, n, kind, (1 << 16) + size * 8 + links)
    n = _add(buffer, n, kind, (1 << 17) + tag * 8 + links)
    return _add(buffer, n, kind, (1 << 18) + np.int64(stats[b, T.SHAPE]) * 8 + links)


@light
def _add_names(buffer, n, kind, tok, first, count):
    for i in range(min(count, _NAMES_OF_ONE)):
        if n >= MOST - 64:
            break
        n = _add(buffer, n, kind, tok[first + i])
    return n


@light
def _add_words(buffer, n, out, start, stop):
    """The words of a short text, ASCII letters in lower case and digits as one, and their pairs."""
    key = np.uint64(0)
    before = np.uint64(1)
    at = start
    while at <= stop:
        byte = load_u8(out, at) if at < stop else np.uint64(0x20)
        if byte <= 0x20:
            if key:
                n = _add(buffer, n, 60, key)
                n = _add(buffer, n, 61, key * np.uint64(31) + before)
                before = key
                key = np.uint64(0)
        else:
            if 0x41 <= byte <= 0x5A:
                byte |= np.uint64(0x20)
            elif 0x30 <= byte <= 0x39:
                byte = np.uint64(0x30)
            key = (key ^ byte) * np.uint64(0x100000001B3) + np.uint64(7)
        at += 1
    return _add(buffer, n, 61, before * np.uint64(31) + np.uint64(3))


@light
def hashed_features(buffer, out, s, el, bl, tok, stats, b):
    """Write the features of block b to `buffer` (int32[MOST]), each below 2**BITS; returns how many."""
    blocks = s[L.NB]
    element = np.int64(bl[b, L.B_ELEMENT])
    tag = np.int64(el[element, L.E_TAG])
    size, links = log_bin(stats[b, T.CHARS]), link_bin(stats, b)
    chars = max(np.int64(stats[b, T.CHARS]), 1)
    whole = max(np.int64(stats[blocks - 1, T.BEFORE] + stats[blocks - 1, T.CHARS]), 1)
    n = _add(buffer, 0, 1, tag)
    n = _add(buffer, n, 2, size)
    n = _add(buffer, n, 3, links)
    n = _add(buffer, n, 4, size * 8 + links)
    n = _add(buffer, n, 5, tag * 64 + size)
    n = _add(buffer, n, 6, tag * 8 + links)
    n = _add(buffer, n, 7, log_bin(stats[b, T.WORDS]))
    n = _add(buffer, n, 8, log_bin(stats[b, T.COMMAS]) * 16 + log_bin(stats[b, T.ENDS]))
    n = _add(buffer, n, 9, np.int64(stats[b, T.SHAPE]) * 32 + size)
    n = _add(buffer, n, 10, np.int64(stats[b, T.DIGITS]) * 8 // chars * 16 + np.int64(stats[b, T.UPPER]) * 8 // chars)
    n = _add(buffer, n, 11, np.int64(stats[b, T.MARKS]) * 16 // chars)
    n = _add(buffer, n, 12, np.int64(stats[b, T.BEFORE]) * 12 // whole)
    n = _add(buffer, n, 13, np.int64(b) * 12 // blocks)
    n = _add(buffer, n, 14, min(np.int64(el[element, L.E_DEPTH]), 24))
    n = _add(buffer, n, 15, min(np.int64(el[element, L.E_LIST]), 4) * 2 + np.int64(el[element, L.E_CELL] >= 0))
    n = _add(buffer, n, 16, min(np.int64(stats[b, T.SAME]), 5))
    n = _add(buffer, n, 17, min(np.int64(bl[b, L.B_IMAGES]), 3) * 64 + tag)
    n = _add(buffer, n, 18, min(b, 8))
    n = _add(buffer, n, 19, min(blocks - 1 - b, 8))
    if stats[b, T.HINTS]:
        n = _add(buffer, n, 22, np.int64(stats[b, T.HINTS]))
        n = _add(buffer, n, 23, np.int64(stats[b, T.HINTS]) * 64 + size)
    flags = np.int64(bl[b, L.B_FLAGS])
    for bit in range(17):
        if flags >> bit & 1:
            n = _add(buffer, n, 20, bit)
            n = _add(buffer, n, 21, bit * 64 + size)
    for distance in range(1, 3):
        n = _add_neighbour(buffer, n, 30 + distance, el, bl, stats, b - distance, blocks)
        n = _add_neighbour(buffer, n, 34 + distance, el, bl, stats, b + distance, blocks)
    if stats[b, T.WORDS] <= _SHORT and stats[b, T.BYTES] <= 160:
        n = _add_words(buffer, n, out, np.int64(bl[b, L.B_START]), np.int64(bl[b, L.B_STOP]))
    n = _add_names(buffer, n, 40, tok, np.int64(bl[b, L.B_TOK]), np.int64(bl[b, L.B_TOKS]))
    tags = np.int64(0)
    for level in range(_ANCESTORS):
        if element < 0:
            break
        kind = 41 + (level if level < 2 else (2 if level < 4 else 3))
        n = _add_names(buffer, n, kind, tok, np.int64(el[element, L.E_TOK]), np.int64(el[element, L.E_TOKS]))
        tags = tags * 256 + np.int64(el[element, L.E_TAG])
        if level < 4:
            n = _add(buffer, n, 50 + level, tags)
        elif n < MOST - 64:
            n = _add(buffer, n, 54, np.int64(el[element, L.E_TAG]))
        element = np.int64(el[element, L.E_PARENT])
    return n


@kernel("int64(text, vec_int64, int32[:, ::1], int32[:, ::1], vec_uint32, int32[:, ::1], int64, vec_int32)")
def one_block_features(out, s, el, bl, tok, stats, b, buffer):
    """For training: the hashed features of one block to `buffer` (int32[MOST]); returns how many."""
    return hashed_features(buffer, out, s, el, bl, tok, stats, b)


@kernel(
    "void(text, vec_int64, int32[:, ::1], int32[:, ::1], vec_uint32, int32[:, ::1], Array(int8, 1, 'C', readonly=True), "
    "float32, float32, vec_float32)"
)
def linear_scores(out, s, el, bl, tok, stats, weights, scale, bias, scores):
    """The probability of each block by stage 1: a sigmoid of bias + scale x the sum of its features' weights."""
    buffer = np.empty(MOST, np.int32)
    for b in range(s[L.NB]):
        n = hashed_features(buffer, out, s, el, bl, tok, stats, b)
        total = np.int64(0)
        for i in range(n):
            total += weights[buffer[i]]
        scores[b] = 1.0 / (1.0 + np.exp(-(bias + scale * total)))


@kernel(
    "void(const_int32, const_int64, const_float32, const_float32, const_int64, float64, float64, vec_float32, vec_float32)"
)
def fit_linear(features, starts, labels, sample_weights, order, rate, decay, weights, squares):
    """For training: one epoch of Adagrad on the logistic loss over the rows in `order`.

    Row i has features[starts[i]:starts[i + 1]]. Labels are probabilities.
    `weights` (the last one is the bias) and `squares`, the sums of squared gradients, go on from epoch to epoch; `decay`
    is an L2 penalty on the weights that a row touches.
    """
    bias = len(weights) - 1
    for k in range(len(order)):
        row = order[k]
        total = np.float64(weights[bias])
        for i in range(starts[row], starts[row + 1]):
            total += weights[features[i]]
        gradient = sample_weights[row] * (1.0 / (1.0 + np.exp(-total)) - labels[row])
        for i in range(starts[row], starts[row + 1] + 1):
            f = features[i] if i < starts[row + 1] else bias
            step = gradient + decay * weights[f]
            squares[f] += step * step
            weights[f] -= rate * step / np.sqrt(squares[f])
