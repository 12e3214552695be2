"""Gopher's quality heuristics with DCLM's definitions and limits."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from stages.document import text_buffers
from stages.kernels.gopher import MEASURES, gopher
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit


class GopherQuality(Step):
    """Drops texts that do not look like prose: word count and length, symbols, bullets, ellipses, stop words.

    The limits stand and decide in the order of DCLM-Baseline's recipe (mlfoundations/dclm,
    baselines/baselines_configs/dclm_baseline_refinedweb.yaml), after Rae et al. 2021, appendix A1.1. A word is what
    white space parts. A text without words fails mean_word_length, symbol_ratio, non_alphabetic_words and stop_words.
    """

    step: ClassVar[str] = "gopher_quality"

    words: Limit = limit(min=50, max=100_000)
    """Words that begin with a letter or digit; only ASCII white space and the zero byte part them, as in fastText."""
    mean_word_length: Limit = limit(min=3, max=10)
    """Characters a word."""
    symbol_ratio: Limit = limit(max=0.1)
    """`#`, `...`, `. . .` and `…`, together, for each word."""
    bullet_lines: Limit = limit(max=0.9)
    """Share of the lines (stripped, not empty) that begin with `●`, `•`, `*` or `-`."""
    ellipsis_lines: Limit = limit(max=0.3)
    """Share of the lines that end in `...`, `. . .` or `…`."""
    non_alphabetic_words: Limit = limit(max=0.2)
    """Share of the words without any letter."""
    stop_words: Limit = limit(min=2)
    """How many words are one of the, be, to, of, and, that, have, with (in any case; every occurrence counts)."""

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """One value of each of the above a document, from one pass of the kernel over the text."""
        values = gopher(*text_buffers(docs.column("text")), code_points())
        return {name: values[:, column] for column, name in enumerate(MEASURES)}
