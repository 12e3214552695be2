"""How well scores tell two kinds of documents apart."""

from __future__ import annotations

import numpy as np


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative, ties counting half.

    By ranks (Mann and Whitney 1947). NaN where one kind is missing.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse] if len(values) else np.zeros(0)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def precision_recall(scores: np.ndarray, positive: np.ndarray, limit: float) -> tuple[float, float]:
    """(precision, recall) of calling a document positive at `limit` or above; NaN where nothing is, or none is."""
    called = scores >= limit
    hits = float((called & positive).sum())
    precision = hits / float(called.sum()) if called.any() else float("nan")
    return precision, hits / float(positive.sum()) if positive.any() else float("nan")


def top_share_begins(scores: np.ndarray, share: float) -> float:
    """The score at which the top `share` (0..1) begins: as a minimum it keeps that share of the documents, or just more."""
    if len(scores) == 0:
        return float("nan")
    kept = max(1, int(np.ceil(share * len(scores) - 1e-9)))
    return float(np.partition(scores, len(scores) - kept)[len(scores) - kept])
