"""C4's line and page filters with datatrove's definitions and limits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from stages.document import replace_column, text_array, text_buffers
from stages.kernels.c4 import CITATIONS, JAVASCRIPT, NO_PUNCTUATION, POLICY, c4_lines
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit


class C4Quality(Step):
    """Takes out lines that are no prose, then drops pages with placeholder text, with code, or of too few sentences.

    Equal to datatrove's C4QualityFilter (after Raffel et al. 2020, JMLR 21:140, section 2.2), lines parted as
    str.splitlines parts them, but for `sentences`: these end where `.`, `?` or `!` ends a word, where datatrove asks a
    tokenizer of the language. A page that holds both `lorem ipsum` and `{` is dropped for the former, whichever comes first.
    C4's list of bad words is not here: `datatrove: {block: C4BadWordsFilter}` has it.
    """

    step: ClassVar[str] = "c4_quality"

    lorem_ipsum: Limit = limit(max=0)
    """Lines with "lorem ipsum", in any case."""
    curly_bracket: Limit = limit(max=0)
    """Lines with `{`."""
    sentences: Limit = limit(min=5)
    """Sentences in the lines that stay."""
    terminal_punctuation: bool = True
    """Lines that do not end in `.`, `?`, `!`, `"` or `'`, or that end in `...`, go."""
    min_words: int = Field(default=3, ge=-1)
    """Lines of fewer words (parted by white space) go."""
    max_word_length: int = Field(default=1000, ge=-1)
    """Lines with a word of more characters go; -1: none."""
    citations: bool = True
    """`[12]`, `[]`, `[edit]` and `[citation needed]` are cut out of lines."""
    javascript: bool = True
    """Lines that mention JavaScript go."""
    policy: bool = True
    """Lines that mention terms of use, a privacy or cookie policy, or the use of cookies, go."""

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The batch with the lines that stay, and the three measures (int64)."""
        data, offsets = text_buffers(docs.column("text"))
        out, out_offsets = np.empty(offsets[-1] - offsets[0], np.uint8), np.empty(len(offsets), np.int64)
        lorem, brackets, sentences = (np.zeros(docs.num_rows, np.int64) for _ in range(3))
        rules = NO_PUNCTUATION * self.terminal_punctuation + JAVASCRIPT * self.javascript
        rules += POLICY * self.policy + CITATIONS * self.citations
        size = c4_lines(
            data,
            offsets,
            code_points(),
            rules,
            self.min_words,
            self.max_word_length,
            out,
            out_offsets,
            lorem,
            brackets,
            sentences,
        )
        edited = replace_column(docs, "text", text_array(out[:size], out_offsets))
        return edited, {"lorem_ipsum": lorem, "curly_bracket": brackets, "sentences": sentences}
