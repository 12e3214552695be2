"""Gopher's repetition rules with datatrove's definitions and limits, beside DCLM's (`repetition`)."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from stages.document import text_buffers
from stages.filters.english_rules import Splitter, word_spans
from stages.kernels.repetition_datatrove import MEASURES, repetition_datatrove
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit


class RepetitionDatatrove(Step):
    """Drops texts that repeat themselves, by datatrove's reading of Gopher's rules.

    Equal to datatrove's GopherRepetitionFilter (after Rae et al. 2021, appendix A1.1, table A1) for English, limits in
    its order. It differs from `repetition` (DCLM's): the first of equal lines or n-grams does not count as repeated, and
    all shares are of all the text's characters.
    """

    step: ClassVar[str] = "repetition_datatrove"

    characters: Limit = limit(min=1)
    """Characters of the text."""
    duplicate_paragraphs: Limit = limit(max=0.3)
    """Share of the paragraphs (parted by two or more line feeds) that stood before."""
    duplicate_paragraph_chars: Limit = limit(max=0.2)
    """Their characters, as a share of the text's; so are all below but the next."""
    duplicate_lines: Limit = limit(max=0.3)
    """Share of the lines (parted by one or more line feeds) that stood before."""
    duplicate_line_chars: Limit = limit(max=0.2)
    """Their characters, as a share of the text's."""
    top_2gram: Limit = limit(max=0.20)
    """Length of the commonest pair of words times its count."""
    top_3gram: Limit = limit(max=0.18)
    """The same of three words."""
    top_4gram: Limit = limit(max=0.16)
    """The same of four words."""
    duplicate_5grams: Limit = limit(max=0.15)
    """Five words that stood before, from left to right and without overlap."""
    duplicate_6grams: Limit = limit(max=0.14)
    """The same of 6 words."""
    duplicate_7grams: Limit = limit(max=0.13)
    """The same of 7 words."""
    duplicate_8grams: Limit = limit(max=0.12)
    """The same of 8 words."""
    duplicate_9grams: Limit = limit(max=0.11)
    """The same of 9 words."""
    duplicate_10grams: Limit = limit(max=0.10)
    """The same of 10 words."""

    splitter: Splitter = "english"
    """What words are: by spaCy's rules for English, French or Spanish, which datatrove goes by; or the segments of UAX #29
    that are no white space."""

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """One value of each of the above a document; NaN for all but `characters` where the text is empty."""
        spans = word_spans(docs.column("text"), self.splitter)
        values = repetition_datatrove(*text_buffers(docs.column("text")), code_points(), *spans)
        return {name: values[:, column] for column, name in enumerate(MEASURES)}
