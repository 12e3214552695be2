"""Hashes: 128 bits of whole texts, 64 bits of words and of n-grams. The same values on every machine.

Data is read as little-endian 64-bit words, so these kernels are for little-endian machines (x86-64, arm64).
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stages.kernels.bounds import check_range
from stages.kernels.compile import helper, kernel

_C1 = np.uint64(0x87C37B91114253D5)
_C2 = np.uint64(0x4CF5AD432745937F)
_FIVE, _N1, _N2 = np.uint64(5), np.uint64(0x52DCE729), np.uint64(0x38495AB5)
_F1, _F2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_WORD_SEED, _WORD_1, _WORD_2 = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xD6E8FEB86659FD93),
    np.uint64(0xA0761D6478BD642F),
)
# Base of the n-gram polynomial: odd, and 3 modulo 4, so that base - 1 (what two swapped words differ by) loses one bit.
NGRAM_BASE = np.uint64(0xC2B2AE3D27D4EB4F)


@intrinsic
def load(typingctx, data, index):
    """data[index] of a contiguous 1-D array of numbers, without checks.

    Numba's own `data[index]` looks each time whether the index counts from the end.
    """
    if not (isinstance(data, types.Array) and data.ndim == 1 and data.layout == "C" and isinstance(data.dtype, types.Number)):
        return None

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        check_range(context, builder, array, args[1], args[1].type(1), "load")
        return builder.load(builder.gep(array.data, [args[1]]))

    return data.dtype(data, types.int64), codegen


@intrinsic
def store(typingctx, out, index, value):
    """out[index] = value of a contiguous 1-D array of numbers, without checks; `value` is brought to the array's type."""
    numbers = isinstance(out, types.Array) and out.ndim == 1 and isinstance(out.dtype, types.Number)
    if not (numbers and out.layout == "C" and out.mutable):
        return None

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        check_range(context, builder, array, args[1], args[1].type(1), "store")
        builder.store(args[2], builder.gep(array.data, [args[1]]))
        return context.get_dummy_value()

    return types.void(out, types.int64, out.dtype), codegen


@intrinsic
def load_u8(typingctx, data, index):
    """data[index] of a contiguous uint8 array, as uint64, without bounds or sign checks."""
    if not (isinstance(data, types.Array) and data.dtype == types.uint8 and data.layout == "C"):
        return None

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        check_range(context, builder, array, args[1], args[1].type(1), "load_u8")
        byte = builder.load(builder.gep(array.data, [args[1]]))
        return builder.zext(byte, ir.IntType(64))

    return types.uint64(data, types.int64), codegen


@intrinsic
def load_u64(typingctx, data, index):
    """The 8 bytes data[index:index + 8] of a contiguous uint8 array as one little-endian uint64, without checks."""
    if not (isinstance(data, types.Array) and data.dtype == types.uint8 and data.layout == "C"):
        return None

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        check_range(context, builder, array, args[1], args[1].type(8), "load_u64")
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(data, types.int64), codegen


@intrinsic
def store_u8(typingctx, out, index, byte):
    """Write the low byte of a uint64 to out[index] of a contiguous uint8 array, without checks."""
    if not (isinstance(out, types.Array) and out.dtype == types.uint8 and out.layout == "C" and out.mutable):
        return None

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        check_range(context, builder, array, args[1], args[1].type(1), "store_u8")
        builder.store(builder.trunc(args[2], ir.IntType(8)), builder.gep(array.data, [args[1]]))
        return context.get_dummy_value()

    return types.void(out, types.int64, types.uint64), codegen


@intrinsic
def store_u64(typingctx, out, index, word):
    """Write a uint64 to the 8 bytes out[index:index + 8] of a contiguous uint8 array, little-endian, without checks."""
    if not (isinstance(out, types.Array) and out.dtype == types.uint8 and out.layout == "C" and out.mutable):
        return None

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        check_range(context, builder, array, args[1], args[1].type(8), "store_u64")
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        builder.store(args[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(out, types.int64, types.uint64), codegen


@intrinsic
def multiply_high(typingctx, a, b):
    """The upper 64 bits of the 128-bit product of two uint64."""

    def codegen(context, builder, signature, args):
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def trailing_zeros(typingctx, value):
    """Number of zero bits below the lowest set bit of a uint64 (64 for 0), as int64."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], cgutils.false_bit)

    return types.int64(types.uint64), codegen


@intrinsic
def prefetch(typingctx, data, index):
    """Ask for the cache line of data[index] (a contiguous array), for writing too where the array can be written; never faults.

    What is asked for to be written does not come where the page can only be read: a model's rows, mapped from a file.
    """
    if not (isinstance(data, types.Array) and data.layout == "C"):
        return None

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        byte, word = ir.IntType(8), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        pointer = builder.bitcast(builder.gep(array.data, [args[1]]), byte.as_pointer())
        builder.call(function, [pointer, word(int(signature.args[0].mutable)), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(data, types.int64), codegen


@helper
def rotate(x, r):
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@helper
def mix64(x):
    """MurmurHash3's 64-bit finalizer (Appleby, public domain): a bijection; every bit hangs on all input bits."""
    x ^= x >> np.uint64(33)
    x *= _F1
    x ^= x >> np.uint64(33)
    x *= _F2
    return x ^ (x >> np.uint64(33))


@helper
def fold(a, b):
    """Both halves of the 128-bit product, xored."""
    return (a * b) ^ multiply_high(a, b)


@helper
def _read_tail(data, start, stop):
    """data[start:stop], at most 8 bytes, as a little-endian word; nothing past the array's end is read."""
    if start + 8 <= len(data):
        word = load_u64(data, start)
        if stop - start < 8:
            word &= (np.uint64(1) << np.uint64(8 * (stop - start))) - np.uint64(1)
        return word
    word = np.uint64(0)
    shift = np.uint64(0)
    while start < stop:
        word |= load_u8(data, start) << shift
        shift += np.uint64(8)
        start += 1
    return word


@helper
def hash_word(data, start, stop):
    """64-bit hash of data[start:stop]."""
    h = _WORD_SEED + np.uint64(stop - start) * _WORD_SEED  # spread, so that no last byte can undo a difference of length
    while stop - start > 8:
        h = fold(h ^ load_u64(data, start), _WORD_1)
        start += 8
    return mix64(fold(h ^ _read_tail(data, start, stop), _WORD_2))


@kernel("void(text, offsets, uint64, Array(uint64, 2, 'C'))")
def hash_texts(data: np.ndarray, offsets: np.ndarray, seed: int, out: np.ndarray) -> None:
    """MurmurHash3_x64_128 (Appleby's reference, public domain) of each text: out (n, 2) uint64."""
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        length = np.uint64(stop - start)
        h1 = seed
        h2 = seed
        while stop - start >= 16:
            h1 ^= rotate(load_u64(data, start) * _C1, 31) * _C2
            h1 = (rotate(h1, 27) + h2) * _FIVE + _N1
            h2 ^= rotate(load_u64(data, start + 8) * _C2, 33) * _C1
            h2 = (rotate(h2, 31) + h1) * _FIVE + _N2
            start += 16
        if stop - start > 8:
            h2 ^= rotate(_read_tail(data, start + 8, stop) * _C2, 33) * _C1
        if stop - start > 0:
            h1 ^= rotate(_read_tail(data, start, min(stop, start + 8)) * _C1, 31) * _C2
        h1 ^= length
        h2 ^= length
        h1 += h2
        h2 += h1
        h1 = mix64(h1)
        h2 = mix64(h2)
        h1 += h2
        h2 += h1
        out[row, 0] = h1
        out[row, 1] = h2


@kernel("void(const_uint64, int64, vec_int32)")
def partition_of(keys: np.ndarray, partitions: int, out: np.ndarray) -> None:
    """The range of 64-bit keys that each key falls in, of `partitions` equal ones: monotone in the key."""
    for i in range(len(keys)):
        out[i] = np.int32(multiply_high(keys[i], np.uint64(partitions)))


@kernel("void(const_int64, int64, vec_int32)")
def partition_of_document(documents: np.ndarray, partitions: int, out: np.ndarray) -> None:
    """The partition of each document's address, spread evenly by a hash."""
    for i in range(len(documents)):
        out[i] = np.int32(multiply_high(mix64(np.uint64(documents[i]) + _WORD_SEED), np.uint64(partitions)))
