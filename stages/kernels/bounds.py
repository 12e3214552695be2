"""Bounds checks for what reads and writes memory without Numba's own: on where NUMBA_BOUNDSCHECK=1 asks for checks.

Numba checks `array[i]` itself then. The loads and stores of this project that are no such expression call
`check_range` in what they generate; without NUMBA_BOUNDSCHECK it generates nothing.
"""

from __future__ import annotations

from typing import Any

import numba
from numba.core import cgutils

CHECKED = bool(numba.config.BOUNDSCHECK)


def check_range(context: Any, builder: Any, array: Any, first: Any, count: Any, what: str) -> None:
    """Raise IndexError where the `count` items from `first` on are not all in the 1-D array.

    array: as `context.make_array` gives it; first, count: LLVM integers of 64 bits.
    """
    if not CHECKED:
        return
    (length,) = cgutils.unpack_tuple(builder, array.shape, 1)
    before = builder.icmp_signed("<", first, first.type(0))
    behind = builder.icmp_signed(">", builder.add(first, count), length)
    with builder.if_then(builder.or_(before, behind), likely=False):
        context.call_conv.return_user_exc(builder, IndexError, (f"{what}: outside the array",))
