"""The sums that a fastText classifier makes of a text, over the UTF-8 bytes of a text column.

What is matched, byte for byte, is `Dictionary::getLine` of the fastText library (github.com/facebookresearch/fastText,
src/dictionary.cc): white space is one of seven bytes, words are hashed with FNV-1a over *signed* bytes, an end-of-sentence
word closes the text, and a word `</s>` in the text closes it early.

A model is given as `rows`: one vector of `width` float32 for each dictionary word and each hash bucket. A document's
sum over its rows and their number is all that the output layer needs (stages/quality/fasttext_model.py says why).

Memory is what this waits for: a word's entry in the table of words, its place in the dictionary, the row of its n-gram each
lie where no other does. So words go through in blocks of 64 or more, and what a step needs is asked for one step ahead.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.bytes64 import WIDE, in_range_64
from stages.kernels.compile import inlined, kernel, light
from stages.kernels.fasttext_rows import (
    END,
    LABEL,
    PENDING,
    add_found,
    add_pending,
    add_row,
    division_by,
    hash_room,
    reciprocal_of,
    sum_word,
    word_ngram_rows,
)
from stages.kernels.fasttext_table import (
    BLOCK,
    ENTRY_AGAIN,
    ENTRY_COUNT,
    ENTRY_HASH,
    ENTRY_SUMS,
    KEY_BYTES,
    LOW_HALF,
    ROOM,
    find_entry,
    make_room,
    new_entry,
    read_key,
)
from stages.kernels.fasttext_words import END_HASH, fnv, word_slot
from stages.kernels.hashing import load, prefetch, store, trailing_zeros

ONE, ALL = np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)


@inlined
def _bounds_of_words(line, at, stop, before, starts, begun, ends, ended):
    """Where words begin and end among the 64 bytes of `line` from `at` on, of which those from `stop` on are white space.

    before: 1 where the byte before is white space, else 0 (uint64). begun, ended: how many starts and ends are known.
    Returns both, and `before` of the next 64 bytes.
    """
    space = in_range_64(line, at, 32, 32) | in_range_64(line, at, 9, 13) | in_range_64(line, at, 0, 0)
    if stop - at < WIDE:
        space |= ALL << np.uint64(stop - at)
    moved = (space << ONE) | before
    bits = ~space & moved
    while bits != 0:
        store(starts, begun, at + trailing_zeros(bits))
        begun += 1
        bits &= bits - ONE
    bits = space & ~moved
    while bits != 0:
        store(ends, ended, at + trailing_zeros(bits))
        ended += 1
        bits &= bits - ONE
    return begun, ended, space >> np.uint64(63)


@light
def _new_words(
    line, starts, ends, parts, values, missing, count, entries, hashes, words, word_offsets, slots, n_words, rows,
    width, bucket, reciprocal, division, kept, minn, maxn, seen, used, keys, numbers, part_sums, stride, room, ngrams, pending,
):  # fmt: skip
    """Sum the rows of the `count` words numbered `missing` of a block, which the table of words lacks, and enter them there.

    Each step over all of them asks for what the next one reads.
    """
    mask, table_mask = len(slots) - 1, len(seen) - 1
    for m in range(count):
        k = load(missing, m)
        value = fnv(line, load(starts, k), load(ends, k))
        store(hashes, m, value)
        prefetch(slots, word_slot(value, mask))
    for m in range(count):
        slot = load(slots, word_slot(load(hashes, m), mask))
        if slot != 0 and np.uint32(slot >> np.uint64(32)) == load(hashes, m):
            word = np.int64(slot & LOW_HALF) - 1
            prefetch(word_offsets, word)
            prefetch(rows, word * width)
    for m in range(count):
        slot = load(slots, word_slot(load(hashes, m), mask))
        if slot != 0 and np.uint32(slot >> np.uint64(32)) == load(hashes, m):
            prefetch(words, load(word_offsets, np.int64(slot & LOW_HALF) - 1))
    for m in range(count):
        k = missing[m]
        entry = k * stride  # of a word too long for the table
        if ends[k] - starts[k] <= KEY_BYTES:
            entry = find_entry(parts, 4 * k, values[k], seen, keys, stride, table_mask)
            if entry >= 0:  # it stands in the block twice
                entries[k] = entry
                numbers[2 * entry + ENTRY_AGAIN] = 1
                continue
            entry = new_entry(parts, 4 * k, values[k], seen, keys, stride, used)
        entries[k] = entry
        at = 2 * entry
        for j in range(width):
            part_sums[at + ENTRY_SUMS + j] = 0
        numbers[at + ENTRY_HASH] = hashes[m]
        numbers[at + ENTRY_COUNT] = sum_word(
            line, starts[k], ends[k], hashes[m], words, word_offsets, slots, n_words, rows, width,
            bucket, reciprocal, division, kept, minn, maxn, part_sums, at + ENTRY_SUMS, room, ngrams, pending,
        )  # fmt: skip
    add_pending(pending, rows, width, part_sums)


@kernel(
    "void(vec_uint8, vec_int64, const_uint8, const_int64, const_uint64, int64, int64, const_float32, int64, "
    "int64, int64, const_uint64, int64, int64, vec_uint64, vec_int64, vec_uint64, int64, vec_float64, vec_int64)"
)
def sum_rows(
    line, begins, words, word_offsets, slots, n_words, end_word, rows, width,
    bucket, word_ngrams, kept, minn, maxn, seen, used, keys, stride, sums, counts,
):  # fmt: skip
    """Sum the rows of each text: of its words, their character n-grams, and its word n-grams.

    The texts are given as `join_lines` leaves them, with a gap of one; white space in them may be overwritten.
    `sums` (float64, width a text) and `counts` (int64, rows a text) are zeroed by the caller and filled here.

    `rows` are those of the words, then those of the buckets. Where pruning took some buckets, a row of zeros stands
    between, and `kept` says which remain: for every 32 buckets their bits << 32 | 1 + how many are kept before them.

    The table of words (`seen`, `used`, `keys`, `stride`: stages/kernels/fasttext_table.py) remembers the sums of words that
    were met. Text repeats its words, so they are met in the cache far more often than the dictionary would be. What the
    table holds never changes a result: a word's sum is the same from the table or anew.
    """
    room = np.empty(256 + max(maxn, 0), np.int64)
    ngrams = hash_room(maxn)
    pending = np.zeros(1 + 2 * PENDING, np.int64)
    found = np.empty(ROOM * max(word_ngrams, 1), np.int64)
    chains = np.empty(max(word_ngrams - 1, 1), np.uint64)
    starts, ends = np.empty(ROOM + 1, np.int64), np.empty(ROOM, np.int64)
    values, parts, entries = np.empty(ROOM, np.uint64), np.empty(4 * ROOM, np.uint64), np.empty(ROOM, np.int64)
    missing, hashes = np.empty(ROOM + 1, np.int64), np.empty(ROOM, np.uint32)
    numbers, part_sums = keys.view(np.uint32), keys.view(np.float32)
    reciprocal, division, mask = reciprocal_of(bucket), division_by(bucket), len(seen) - 1
    for i in range(len(begins) - 1):
        to, at, stop = i * width, begins[i], begins[i + 1] - 1
        count, active, waiting, begun, ended, before, more = 0, 0, 0, 0, 0, ONE, True
        while more:
            while ended < BLOCK and (at < stop or begun > ended):
                begun, ended, before = _bounds_of_words(line, at, stop, before, starts, begun, ends, ended)
                at = min(at + WIDE, stop)
            more = ended >= BLOCK
            make_room(seen, keys, numbers, stride, used)
            for k in range(ended):
                value = read_key(line, load(starts, k), load(ends, k) - load(starts, k), parts, 4 * k)
                prefetch(seen, np.int64(value) & mask)
                store(values, k, value)
            for k in range(ended):
                entry = np.int64(load(seen, np.int64(load(values, k)) & mask) & LOW_HALF) - stride
                prefetch(keys, entry)
                prefetch(keys, entry + 8)
            add_found(found, waiting, rows, width, sums, to)  # of the block before: its rows have come by now
            count += waiting
            waiting, new = 0, 0
            for k in range(ended):
                long = load(ends, k) - load(starts, k) > KEY_BYTES
                entry = -1 if long else find_entry(parts, 4 * k, load(values, k), seen, keys, stride, mask)
                store(entries, k, entry)
                store(missing, new, k)
                new += entry < 0
                again = 2 * max(entry, 0) + ENTRY_AGAIN
                if load(numbers, again) == 0:  # mostly not: a line that is written must be stored again
                    store(numbers, again, 1)
            if new > 0:
                _new_words(
                    line, starts, ends, parts, values, missing, new, entries, hashes, words, word_offsets, slots,
                    n_words, rows, width, bucket, reciprocal, division, kept, minn, maxn, seen, used, keys, numbers, part_sums,
                    stride, room, ngrams, pending,
                )  # fmt: skip
            taken = 0
            for k in range(ended):
                entry = 2 * load(entries, k)
                rows_of_it = np.int64(np.int32(load(numbers, entry + ENTRY_COUNT)))
                if rows_of_it == LABEL:
                    continue
                if rows_of_it == END:
                    more = False
                    break
                count += rows_of_it
                add_row(sums, to, part_sums, entry + ENTRY_SUMS, width)
                store(hashes, taken, load(numbers, entry + ENTRY_HASH))
                taken += 1
            if word_ngrams > 1:
                active, waiting = word_ngram_rows(
                    hashes, taken, chains, active, bucket, reciprocal, kept, n_words, rows, width, found
                )
            begun -= ended
            if begun > 0:
                starts[0] = starts[ended]
            ended = 0
        add_found(found, waiting, rows, width, sums, to)
        count += waiting
        if end_word >= 0:
            add_row(sums, to, rows, end_word * width, width)
            count += 1
        if word_ngrams > 1:
            hashes[0] = END_HASH
            waiting = word_ngram_rows(
                hashes, 1, chains, active, bucket, reciprocal, kept, n_words, rows, width, found
            )[1]
            add_found(found, waiting, rows, width, sums, to)
            count += waiting
        counts[i] = count
