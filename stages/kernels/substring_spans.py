"""Pieces of a sequence (`substrings`) as the bytes of the texts that are cut: whole words with white space, whole characters."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8
from stages.kernels.substrings import next_word

_NEWLINE = 0x0A


@helper
def _newlines(data, start, stop):
    count = 0
    for i in range(start, stop):
        count += load_u8(data, i) == _NEWLINE
    return count


@kernel("void(text, offsets, const_uint16, const_int64, const_int64, const_int64, vec_int64, vec_int64)")
def word_spans(data, offsets, table, rows, begins, ends, starts, stops):
    """Bytes (starts, stops, within the text) to cut for pieces of words (sorted by row and begin, apart from each other).

    Of the white space at both ends of what is cut, one side stays: the one with more newlines, else the longer one, else
    the one before. Where one piece begins with the word behind another, the white space between goes with the first.
    """
    before, after = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    piece = 0
    while piece < len(rows):
        row = rows[piece]
        position, stop = offsets[row], offsets[row + 1]
        behind = position
        unit = 0
        waiting = -1
        while waiting >= 0 or (piece < len(rows) and rows[piece] == row):
            start, end = next_word(data, position, stop, table)
            if waiting >= 0:
                after[waiting] = start
                waiting = -1
            if start == stop:
                break
            if piece < len(rows) and rows[piece] == row:
                if begins[piece] == unit:
                    before[piece] = behind
                    starts[piece] = start
                if ends[piece] == unit + 1:
                    stops[piece] = end
                    waiting = piece
                    piece += 1
            behind = position = end
            unit += 1
    first = 0
    for last in range(len(rows)):
        if last + 1 < len(rows) and rows[last + 1] == rows[last] and begins[last + 1] == ends[last]:
            stops[last] = starts[last + 1]
            continue
        lead = _newlines(data, before[first], starts[first]) - _newlines(data, stops[last], after[last])
        if lead == 0:
            lead = (starts[first] - before[first]) - (after[last] - stops[last])
        if lead >= 0:
            stops[last] = after[last]
        else:
            starts[first] = before[first]
        for i in range(first, last + 1):
            starts[i] -= offsets[rows[i]]
            stops[i] -= offsets[rows[i]]
        first = last + 1


@kernel("void(text, offsets, const_int64, vec_int64, vec_int64)")
def whole_characters(data, offsets, rows, starts, stops):
    """Shrink spans of bytes (within the text; sorted, apart from each other) to whole characters; some may become empty.

    Where one begins at the end of another, both take the border of the first.
    """
    for i in range(len(rows)):
        begin, stop = offsets[rows[i]], offsets[rows[i] + 1]
        start = begin + starts[i]
        end = begin + stops[i]
        linked = i + 1 < len(rows) and rows[i + 1] == rows[i] and starts[i + 1] == stops[i]
        while start < end and load_u8(data, start) & 0xC0 == 0x80:
            start += 1
        while start < end < stop and load_u8(data, end) & 0xC0 == 0x80:
            end -= 1
        starts[i] = start - begin
        stops[i] = end - begin
        if linked:
            starts[i + 1] = end - begin
