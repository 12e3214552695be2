"""OLMoE's rule against degenerate repetition: the same few tokens over and over."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr

from stages.kernels import token_repeats as kernels
from stages.marks import HowMuch, InFile
from stages.step import Limit, Measures, Step, limit
from stages.tokens.tokenizer import EncodeRules, EngineName, Tokenizer, load_tokenizer

MAX_PERIOD = 13


class TokenRepeats(Step):
    """Drops documents in which some n-gram of 1 to 13 tokens of the model's tokenizer is repeated 32 times in a row.

    The numbers are those that OLMoE applied to all its sources (Muennighoff et al. 2024, section 2). What counts as
    a repeat is taken from what OLMo masks with in training, `find_periodic_sequences` in allenai/OLMo,
    olmo/data/util.py: a sequence has period p as long as each token equals the one p before it; it may begin and end
    amid a period, and counts the whole periods in it; no period is longer than a third of the document. That function
    reports sequences of three repeats or more, and from there the measure is the most that it reports.

    White space at the ends of the text is no part of it, nor is an end token, as when the document is tokenized.
    """

    step: ClassVar[str] = "token_repeats"

    repeats: Limit = limit(max=31)
    """The most repeats in a row of any n-gram: 1 where nothing is repeated, 0 for a text without tokens."""

    tokenizer: InFile[str]
    """The model's tokenizer.json."""
    max_period: int = Field(default=MAX_PERIOD, ge=1, le=1000)
    """Tokens of the longest n-gram that is looked for."""
    engine: HowMuch[EngineName] = "auto"
    """What encodes, as for the run's tokenizer; all give the same tokens."""

    _tokenizer: Tokenizer | None = PrivateAttr(default=None)

    def prepare(self) -> None:
        """Load the tokenizer and check its engine. Raises TokenizerError."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.tokenizer, self.engine, EncodeRules(append_eos=False))

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """`repeats` (int64) of each text."""
        self.prepare()
        assert self._tokenizer is not None
        tokens, offsets = self._tokenizer.encode(docs.column("text"))
        out = np.empty(docs.num_rows, np.int64)
        kernels.most_repeats(tokens.astype(np.uint32, copy=False), offsets, self.max_period, out)
        return {"repeats": out}


def most_repeats(tokens: np.ndarray, max_period: int = MAX_PERIOD) -> int:
    """The measure `repeats` of one sequence of tokens (1-D, any integer type), in NumPy alone."""
    most = min(len(tokens), 1)
    for period in range(1, min(max_period, len(tokens) // 3) + 1):
        equal = np.concatenate([[0], tokens[period:] == tokens[:-period], [0]])
        edges = np.flatnonzero(np.diff(equal))  # where runs of equal tokens begin, and end, in turn
        longest = int((edges[1::2] - edges[::2]).max(initial=0))
        most = max(most, longest // period + 1)
    return most
