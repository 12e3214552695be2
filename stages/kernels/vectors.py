"""Instructions that the compiler does not find by itself: additions of 8 numbers at a time, and bit counts.

A loop over the 16 numbers of a fastText row is too short for LLVM's loop vectorizer (it unrolls to 32 a turn and leaves
the rest to scalar code), and Numba runs no other. The addition is therefore spelled out as vectors of 8.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stages.kernels.bounds import check_range

KEY = 32  # bytes


def _key_pointer(context: Any, builder: Any, kind: Any, value: Any, at: Any, what: str) -> Any:
    """The 32 bytes of an array from the item `at` on, as a pointer to a vector."""
    array = context.make_array(kind)(context, builder, value)
    check_range(context, builder, array, at, at.type(KEY * 8 // kind.dtype.bitwidth), what)
    return builder.bitcast(builder.gep(array.data, [at]), ir.VectorType(ir.IntType(8), KEY).as_pointer())


@intrinsic
def copy_key(typingctx: Any, out: Any, to: Any, data: Any, at: Any, size: Any) -> Any:
    """The `size` bytes of data[at:] (uint8), at most 32, and zeros behind them, to the 32 bytes of out[to:] (uint64).

    Nothing is checked: 32 bytes must lie within both arrays.
    """
    if not (isinstance(out, types.Array) and out.dtype == types.uint64 and out.mutable and isinstance(data, types.Array)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = _key_pointer(context, builder, signature.args[2], arguments[2], arguments[3], "copy_key")
        target = _key_pointer(context, builder, signature.args[0], arguments[0], arguments[1], "copy_key")
        byte, size = ir.IntType(8), arguments[4]
        most = size.type(KEY)
        size = builder.select(builder.icmp_signed("<", size, most), size, most)
        vector = ir.VectorType(byte, KEY)
        inside = builder.icmp_unsigned("<", vector(list(range(KEY))), everywhere(builder, builder.trunc(size, byte), KEY))
        builder.store(builder.select(inside, builder.load(source, align=1), vector([0] * KEY)), target, align=8)
        return context.get_dummy_value()

    return types.void(out, types.int64, data, types.int64, types.int64), generate


@intrinsic
def same_keys(typingctx: Any, a: Any, at: Any, b: Any, of: Any) -> Any:
    """Whether the 32 bytes of a[at:] and of b[of:] (uint64 both) are the same. Nothing is checked."""
    if not all(isinstance(one, types.Array) and one.dtype == types.uint64 for one in (a, b)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(8 * KEY)
        first, second = (
            builder.load(builder.bitcast(pointer, wide.as_pointer()), align=8)
            for pointer in (
                _key_pointer(context, builder, signature.args[k], arguments[k], arguments[k + 1], "same_keys") for k in (0, 2)
            )
        )
        return builder.icmp_unsigned("==", first, second)

    return types.boolean(a, types.int64, b, types.int64), generate


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
        sums, rows = signature.args[0], signature.args[2]
        for kind, value, at in [(sums, *arguments[:2]), *((rows, arguments[2], at) for at in arguments[3:])]:
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


LANES = 16
_NUMBERS = ir.VectorType(ir.IntType(32), LANES)


def _sixteen(context: Any, builder: Any, kind: Any, value: Any, at: Any, what: str, of: Any = _NUMBERS) -> Any:
    """Sixteen items of an array from `at` on, as a pointer to a vector."""
    array = context.make_array(kind)(context, builder, value)
    check_range(context, builder, array, at, at.type(LANES), what)
    return builder.bitcast(builder.gep(array.data, [at]), of.as_pointer())


def everywhere(builder: Any, number: Any, lanes: int) -> Any:
    """A vector of so many times one number."""
    unset = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    one = builder.insert_element(unset, number, ir.IntType(32)(0))
    return builder.shuffle_vector(one, unset, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


@intrinsic
def widen_sixteen(typingctx: Any, out: Any, to: Any, data: Any, at: Any) -> Any:
    """out[to : to + 16] (uint32) = the bytes data[at : at + 16], sign-extended. Both must lie within their arrays."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        narrow = ir.VectorType(ir.IntType(8), LANES)
        source = _sixteen(context, builder, signature.args[2], arguments[2], arguments[3], "widen_sixteen", narrow)
        target = _sixteen(context, builder, signature.args[0], arguments[0], arguments[1], "widen_sixteen")
        builder.store(builder.sext(builder.load(source, align=1), _NUMBERS), target, align=4)
        return context.get_dummy_value()

    return types.void(out, types.int64, data, types.int64), generate


@intrinsic
def mix_sixteen(typingctx: Any, hashes: Any, to: Any, at: Any, with_: Any, place: Any, factor: Any) -> Any:
    """hashes[to : to + 16] = (hashes[at : at + 16] ^ with_[place : place + 16]) * factor, of uint32, modulo 2^32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args[0], signature.args[0], signature.args[3]
        values = (arguments[0], arguments[1]), (arguments[0], arguments[2]), (arguments[3], arguments[4])
        target, source, other = (
            _sixteen(context, builder, kind, *value, "mix_sixteen") for kind, value in zip(kinds, values, strict=True)
        )
        mixed = builder.xor(builder.load(source, align=4), builder.load(other, align=4))
        builder.store(builder.mul(mixed, everywhere(builder, arguments[5], LANES)), target, align=4)
        return context.get_dummy_value()

    place_ = types.int64
    return types.void(hashes, place_, place_, with_, place_, types.uint32), generate


@intrinsic
def remainders_sixteen(typingctx: Any, out: Any, to: Any, numbers: Any, at: Any, divisor: Any, inverse: Any, bits: Any) -> Any:
    """out[to : to + 16] = numbers[at : at + 16] % divisor, of uint32.

    inverse (uint64) is floor(2^bits / divisor), where bits (uint64) is 31 + the bit length of the divisor: the
    estimate of the quotient is 1 short at most.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = _sixteen(context, builder, signature.args[2], arguments[2], arguments[3], "remainders_sixteen")
        target = _sixteen(context, builder, signature.args[0], arguments[0], arguments[1], "remainders_sixteen")
        wide = ir.VectorType(ir.IntType(64), LANES)
        number = builder.load(source, align=4)
        product = builder.mul(builder.zext(number, wide), everywhere(builder, arguments[5], LANES))
        quotient = builder.trunc(builder.lshr(product, everywhere(builder, arguments[6], LANES)), _NUMBERS)
        by = everywhere(builder, arguments[4], LANES)
        rest = builder.sub(number, builder.mul(quotient, by))
        less = builder.sub(rest, by)
        builder.store(builder.select(builder.icmp_unsigned(">=", rest, by), less, rest), target, align=4)
        return context.get_dummy_value()

    place = types.int64
    return types.void(out, place, numbers, place, types.uint32, types.uint64, types.uint64), generate


@intrinsic
def kept_sixteen(typingctx: Any, numbers: Any, at: Any, kept: Any, first: Any) -> Any:
    """Put for each of the buckets numbers[at : at + 16] (uint32) its row, counted from `first` (uint32); returns which have one.

    `kept` (uint64) holds for every 32 buckets their bits << 32 | 1 + how many are kept before them. Bit i of the result (uint64)
    is set where bucket i is kept; the number of another is left without meaning. All buckets must lie within `kept`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _sixteen(context, builder, signature.args[0], arguments[0], arguments[1], "kept_sixteen")
        array = context.make_array(signature.args[2])(context, builder, arguments[2])
        bucket = builder.load(place, align=4)
        word, wide = ir.IntType(32), ir.VectorType(ir.IntType(64), LANES)
        groups = builder.zext(builder.lshr(bucket, everywhere(builder, word(5), LANES)), wide)
        entries = ir.Constant(wide, ir.Undefined)
        for lane in range(LANES):
            group = builder.extract_element(groups, word(lane))
            check_range(context, builder, array, group, group.type(1), "kept_sixteen")
            entries = builder.insert_element(entries, builder.load(builder.gep(array.data, [group])), word(lane))
        half = everywhere(builder, ir.IntType(64)(32), LANES)
        bits, before = builder.trunc(builder.lshr(entries, half), _NUMBERS), builder.trunc(entries, _NUMBERS)
        one = everywhere(builder, word(1), LANES)
        bit = builder.shl(one, builder.and_(bucket, everywhere(builder, word(31), LANES)))
        kind = ir.FunctionType(_NUMBERS, [_NUMBERS])
        count_of = cgutils.get_or_insert_function(builder.module, kind, f"llvm.ctpop.v{LANES}i32")
        count = builder.call(count_of, [builder.and_(bits, builder.sub(bit, one))])
        row = builder.add(builder.add(before, count), everywhere(builder, arguments[3], LANES))
        builder.store(row, place, align=4)
        has = builder.icmp_unsigned("!=", builder.and_(bits, bit), everywhere(builder, word(0), LANES))
        return builder.zext(builder.bitcast(has, ir.IntType(LANES)), ir.IntType(64))

    return types.uint64(numbers, types.int64, kept, types.uint32), generate


@intrinsic
def count_bits(typingctx: Any, number: Any) -> Any:
    """How many bits of an unsigned integer are set (of the same type)."""
    if not isinstance(number, types.Integer):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return number(number), generate
