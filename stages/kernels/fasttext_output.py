"""fastText's output layers: from a document's summed rows to its best label and that label's probability.

As `Loss::predict` with k = 1 (github.com/facebookresearch/fastText, src/loss.cc), in the same float32 steps: every
probability p is reported as exp(log(p + 1e-5)), among equals the later label wins, and the sigmoid of one-vs-all and
negative sampling is a table of 512 steps.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel

SOFTMAX, HIERARCHICAL, BINARY = 0, 1, 2  # the kinds of output layer; BINARY: one-vs-all and negative sampling


@helper
def _log(probability):
    return np.float32(np.log(np.float64(probability) + 1e-5))


@helper
def _table_sigmoid(x):
    """fastText's sigmoid: the value at the table's step below x, 0 and 1 beyond -8 and 8."""
    if x < np.float32(-8):
        return np.float32(0)
    if x > np.float32(8):
        return np.float32(1)
    step = np.int64((x + np.float32(8)) * np.float32(512) / np.float32(8) / np.float32(2))
    at = np.float32(step * 16) / np.float32(512) - np.float32(8)
    return np.float32(1.0 / (1.0 + np.float64(np.exp(-at))))


@helper
def _node_logs(x):
    """The logarithms of an inner node's probabilities: (left, right)."""
    right = np.float32(1.0 / np.float64(np.float32(1) + np.exp(-x)))
    return _log(np.float32(1.0 - np.float64(right))), _log(right)


@helper
def _logit(hidden, head, output):
    """The output layer's value for one output: its row of the head times the mean row, or folded into that already."""
    if len(head) == 0:
        return hidden[output]
    width = len(hidden)
    dot = np.float32(0)
    for j in range(width):
        dot += head[output * width + j] * hidden[j]
    return dot


@helper
def _best_leaf(hidden, head, leaves, left, right, nodes, scores):
    """The likeliest leaf of the tree and its logarithm, in fastText's order of search; (-1, 0) where all are below 1e-5."""
    best, best_score = -1, np.float32(0)
    floor = _log(np.float32(0))
    nodes[0], scores[0] = 2 * leaves - 2, np.float32(0)
    size = 1
    while size > 0:
        size -= 1
        node, score = nodes[size], scores[size]
        if score < floor or (best >= 0 and score < best_score):
            continue
        if node < leaves:
            best, best_score = np.int64(node), score
            continue
        to_left, to_right = _node_logs(_logit(hidden, head, node - leaves))
        nodes[size], scores[size] = right[node], score + to_right
        nodes[size + 1], scores[size + 1] = left[node], score + to_left
        size += 2
    return best, best_score


@helper
def _leaf_log(leaf, hidden, head, leaves, right, parent, nodes):
    """The logarithm of one leaf's probability: the sum over its path, from the root down."""
    size = 0
    node = np.int64(leaf)
    while node >= 0:
        nodes[size] = node
        size += 1
        node = np.int64(parent[node])
    score = np.float32(0)
    for k in range(size - 1, 0, -1):
        to_left, to_right = _node_logs(_logit(hidden, head, nodes[k] - leaves))
        score += to_right if right[nodes[k]] == nodes[k - 1] else to_left
    return score


@helper
def _softmax(logits, probabilities):
    top = logits[0]
    for c in range(len(logits)):
        top = max(top, logits[c])
    total = np.float32(0)
    for c in range(len(logits)):
        probabilities[c] = np.exp(logits[c] - top)
        total += probabilities[c]
    for c in range(len(logits)):
        probabilities[c] /= total


@helper
def _flat_probabilities(hidden, head, outputs, layer, logits, probabilities):
    """The probabilities of all classes of a layer that is no tree."""
    if len(hidden) == 1 and outputs == 2 and len(head) == 0:
        logits[0], logits[1] = np.float32(0), hidden[0]
    else:
        for c in range(outputs):
            logits[c] = _logit(hidden, head, c)
    if layer == SOFTMAX:
        _softmax(logits, probabilities)
    else:
        for c in range(outputs):
            probabilities[c] = _table_sigmoid(logits[c])


@kernel(
    "void(const_float64, const_int64, int64, const_float32, int64, int64, const_int32, const_int32, const_int32, "
    "int64, vec_int64, vec_float64, vec_float64)"
)
def top_labels(
    sums, counts, width, head, outputs, layer, left, right, parent, wanted, top, probability, of_wanted
):
    """The best label of each document (int64), its probability, and that of the label `wanted` (-1: none), float64.

    `sums`: n * width summed rows; `head`: outputs * width weights, empty where the rows were folded with them;
    `outputs`: classes, or inner nodes of the tree. A folded softmax over two classes has width 1: the second's lead
    over the first. A document without rows, for which fastText has no answer, gets -1 and NaN.
    """
    logits = np.zeros(outputs, np.float32)
    hidden = np.zeros(width, np.float32)
    probabilities = np.zeros(max(outputs, 1), np.float32)
    depth = len(parent) + 2
    nodes, scores = np.zeros(depth, np.int32), np.zeros(depth, np.float32)
    for i in range(len(counts)):
        top[i], probability[i], of_wanted[i] = -1, np.nan, np.nan
        if counts[i] == 0:
            continue
        for j in range(width):
            hidden[j] = np.float32(sums[i * width + j] / counts[i])
        if layer == HIERARCHICAL:
            best, score = _best_leaf(hidden, head, outputs + 1, left, right, nodes, scores)
            if wanted >= 0:
                of_wanted[i] = np.exp(_leaf_log(wanted, hidden, head, outputs + 1, right, parent, nodes))
        else:
            _flat_probabilities(hidden, head, outputs, layer, logits, probabilities)
            best, score = np.int64(-1), np.float32(0)
            for c in range(outputs):
                this = _log(probabilities[c])
                if best < 0 or this >= score:
                    best, score = np.int64(c), this
            if wanted >= 0:
                of_wanted[i] = np.exp(_log(probabilities[wanted]))
        top[i] = best
        if best >= 0:
            probability[i] = np.exp(score)


@kernel(
    "void(const_float64, const_int64, int64, const_float32, int64, int64, const_int32, const_int32, const_int32, "
    "int64, vec_float64)"
)
def all_labels(sums, counts, width, head, outputs, layer, left, right, parent, labels, out):
    """The probability of each of `labels` labels for each document, float64, to `out` (documents * labels); the rest as
    `top_labels`. NaN for a document without rows."""
    logits, probabilities = np.zeros(outputs, np.float32), np.zeros(max(outputs, 1), np.float32)
    hidden, nodes = np.zeros(width, np.float32), np.zeros(len(parent) + 2, np.int32)
    for i in range(len(counts)):
        if counts[i] == 0:
            for c in range(labels):
                out[i * labels + c] = np.nan
            continue
        for j in range(width):
            hidden[j] = np.float32(sums[i * width + j] / counts[i])
        if layer != HIERARCHICAL:
            _flat_probabilities(hidden, head, outputs, layer, logits, probabilities)
        for c in range(labels):
            if layer == HIERARCHICAL:
                out[i * labels + c] = np.exp(_leaf_log(c, hidden, head, outputs + 1, right, parent, nodes))
            else:
                out[i * labels + c] = np.exp(_log(probabilities[c]))
