"""Mixtures to try: shares drawn from a Dirichlet distribution around the natural ones, within what sources may repeat."""

from __future__ import annotations

import numpy as np

from stages.errors import UserError

TEMPERATURE = 0.5  # natural shares to this power: small sources are drawn oftener than they are large (RegMix)
MOST_DRAWS = 200_000
BLOCK = 1000
SMALLEST = 1e-3  # shares below are 0: of so few tokens nothing is learned


def draw(natural: np.ndarray, caps: np.ndarray, count: int, strength: tuple[float, float], seed: int) -> np.ndarray:
    """So many mixtures (count, sources), each summing up to 1 and nowhere above `caps`.

    Each is of a Dirichlet distribution whose parameters are the natural shares, to the power of 0.5 and summing up to 1, times a
    strength; the strength is drawn too, log-uniformly. A weak one gives mixtures of few sources, a strong one gives mixtures
    near the natural. Those above a cap are drawn again (RegMix, mixture_config/synthesize_mixture.py). Raises UserError where
    the caps leave next to nothing to draw.
    """
    random = np.random.default_rng(seed)
    center = natural**TEMPERATURE / (natural**TEMPERATURE).sum()
    found: list[np.ndarray] = []
    for _ in range(MOST_DRAWS // BLOCK):
        low, high = np.log(strength)
        strengths = np.exp(random.uniform(low, high, BLOCK))
        weights = random.standard_gamma(center * strengths[:, None])
        weights = weights[weights.sum(axis=1) > 0]
        shares = weights / weights.sum(axis=1, keepdims=True)
        shares = np.where(shares < SMALLEST, 0.0, shares)
        shares /= shares.sum(axis=1, keepdims=True)
        found += list(shares[(shares <= caps).all(axis=1)])
        if len(found) >= count:
            return np.array(found[:count])
    raise UserError(
        f"of {MOST_DRAWS:,} mixtures that were drawn {len(found)} keep to the repeats that are allowed, and {count} are needed: "
        "ask for fewer tokens (--for), more repeats (--max-repeats), or draw nearer to the natural shares (--strength 20 200)"
    )
