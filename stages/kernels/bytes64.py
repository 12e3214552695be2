"""64 bytes at a time: which of them lie in a range of values, as the bits of one number, and copies.

LLVM does not make these of a loop over bytes, as it cannot know that nothing lies behind the last of them that must not be read.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from stages.kernels.bounds import check_range
from stages.kernels.vectors import everywhere

WIDE = 64
BYTES = ir.VectorType(ir.IntType(8), WIDE)


def _is_bytes(kind: Any) -> bool:
    return isinstance(kind, types.Array) and kind.dtype == types.uint8 and kind.layout == "C"


def _pointer(context: Any, builder: Any, kind: Any, value: Any, at: Any, what: str) -> Any:
    """The 64 bytes of an array from `at` on, as a pointer to a vector."""
    array = context.make_array(kind)(context, builder, value)
    check_range(context, builder, array, at, at.type(WIDE), what)
    return builder.bitcast(builder.gep(array.data, [at]), BYTES.as_pointer())


@intrinsic
def in_range_64(typingctx: Any, data: Any, at: Any, least: Any, most: Any) -> Any:
    """Which of data[at : at + 64] are `least` to `most` (uint64 each, 0 to 255): bit k of a uint64 is for data[at + k].

    Nothing is checked: the 64 bytes must lie within the array.
    """
    if not _is_bytes(data):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], "in_range_64")
        least, most = (everywhere(builder, builder.trunc(number, ir.IntType(8)), WIDE) for number in arguments[2:])
        above = builder.sub(builder.load(pointer, align=1), least)
        found = builder.icmp_unsigned("<=", above, builder.sub(most, least))
        return builder.bitcast(found, ir.IntType(64))

    return types.uint64(data, types.int64, types.uint64, types.uint64), generate


@intrinsic
def copy_64(typingctx: Any, out: Any, to: Any, data: Any, at: Any) -> Any:
    """out[to : to + 64] = data[at : at + 64]. Nothing is checked: both must lie within their arrays."""
    if not (_is_bytes(out) and out.mutable and _is_bytes(data)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = _pointer(context, builder, signature.args[2], arguments[2], arguments[3], "copy_64")
        target = _pointer(context, builder, signature.args[0], arguments[0], arguments[1], "copy_64")
        builder.store(builder.load(source, align=1), target, align=1)
        return context.get_dummy_value()

    return types.void(out, types.int64, data, types.int64), generate
