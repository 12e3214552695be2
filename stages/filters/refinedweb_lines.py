"""RefinedWeb's line edits, and the drop of documents that lose much to them, as DCLM does both."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from stages.document import replace_column, text_array, text_buffers
from stages.kernels.lines import edit_lines
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit


class RefinedWebLines(Step):
    """Drops lines that are not prose, cuts out phrases of web shops and teasers, and drops documents that lose much.

    Penedo et al. 2023, appendix G.2, as made exact by DCLM-Baseline's recipe (mlfoundations/dclm,
    baselines/baselines_configs/dclm_baseline_refinedweb.yaml). The edits are made one after another, in the order of
    the fields. A text of which nothing stays is empty, and has lost all of its words.
    """

    step: ClassVar[str] = "refinedweb_lines"

    max_upper_case: float = 0.5
    """Lines with a greater share of upper-case characters go."""
    max_digits: float = 0.999999
    """Lines with a greater share of digits go."""
    counters: bool = True
    """Lines such as "3 likes" or "1.2K views" go."""
    min_words: Annotated[int, Field(ge=0)] = 2
    """Lines of fewer words go; empty lines stay."""
    phrase_words: Annotated[int, Field(ge=-1)] = 10
    """In lines of at most so many words, "items in cart", "Read more..." at the end and "Sign-in" at the beginning are
    cut out, in any case (the dots stand for any three characters); -1 leaves them in."""
    removed_words: Limit = limit(max=0.05)
    """The share of its words that the text lost; 1 for a text that had none."""

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The batch with its lines edited, and the measure `removed_words`."""
        data, offsets = text_buffers(docs.column("text"))
        out, out_offsets = np.empty(offsets[-1] - offsets[0], np.uint8), np.empty(len(offsets), np.int64)
        removed = np.empty(docs.num_rows, np.float64)
        limits = (self.max_upper_case, self.max_digits, self.counters, self.min_words, self.phrase_words)
        size = edit_lines(data, offsets, code_points(), *limits, out, out_offsets, removed)
        return replace_column(docs, "text", text_array(out[:size], out_offsets)), {"removed_words": removed}
