"""The share of a text's words that are its commonest, or one of its two commonest."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import kernel
from stages.kernels.numbering import clear, hash_bytes, number_of, room
from stages.kernels.utf8 import skip_space, white_word_end


@kernel("float64[:, ::1](text, offsets, const_uint16)")
def top_words(data, offsets, table):
    """float64 [texts, 2]: count of the commonest word, and of the two commonest, over the number of words; 0 for none.

    Words are what str.split() gives, compared by 64-bit hashes; `table` is code_points().
    """
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    most = longest // 2 + 2
    slots = np.empty(room(most), np.int32)
    keys = np.empty(most, np.uint64)
    counts = np.zeros(most, np.int64)
    state = np.zeros(2, np.int64)
    out = np.zeros((len(offsets) - 1, 2), np.float64)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        clear(state, slots, (stop - start) // 16)
        words = 0
        while True:
            start = skip_space(data, start, stop, table)
            if start >= stop:
                break
            end = white_word_end(data, start, stop, table)
            counts[number_of(hash_bytes(data, start, end), state, slots, keys)] += 1
            words += 1
            start = end
        first = second = 0
        for number in range(state[0]):
            count = counts[number]
            counts[number] = 0
            second = max(second, min(first, count))
            first = max(first, count)
        if words:
            out[row, 0] = first / words
            out[row, 1] = (first + second) / words
    return out
