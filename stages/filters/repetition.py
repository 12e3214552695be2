"""Gopher's repetition filters with DCLM's definitions and limits."""

from __future__ import annotations

from typing import ClassVar

import pyarrow as pa

from stages.document import text_buffers
from stages.kernels.repetition import MEASURES, repetition
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit


class Repetition(Step):
    """Drops texts that repeat their lines, paragraphs or word n-grams.

    Every limit is one of DCLM-Baseline's (mlfoundations/dclm, massive_web_repetition_filters in
    baselines/mappers/filters/content_filters.py), and they decide in its order. Lines and paragraphs (parted by an
    empty line) are stripped, and empty ones left out; every occurrence of a repeated one counts. Words are Unicode word
    segments (UAX #29) that begin with a letter or digit; case matters. Lengths are in characters.
    """

    step: ClassVar[str] = "repetition"

    duplicate_lines: Limit = limit(max=0.3)
    """Share of the lines that occur more than once. 0 for a text of one line, 1 for one of none; so the next three."""
    duplicate_paragraphs: Limit = limit(max=0.3)
    """Share of the paragraphs that occur more than once."""
    duplicate_line_chars: Limit = limit(max=0.2)
    """Their share of the characters of all lines."""
    duplicate_paragraph_chars: Limit = limit(max=0.2)
    """Their share of the characters of all paragraphs."""
    top_2gram: Limit = limit(max=0.20)
    """Occurrences x characters of the commonest pair of words (of several the longest) / characters of all words; 0
    where no pair occurs twice."""
    top_3gram: Limit = limit(max=0.18)
    """The same of three words."""
    top_4gram: Limit = limit(max=0.16)
    """The same of four words."""
    duplicate_5grams: Limit = limit(max=0.15)
    """Characters of the words in any run of 5 words that occurs again, each word once / characters of all words."""
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

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """One value of each of the above a document, from one pass of the kernel over the text."""
        values = repetition(*text_buffers(docs.column("text")), code_points())
        return {name: values[:, column] for column, name in enumerate(MEASURES)}
