"""The rows of a fastText model: those of a word and its character n-grams, and those of word n-grams, summed.

Word and character n-grams are hashed into buckets, each of which has a row (github.com/facebookresearch/fastText,
src/dictionary.cc). Where pruning took some buckets, `kept` says which remain (`sum_rows`, stages/kernels/fasttext.py).
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import inlined, light
from stages.kernels.fasttext_words import FNV_OFFSET, FNV_PRIME, find_word, is_end, is_label, mix
from stages.kernels.hashing import load, load_u8, multiply_high, prefetch, store, trailing_zeros
from stages.kernels.vectors import (
    LANES,
    add_eight,
    add_four_eights,
    count_bits,
    kept_sixteen,
    mix_sixteen,
    remainders_sixteen,
    widen_sixteen,
)

NGRAM_FACTOR = np.uint64(116049371)
LABEL, END = -1, -2  # a word that begins like a label, and so is none; the word that ends the text
ASCII_LONGEST, ASCII_MAXN = 64, 16  # bytes of a word in brackets and characters of an n-gram that are hashed 16 at a time
ASCII_SPAN = ASCII_LONGEST + ASCII_MAXN + LANES
PENDING = 1024  # rows that may wait
CONTINUES, CONTINUATION = np.uint64(0xC0), np.uint64(0x80)  # the bytes of UTF-8 that continue a character


@inlined
def bucket_row(bucket, kept, n_words):
    """(the row of a hash bucket, 1), or, where pruning took it, (a row of zeros, 0): no branch, for none foresees it."""
    if len(kept) == 0:
        return n_words + bucket, 1
    entry = load(kept, bucket >> 5)
    bits = np.uint32(entry >> np.uint64(32))
    place = np.uint32(bucket & 31)
    is_kept = np.int64((bits >> place) & np.uint32(1))
    before = np.int64(count_bits(np.uint32(bits & np.uint32((np.uint32(1) << place) - np.uint32(1)))))
    return n_words + is_kept * (np.int64(entry & np.uint64(0xFFFFFFFF)) + before), is_kept


@inlined
def add_row(sums, to, rows, at, width):
    """sums[to : to + width] += rows[at : at + width]"""
    stop = at + width
    while at + 8 <= stop:
        add_eight(sums, to, rows, at)
        at += 8
        to += 8
    while at < stop:
        store(sums, to, load(sums, to) + load(rows, at))
        at += 1
        to += 1


@inlined
def reciprocal_of(bucket):
    """What `_remainder` takes, for a number of buckets (int64)."""
    return np.uint64(0xFFFFFFFFFFFFFFFF) // np.uint64(max(bucket, 1))


@inlined
def _remainder(value, bucket, reciprocal):
    """value % bucket (uint64, int64), given floor((2^64 - 1) / bucket): the estimate of the quotient is 1 short at most."""
    rest = value - multiply_high(value, reciprocal) * np.uint64(bucket)
    return np.int64(rest - np.uint64(bucket) if rest >= np.uint64(bucket) else rest)


@light
def _add_rows(found, waiting, rows, width, sums, to):
    """Add the rows that wait, in their order."""
    k = 0
    if width & 7 == 0:
        while k + 4 <= waiting:
            a, b, c, d = load(found, k), load(found, k + 1), load(found, k + 2), load(found, k + 3)
            a, b, c, d = a * width, b * width, c * width, d * width
            for j in range(0, width, 8):
                add_four_eights(sums, to + j, rows, a + j, b + j, c + j, d + j)
            k += 4
    while k < waiting:
        add_row(sums, to, rows, load(found, k) * width, width)
        k += 1


@inlined
def division_by(bucket):
    """What `remainders_sixteen` takes, for a number of buckets (int64): (inverse, bits), uint64 each."""
    bits = np.uint64(31)
    while np.uint64(bucket) >> (bits - np.uint64(31)) != 0:
        bits += np.uint64(1)
    return (np.uint64(1) << bits) // np.uint64(max(bucket, 1)), bits


@inlined
def hash_room(maxn):
    """Room (uint32) for what `_add_ascii_ngrams` computes of a word: its bytes, and the hashes and buckets of n-grams."""
    return np.empty((2 * min(max(maxn, 0), ASCII_MAXN) + 2) * ASCII_SPAN + max(maxn, 0), np.uint32)


@inlined
def _lowest(count):
    """That many of the lowest 16 bits of a uint64, none where it is negative."""
    return (np.uint64(1) << np.uint64(min(max(count, 0), LANES))) - np.uint64(1)


@inlined
def _let_wait(pending, row, to, rows, width):
    """Ask for a row, and have it added to sums[to:] by `add_pending`. There must be room."""
    prefetch(rows, row * width)
    at = load(pending, 0)
    store(pending, 1 + 2 * at, row)
    store(pending, 2 + 2 * at, to)
    store(pending, 0, at + 1)


@light
def _add_hashed(numbers, count, bucket, division, kept, rows, width, n_words, sums, to, pending):
    """As `_add_kept`, for the `count` hashes of n-grams that `numbers` begins with."""
    inverse, shift = division
    total = 0
    for c in range(0, count, LANES):
        remainders_sixteen(numbers, c, numbers, c, np.uint32(bucket), inverse, shift)
        bits = kept_sixteen(numbers, c, kept, np.uint32(n_words)) & _lowest(count - c)
        while bits != 0:
            _let_wait(pending, np.int64(load(numbers, c + trailing_zeros(bits))), to, rows, width)
            bits &= bits - np.uint64(1)
            total += 1
        if 2 * pending[0] + 2 * LANES >= len(pending):
            add_pending(pending, rows, width, sums)
    return total


@light
def _add_kept(numbers, buckets, size, minn, maxn, kept, rows, width, n_words, sums, to, pending):
    """Add the rows of those buckets of n-grams that pruning left; returns how many.

    Those of n characters stand in `numbers` from `buckets` + (n - 1) * ASCII_SPAN on, size - n + 1 of them and up to 15 without
    meaning. 64 are looked up before any row is added: few of them are kept, and which ones is not to be foreseen.
    """
    total = 0
    for c in range(0, size, LANES):
        for least in range(minn, maxn + 1, 4):
            bits = np.uint64(0)
            for k in range(min(4, maxn + 1 - least)):
                n = least + k
                here = kept_sixteen(numbers, buckets + (n - 1) * ASCII_SPAN + c, kept, np.uint32(n_words))
                if n == 1:  # the brackets alone are no n-grams
                    here &= _lowest(size - 1 - c) & ~_lowest(1 - c)
                bits |= (here & _lowest(size - n + 1 - c)) << np.uint64(LANES * k)
            while bits != 0:
                bit = trailing_zeros(bits)
                bits &= bits - np.uint64(1)
                row = np.int64(load(numbers, buckets + (least - 1 + bit // LANES) * ASCII_SPAN + c + bit % LANES))
                _let_wait(pending, row, to, rows, width)
                total += 1
            if 2 * pending[0] + 2 * 64 >= len(pending):
                add_pending(pending, rows, width, sums)
    return total


@light
def add_pending(pending, rows, width, sums):
    """Add the rows that wait: `pending` holds how many, then the number of each and where its sum begins."""
    for k in range(pending[0]):
        add_row(sums, load(pending, 2 + 2 * k), rows, load(pending, 1 + 2 * k) * width, width)
    pending[0] = 0


@light
def _add_ascii_ngrams(
    text, start, stop, minn, maxn, bucket, division, kept, rows, width, n_words, sums, to, found, numbers, pending
):  # fmt: skip
    """As `_add_char_ngrams`, for a word of at most ASCII_LONGEST ASCII characters, brackets included.

    All n-grams of one length are hashed together, 16 at a time: each from that of one character less. `numbers` is of
    `hash_room`: spans of ASCII_SPAN for the bytes, then for the hashes of n-grams of 0, 1, ... characters, then for their
    buckets, each by where the n-gram begins.
    """
    size = stop - start
    inverse, bits = division
    buckets = (maxn + 2) * ASCII_SPAN
    for c in range(0, size + maxn, LANES):
        widen_sixteen(numbers, c, text, start + c)
    for c in range(0, size, LANES):
        for k in range(ASCII_SPAN + c, ASCII_SPAN + c + LANES):
            numbers[k] = FNV_OFFSET
        at = ASCII_SPAN + c
        for n in range(1, maxn + 1):
            mix_sixteen(numbers, at + ASCII_SPAN, at, numbers, c + n - 1, FNV_PRIME)
            at += ASCII_SPAN
            if n >= minn:
                place = buckets + (n - 1) * ASCII_SPAN + c
                remainders_sixteen(numbers, place, numbers, at, np.uint32(bucket), inverse, bits)
    total, waiting = 0, 0
    if len(kept) > 0:
        return _add_kept(numbers, buckets, size, minn, maxn, kept, rows, width, n_words, sums, to, pending)
    for i in range(size):
        for n in range(minn, min(maxn, size - i) + 1):
            if n == 1 and (i == 0 or i == size - 1):
                continue
            row = n_words + np.int64(load(numbers, buckets + (n - 1) * ASCII_SPAN + i))
            prefetch(rows, row * width)
            store(found, waiting, row)
            waiting += 1
        if waiting + maxn >= len(found):
            _add_rows(found, waiting, rows, width, sums, to)
            total += waiting
            waiting = 0
    _add_rows(found, waiting, rows, width, sums, to)
    return total + waiting


@light
def _add_char_ngrams(
    text, start, stop, minn, maxn, bucket, reciprocal, division, kept, rows, width, n_words, sums, to, found, numbers, pending
):  # fmt: skip
    """Add the rows of the n-grams of minn..maxn characters of text[start:stop], a word in `<` and `>`; returns how many.

    `found` is room for row numbers, more than maxn of them, `numbers` for hashes. Rows are found first and added afterwards: they
    have come by then.
    """
    total, waiting, hashed, pruned = 0, 0, 0, len(kept) > 0
    for i in range(start, stop):
        if load_u8(text, i) & CONTINUES == CONTINUATION:
            continue
        value = FNV_OFFSET
        j, n = i, 1
        while j < stop and n <= maxn:
            value = mix(value, load_u8(text, j))
            j += 1
            while j < stop and load_u8(text, j) & CONTINUES == CONTINUATION:
                value = mix(value, load_u8(text, j))
                j += 1
            if n >= minn and not (n == 1 and (i == start or j == stop)):
                if pruned:
                    numbers[hashed] = value
                    hashed += 1
                else:
                    row = n_words + _remainder(np.uint64(value), bucket, reciprocal)
                    prefetch(rows, row * width)
                    found[waiting] = row
                    waiting += 1
            n += 1
        if hashed + maxn + LANES > len(numbers):
            total += _add_hashed(numbers, hashed, bucket, division, kept, rows, width, n_words, sums, to, pending)
            hashed = 0
        if waiting + maxn >= len(found):
            _add_rows(found, waiting, rows, width, sums, to)
            total += waiting
            waiting = 0
    total += _add_hashed(numbers, hashed, bucket, division, kept, rows, width, n_words, sums, to, pending)
    _add_rows(found, waiting, rows, width, sums, to)
    return total + waiting


@light
def sum_word(
    line, start, stop, value, words, word_offsets, slots, n_words, rows, width,
    bucket, reciprocal, division, kept, minn, maxn, sums, to, room, numbers, pending,
):  # fmt: skip
    """Add a word's own row and those of its character n-grams; returns how many, or LABEL or END where it is no word.

    The bytes of `line` on both sides of the word must be white space.
    """
    word, _ = find_word(line, start, stop, value, words, word_offsets, slots)
    if word >= n_words or (word < 0 and is_label(line, start, stop)):
        return LABEL
    if is_end(line, start, stop):
        return END
    found = 0
    if word >= 0:
        add_row(sums, to, rows, word * width, width)
        found = 1
    if maxn <= 0:
        return found
    line[start - 1], line[stop] = 60, 62
    short_ascii = stop + 2 - start <= ASCII_LONGEST and maxn <= ASCII_MAXN
    if short_ascii:
        for k in range(start, stop):
            short_ascii &= load_u8(line, k) < 128
    if short_ascii:
        found += _add_ascii_ngrams(
            line, start - 1, stop + 1, max(minn, 1), maxn, bucket, division, kept, rows, width, n_words, sums, to,
            room, numbers, pending,
        )
    else:
        found += _add_char_ngrams(
            line, start - 1, stop + 1, minn, maxn, bucket, reciprocal, division, kept, rows, width, n_words, sums, to, room,
            numbers, pending,
        )  # fmt: skip
    line[start - 1], line[stop] = 32, 32
    return found


@light
def word_ngram_rows(
    hashes, count, chains, open_chains, bucket, reciprocal, kept, n_words, rows, width, found
):  # fmt: skip
    """Find the rows of the word n-grams that end in the `count` words hashed `hashes` (uint32); they are asked for.

    chains: the hashes of the n-grams that the next word extends, the longest first, `open_chains` of them. Each
    extended chain is the hash of a word n-gram. Returns (chains now open, rows found); the row numbers go to `found`.
    """
    n, longest = 0, len(chains)
    for k in range(count):
        signed = np.uint64(np.int64(np.int32(load(hashes, k))))  # fastText keeps hashes as int32: they are sign-extended
        for c in range(open_chains):
            chain = load(chains, c) * NGRAM_FACTOR + signed
            store(chains, c, chain)
            row, is_kept = bucket_row(_remainder(chain, bucket, reciprocal), kept, n_words)
            prefetch(rows, row * width)
            store(found, n, row)
            n += is_kept
        if open_chains == longest:
            for c in range(longest - 1):
                store(chains, c, load(chains, c + 1))
            open_chains -= 1
        store(chains, open_chains, signed)
        open_chains += 1
    return open_chains, n


@light
def add_found(found, waiting, rows, width, sums, to):
    """Add the rows of word n-grams that wait."""
    if width == 1:
        total = 0.0
        for k in range(waiting):
            total += load(rows, load(found, k))
        sums[to] += total
    else:
        for k in range(waiting):
            add_row(sums, to, rows, load(found, k) * width, width)
