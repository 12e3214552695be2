"""Gopher's quality heuristics with datatrove's definitions and limits, beside DCLM's (`gopher_quality`)."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from stages.document import text_buffers
from stages.filters.english_rules import Splitter, word_spans
from stages.kernels.gopher_datatrove import MEASURES, MOST_STOP_WORDS, STOP_WORDS, gopher_datatrove, stop_keys_of
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit

LONGEST = 255  # bytes of a stop word


class GopherQualityDatatrove(Step):
    """Drops texts that do not look like prose, by datatrove's reading of Gopher's rules.

    Equal to datatrove's GopherQualityFilter (after Rae et al. 2021, appendix A1.1) for English, limits in its order; for
    other languages with their stop words and limits (docs/languages.md). It differs from `gopher_quality` (DCLM's) in what
    a word, a symbol, a bullet and a stop word is, and counts a stop word once.
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
    """How many of the words in `stop_list` occur."""
    stop_list: tuple[str, ...] = Field(default=STOP_WORDS, max_length=MOST_STOP_WORDS)
    """Common words of the language, as they are to be met: in lower case, as words are cut here. `python -m pipeline
    language-rules` finds those of other languages."""

    splitter: Splitter = "english"
    """What words are: by spaCy's rules for English, French or Spanish, which datatrove goes by; or the segments of UAX #29
    that are no white space."""

    @field_validator("stop_list")
    @classmethod
    def _words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not 0 < len(word.encode()) <= LONGEST or word.split() != [word]:
                raise ValueError(f"{word!r} is no word of 1 to {LONGEST} bytes without white space")
        return words

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """One value of each of the above a document; NaN where there are no words or lines to measure."""
        spans = word_spans(docs.column("text"), self.splitter)
        keys, longest = stop_keys(self.stop_list)
        values = gopher_datatrove(*text_buffers(docs.column("text")), code_points(), *spans, keys, longest)
        return {name: values[:, column] for column, name in enumerate(MEASURES)}


@cache
def stop_keys(words: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """What the kernel takes for stop words: their keys (uint64), and the bytes of the longest one."""
    column = pa.array(dict.fromkeys(words), pa.large_string())
    data, offsets = text_buffers(column)
    keys = np.empty(len(column), np.uint64)
    stop_keys_of(data, offsets, keys)
    return keys, int(np.diff(offsets).max(initial=0))
