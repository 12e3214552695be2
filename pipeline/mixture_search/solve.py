"""The best mixture by fitted laws, within what sources may repeat: a convex problem, solved to a gap that is told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.mixture_search.fit import LogLinear

STEPS = 20_000
GAP = 1e-7  # bits per byte that a better mixture could gain at most
TINY = 1e-12
SMALLEST = 1e-6  # shares below are none


def best_mixture(
    laws: Sequence[LogLinear], weights: np.ndarray, natural: np.ndarray, caps: np.ndarray, stay: float
) -> tuple[np.ndarray, float]:
    """The shares (sources) with the smallest `objective`, and how much smaller it could be at most.

    Steps along the gradient of the shares' logarithms (mirror descent, whose distance is the divergence that `stay` weighs),
    shorter where one does not descend. The gap is Frank and Wolfe's: the objective is convex, so no mixture lies below its
    tangent at the one found.
    """
    shares = capped(np.maximum(natural, TINY), caps)
    value, step, gap = objective(laws, weights, natural, stay, shares), 1.0, np.inf
    for _ in range(STEPS):
        slope = _gradient(laws, weights, natural, stay, shares)
        gap = float(slope @ (shares - _lowest(slope, caps)))
        if gap < GAP:
            break
        tried = capped(np.maximum(shares * np.exp(-step * (slope - slope.min())), TINY), caps)
        if (now := objective(laws, weights, natural, stay, tried)) <= value:
            shares, value, step = tried, now, step * 1.5
        else:
            step /= 2
            if step < TINY:
                break
    shares = np.where(shares < SMALLEST, 0.0, shares)
    room = np.where(shares > 0, caps - shares, -1.0)
    shares[np.argmax(room)] += 1 - shares.sum()  # what such shares had, and rounding
    return shares, max(gap, 0.0)


def objective(laws: Sequence[LogLinear], weights: np.ndarray, natural: np.ndarray, stay: float, shares: np.ndarray) -> float:
    """The weighted mean of predicted losses, plus `stay` times the Kullback-Leibler divergence from the natural shares (Olmix:
    a law says less of a mixture the farther it is from those that were tried)."""
    loss = sum(weight * float(law.predict(shares)) for law, weight in zip(laws, weights, strict=True))
    held = shares > 0
    return loss + stay * float((shares[held] * np.log(shares[held] / natural[held])).sum())


def _gradient(laws: Sequence[LogLinear], weights: np.ndarray, natural: np.ndarray, stay: float, shares: np.ndarray) -> np.ndarray:
    slope = sum(weight * np.exp(shares @ law.weights) * law.weights for law, weight in zip(laws, weights, strict=True))
    return slope + stay * (np.log(np.maximum(shares, TINY) / natural) + 1)


def capped(weights: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Shares in proportion to weights that sum up to 1, those above their cap at it. Caps sum up to 1 or more."""
    shares, at_cap = weights / weights.sum(), np.zeros(len(weights), bool)
    while (shares > caps + TINY).any():
        at_cap |= shares > caps
        left = 1 - caps[at_cap].sum()
        shares = np.where(at_cap, caps, 0.0)
        if not at_cap.all():
            shares = np.where(at_cap, caps, max(left, 0.0) * weights / weights[~at_cap].sum())
    return shares


def _lowest(slope: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """The mixture with the smallest product with a slope: sources in its order, each up to its cap."""
    shares, left = np.zeros(len(slope)), 1.0
    for place in np.argsort(slope, kind="stable"):
        shares[place] = min(left, caps[place])
        left -= shares[place]
    return shares
