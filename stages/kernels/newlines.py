"""Runs of newlines, cut to a length."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import kernel


@kernel("int64(text, offsets, int64, vec_uint8, vec_int64)")
def limit_newlines(data, offsets, most, out, out_offsets):
    """Write the texts with at most `most` newlines in a row to `out`, and their offsets; returns the bytes written."""
    at = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        run = 0
        for i in range(offsets[row], offsets[row + 1]):
            byte = data[i]
            run = run + 1 if byte == 0x0A else 0
            out[at] = byte
            at += np.int64(run <= most)
    out_offsets[len(offsets) - 1] = at
    return at
