"""Instructions that the compiler does not find by itself: additions of 8 numbers at a time, and bit counts.

A loop over the 16 numbers of a fastText row is too short for LLVM's loop vectorizer (it unrolls to 32 a turn and leaves
the rest to scalar code), and Numba runs no other. The addition is therefore spelled out as vectors of 8.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from stages.kernels.bounds import check_range


@intrinsic
def add_eight(typingctx: Any, sums: Any, to: Any, rows: Any, at: Any) -> Any:
    """sums[to : to + 8] += rows[at : at + 8], for 1-D arrays: `sums` of float32 or float64, `rows` of float32.

    Nothing is checked: both ranges must lie within their arrays.
    """
    if not (isinstance(sums, types.Array) and isinstance(rows, types.Array) and rows.dtype == types.float32):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = []
        for place in (0, 2):
            kind = signature.args[place]
            array = context.make_array(kind)(context, builder, arguments[place])
            at = arguments[place + 1]
            check_range(context, builder, array, at, at.type(8), "add_eight")
            eight = ir.VectorType(context.get_value_type(kind.dtype), 8).as_pointer()
            pointers.append(builder.bitcast(builder.gep(array.data, [at]), eight))
        wide = signature.args[0].dtype == types.float64
        added = builder.load(pointers[1], align=4)
        if wide:
            added = builder.fpext(added, ir.VectorType(ir.DoubleType(), 8))
        present = builder.load(pointers[0], align=8 if wide else 4)
        builder.store(builder.fadd(present, added), pointers[0], align=8 if wide else 4)
        return context.get_dummy_value()

    return types.void(sums, types.int64, rows, types.int64), generate


@intrinsic
def add_four_eights(typingctx: Any, sums: Any, to: Any, rows: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """As `add_eight` of rows[a :], rows[b :], rows[c :] and rows[d :], one after the other: the same sums, stored once."""
    if not (isinstance(sums, types.Array) and sums.dtype == rows.dtype == types.float32):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        eight = ir.VectorType(ir.FloatType(), 8).as_pointer()
        pointers = []
        for kind, value, at in [(signature.args[0], *arguments[:2]), *((signature.args[2], arguments[2], at) for at in arguments[3:])]:
            array = context.make_array(kind)(context, builder, value)
            check_range(context, builder, array, at, at.type(8), "add_four_eights")
            pointers.append(builder.bitcast(builder.gep(array.data, [at]), eight))
        total = builder.load(pointers[0], align=4)
        for pointer in pointers[1:]:
            total = builder.fadd(total, builder.load(pointer, align=4))
        builder.store(total, pointers[0], align=4)
        return context.get_dummy_value()

    place = types.int64
    return types.void(sums, place, rows, place, place, place, place), generate


@intrinsic
def count_bits(typingctx: Any, number: Any) -> Any:
    """How many bits of an unsigned integer are set (of the same type)."""
    if not isinstance(number, types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return number(number), generate
