"""Assembling token buffers: engine output in, documents with their end-of-document token out."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel


@helper
def _finish(tokens, offsets, keep, append_eos, eos, out, out_offsets):
    position = 0
    for document in range(len(offsets) - 1):
        if keep[document]:
            start, end = offsets[document], offsets[document + 1]
            for source in range(start, end):
                out[position] = tokens[source]
                position += 1
            if append_eos and (end == start or tokens[end - 1] != eos):
                out[position] = eos
                position += 1
        out_offsets[document + 1] = position
    return position


@kernel("int64(const_uint32, const_int64, const_uint8, boolean, int64, vec_uint16, vec_int64)")
def finish_uint16(tokens, offsets, keep, append_eos, eos, out, out_offsets):
    """Copy documents to `out`, adding `eos` where a document does not end in it; returns the tokens written."""
    return _finish(tokens, offsets, keep, append_eos, eos, out, out_offsets)


@kernel("int64(const_uint32, const_int64, const_uint8, boolean, int64, vec_uint32, vec_int64)")
def finish_uint32(tokens, offsets, keep, append_eos, eos, out, out_offsets):
    """`finish_uint16` for vocabularies above 65,536."""
    return _finish(tokens, offsets, keep, append_eos, eos, out, out_offsets)


def finish(
    tokens: np.ndarray, offsets: np.ndarray, keep: np.ndarray, append_eos: bool, eos: int, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Documents of an engine's flat output (uint32 tokens, n + 1 offsets) as they go into a shard.

    Documents with keep[i] False get no tokens; the others get `eos` at their end where `append_eos` is set and it is
    not there already. Returns tokens of `dtype` (uint16 or uint32) and n + 1 int64 offsets.
    """
    out = np.empty(len(tokens) + len(keep), dtype)
    out_offsets = np.zeros(len(offsets), np.int64)
    run = finish_uint16 if np.dtype(dtype) == np.uint16 else finish_uint32
    written = run(tokens, offsets, keep.view(np.uint8), append_eos, eos, out, out_offsets)
    return out[:written], out_offsets
