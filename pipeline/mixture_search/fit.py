"""The regression: loss on a text as a function of the shares of a mixture, log-linear as in Olmix.

loss(x) = floor + exp(w . x): what no mixture takes away, and a part that each source makes smaller or larger by a factor for
its share (Ye et al. 2024, "Data Mixing Laws", arXiv 2403.16952; Olmix finds it the best of its regressions). It is convex in x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLOORS = 24  # floors that are tried, between none and nearly all of the lowest loss
STEPS = 30  # of Gauss and Newton, from the best of them
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # of squares of weights from their mean, in squares of losses
FOLDS = 10


@dataclass(frozen=True)
class LogLinear:
    """A fitted law. weights: of each source (log of the loss above the floor, were the mixture that source alone)."""

    floor: float
    weights: np.ndarray
    ridge: float

    def predict(self, shares: np.ndarray) -> np.ndarray:
        """Losses of mixtures (..., sources)."""
        return self.floor + np.exp(shares @ self.weights)


def fit(shares: np.ndarray, losses: np.ndarray, ridge: float) -> LogLinear:
    """The law with the smallest sum of squares of errors on mixtures (n, sources) with losses (n), plus `ridge` times n times the
    squares of the weights from their mean: of a source that few mixtures hold, little is concluded."""
    count, sources = shares.shape
    spread = np.sqrt(ridge * count) * (np.eye(sources) - 1 / sources)  # rows that pull weights to their mean
    lowest = float(losses.min())
    best: tuple[float, float, np.ndarray] | None = None
    for part in 1 - np.geomspace(1.0, 1e-3, FLOORS):
        floor = lowest * part
        above = losses - floor  # errors of its logarithm, times it, are those of the loss
        rows, wanted = np.vstack([shares * above[:, None], spread]), np.append(above * np.log(above), np.zeros(sources))
        weights = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        cost = _cost(shares, losses, floor, weights, spread)
        if best is None or cost < best[0]:
            best = cost, floor, weights
    assert best is not None
    floor, weights = _refined(shares, losses, *best, spread, lowest)
    return LogLinear(floor, weights, ridge)


def _cost(shares: np.ndarray, losses: np.ndarray, floor: float, weights: np.ndarray, spread: np.ndarray) -> float:
    errors = floor + np.exp(np.minimum(shares @ weights, 50.0)) - losses
    return float(errors @ errors + np.square(spread @ weights).sum())


def _refined(
    shares: np.ndarray,
    losses: np.ndarray,
    cost: float,
    floor: float,
    weights: np.ndarray,
    spread: np.ndarray,
    lowest: float,
) -> tuple[float, np.ndarray]:
    """Levenberg and Marquardt's steps on floor and weights together; the floor stays from 0 to below the lowest loss."""
    damping = 1e-3
    for _ in range(STEPS):
        above = np.exp(shares @ weights)
        slopes = np.vstack([np.column_stack([np.ones(len(shares)), above[:, None] * shares]), np.pad(spread, ((0, 0), (1, 0)))])
        errors = np.append(floor + above - losses, spread @ weights)
        normal = slopes.T @ slopes
        step = np.linalg.lstsq(normal + damping * np.diag(np.diag(normal) + 1e-12), -slopes.T @ errors, rcond=None)[0]
        tried = float(np.clip(floor + step[0], 0.0, lowest * 0.999)), weights + step[1:]
        if (now := _cost(shares, losses, *tried, spread)) < cost:
            floor, weights, cost, damping = *tried, now, damping / 5
        else:
            damping *= 5
    return floor, weights


def choose(shares: np.ndarray, losses: np.ndarray) -> tuple[LogLinear, np.ndarray]:
    """The law whose ridge predicts left-out mixtures best, and these predictions (n): each mixture by a law that has not seen it
    (one left out, or a tenth where there are many)."""
    folds = np.arange(len(losses)) % min(len(losses), FOLDS if len(losses) > 3 * FOLDS else len(losses))
    tried = [(ridge, _left_out(shares, losses, ridge, folds)) for ridge in RIDGES]
    ridge, predicted = min(tried, key=lambda one: float(np.square(one[1] - losses).sum()))
    return fit(shares, losses, ridge), predicted


def _left_out(shares: np.ndarray, losses: np.ndarray, ridge: float, folds: np.ndarray) -> np.ndarray:
    found = np.empty(len(losses))
    for fold in np.unique(folds):
        out = folds == fold
        found[out] = fit(shares[~out], losses[~out], ridge).predict(shares[out])
    return found


def rank_correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Spearman's: 1 where two lists have one order, 0 where they have nothing in common (and where one is constant)."""
    first, second = (np.argsort(np.argsort(np.asarray(one), kind="stable"), kind="stable").astype(float) for one in (a, b))
    if min(np.std(np.asarray(a)), np.std(np.asarray(b))) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
