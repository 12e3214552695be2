"""What a model that knows no context loses on the training data."""

from __future__ import annotations

import numpy as np

from trainer.loader.data import Data

ENTROPY_TOKENS = 10_000_000
ENTROPY_BATCH = 1 << 20  # tokens counted at once


def unigram_entropy(data: Data, max_tokens: int = ENTROPY_TOKENS) -> float:
    """Entropy of the training tokens' frequencies, in nats a token: the loss of a model that knows no context.

    Counts the first `max_tokens` tokens in training order, which have the mixture's proportions; memory is bounded.
    """
    counts = np.zeros(data.vocab_size, np.int64)
    length = data.train.sequence_length
    instances = min(len(data.train), max(1, max_tokens // length))
    step = max(1, ENTROPY_BATCH // length)
    for first in range(0, instances, step):
        tokens, documents = data.train.read(first, min(step, instances - first), documents=data.train.padded)
        counts += np.bincount(
            tokens.reshape(-1) if documents is None else tokens[documents >= 0], minlength=data.vocab_size
        )
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
