"""Measures of a classifier, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.quality.scores import precision_recall, roc_auc, top_share_begins

SCORED = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), max_size=30)


@given(SCORED)
def test_auc_counts_pairs(rows: list[tuple[float, bool]]) -> None:
    scores, positive = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], bool)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    found = roc_auc(scores, positive)
    assert found == pytest.approx(sum(pairs) / len(pairs)) if pairs else math.isnan(found)


@given(SCORED, st.sampled_from([0.0, 0.25, 0.3, 1.1]))
def test_precision_and_recall(rows: list[tuple[float, bool]], limit: float) -> None:
    called = [good for score, good in rows if score >= limit]
    precision, recall = precision_recall(np.array([r[0] for r in rows]), np.array([r[1] for r in rows], bool), limit)
    assert precision == (sum(called) / len(called)) if called else math.isnan(precision)
    good = sum(r[1] for r in rows)
    assert recall == sum(called) / good if good else math.isnan(recall)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50, unique=True), st.sampled_from([0.01, 0.1, 0.3, 1.0]))
def test_top_share_keeps_that_share(scores: list[float], share: float) -> None:
    limit = top_share_begins(np.array(scores), share)
    kept = sum(score >= limit for score in scores)
    assert kept == max(1, math.ceil(share * len(scores) - 1e-9))
    assert math.isnan(top_share_begins(np.zeros(0), share))
