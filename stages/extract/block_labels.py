"""What the block model learns: how far each block belongs to the main text, by the answers of teachers and by people.

A teacher is an extractor whose text of the page is given. A block's coverage by a text is the share of its 4-grams of
words that occur in it; a block of fewer words is covered where its words stand together in it. People's word is the
`with` and `without` strings of a truth file, and counts for more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"\w+")
NGRAM = 4
TEACHER_WEIGHT, TRUTH_WEIGHT = 0.4, 3.0


@dataclass(frozen=True)
class Truth:
    """Strings that the main text of a page must hold, and must not."""

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


class Coverage:
    """Which n-grams, of up to NGRAM words, a text has."""

    def __init__(self, text: str) -> None:
        tokens = words(text)
        self.ngrams = [{tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)} for n in range(1, NGRAM + 1)]

    def of(self, tokens: Sequence[str]) -> float:
        """The share of a block's n-grams that the text has; 0 for a block without words."""
        n = min(NGRAM, len(tokens))
        if not n:
            return 0.0
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        return sum(gram in self.ngrams[n - 1] for gram in grams) / len(grams)


def block_labels(
    blocks: Sequence[str], teachers: Sequence[str], truth: Truth | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels in 0..1, weights, float32; which are people's, bool), one of each a block, from teachers' texts and the truth."""
    coverages = [Coverage(text) for text in teachers]
    labels = np.zeros(len(blocks), np.float32)
    weights = np.zeros(len(blocks), np.float32)
    by_people = np.zeros(len(blocks), np.bool_)
    for i, block in enumerate(blocks):
        tokens = words(block)
        if coverages:
            labels[i] = sum(coverage.of(tokens) for coverage in coverages) / len(coverages)
            weights[i] = TEACHER_WEIGHT * math.log1p(len(block))
    if truth is not None:
        for string in truth.unwanted:
            for i in holders(blocks, string):
                labels[i], weights[i], by_people[i] = 0.0, _truth_weight(blocks[i]), True
        for string in truth.wanted:
            found = holders(blocks, string)
            if found:
                best = max(found, key=lambda i: (labels[i], len(blocks[i])))
                labels[best], weights[best], by_people[best] = 1.0, _truth_weight(blocks[best]), True
    return labels, weights, by_people


def _truth_weight(block: str) -> float:
    return TRUTH_WEIGHT * max(1.0, math.log1p(len(block)) / 4)


def holders(blocks: Sequence[str], string: str) -> list[int]:
    """The blocks that hold a string."""
    string = string.strip()
    return [i for i, block in enumerate(blocks) if string in block] if string else []
