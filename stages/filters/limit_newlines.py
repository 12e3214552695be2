"""Runs of newlines cut to a length, as DCLM does."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from stages.document import replace_column, text_array, text_buffers
from stages.kernels.newlines import limit_newlines
from stages.step import Measures, Step


class LimitNewlines(Step):
    """Cuts runs of newlines to at most `max_consecutive` (newline_removal_modifier in mlfoundations/dclm)."""

    step: ClassVar[str] = "limit_newlines"

    max_consecutive: Annotated[int, Field(ge=1)] = 2
    """Newlines in a row that stay."""

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The batch with its newlines limited; no measures."""
        data, offsets = text_buffers(docs.column("text"))
        out, out_offsets = np.empty(offsets[-1] - offsets[0], np.uint8), np.empty(len(offsets), np.int64)
        size = limit_newlines(data, offsets, self.max_consecutive, out, out_offsets)
        return replace_column(docs, "text", text_array(out[:size], out_offsets)), {}
