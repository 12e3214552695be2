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
from stages.kernels.vectors import add_eight, count_bits, prefetch

FNV_OFFSET = np.uint32(2166136261)
FNV_PRIME = np.uint32(16777619)
END_HASH = np.uint32(3617362777)  # of "</s>"
NGRAM_FACTOR = np.uint64(116049371)

# An entry of the table of words, in units of 4 bytes: the word (32 bytes, zeros behind it), then at these places the
# number of its rows (or LABEL or END), its hash, and the sum of its rows. Longer words are summed anew each time.
KEY_BYTES = 32
ENTRY_COUNT, ENTRY_HASH, ENTRY_SUMS = 8, 9, 10
BLOCK = 64  # words that are looked up together
LABEL, END = -1, -2  # a word that begins like a label, and so is none; the word that ends the text

LOW_BITS = np.uint64(0x7F7F7F7F7F7F7F7F)
HIGH_BITS = np.uint64(0x8080808080808080)
AT_LEAST_33 = np.uint64(0x5F5F5F5F5F5F5F5F)  # added to 7 bits, sets the 8th where they are 33 or more
BYTE_PLACES = np.uint64(0x0001020304050607)  # times 2 ** (8 k), has k in its highest byte
KEY_FACTORS = (  # odd numbers with bits in no pattern, to spread words over the table
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
    np.uint64(0xD6E8FEB86659FD93),
)


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


@helper
def _add_char_ngrams(text, start, stop, minn, maxn, bucket, kept, rows, width, n_words, sums, to):
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
                row, is_kept = _bucket_row(np.int64(value % np.uint32(bucket)), kept, n_words)
                if is_kept:
                    _add(sums, to, rows, row * width, width)
                    found += 1
            n += 1
    return found


@helper
def _add_word_ngrams(value, chains, active, bucket, kept, rows, width, n_words, sums, to):
    """Extend the open chains, one for each of the words before, by the word hashed `value`, and begin its own.

    Each extended chain is the hash of a word n-gram whose row is added. Returns (chains now open, rows added).
    """
    signed = np.uint64(np.int64(np.int32(value)))  # fastText keeps hashes as int32: they are sign-extended
    found = 0
    for k in range(active):
        chains[k] = chains[k] * NGRAM_FACTOR + signed
        row, is_kept = _bucket_row(np.int64(chains[k] % np.uint64(bucket)), kept, n_words)
        if is_kept:
            _add(sums, to, rows, row * width, width)
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


@helper
def _sum_word(
    line, start, stop, value, words, word_offsets, slots, n_words, rows, width,
    bucket, kept, minn, maxn, sums, to,
):  # fmt: skip
    """Add a word's own row and those of its character n-grams; returns how many, or LABEL or END where it is no word.

    The bytes of `line` on both sides of the word, which are white space already read, are overwritten by `<` and `>`.
    """
    word, _ = find_word(line, start, stop, value, words, word_offsets, slots)
    if word >= n_words or (word < 0 and _is_label(line, start, stop)):
        return LABEL
    if _is_end(line, start, stop):
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
        line, start - 1, stop + 1, minn, maxn, bucket, kept, rows, width, n_words, sums, to
    )
    line[stop] = 32
    return found


@helper
def _eight_bytes(units, at):
    """The 8 bytes from `at` on, as one number, of a text given as whole 8-byte units."""
    shift = np.uint64((at & 7) << 3)
    return (units[at >> 3] >> shift) | ((units[(at >> 3) + 1] << np.uint64(1)) << (np.uint64(63) - shift))


@helper
def _scan_word(units, line, at, parts, to):
    """Where the word that begins at `at` ends; its first 32 bytes, zeros behind it, go to parts[to : to + 4].

    The word is read 8 bytes at a time, and ends at the first of the seven bytes that are white space.
    """
    parts[to + 1] = parts[to + 2] = parts[to + 3] = 0
    k = 0
    while True:
        eight = _eight_bytes(units, at)
        # The high bit of each byte that is at most 0x20: no sum of 7 bits carries into the next byte.
        low = ~(((eight & LOW_BITS) + AT_LEAST_33) | eight) & HIGH_BITS
        if low == 0:
            if k < 4:
                parts[to + k] = eight
            k += 1
            at += 8
            continue
        first = (low & (~low + np.uint64(1))) >> np.uint64(7)  # 2 ** (8 * the place of the first such byte)
        end = at + np.int64((first * BYTE_PLACES) >> np.uint64(56))
        if is_space(line[end]):
            if k < 4:
                parts[to + k] = eight & (first - np.uint64(1))
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


@helper
def _spread(parts, at):
    """A hash of a word's 32 bytes, cheaper than fastText's: where its search in the table of words begins."""
    value = parts[at] ^ (parts[at + 1] * KEY_FACTORS[1]) ^ (parts[at + 2] * KEY_FACTORS[2])
    value = (value ^ (parts[at + 3] * KEY_FACTORS[3])) * KEY_FACTORS[0]
    return np.int64(value >> np.uint64(32))


@helper
def _entry(parts, of, value, seen, keys, stride, used):
    """(the entry of a word of up to 32 bytes in the table of words, whether the word stands there already).

    Where it does not, it is given the next free entry; where none is free, the whole table is emptied first.
    """
    mask = len(seen) - 1
    slot = value & mask
    while seen[slot] != 0:
        at = np.int64(seen[slot] - 1) * stride
        differ = (keys[at] ^ parts[of]) | (keys[at + 1] ^ parts[of + 1])
        if differ | (keys[at + 2] ^ parts[of + 2]) | (keys[at + 3] ^ parts[of + 3]) == 0:
            return at, True
        slot = (slot + 1) & mask
    if used[0] * stride == len(keys):
        used[0] = 0
        seen[:] = 0
        slot = value & mask
    at = used[0] * stride
    used[0] += 1
    seen[slot] = used[0]
    for k in range(4):
        keys[at + k] = parts[of + k]
    return at, False


@kernel(
    "void(text, offsets, int64, const_uint8, const_int64, const_uint64, int64, int64, const_float32, int64, "
    "int64, int64, const_uint64, int64, int64, vec_uint32, vec_int64, vec_uint64, int64, vec_float64, vec_int64)"
)
def sum_rows(
    data, offsets, newlines, words, word_offsets, slots, n_words, end_word, rows, width,
    bucket, word_ngrams, kept, minn, maxn, seen, used, keys, stride, sums, counts,
):  # fmt: skip
    """Sum the rows of each text: of its words, their character n-grams, and its word n-grams.

    `sums` (float64, width a text) and `counts` (int64, rows a text) are zeroed by the caller and filled here.

    `rows` are those of the words, then those of the buckets. Where pruning took some buckets, a row of zeros stands
    between, and `kept` says which remain: for every 32 buckets their bits << 32 | 1 + how many are kept before them.

    The table of words remembers, of each distinct word met, its hash and the sum of its rows: text repeats its words,
    so this is met in the cache far more often than the dictionary would be. `keys` are its entries, of `stride` units
    of 8 bytes; `seen` a hash table of 2^k slots (entry + 1; 0 = free) over them, at least twice as many; `used[0]`
    the entries in use. What the table holds never changes a result: a word's sum is the same from the table or anew.
    """
    units = np.empty((_longest(offsets) + 2) // 8 + 6, np.uint64)
    line = units.view(np.uint8)
    numbers, part_sums = keys.view(np.uint32), keys.view(np.float32)
    chains = np.empty(max(word_ngrams - 1, 1), np.uint64)
    starts, sizes, values = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    parts = np.empty(4 * BLOCK, np.uint64)
    mask = len(seen) - 1
    for i in range(len(offsets) - 1):
        stop = one_line(data, offsets[i], offsets[i + 1], newlines, line, 1)
        line[stop] = 32
        to = i * width
        count, active, at = 0, 0, 1
        while at < stop:
            # Words are looked up in blocks, so that memory is asked for all of a block's entries at once.
            block = 0
            while at < stop and block < BLOCK:
                if is_space(line[at]):
                    at += 1
                    continue
                starts[block] = at
                at = _scan_word(units, line, at, parts, 4 * block)
                sizes[block] = at - starts[block]
                values[block] = _spread(parts, 4 * block)
                prefetch(seen, values[block] & mask)
                block += 1
            for k in range(block):
                entry = (np.int64(seen[values[k] & mask]) - 1) * stride
                prefetch(keys, entry)
                prefetch(keys, entry + 8)
            for k in range(block):
                if sizes[k] <= KEY_BYTES:
                    entry, known = _entry(parts, 4 * k, values[k], seen, keys, stride, used)
                    part = 2 * entry + ENTRY_SUMS
                    if not known:
                        for j in range(width):
                            part_sums[part + j] = 0
                        value = fnv(line, starts[k], starts[k] + sizes[k])
                        found = _sum_word(
                            line, starts[k], starts[k] + sizes[k], value, words, word_offsets, slots, n_words, rows, width,
                            bucket, kept, minn, maxn, part_sums, part,
                        )  # fmt: skip
                        numbers[2 * entry + ENTRY_COUNT], numbers[2 * entry + ENTRY_HASH] = found, value
                    found = np.int64(np.int32(numbers[2 * entry + ENTRY_COUNT]))
                    value = numbers[2 * entry + ENTRY_HASH]
                    if found > 0:
                        _add(sums, to, part_sums, part, width)
                else:
                    value = fnv(line, starts[k], starts[k] + sizes[k])
                    found = _sum_word(
                        line, starts[k], starts[k] + sizes[k], value, words, word_offsets, slots, n_words, rows, width,
                        bucket, kept, minn, maxn, sums, to,
                    )  # fmt: skip
                if found == END:
                    at = stop
                    break
                if found == LABEL:
                    continue
                count += found
                if word_ngrams > 1:
                    active, found = _add_word_ngrams(
                        value, chains, active, bucket, kept, rows, width, n_words, sums, to
                    )
                    count += found
        if end_word >= 0:
            _add(sums, to, rows, end_word * width, width)
            count += 1
        if word_ngrams > 1:
            count += _add_word_ngrams(
                END_HASH, chains, active, bucket, kept, rows, width, n_words, sums, to
            )[1]
        counts[i] = count


@kernel("int64(const_uint8, const_uint8, const_int64, const_uint64)")
def word_id(word, words, word_offsets, slots):
    """The id of one word (its bytes) in the dictionary, or -1."""
    return find_word(word, 0, len(word), fnv(word, 0, len(word)), words, word_offsets, slots)[0]
