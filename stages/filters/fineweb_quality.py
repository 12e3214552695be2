"""FineWeb's quality filters with datatrove's definitions and limits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from stages.document import text_buffers
from stages.filters.english_rules import Splitter, word_spans
from stages.kernels.fineweb import MEASURES, fineweb
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit


class FineWebQuality(Step):
    """Drops lists, menus and pages of repeated lines, as FineWeb does after Gopher's and C4's filters.

    Equal to datatrove's FineWebQualityFilter (Penedo et al. 2024, arXiv 2406.17557, section 3.6) for English. Lines are parted
    by line feeds; lines of nothing but white space do not count. The limits decide in the order of datatrove's filter.
    """

    step: ClassVar[str] = "fineweb_quality"

    lines: Limit = limit(min=1)
    """Lines that hold more than white space."""
    line_punctuation: Limit = limit(min=0.12)
    """Share of the lines that end in a character that ends sentences (in any script)."""
    short_lines: Limit = limit(max=0.67)
    """Share of the lines of `short_line` characters at most."""
    duplicate_chars: Limit = limit(max=0.01)
    """Characters of lines that stood before in the text, over all characters but line feeds."""
    newlines_per_word: Limit = limit(max=0.3)
    """Line feeds for each word."""
    short_line: int = Field(default=30, ge=0)
    """Characters up to which `short_lines` counts a line."""
    ignore_no_punctuation: bool = False
    """Do not measure `line_punctuation` where no line at all ends a sentence (datatrove's line_punct_exclude_zero)."""

    splitter: Splitter = "english"
    """What words are: by spaCy's rules for English, French or Spanish, which datatrove goes by; or the segments of UAX #29
    that are no white space."""

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """One value of each of the above a document; NaN for all but `lines` where there is no line."""
        spans = word_spans(docs.column("text"), self.splitter)
        values = fineweb(*text_buffers(docs.column("text")), code_points(), self.short_line, *spans)
        found = {name: values[:, column] for column, name in enumerate(MEASURES)}
        if self.ignore_no_punctuation:
            found["line_punctuation"] = np.where(found["line_punctuation"] == 0, np.nan, found["line_punctuation"])
        return found
