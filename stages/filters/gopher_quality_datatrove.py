"""Gopher's quality heuristics with datatrove's definitions and limits, beside DCLM's (`gopher_quality`)."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from stages.document import text_buffers
from stages.filters.english_rules import Splitter, word_spans
from stages.kernels.gopher_datatrove import MEASURES, gopher_datatrove
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit


class GopherQualityDatatrove(Step):
    """Drops texts that do not look like prose, by datatrove's reading of Gopher's rules.

    Equal to datatrove's GopherQualityFilter (after Rae et al. 2021, appendix A1.1) for English, limits in its order. It
    differs from `gopher_quality` (DCLM's) in what a word, a symbol, a bullet and a stop word is, and counts a stop word
    once.
    """

    step: ClassVar[str] = "gopher_quality_datatrove"

    words: Limit = limit(min=50, max=100_000)
    """Words that hold more than punctuation."""
    mean_word_length: Limit = limit(min=3, max=10)
    """Characters of these words."""
    hash_ratio: Limit = limit(max=0.1)
    """`#` for each word, punctuation counted as words here and in the next."""
    ellipsis_ratio: Limit = limit(max=0.1)
    """`...` and `…` for each word."""
    bullet_lines: Limit = limit(max=0.9)
    """Share of all lines, empty ones too, that begin with `•` or `-`."""
    ellipsis_lines: Limit = limit(max=0.3)
    """Share of all lines that end in `...` or `…`."""
    alphabetic_words: Limit = limit(min=0.8)
    """Share of all words, punctuation counted, that hold a letter."""
    stop_words: Limit = limit(min=2)
    """How many of the, be, to, of, and, that, have, with occur, in lower case."""

    splitter: Splitter = "english"
    """What words are: spaCy's rules for English, which datatrove goes by, or the segments of UAX #29 that are no white space."""

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """One value of each of the above a document; NaN where there are no words or lines to measure."""
        spans = word_spans(docs.column("text"), self.splitter)
        values = gopher_datatrove(*text_buffers(docs.column("text")), code_points(), *spans)
        return {name: values[:, column] for column, name in enumerate(MEASURES)}
