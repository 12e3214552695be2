"""A Bloom filter that several threads take paragraphs through, with the result of one that takes them in order.

The kernel `bff` (stages/kernels/bloom.py) says what that result is: a unit (a paragraph, or a whole text) stays or goes by
how many of its n-grams the filter holds after all units before it, and only one that stays is entered. Units are taken in
rounds, and each thread has a run of a round's units:

1. Look up all n-grams in the filter as it is when the round begins. What it holds now it also holds later. Each n-gram that
   is missing claims its block of the filter; a block that several units claim is shared.
2. A unit without a shared block is decided: no unit of this round sets bits that it looks at. If it stays, its thread
   enters it, as no other thread looks at these blocks either.
3. One thread looks up the n-grams of shared blocks again, unit after unit, decides each of these units, and enters those.
4. The other n-grams of these units are entered by the threads that have them.

So the third step, which is serial, sees only what repeats itself within one round, or falls into one block by chance.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.atomics import atomic_load, atomic_or, compare_exchange, wait_for_all
from stages.kernels.bloom import DOCUMENT, OLD_BOTH, WHOLE, contains, insert
from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import multiply_high, prefetch

UNIT_BITS, BLOCK_BITS = 27, 36  # of a claim: the unit's number from 1 on, and the block
_MISSING, _HELD, _SHARED = 0, 1, 2  # an n-gram: not in the filter, in it, not in it and its block is shared
_GOES, _STAYS, _OPEN = 0, 1, 2  # a unit

_BLOCK_SHIFT, _SHARED_SHIFT = np.uint64(BLOCK_BITS), np.uint64(63)
_BLOCK_MASK, _UNIT_MASK = np.uint64((1 << BLOCK_BITS) - 1), np.uint64((1 << UNIT_BITS) - 1)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_AHEAD = 128  # how many n-grams ahead of the look-ups their blocks are asked for


@helper
def _number(hashed, blocks):
    return multiply_high(hashed, np.uint64(blocks))


@helper
def _claim(claims, shift, block, unit, first):
    """Claim a block for a unit; the claim's place. Claims of units before `first` are those of earlier rounds: free."""
    place = np.int64((block * _SPREAD) >> shift)
    mine = (unit << _BLOCK_SHIFT) | block
    while True:
        there = atomic_load(claims, place)
        owner = (there >> _BLOCK_SHIFT) & _UNIT_MASK
        if owner < first:
            if compare_exchange(claims, place, there, mine):
                return place
        elif there & _BLOCK_MASK == block:
            if owner != unit and there >> _SHARED_SHIFT == 0:
                atomic_or(claims, place, np.uint64(1) << _SHARED_SHIFT)
            return place
        else:
            place = place + 1 if place + 1 < len(claims) else 0


@helper
def _look_up(first, begin, stop, hashes, begins, ends, k, bits, claims, shift, places, found, held, probes):
    """Step 1, of units begin to stop of a round that begins with unit `first`."""
    blocks = len(bits) >> 3
    last = ends[stop - 1] if stop > begin else 0
    if stop > begin:
        for i in range(begins[begin], min(begins[begin] + _AHEAD, last)):
            prefetch(bits, np.int64(_number(hashes[i], blocks)) << 3)
    for unit in range(begin, stop):
        count = 0
        probe = np.uint64(0)
        for i in range(begins[unit], ends[unit]):
            if i + _AHEAD < last:
                prefetch(bits, np.int64(_number(hashes[i + _AHEAD], blocks)) << 3)
            there = contains(bits, hashes[i], k)
            found[i] = there
            if there:
                if count == 0:
                    probe = hashes[i]
                count += 1
            else:
                block = _number(hashes[i], blocks)
                places[i] = _claim(claims, shift, block, np.uint64(unit + 1), np.uint64(first + 1))
        held[unit] = count
        probes[unit] = probe


@helper
def _goes(count, total, threshold):
    return total > 0 and count / total > threshold


@helper
def _decide(begin, stop, hashes, begins, ends, threshold, k, bits, claims, places, found, held, stays):
    """Step 2, of units begin to stop. Returns n-grams that set new bits."""
    inserted = 0
    for unit in range(begin, stop):
        shared = False
        for i in range(begins[unit], ends[unit]):
            if found[i] == _MISSING and atomic_load(claims, np.int64(places[i])) >> _SHARED_SHIFT:
                found[i] = _SHARED
                shared = True
        if shared:
            stays[unit] = _OPEN
        elif _goes(held[unit], ends[unit] - begins[unit], threshold):
            stays[unit] = _GOES
        else:
            stays[unit] = _STAYS
            for i in range(begins[unit], ends[unit]):
                if found[i] == _MISSING:
                    inserted += insert(bits, hashes[i], k)
    return inserted


@helper
def _decide_in_order(begin, stop, hashes, begins, ends, threshold, k, bits, found, held, probes, stays):
    """Step 3, of all units of a round. Returns n-grams that set new bits."""
    inserted = 0
    for unit in range(begin, stop):
        if stays[unit] != _OPEN:
            continue
        count = held[unit]
        for i in range(begins[unit], ends[unit]):
            if found[i] == _SHARED and contains(bits, hashes[i], k):
                found[i] = _HELD
                count += 1
        if count > held[unit]:
            i = begins[unit]
            while found[i] != _HELD:
                i += 1
            probes[unit] = hashes[i]
            held[unit] = count
        if _goes(count, ends[unit] - begins[unit], threshold):
            stays[unit] = _GOES
            continue
        for i in range(begins[unit], ends[unit]):
            if found[i] == _SHARED:
                inserted += insert(bits, hashes[i], k)
    return inserted


@helper
def _enter(begin, stop, hashes, begins, ends, k, bits, found, stays):
    """Step 4, of units begin to stop. Returns n-grams that set new bits."""
    inserted = 0
    for unit in range(begin, stop):
        if stays[unit] == _OPEN:
            for i in range(begins[unit], ends[unit]):
                if found[i] == _MISSING:
                    inserted += insert(bits, hashes[i], k)
            stays[unit] = _STAYS
    return inserted


@kernel(
    "int64(int64, int64, const_uint64, const_int64, const_int64, const_int64, float64, int64, vec_uint64, vec_uint64, int64,"
    " vec_int32, vec_uint8, vec_int64, vec_uint64, vec_uint8, vec_int64)"
)
def bff_thread(
    thread,
    threads,
    hashes,
    begins,
    ends,
    cuts,
    threshold,
    k,
    bits,
    claims,
    claim_bits,
    places,
    found,
    held,
    probes,
    stays,
    state,
):
    """One of so many threads that take units through the filter `bits` together; all must be called at about the same time.

    begins, ends: of each unit's n-grams within `hashes`. cuts: where the units of each thread begin, round by round; one
    more at the end. claims (2**claim_bits, zeros, more than a round has n-grams), places and found (as `hashes`), state
    (atomics.STATE, zeros): room. Results: held (n-grams of each unit that the filter held), probes (the first of these),
    stays (1 for units that were entered). Returns the n-grams that this thread inserted that set new bits; -1 if stopped.
    """
    shift = np.uint64(64 - claim_bits)
    inserted = 0
    for at in range(0, len(cuts) - 1, threads):
        first, last = cuts[at], cuts[at + threads]
        begin, stop = cuts[at + thread], cuts[at + thread + 1]
        _look_up(first, begin, stop, hashes, begins, ends, k, bits, claims, shift, places, found, held, probes)
        if not wait_for_all(state, threads):
            return -1
        inserted += _decide(begin, stop, hashes, begins, ends, threshold, k, bits, claims, places, found, held, stays)
        if not wait_for_all(state, threads):
            return -1
        if thread == 0:
            inserted += _decide_in_order(
                first, last, hashes, begins, ends, threshold, k, bits, found, held, probes, stays
            )
        if not wait_for_all(state, threads):
            return -1
        inserted += _enter(begin, stop, hashes, begins, ends, k, bits, found, stays)
        if not wait_for_all(state, threads):
            return -1
    return inserted


@kernel(
    "int64(offsets, const_int64, const_int64, const_int64, const_int64, const_int64, const_uint64, const_uint8, float64,"
    " int64, vec_int64, vec_int64, vec_int64, vec_uint64, Array(int64, 2, 'C'))"
)
def spans_of_units(
    offsets, unit_stops, begins, ends, document_reaches, held, probes, stays, threshold, mode, rows, starts, stops, found, counts
):  # fmt: skip
    """What `bff` writes of texts (rows, starts, stops, found in place of its probes, counts), from what `bff_thread` left.

    Returns spans.
    """
    spans = unit = 0
    for document in range(len(offsets) - 1):
        begin = offsets[document]
        total = here = 0
        probe = np.uint64(0)
        while unit < document_reaches[document]:
            if not stays[unit]:
                rows[spans] = document
                starts[spans] = begin - offsets[document]
                stops[spans] = unit_stops[unit] - offsets[document] if mode != DOCUMENT else WHOLE
                found[spans] = probes[unit]
                spans += 1
            if held[unit] and here == 0:
                probe = probes[unit]
            here += held[unit]
            total += ends[unit] - begins[unit]
            begin = unit_stops[unit]
            unit += 1
        if mode == OLD_BOTH and total > 0 and here / total > threshold:
            rows[spans] = document
            starts[spans] = 0
            stops[spans] = WHOLE
            found[spans] = probe
            spans += 1
        counts[document, 0] = total
        counts[document, 1] = here
    return spans
