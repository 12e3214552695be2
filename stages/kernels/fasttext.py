"""fastText's tokenizer, hashes and output layers, over the UTF-8 bytes of a text column.

What is matched, byte for byte, is `Dictionary::getLine` and `Loss::predict` of the fastText library (github.com/
facebookresearch/fastText, src/dictionary.cc and src/loss.cc): white space is one of seven bytes, words are hashed with
FNV-1a over *signed* bytes, an end-of-sentence word closes the text, and a word `</s>` in the text closes it early.

A model is given as `rows`: one vector of `width` float32 for each dictionary word and each hash bucket. A document's
sum over its rows and their number is all that the output layer needs (stages/quality/fasttext_model.py says why).
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, inlined, kernel
from stages.kernels.fasttext_words import END_HASH, FNV_OFFSET, find_word, fnv, is_end, is_label, is_space, mix
from stages.kernels.hashing import load_u8, load_u64, multiply_high, prefetch, trailing_zeros
from stages.kernels.vectors import add_eight, count_bits

NGRAM_FACTOR = np.uint64(116049371)

# An entry of the table of words, in units of 4 bytes: the word (32 bytes, zeros behind it), then at these places the
# number of its rows (or LABEL or END), its hash, whether it was met again, and the sum of its rows. Longer words are
# summed anew each time.
KEY_BYTES = 32
ENTRY_COUNT, ENTRY_HASH, ENTRY_AGAIN, ENTRY_SUMS = 8, 9, 10, 12
BLOCK = 64  # words that are looked up together
LABEL, END = -1, -2  # a word that begins like a label, and so is none; the word that ends the text

LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
HIGH_BITS = np.uint64(0x8080808080808080)
AT_LEAST_33 = np.uint64(0x5F5F5F5F5F5F5F5F)  # added to 7 bits, sets the 8th where they are 33 or more
LOW_HALF = np.uint64(0xFFFFFFFF)
CONTINUES, CONTINUATION = np.uint64(0xC0), np.uint64(0x80)  # the bytes of UTF-8 that continue a character
KEY_FACTORS = (  # odd numbers with bits in no pattern, to spread words over the table
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
    np.uint64(0xD6E8FEB86659FD93),
)


@inlined
def _bucket_row(bucket, kept, n_words):
    """(the row of a hash bucket, 1), or, where pruning took it, (a row of zeros, 0): no branch, for none foresees it."""
    if len(kept) == 0:
        return n_words + bucket, 1
    entry = kept[bucket >> 5]
    bits = np.uint32(entry >> np.uint64(32))
    place = np.uint32(bucket & 31)
    is_kept = np.int64((bits >> place) & np.uint32(1))
    before = np.int64(count_bits(np.uint32(bits & np.uint32((np.uint32(1) << place) - np.uint32(1)))))
    return n_words + is_kept * (np.int64(entry & np.uint64(0xFFFFFFFF)) + before), is_kept


@inlined
def _add(sums, to, rows, at, width):
    """sums[to : to + width] += rows[at : at + width]"""
    stop = at + width
    while at + 8 <= stop:
        add_eight(sums, to, rows, at)
        at += 8
        to += 8
    while at < stop:
        sums[to] += rows[at]
        at += 1
        to += 1


@inlined
def _remainder(value, bucket, reciprocal):
    """value % bucket (uint64, int64), given floor((2^64 - 1) / bucket): the estimate of the quotient is 1 short at most."""
    rest = value - multiply_high(value, reciprocal) * np.uint64(bucket)
    return np.int64(rest - np.uint64(bucket) if rest >= np.uint64(bucket) else rest)


@helper
def _add_char_ngrams(text, start, stop, minn, maxn, bucket, kept, rows, width, n_words, sums, to, found):
    """Add the rows of the n-grams of minn..maxn characters of text[start:stop], a word in `<` and `>`; returns how many.

    `found` is room for row numbers, more than maxn of them. Rows are found first and added afterwards: whether a bucket
    was kept is not to be foreseen, so finding has no branch on it.
    """
    total, waiting = 0, 0
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
                row, is_kept = _bucket_row(np.int64(value % np.uint32(bucket)), kept, n_words)
                found[waiting] = row
                waiting += is_kept
            n += 1
        if waiting + maxn >= len(found):
            _add_found(found, waiting, rows, width, sums, to)
            total += waiting
            waiting = 0
    _add_found(found, waiting, rows, width, sums, to)
    return total + waiting


@inlined
def _word_ngrams(value, chains, active, bucket, reciprocal, kept, n_words, found, waiting):
    """Extend the open chains, one for each of the words before, by the word hashed `value`, and begin its own.

    Each extended chain is the hash of a word n-gram, whose row joins the `waiting` ones in `found`. Returns (chains now
    open, rows now waiting).
    """
    signed = np.uint64(np.int64(np.int32(value)))  # fastText keeps hashes as int32: they are sign-extended
    for k in range(active):
        chains[k] = chains[k] * NGRAM_FACTOR + signed
        row, is_kept = _bucket_row(_remainder(chains[k], bucket, reciprocal), kept, n_words)
        found[waiting] = row
        waiting += is_kept
    if active == len(chains):
        for k in range(active - 1):
            chains[k] = chains[k + 1]
        active -= 1
    chains[active] = signed
    return active + 1, waiting


@helper
def _add_found(found, waiting, rows, width, sums, to):
    """Add the rows that wait."""
    if width == 1:
        total = 0.0
        for k in range(waiting):
            total += rows[found[k]]
        sums[to] += total
    else:
        for k in range(waiting):
            _add(sums, to, rows, found[k] * width, width)


@helper
def _sum_word(
    line, start, stop, value, words, word_offsets, slots, n_words, rows, width,
    bucket, kept, minn, maxn, sums, to, room,
):  # fmt: skip
    """Add a word's own row and those of its character n-grams; returns how many, or LABEL or END where it is no word.

    The bytes of `line` on both sides of the word, which are white space already read, are overwritten by `<` and `>`.
    """
    word, _ = find_word(line, start, stop, value, words, word_offsets, slots)
    if word >= n_words or (word < 0 and is_label(line, start, stop)):
        return LABEL
    if is_end(line, start, stop):
        return END
    found = 0
    if word >= 0:
        _add(sums, to, rows, word * width, width)
        found = 1
    if maxn <= 0:
        return found
    line[start - 1] = 60
    line[stop] = 62
    found += _add_char_ngrams(
        line, start - 1, stop + 1, minn, maxn, bucket, kept, rows, width, n_words, sums, to, room
    )
    line[stop] = 32
    return found


@inlined
def _scan_word(line, at, parts, to):
    """Where the word that begins at `at` ends; its first 32 bytes, zeros behind it, go to parts[to : to + 4].

    The word is read 8 bytes at a time, and ends at the first of the seven bytes that are white space.
    """
    parts[to + 1] = parts[to + 2] = parts[to + 3] = 0
    k = 0
    while True:
        eight = load_u64(line, at)
        # The high bit of each byte that is at most 0x20: no sum of 7 bits carries into the next byte.
        low = ~(((eight & LOW_BITS) + AT_LEAST_33) | eight) & HIGH_BITS
        if low == 0:
            if k < 4:
                parts[to + k] = eight
            k += 1
            at += 8
            continue
        place = trailing_zeros(low) >> 3
        end = at + place
        if is_space(load_u8(line, end)):
            if k < 4:
                parts[to + k] = eight & ((np.uint64(1) << np.uint64(8 * place)) - np.uint64(1))
            return end
        # A control character that fastText takes for a letter: go on byte by byte, as happens next to never.
        start = at - 8 * k
        while not is_space(line[end]):
            end += 1
        for k in range(4):
            parts[to + k] = 0
        for k in range(min(end - start, KEY_BYTES)):
            parts[to + (k >> 3)] |= np.uint64(line[start + k]) << np.uint64(8 * (k & 7))
        return end


@inlined
def _spread(parts, at):
    """A hash of a word's 32 bytes, cheaper than fastText's: where its search in the table of words begins."""
    value = parts[at] ^ (parts[at + 1] * KEY_FACTORS[1]) ^ (parts[at + 2] * KEY_FACTORS[2])
    value = (value ^ (parts[at + 3] * KEY_FACTORS[3])) * KEY_FACTORS[0]
    return value ^ (value >> np.uint64(32))


@helper
def _clear_out(seen, keys, stride, used):
    """Make room in a full table of words: keep those met again since the last time, or none if that is most of them."""
    numbers = keys.view(np.uint32)
    mask = len(seen) - 1
    seen[:] = 0
    to = stride
    for at in range(stride, len(keys), stride):
        if numbers[2 * at + ENTRY_AGAIN] == 0:
            continue
        for k in range(stride):
            keys[to + k] = keys[at + k]
        numbers[2 * to + ENTRY_AGAIN] = 0
        to += stride
    if 4 * to > 3 * len(keys):
        to = stride
    for at in range(stride, to, stride):
        value = _spread(keys, at)
        slot = np.int64(value) & mask
        while seen[slot] != 0:
            slot = (slot + 1) & mask
        seen[slot] = (value & ~LOW_HALF) | np.uint64(at + stride)
    used[0] = to


@inlined
def _find_entry(parts, of, value, seen, keys, stride, mask):
    """The entry of a word (of up to 32 bytes) in the table of words, or -1. Small, so that it is inlined."""
    slot = np.int64(value) & mask
    while seen[slot] != 0:
        if seen[slot] >> np.uint64(32) == value >> np.uint64(32):
            at = np.int64(seen[slot] & LOW_HALF) - stride
            differ = (keys[at] ^ parts[of]) | (keys[at + 1] ^ parts[of + 1])
            if differ | (keys[at + 2] ^ parts[of + 2]) | (keys[at + 3] ^ parts[of + 3]) == 0:
                return at
        slot = (slot + 1) & mask
    return -1


@helper
def _new_entry(parts, of, value, seen, keys, stride, used):
    """An entry for a word that is not in the table of words: the next free one; where none is, room is made first."""
    if used[0] == len(keys):
        _clear_out(seen, keys, stride, used)
    mask = len(seen) - 1
    slot = np.int64(value) & mask
    while seen[slot] != 0:
        slot = (slot + 1) & mask
    at = used[0]
    used[0] += stride
    seen[slot] = (value & ~LOW_HALF) | np.uint64(used[0])
    for k in range(4):
        keys[at + k] = parts[of + k]
    return at


@kernel(
    "void(vec_uint8, vec_int64, const_uint8, const_int64, const_uint64, int64, int64, const_float32, int64, "
    "int64, int64, const_uint64, int64, int64, vec_uint64, vec_int64, vec_uint64, int64, vec_float64, vec_int64)"
)
def sum_rows(
    line, begins, words, word_offsets, slots, n_words, end_word, rows, width,
    bucket, word_ngrams, kept, minn, maxn, seen, used, keys, stride, sums, counts,
):  # fmt: skip
    """Sum the rows of each text: of its words, their character n-grams, and its word n-grams.

    The texts are given as `join_lines` leaves them, with a gap of one; the white space in them is overwritten here.
    `sums` (float64, width a text) and `counts` (int64, rows a text) are zeroed by the caller and filled here.

    `rows` are those of the words, then those of the buckets. Where pruning took some buckets, a row of zeros stands
    between, and `kept` says which remain: for every 32 buckets their bits << 32 | 1 + how many are kept before them.

    The table of words remembers, of each distinct word met, its hash and the sum of its rows: text repeats its words,
    so this is met in the cache far more often than the dictionary would be. `keys` are its entries, of `stride` units
    of 8 bytes; `seen` a hash table of 2^k slots over them, more than there are entries: high half of the hash |
    where the entry ends in `keys`, 0 where the slot is free; `used[0]` where the next free entry begins. The first entry
    is for words too long for the table. What the table holds never changes a result: a word's sum is the same from
    the table or anew.
    """
    room = np.empty(256 + max(maxn, 0), np.int64)
    ngram_rows = np.empty(BLOCK * max(word_ngrams, 1), np.int64)
    reciprocal = np.uint64(0xFFFFFFFFFFFFFFFF) // np.uint64(max(bucket, 1))
    numbers, part_sums = keys.view(np.uint32), keys.view(np.float32)
    chains = np.empty(max(word_ngrams - 1, 1), np.uint64)
    starts, sizes, values = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64), np.empty(BLOCK, np.uint64)
    parts = np.empty(4 * BLOCK, np.uint64)
    mask = len(seen) - 1
    for i in range(len(begins) - 1):
        stop = begins[i + 1] - 1
        to = i * width
        count, active, next_word = 0, 0, begins[i]
        while next_word < stop:
            # Words are looked up in blocks, so that memory is asked for all of a block's entries at once.
            block, waiting = 0, 0
            while next_word < stop and block < BLOCK:
                if is_space(load_u8(line, next_word)):
                    next_word += 1
                    continue
                starts[block] = next_word
                next_word = _scan_word(line, next_word, parts, 4 * block)
                sizes[block] = next_word - starts[block]
                values[block] = _spread(parts, 4 * block)
                prefetch(seen, np.int64(values[block]) & mask)
                block += 1
            for k in range(block):
                entry = np.int64(seen[np.int64(values[k]) & mask] & LOW_HALF) - stride
                prefetch(keys, entry)
                prefetch(keys, entry + 8)
            for k in range(block):
                entry, known = 0, False
                if sizes[k] <= KEY_BYTES:
                    entry = _find_entry(parts, 4 * k, values[k], seen, keys, stride, mask)
                    known = entry >= 0
                    if not known:
                        entry = _new_entry(parts, 4 * k, values[k], seen, keys, stride, used)
                at = 2 * entry
                if not known:
                    for j in range(width):
                        part_sums[at + ENTRY_SUMS + j] = 0
                    value = fnv(line, starts[k], starts[k] + sizes[k])
                    numbers[at + ENTRY_COUNT] = _sum_word(
                        line, starts[k], starts[k] + sizes[k], value, words, word_offsets, slots, n_words, rows, width,
                        bucket, kept, minn, maxn, part_sums, at + ENTRY_SUMS, room,
                    )  # fmt: skip
                    numbers[at + ENTRY_HASH] = value
                numbers[at + ENTRY_AGAIN] = known
                found = np.int64(np.int32(numbers[at + ENTRY_COUNT]))
                if found == END:
                    next_word = stop
                    break
                if found == LABEL:
                    continue
                count += found
                _add(sums, to, part_sums, at + ENTRY_SUMS, width)
                if word_ngrams > 1:
                    active, waiting = _word_ngrams(
                        numbers[at + ENTRY_HASH], chains, active, bucket, reciprocal, kept, n_words, ngram_rows, waiting
                    )
            _add_found(ngram_rows, waiting, rows, width, sums, to)
            count += waiting
        if end_word >= 0:
            _add(sums, to, rows, end_word * width, width)
            count += 1
        if word_ngrams > 1:
            waiting = _word_ngrams(END_HASH, chains, active, bucket, reciprocal, kept, n_words, ngram_rows, 0)[1]
            _add_found(ngram_rows, waiting, rows, width, sums, to)
            count += waiting
        counts[i] = count
