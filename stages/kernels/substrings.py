"""Repeated runs of units (words, tokens or bytes) in a shard, by its suffix array.

A shard is one sequence of bytes. Words: each word's bytes and WORD_END, after a document's last word DOCUMENT_END;
neither occurs in UTF-8, so two windows of words are equal where their bytes are, and suffixes that begin with one window
stand side by side in the suffix array. Units of a fixed size (`stride` bytes, 0 for words): the units, and after a
document one unit whose bytes are all DOCUMENT_END.

A window is `length` units in a row within a document. It is named by the place in the sequence where it begins.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.bloom import is_white_space
from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8, load_u64, prefetch
from stages.kernels.words import plain_word_end, word_end

WORD_END, DOCUMENT_END = 0xFE, 0xFF
NO_DOCUMENT = -1
_AHEAD = 24  # how many suffixes ahead of their use their bytes are asked for
_ONES, _LOW_BITS, _HIGH_BITS = (np.uint64(byte * 0x0101010101010101) for byte in (1, 0x7F, 0x80))
_WORD_ENDS, _DOCUMENT_ENDS = (np.uint64(byte * 0x0101010101010101) for byte in (WORD_END, DOCUMENT_END))


@helper
def next_word(data, start, stop, table):
    """Where the next word from a boundary on begins and ends: a segment of UAX #29 not all white space; (stop, stop)."""
    while start < stop:
        byte = np.int64(load_u8(data, start))
        if byte == 0x0A or byte == 0x0D:
            start += 1
            continue
        if byte == 0x20 and start + 1 < stop and 0x20 < np.int64(load_u8(data, start + 1)) < 0x80:
            start += 1
            continue
        end = plain_word_end(data, start, stop)
        if end == start:
            end = word_end(data, start, stop, table)
        if 0x20 < byte < 0x80 or not is_white_space(data, start, end, table):
            return start, end
        start = end
    return stop, stop


@kernel("int64(text, offsets, const_uint16, int64, vec_uint8, vec_int64)")
def word_sequence(data, offsets, table, least, out, sizes):
    """Write texts as words; those of fewer than `least` are left out.

    out: twice the bytes of the texts and one a text, at most. sizes (n): bytes written of each text. Returns all bytes.
    """
    at = 0
    for row in range(len(offsets) - 1):
        begin = at
        words = 0
        position, stop = offsets[row], offsets[row + 1]
        while True:
            start, position = next_word(data, position, stop, table)
            if start == stop:
                break
            for i in range(start, position):
                out[at] = min(np.int64(load_u8(data, i)), WORD_END - 1)
                at += 1
            out[at] = WORD_END
            at += 1
            words += 1
        if words < least:
            at = begin
        else:
            out[at] = DOCUMENT_END
            at += 1
        sizes[row] = at - begin
    return at


@kernel("int64(text, offsets, int64, vec_uint8, vec_int64)")
def byte_sequence(data, offsets, least, out, sizes):
    """As `word_sequence`, of bytes. out: the bytes of the texts and one a text."""
    at = 0
    for row in range(len(offsets) - 1):
        size = offsets[row + 1] - offsets[row]
        sizes[row] = 0
        if size >= least:
            for i in range(offsets[row], offsets[row + 1]):
                out[at] = min(np.int64(load_u8(data, i)), WORD_END)
                at += 1
            out[at] = DOCUMENT_END
            at += 1
            sizes[row] = size + 1
    return at


@helper
def _count_bytes(word, eightfold):
    """How many of eight bytes are the one that `eightfold` repeats."""
    other = word ^ eightfold
    equal = ~(((other & _LOW_BITS) + _LOW_BITS) | other) & _HIGH_BITS
    return np.int64(((equal >> np.uint64(7)) * _ONES) >> np.uint64(56))


@helper
def _window(sequence, one, other, length, stride):
    """Bytes of the windows that begin at two places, or 0 where they differ or one of them is no whole window."""
    stop = len(sequence) - max(one, other)
    if stride == 0:
        left = length
        at = 0
        while at + 8 <= stop:
            word = load_u64(sequence, one + at)
            if word != load_u64(sequence, other + at) or _count_bytes(word, _DOCUMENT_ENDS):
                break
            ends = _count_bytes(word, _WORD_ENDS)
            if ends >= left:
                break
            left -= ends
            at += 8
        for i in range(at, stop):
            byte = load_u8(sequence, one + i)
            if byte != load_u8(sequence, other + i) or byte == DOCUMENT_END:
                return 0
            if byte == WORD_END:
                left -= 1
                if left == 0:
                    return i + 1
        return 0
    width = length * stride
    if width > stop:
        return 0
    at = 0
    while at + 8 <= width:
        word = load_u64(sequence, one + at)
        if word != load_u64(sequence, other + at) or _count_bytes(word, _DOCUMENT_ENDS):
            break
        at += 8
    for unit in range(at, width, stride):
        ends = True
        for i in range(unit, unit + stride):
            byte = load_u8(sequence, one + i)
            if byte != load_u8(sequence, other + i):
                return 0
            ends = ends and byte == DOCUMENT_END
        if ends:
            return 0
    return width


@helper
def _begins_unit(sequence, place, stride):
    if stride:
        return place % stride == 0
    return load_u8(sequence, place) < WORD_END and (place == 0 or load_u8(sequence, place - 1) >= WORD_END)


@helper
def _close(order, begin, end, width, every):
    """Put order[begin:end], equal windows, into the form that `gather` describes; returns where it ends."""
    if end - begin < 2:
        return begin
    least = begin
    for i in range(begin + 1, end):
        if order[i] < order[least]:
            least = i
    first = np.int64(order[least])
    order[least] = order[begin]
    order[begin] = -1 - first
    at = begin + 1
    for i in range(begin + 1, end):
        place = np.int64(order[i])
        if every or place >= first + width:
            order[at] = place
            at += 1
    return at if at > begin + 1 else begin


@helper
def _gather(sequence, order, length, stride, every):
    at = 0
    begin = 0
    width = 0
    last = np.int64(-1)
    for i in range(len(order)):
        prefetch(sequence, np.int64(order[min(i + _AHEAD, len(order) - 1)]))
        place = np.int64(order[i])
        if not _begins_unit(sequence, place, stride):
            continue
        same = _window(sequence, last, place, length, stride) if last >= 0 else 0
        if same == 0:
            begin = at = _close(order, begin, at, width, every)
        else:
            width = same
        order[at] = place
        at += 1
        last = place
    return _close(order, begin, at, width, every)


@kernel("int64(const_uint8, vec_int32, int64, int64, boolean)")
def gather_32(sequence, order, length, stride, every):
    """Find the windows that occur more than once. `order`, the suffix array, is overwritten from its beginning on.

    For each such window: -1 - its first place, then the places of its copies. With `every` these are all its other places,
    else those that begin behind the end of the first. Returns how many entries that takes: at most one a unit.
    """
    return _gather(sequence, order, length, stride, every)


@kernel("int64(const_uint8, vec_int64, int64, int64, boolean)")
def gather_64(sequence, order, length, stride, every):
    """As `gather_32`."""
    return _gather(sequence, order, length, stride, every)


@helper
def _spread(found, shift, every, first):
    head = np.int64(0)
    for i in range(len(found)):
        place = np.int64(found[i])
        if place < 0:
            head = -1 - place
            if every:
                first[head >> shift] = head
        else:
            first[place >> shift] = head


@kernel("void(const_int32, int64, boolean, vec_int32)")
def spread_32(found, shift, every, first):
    """For each window that goes, write the first place of its like to first[place >> shift]; other entries are left.

    found: what `gather` wrote. With `every` first places go too, and are their own first.
    """
    _spread(found, shift, every, first)


@kernel("void(const_int64, int64, boolean, vec_int64)")
def spread_64(found, shift, every, first):
    """As `spread_32`."""
    _spread(found, shift, every, first)


@helper
def _document_of(document_starts, place):
    low, high = 0, len(document_starts) - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if document_starts[middle] <= place:
            low = middle
        else:
            high = middle
    return low


@helper
def _pieces(
    sequence, document_starts, low, high, first, length, stride, shift, rows, begins, ends, holders, units, covered
):
    count = 0
    held = 0
    for document in range(low, high):
        place = document_starts[document]
        stop = document_starts[document + 1] - max(stride, 1)
        unit = 0
        reach = 0
        gone = 0
        mine = count
        while place < stop:
            source = np.int64(first[place >> shift])
            if source >= 0:
                holder = np.int64(NO_DOCUMENT)
                if source != place:
                    if not document_starts[held] <= source < document_starts[held + 1]:
                        held = _document_of(document_starts, source)
                    holder = held
                begin = max(unit, reach)
                if count > mine and begin == reach and holders[count - 1] == holder:
                    ends[count - 1] = unit + length
                else:
                    rows[count] = document
                    begins[count] = begin
                    ends[count] = unit + length
                    holders[count] = holder
                    count += 1
                gone += unit + length - begin
                reach = unit + length
            if stride:
                place += stride
            else:
                while load_u8(sequence, place) != WORD_END:
                    place += 1
                place += 1
            unit += 1
        units[document - low] = unit
        covered[document - low] = gone
    return count


@kernel(
    "int64(const_uint8, const_int64, int64, int64, const_int32, int64, int64, int64,"
    " vec_int64, vec_int64, vec_int64, vec_int64, vec_int64, vec_int64)"
)
def pieces_32(
    sequence, document_starts, low, high, first, length, stride, shift, rows, begins, ends, holders, units, covered
):
    """The pieces that go of documents low to high: the units that lie in a window that goes, cut up by their holders.

    document_starts: where each document begins, and the end of the sequence. Written, at most one a unit: rows (the
    document), begins and ends (units), holders (the document of the first of the window's kind, or NO_DOCUMENT where that
    is the window itself). units, covered (one a document): units, and those of them that go. Returns the pieces.
    """
    return _pieces(
        sequence, document_starts, low, high, first, length, stride, shift, rows, begins, ends, holders, units, covered
    )


@kernel(
    "int64(const_uint8, const_int64, int64, int64, const_int64, int64, int64, int64,"
    " vec_int64, vec_int64, vec_int64, vec_int64, vec_int64, vec_int64)"
)
def pieces_64(
    sequence, document_starts, low, high, first, length, stride, shift, rows, begins, ends, holders, units, covered
):
    """As `pieces_32`."""
    return _pieces(
        sequence, document_starts, low, high, first, length, stride, shift, rows, begins, ends, holders, units, covered
    )
