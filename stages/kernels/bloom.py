"""A Bloom filter of 64-byte blocks over token n-grams, and the dedup of paragraphs and documents by it.

Every n-gram sets k bits within one block of 512 (one cache line), so a look-up costs one memory access (Putze, Sanders,
Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007; the block's size makes up for the higher rate of
false positives). The filter is an array of uint64, 8 a block, aligned to 64 bytes.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import NGRAM_BASE, hash_word, load_u8, load_u64, mix64, multiply_high, prefetch
from stages.kernels.unicode_tables import SPACE
from stages.kernels.utf8 import decode, properties
from stages.kernels.vectors import count_bits
from stages.kernels.words import eightfold, letters_or_digits, plain_word_end, word_end

OLD_BOTH, DOCUMENT, PARAGRAPH = 0, 1, 2
WHOLE = -1  # in place of the paragraph's number: the whole document goes

_PROBE = np.uint64(0x9E3779B97F4A7C15)
_NINE, _MASK = np.uint64(9), np.uint64(511)
_AHEAD = 128  # how many n-grams ahead of the look-ups their blocks are asked for
_MANY = 8  # a text with more than one character in so many tokens in foreign scripts is cut into tokens to be counted

_LOW_BITS, _HIGH_BITS, _CASE_BIT, _SPACES, _LINES, _UNDERSCORES, _TIMES = (
    eightfold(byte) for byte in (0x7F, 0x80, 0x20, 0x20, 0x0A, ord("_"), 0x97)
)
# Added to bytes below 0x80, these set the high bit of those at or above a byte.
_FROM_TAB, _FROM_SHIFT_OUT, _FROM_LATIN, _ABOVE_LATIN = (eightfold(0x80 - byte) for byte in (0x09, 0x0E, 0x43, 0x4A))


@helper
def _block(hashed, blocks):
    return np.int64(multiply_high(hashed, np.uint64(blocks))) << 3


@helper
def contains(bits, hashed, k):
    """1 if the filter holds the n-gram (or seems to), else 0. Reads all k bits: no branch to predict."""
    base = _block(hashed, len(bits) >> 3)
    found = np.uint64(1)
    seed = hashed
    left = 0
    places = np.uint64(0)
    for _ in range(k):
        if left == 0:
            seed = mix64(seed + _PROBE)
            places = seed
            left = 7
        place = places & _MASK
        found &= bits[base + np.int64(place >> np.uint64(6))] >> (place & np.uint64(63))
        places >>= _NINE
        left -= 1
    return np.int64(found & np.uint64(1))


@helper
def insert(bits, hashed, k):
    """Set the n-gram's bits; 1 if one of them was not set before, else 0."""
    base = _block(hashed, len(bits) >> 3)
    fresh = np.uint64(0)
    seed = hashed
    left = 0
    places = np.uint64(0)
    for _ in range(k):
        if left == 0:
            seed = mix64(seed + _PROBE)
            places = seed
            left = 7
        place = places & _MASK
        at = base + np.int64(place >> np.uint64(6))
        bit = np.uint64(1) << (place & np.uint64(63))
        fresh |= ~bits[at] & bit
        bits[at] |= bit
        places >>= _NINE
        left -= 1
    return np.int64(fresh != 0)


@helper
def _is_white(point, table):
    """Unicode's White_Space: str.isspace() but the four information separators."""
    return properties(table, point) & SPACE != 0 and not 0x1C <= point <= 0x1F


@helper
def is_white_space(data, start, stop, table):
    """Whether all characters of data[start:stop] are white space."""
    while start < stop:
        point, start = decode(data, start, stop)
        if not _is_white(point, table):
            return False
    return True


@helper
def _power(exponent):
    result = np.uint64(1)
    for _ in range(exponent):
        result *= NGRAM_BASE
    return result


@kernel(
    "UniTuple(int64, 2)(text, offsets, const_uint16, int64, boolean, uint64,"
    " vec_uint64, vec_int64, vec_int64, vec_int64)"
)
def hash_ngrams(data, offsets, table, ngram, whole, seed, hashes, unit_stops, unit_reaches, document_reaches):
    """Cut texts into units and tokens, and hash the n-grams of each unit.

    A unit is a paragraph: the text is cut before every newline; with `whole` it is the text. Tokens are the segments
    of UAX #29 that are not all white space. Outputs: hashes, of all n-grams in order (at most one a byte); of each unit
    where it stops (position in data) and how far its hashes reach (at most a unit a newline and one a text); how far
    the units of each text reach (n). Returns (units, hashes).
    """
    window = np.empty(ngram, np.uint64)
    power = _power(ngram - 1)
    units = 0
    at = 0
    for document in range(len(offsets) - 1):
        start, stop = offsets[document], offsets[document + 1]
        first = start
        seen = 0
        slot = 0
        rolling = np.uint64(0)
        while start < stop:
            byte = np.int64(load_u8(data, start))
            if byte == 0x20 and start + 1 < stop and 0x20 < np.int64(load_u8(data, start + 1)) < 0x80:
                start += 1
                continue
            if byte == 0x0A:
                if start > first and not whole:
                    unit_stops[units] = start
                    unit_reaches[units] = at
                    units += 1
                    seen = 0
                    slot = 0
                    rolling = np.uint64(0)
                start += 1
                continue
            if byte == 0x0D:  # never joined to the newline behind it, at whose head the next paragraph begins
                start += 1
                continue
            end = plain_word_end(data, start, stop)
            if end == start:
                end = word_end(data, start, stop, table)
            if 0x20 < byte < 0x80 or not is_white_space(data, start, end, table):
                hashed = hash_word(data, start, end)
                if seen >= ngram:
                    rolling -= window[slot] * power
                window[slot] = hashed
                slot = slot + 1 if slot + 1 < ngram else 0
                rolling = rolling * NGRAM_BASE + hashed
                seen += 1
                if seen >= ngram:
                    hashes[at] = mix64(rolling ^ seed)
                    at += 1
            start = end
        if stop > first:
            unit_stops[units] = stop
            unit_reaches[units] = at
            units += 1
        document_reaches[document] = units
    return units, at


@helper
def _count_exactly(data, start, stop, table, ngram, whole):
    """The n-grams that `hash_ngrams` makes of one text."""
    count = 0
    seen = 0
    while start < stop:
        byte = np.int64(load_u8(data, start))
        if byte == 0x0A and not whole:
            count += max(0, seen - ngram + 1)
            seen = 0
        if byte == 0x0A or byte == 0x0D:
            start += 1
            continue
        end = word_end(data, start, stop, table)
        seen += 0x20 < byte < 0x80 or not is_white_space(data, start, end, table)
        start = end
    return count + max(0, seen - ngram + 1)


@helper
def _zeros(word):
    """Of eight bytes, the high bit of each that is 0."""
    return ~(((word & _LOW_BITS) + _LOW_BITS) | word) & _HIGH_BITS


@helper
def _read_padded(data, start, stop):
    """data[start:stop], at most 8 bytes, with spaces behind them."""
    if stop - start >= 8:
        return load_u64(data, start)
    word = np.uint64(0)
    for i in range(stop - start):
        word |= load_u8(data, start + i) << np.uint64(8 * i)
    return word | (_SPACES << np.uint64(8 * (stop - start)))


@kernel("void(text, offsets, const_uint16, int64, boolean, vec_int64)")
def count_ngrams(data, offsets, table, ngram, whole, counts):
    """How many n-grams `hash_ngrams` makes of each text, at most: counts (n). Eight bytes at a time, without cutting tokens.

    Counted are runs of letters, digits and underscores (of ASCII, and of Latin up to U+027F: bytes C3 to C9 with what
    follows), and all other characters that are not white space. That is too many where a token has several of these
    (don't, 3.14), and never too few: U+00D7 and U+00F7, the only ones in the range that are no letters, count twice
    more, and behind a character of another script a run begins. A text with many of those is counted exactly.
    """
    for document in range(len(offsets) - 1):
        start, stop = offsets[document], offsets[document + 1]
        position = start
        count = 0
        tokens = 0
        foreign = 0
        seen = 0
        before = np.uint64(0)
        while position < stop:
            word = _read_padded(data, position, stop)
            position += 8
            low = word & _LOW_BITS
            lead = word & (word << np.uint64(1)) & _HIGH_BITS
            other = lead & ~((low + _FROM_LATIN) & ~(low + _ABOVE_LATIN))
            inside = letters_or_digits(word) | _zeros(word ^ _UNDERSCORES) | (word & _HIGH_BITS & ~other)
            white = ((low + _FROM_TAB) & ~(low + _FROM_SHIFT_OUT) & ~word) | _zeros(word ^ _SPACES)
            begins = (inside & ~((inside << np.uint64(8)) | before)) | (~(inside | white | word) & _HIGH_BITS) | other
            before = inside >> np.uint64(56)
            foreign += np.int64(count_bits(other))
            signs = _zeros((word & ~_CASE_BIT) ^ _TIMES)
            if signs:
                seen += 2 * np.int64(count_bits(signs))
            lines = _zeros(word ^ _LINES)
            if lines and not whole:
                while lines:
                    below = (lines & (~lines + np.uint64(1))) - np.uint64(1)
                    seen += np.int64(count_bits(begins & below))
                    tokens += seen
                    count += max(0, seen - ngram + 1)
                    seen = 2 * np.int64(count_bits(signs))
                    begins &= ~below
                    lines &= lines - np.uint64(1)
            seen += np.int64(count_bits(begins))
        tokens += seen
        count += max(0, seen - ngram + 1)
        if foreign * _MANY > tokens:
            count = _count_exactly(data, start, stop, table, ngram, whole)
        counts[document] = count


@kernel("void(const_uint64, int64, vec_uint64, int64, vec_uint16)")
def mark_held(hashes, k, bits, number, out):
    """Enter `number` into `out` (n) for each n-gram that the filter holds and for which nothing is entered yet."""
    blocks = len(bits) >> 3
    for i in range(len(hashes)):
        if i + _AHEAD < len(hashes):
            prefetch(bits, _block(hashes[i + _AHEAD], blocks))
        if out[i] == 0 and contains(bits, hashes[i], k):
            out[i] = number


@kernel(
    "UniTuple(int64, 2)(offsets, const_uint64, const_int64, const_int64, const_int64, float64, int64, int64,"
    " vec_uint64, const_uint16, vec_int64, vec_int64, vec_int64, vec_uint64, vec_uint16, Array(int64, 2, 'C'))"
)
def bff(
    offsets,
    hashes,
    unit_stops,
    unit_reaches,
    document_reaches,
    threshold,
    mode,
    k,
    bits,
    known,
    rows,
    starts,
    stops,
    probes,
    held_by,
    counts,
):
    """Deduplicate texts, given by what `hash_ngrams` wrote, in order. The filter `bits` takes in what stays.

    known: for each n-gram 0, or the number of an older filter that holds it (`mark_held`); such a one counts as held, and is
    not entered. Empty where there is none.

    mode: OLD_BOTH, DOCUMENT or PARAGRAPH. For each removed paragraph, and for each document that goes as a whole, one
    span is written: rows (the document), starts and stops (bytes within its text; of a whole document, 0 and WHOLE) and
    probes (the hash of its first n-gram that was held) with held_by (its number in `known`, or 0): at most one a unit and
    one a document. counts (n, 2): n-grams of each document, and those that were held. Returns (spans, n-grams inserted that
    set new bits).
    """
    blocks = len(bits) >> 3
    older = len(known) > 0
    held = 0
    inserted = 0
    unit = 0
    at = 0
    for i in range(min(_AHEAD, len(hashes))):
        prefetch(bits, _block(hashes[i], blocks))
    for document in range(len(offsets) - 1):
        begin = offsets[document]
        from_hash = at
        document_held = 0
        document_probe = np.uint64(0)
        document_by = np.uint16(0)
        while unit < document_reaches[document]:
            reach = unit_reaches[unit]
            unit_held = 0
            probe = np.uint64(0)
            by = np.uint16(0)
            for i in range(at, reach):
                if i + _AHEAD < len(hashes):
                    prefetch(bits, _block(hashes[i + _AHEAD], blocks))
                found = (older and known[i] > 0) or contains(bits, hashes[i], k)
                if found and unit_held == 0:
                    probe = hashes[i]
                    if older:
                        by = known[i]
                unit_held += found
            if reach > at and unit_held / (reach - at) > threshold:
                rows[held] = document
                starts[held] = begin - offsets[document]
                stops[held] = unit_stops[unit] - offsets[document] if mode != DOCUMENT else WHOLE
                probes[held] = probe
                held_by[held] = by
                held += 1
            else:
                for i in range(at, reach):
                    if not older or known[i] == 0:
                        inserted += insert(bits, hashes[i], k)
            if unit_held and document_held == 0:
                document_probe = probe
                document_by = by
            document_held += unit_held
            begin = unit_stops[unit]
            at = reach
            unit += 1
        if mode == OLD_BOTH and at > from_hash and document_held / (at - from_hash) > threshold:
            rows[held] = document
            starts[held] = 0
            stops[held] = WHOLE
            probes[held] = document_probe
            held_by[held] = document_by
            held += 1
        counts[document, 0] = at - from_hash
        counts[document, 1] = document_held
    return held, inserted


@helper
def _place(values, value):
    """The first place in sorted values that does not hold less than `value`."""
    low = 0
    high = len(values)
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@kernel("void(const_uint64, const_int64, const_int64, const_uint8, const_uint64, const_uint8, vec_int64)")
def first_holders(hashes, unit_reaches, document_reaches, unit_stays, wanted, hints, holders):
    """Find which text first put each wanted n-gram into the filter.

    unit_stays: 1 for each unit whose n-grams were inserted. wanted: sorted distinct hashes; hints: a power of two of
    bytes, not 0 at each wanted hash modulo their number; holders: for each wanted one the row of its first text, or -1:
    only -1 are replaced.
    """
    mask = np.uint64(len(hints) - 1)
    unit = 0
    at = 0
    for document in range(len(document_reaches)):
        while unit < document_reaches[document]:
            if unit_stays[unit]:
                for i in range(at, unit_reaches[unit]):
                    if hints[np.int64(hashes[i] & mask)]:
                        place = _place(wanted, hashes[i])
                        if place < len(wanted) and wanted[place] == hashes[i] and holders[place] < 0:
                            holders[place] = document
            at = unit_reaches[unit]
            unit += 1
