"""What threads that share arrays do to single words, and a barrier at which they wait for one another.

Words are uint64 or int64, in arrays that NumPy aligns. All of it is sequentially consistent.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stages.kernels.bounds import check_range
from stages.kernels.compile import helper

ARRIVED, TURN, STOPPED, STATE = 0, 8, 16, 24  # places in a barrier's state, a cache line each, and its length
_SPINS = 200  # looks before a thread that waits lets others have its core

_ORDER = "seq_cst"


def _word(data):
    return isinstance(data, types.Array) and data.dtype in (types.uint64, types.int64) and data.layout == "C"


def _pointer(context, builder, kind, array, index, what):
    made = context.make_array(kind)(context, builder, array)
    check_range(context, builder, made, index, index.type(1), what)
    return builder.gep(made.data, [index])


@intrinsic
def atomic_load(typingctx, data, index):
    """data[index]."""
    if not _word(data):
        return None

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], "atomic_load")
        return builder.load_atomic(pointer, _ORDER, 8)

    return data.dtype(data, types.int64), codegen


@intrinsic
def atomic_add(typingctx, data, index, value):
    """Add to data[index]; what was there before."""
    if not _word(data):
        return None

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], "atomic_add")
        return builder.atomic_rmw("add", pointer, args[2], _ORDER)

    return data.dtype(data, types.int64, data.dtype), codegen


@intrinsic
def atomic_or(typingctx, data, index, value):
    """Set bits of data[index]; what was there before."""
    if not _word(data):
        return None

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], "atomic_or")
        return builder.atomic_rmw("or", pointer, args[2], _ORDER)

    return data.dtype(data, types.int64, data.dtype), codegen


@intrinsic
def compare_exchange(typingctx, data, index, expected, value):
    """Write `value` to data[index] if `expected` is there; whether it was."""
    if not _word(data):
        return None

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], "compare_exchange")
        return builder.extract_value(builder.cmpxchg(pointer, args[2], args[3], _ORDER, _ORDER), 1)

    return types.boolean(data, types.int64, data.dtype, data.dtype), codegen


@intrinsic
def yield_core(typingctx):
    """Let another thread have this core, if one waits for it."""

    def codegen(context, builder, signature, args):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), "sched_yield")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@helper
def wait_for_all(state, threads):
    """Wait until so many threads are here. state: int64 (STATE), zeros at first. False where `STOPPED` was set meanwhile."""
    turn = atomic_load(state, TURN)
    if atomic_add(state, ARRIVED, np.int64(1)) == threads - 1:
        atomic_add(state, ARRIVED, np.int64(-threads))
        atomic_add(state, TURN, np.int64(1))
        return True
    looks = 0
    while atomic_load(state, TURN) == turn:
        if atomic_load(state, STOPPED) != 0:
            return False
        looks += 1
        if looks > _SPINS:
            yield_core()
    return True
