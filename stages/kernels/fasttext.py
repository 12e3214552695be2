"""fastText's tokenizer, hashes and output layers, over the UTF-8 bytes of a text column.

What is matched, byte for byte, is `Dictionary::getLine` and `Loss::predict` of the fastText library (github.com/
facebookresearch/fastText, src/dictionary.cc and src/loss.cc): white space is one of seven bytes, words are hashed with
FNV-1a over *signed* bytes, an end-of-sentence word closes the text, and a word `</s>` in the text closes it early.

A model is given as `rows`: one vector of `width` float32 for each dictionary word and each hash bucket. A document's
sum over its rows and their number is all that the output layer needs (stages/quality/fasttext_model.py says why).
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.fasttext_lines import one_line

FNV_OFFSET = np.uint32(2166136261)
FNV_PRIME = np.uint32(16777619)
END_HASH = np.uint32(3617362777)  # of "</s>"
NGRAM_FACTOR = np.uint64(116049371)

# An entry of the table of summed words, in units of 4 bytes: the word (32 bytes, zeros behind it), then at these places
# the number of its rows and their sum. Longer words are summed anew each time.
KEY_BYTES = 32
ENTRY_COUNT, ENTRY_SUMS = 8, 12


@helper
def is_space(byte):
    """The white space of `Dictionary::readWord`: space, tab, line feed, vertical tab, form feed, return and NUL."""
    return byte == 32 or (9 <= byte <= 13) or byte == 0


@helper
def _mix(value, byte):
    """One step of FNV-1a as fastText has it: the byte is sign-extended before it is mixed in."""
    return np.uint32((value ^ np.uint32(np.int32(np.int8(byte)))) * FNV_PRIME)


@helper
def fnv(data, start, stop):
    """The hash of the word data[start:stop]."""
    value = FNV_OFFSET
    for at in range(start, stop):
        value = _mix(value, data[at])
    return value


@helper
def _slot(value, mask):
    return np.int64(value ^ (value >> np.uint32(15))) & mask


@helper
def find_word(data, start, stop, value, words, word_offsets, slots):
    """(id of the word data[start:stop] with hash `value`, its slot); the id is -1 where it is not in the dictionary."""
    mask = len(slots) - 1
    slot = _slot(value, mask)
    while True:
        entry = slots[slot]
        if entry == 0:
            return -1, slot
        if np.uint32(entry >> np.uint64(32)) == value:
            word = np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
            begin = word_offsets[word]
            if word_offsets[word + 1] - begin == stop - start:
                k = 0
                while k < stop - start and words[begin + k] == data[start + k]:
                    k += 1
                if k == stop - start:
                    return word, slot
        slot = (slot + 1) & mask


@kernel("void(const_uint8, const_int64, vec_uint64)")
def fill_slots(words, word_offsets, slots):
    """Fill the (zeroed) hash table of a dictionary: hash << 32 | id + 1. A word that stands twice gets its later id."""
    for word in range(len(word_offsets) - 1):
        start, stop = word_offsets[word], word_offsets[word + 1]
        value = fnv(words, start, stop)
        _, slot = find_word(words, start, stop, value, words, word_offsets, slots)
        slots[slot] = (np.uint64(value) << np.uint64(32)) | np.uint64(word + 1)


@helper
def _bucket_row(bucket, pruned, prune_slots, n_words):
    """The row of a hash bucket; -1 where pruning took it. `pruned`: -1 = nothing was, 0 = all was, 1 = see the table."""
    if pruned < 0:
        return n_words + bucket
    if pruned == 0:
        return -1
    mask = len(prune_slots) - 1
    slot = bucket & mask
    while True:
        entry = prune_slots[slot]
        if entry == 0:
            return -1
        if np.int64(entry >> np.uint64(32)) == bucket:
            return n_words + np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
        slot = (slot + 1) & mask


@kernel("void(const_int32, const_int32, vec_uint64)")
def fill_prune_slots(buckets, kept, slots):
    """Fill the (zeroed) hash table from a pruned model's buckets to the rows it kept: bucket << 32 | row + 1."""
    mask = len(slots) - 1
    for i in range(len(buckets)):
        slot = np.int64(buckets[i]) & mask
        while slots[slot] != 0 and np.int64(slots[slot] >> np.uint64(32)) != buckets[i]:
            slot = (slot + 1) & mask
        slots[slot] = (np.uint64(buckets[i]) << np.uint64(32)) | np.uint64(kept[i] + 1)


@helper
def _is_label(data, start, stop):
    """Whether a word begins with fastText's label prefix, `__label__`."""
    if stop - start < 9 or data[start] != 95:
        return False
    prefix = (95, 95, 108, 97, 98, 101, 108, 95, 95)
    for k in range(9):
        if data[start + k] != prefix[k]:
            return False
    return True


@helper
def _is_end(data, start, stop):
    """Whether a word is fastText's end-of-sentence word, `</s>`."""
    return (
        stop - start == 4
        and data[start] == 60
        and data[start + 1] == 47
        and data[start + 2] == 115
        and data[start + 3] == 62
    )


@helper
def _add_row(sums, rows, row, width):
    base = row * width
    for j in range(width):
        sums[j] += rows[base + j]


@helper
def _add_char_ngrams(text, start, stop, minn, maxn, bucket, pruned, prune_slots, rows, width, n_words, sums):
    """Add the rows of the n-grams of minn..maxn characters of text[start:stop], a word in `<` and `>`; returns how many."""
    found = 0
    for i in range(start, stop):
        if text[i] & 0xC0 == 0x80:
            continue
        value = FNV_OFFSET
        j, n = i, 1
        while j < stop and n <= maxn:
            value = _mix(value, text[j])
            j += 1
            while j < stop and text[j] & 0xC0 == 0x80:
                value = _mix(value, text[j])
                j += 1
            if n >= minn and not (n == 1 and (i == start or j == stop)):
                row = _bucket_row(np.int64(value % np.uint32(bucket)), pruned, prune_slots, n_words)
                if row >= 0:
                    _add_row(sums, rows, row, width)
                    found += 1
            n += 1
    return found


@helper
def _add_word_ngrams(value, chains, active, bucket, pruned, prune_slots, rows, width, n_words, sums):
    """Extend the open chains, one for each of the words before, by the word hashed `value`, and begin its own.

    Each extended chain is the hash of a word n-gram whose row is added. Returns (chains now open, rows added).
    """
    signed = np.uint64(np.int64(np.int32(value)))  # fastText keeps hashes as int32: they are sign-extended
    found = 0
    for k in range(active):
        chains[k] = chains[k] * NGRAM_FACTOR + signed
        row = _bucket_row(np.int64(chains[k] % np.uint64(bucket)), pruned, prune_slots, n_words)
        if row >= 0:
            _add_row(sums, rows, row, width)
            found += 1
    if active == len(chains):
        for k in range(active - 1):
            chains[k] = chains[k + 1]
        active -= 1
    chains[active] = signed
    return active + 1, found


@helper
def _longest(offsets):
    longest = 0
    for i in range(len(offsets) - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return longest


@kernel(
    "void(text, offsets, int64, const_uint8, const_int64, const_uint64, int64, int64, const_float32, int64, "
    "int64, int64, int64, const_uint64, vec_float64, vec_int64)"
)
def sum_words(
    data, offsets, newlines, words, word_offsets, slots, n_words, end_word, rows, width,
    bucket, word_ngrams, pruned, prune_slots, sums, counts,
):  # fmt: skip
    """Sum the rows of each text, for a model without character n-grams.

    `sums` (float64, width a text) and `counts` (int64, rows a text) are zeroed by the caller and filled here.
    """
    line = np.empty(_longest(offsets) + 1, np.uint8)
    chains = np.empty(max(word_ngrams - 1, 1), np.uint64)
    for i in range(len(offsets) - 1):
        stop = one_line(data, offsets[i], offsets[i + 1], newlines, line, 0)
        line[stop] = 32
        total = sums[i * width : (i + 1) * width]
        count, active, at = 0, 0, 0
        while at < stop:
            byte = line[at]
            if is_space(byte):
                at += 1
                continue
            start = at
            value = FNV_OFFSET
            while not is_space(byte):
                value = _mix(value, byte)
                at += 1
                byte = line[at]
            if _is_end(line, start, at):
                break
            word, _ = find_word(line, start, at, value, words, word_offsets, slots)
            if word >= n_words or (word < 0 and _is_label(line, start, at)):
                continue
            if word >= 0:
                _add_row(total, rows, word, width)
                count += 1
            if word_ngrams > 1:
                active, found = _add_word_ngrams(
                    value, chains, active, bucket, pruned, prune_slots, rows, width, n_words, total
                )
                count += found
        if end_word >= 0:
            _add_row(total, rows, end_word, width)
            count += 1
        if word_ngrams > 1:
            count += _add_word_ngrams(
                END_HASH, chains, active, bucket, pruned, prune_slots, rows, width, n_words, total
            )[1]
        counts[i] = count


@helper
def _sum_word(
    line, start, stop, value, words, word_offsets, slots, n_words, rows, width,
    bucket, pruned, prune_slots, minn, maxn, sums,
):  # fmt: skip
    """Add a word's own row and those of its character n-grams; returns how many, -1 where the word is a label.

    The bytes of `line` on both sides of the word, which are white space already read, are overwritten by `<` and `>`.
    """
    word, _ = find_word(line, start, stop, value, words, word_offsets, slots)
    if word >= n_words or (word < 0 and _is_label(line, start, stop)):
        return -1
    found = 0
    if word >= 0:
        _add_row(sums, rows, word, width)
        found = 1
    line[start - 1] = 60
    line[stop] = 62
    found += _add_char_ngrams(
        line, start - 1, stop + 1, minn, maxn, bucket, pruned, prune_slots, rows, width, n_words, sums
    )
    line[stop] = 32
    return found


@helper
def _entry(line, start, stop, value, keys, stride):
    """Where in the table of summed words the word belongs (in units of 4 bytes), and whether it stands there already.

    Where it does not, whatever stood there is overwritten by the word.
    """
    place = _slot(value, len(keys) * 2 // stride - 1) * stride
    same = True
    for k in range(KEY_BYTES // 8):
        part = np.uint64(0)
        begin = start + 8 * k
        for at in range(begin, min(begin + 8, stop)):
            part |= np.uint64(line[at]) << np.uint64(8 * (at - begin))
        if keys[place // 2 + k] != part:
            keys[place // 2 + k] = part
            same = False
    return place, same


@kernel(
    "void(text, offsets, int64, const_uint8, const_int64, const_uint64, int64, int64, const_float32, int64, "
    "int64, int64, int64, const_uint64, int64, int64, vec_uint64, vec_int32, vec_float32, int64, vec_float64, vec_int64)"
)
def sum_subwords(
    data, offsets, newlines, words, word_offsets, slots, n_words, end_word, rows, width,
    bucket, word_ngrams, pruned, prune_slots, minn, maxn, keys, table_counts, table_sums, stride, sums, counts,
):  # fmt: skip
    """Sum the rows of each text, for a model with character n-grams. As `sum_words`, and remembers each word's sum.

    The table of summed words is one piece of memory of 2^k entries of `stride` units of 4 bytes, given as uint64
    (`keys`), int32 (`table_counts`) and float32 (`table_sums`). A word's sum does not depend on what the table holds.
    """
    line = np.empty(_longest(offsets) + 2, np.uint8)
    chains = np.empty(max(word_ngrams - 1, 1), np.uint64)
    for i in range(len(offsets) - 1):
        stop = one_line(data, offsets[i], offsets[i + 1], newlines, line, 1)
        line[stop] = 32
        total = sums[i * width : (i + 1) * width]
        count, active, at = 0, 0, 1
        while at < stop:
            byte = line[at]
            if is_space(byte):
                at += 1
                continue
            start = at
            value = FNV_OFFSET
            while not is_space(byte):
                value = _mix(value, byte)
                at += 1
                byte = line[at]
            if _is_end(line, start, at):
                break
            if at - start <= KEY_BYTES:
                place, known = _entry(line, start, at, value, keys, stride)
                part = table_sums[place + ENTRY_SUMS : place + ENTRY_SUMS + width]
                if not known:
                    part[:] = 0
                    table_counts[place + ENTRY_COUNT] = _sum_word(
                        line, start, at, value, words, word_offsets, slots, n_words, rows, width,
                        bucket, pruned, prune_slots, minn, maxn, part,
                    )  # fmt: skip
                found = table_counts[place + ENTRY_COUNT]
                for j in range(width):
                    total[j] += part[j]
            else:
                found = _sum_word(
                    line, start, at, value, words, word_offsets, slots, n_words, rows, width,
                    bucket, pruned, prune_slots, minn, maxn, total,
                )  # fmt: skip
            if found < 0:
                continue
            count += found
            if word_ngrams > 1:
                active, found = _add_word_ngrams(
                    value, chains, active, bucket, pruned, prune_slots, rows, width, n_words, total
                )
                count += found
        if end_word >= 0:
            _add_row(total, rows, end_word, width)
            count += 1
        if word_ngrams > 1:
            count += _add_word_ngrams(
                END_HASH, chains, active, bucket, pruned, prune_slots, rows, width, n_words, total
            )[1]
        counts[i] = count


@kernel("int64(const_uint8, const_uint8, const_int64, const_uint64)")
def word_id(word, words, word_offsets, slots):
    """The id of one word (its bytes) in the dictionary, or -1."""
    return find_word(word, 0, len(word), fnv(word, 0, len(word)), words, word_offsets, slots)[0]
