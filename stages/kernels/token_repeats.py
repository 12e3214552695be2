"""How often a sequence of tokens stands in a row."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import kernel


@kernel("void(const_uint32, offsets, int64, vec_int64)")
def most_repeats(tokens, offsets, max_period, out):
    """For each document the most repeats in a row of any n-gram of 1 to `max_period` tokens; 0 where it has no tokens.

    A period of p tokens holds as long as each token equals the one p before it: L such tokens in a row are L // p + 1
    repeats. Periods above a third of the document are not looked for. Time is tokens times `max_period`.
    """
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        most = np.int64(stop > start)
        for period in range(1, min(max_period, (stop - start) // 3) + 1):
            run = longest = 0
            for at in range(start + period, stop):
                run = run + 1 if tokens[at] == tokens[at - period] else 0
                longest = max(longest, run)
            most = max(most, longest // period + 1)
        out[row] = most
