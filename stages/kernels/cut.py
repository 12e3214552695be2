"""Texts without pieces of them, and which texts are blank."""

from __future__ import annotations

from stages.kernels.bloom import is_white_space
from stages.kernels.compile import kernel


@kernel("int64(text, offsets, const_int64, const_int64, const_int64, vec_uint8, vec_int64)")
def cut_spans(data, offsets, rows, starts, stops, out, out_offsets):
    """The texts without the given spans (sorted by row and start, apart from one another; bytes within the text).

    `out` must hold the bytes of the texts, `out_offsets` n + 1. Returns the bytes written.
    """
    at = 0
    span = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        begin, stop = offsets[row], offsets[row + 1]
        position = begin
        while position < stop:
            until = stop
            resume = stop
            if span < len(rows) and rows[span] == row:
                until = begin + starts[span]
                resume = begin + stops[span]
                span += 1
            for i in range(until - position):  # counted, so that it becomes a copy of many bytes at a time
                out[at + i] = data[position + i]
            at += max(0, until - position)
            position = resume
    out_offsets[len(offsets) - 1] = at
    return at


@kernel("void(text, offsets, const_int64, const_int64, const_int64, const_uint16, vec_uint8)")
def blank_without(data, offsets, rows, starts, stops, table, out):
    """Of which texts nothing but white space is left without the given spans, as for `cut_spans`: out (n), 0 or 1."""
    span = 0
    for row in range(len(offsets) - 1):
        begin, stop = offsets[row], offsets[row + 1]
        position, white = begin, True
        while span < len(rows) and rows[span] == row:
            white = white and is_white_space(data, position, begin + starts[span], table)
            position = begin + stops[span]
            span += 1
        out[row] = white and is_white_space(data, position, stop, table)
