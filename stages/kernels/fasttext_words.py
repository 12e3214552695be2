"""fastText's words: what parts them, how they are hashed, and the dictionary that they are looked up in.

As `Dictionary` of the fastText library has it (github.com/facebookresearch/fastText, src/dictionary.cc): white space is
one of seven bytes, and words are hashed with FNV-1a over *signed* bytes, which models depend on.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, inlined, kernel
from stages.kernels.hashing import load, load_u8

FNV_OFFSET = np.uint32(2166136261)
FNV_PRIME = np.uint32(16777619)
END_HASH = np.uint32(3617362777)  # of "</s>"


@inlined
def mix(value, byte):
    """One step of FNV-1a as fastText has it: the byte is sign-extended before it is mixed in."""
    return np.uint32((value ^ np.uint32(np.int32(np.int8(byte)))) * FNV_PRIME)


@inlined
def fnv(data, start, stop):
    """The hash of the word data[start:stop]."""
    value = FNV_OFFSET
    for at in range(start, stop):
        value = mix(value, load_u8(data, at))
    return value


@inlined
def word_slot(value, mask):
    return np.int64(value ^ (value >> np.uint32(15))) & mask


@helper
def find_word(data, start, stop, value, words, word_offsets, slots):
    """(id of the word data[start:stop] with hash `value`, its slot); the id is -1 where it is not in the dictionary."""
    mask = len(slots) - 1
    slot = word_slot(value, mask)
    while True:
        entry = load(slots, slot)
        if entry == 0:
            return -1, slot
        if np.uint32(entry >> np.uint64(32)) == value:
            word = np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
            begin = load(word_offsets, word)
            if load(word_offsets, word + 1) - begin == stop - start:
                k = 0
                while k < stop - start and load_u8(words, begin + k) == load_u8(data, start + k):
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
def is_label(data, start, stop):
    """Whether a word begins with fastText's label prefix, `__label__`."""
    if stop - start < 9 or data[start] != 95:
        return False
    prefix = (95, 95, 108, 97, 98, 101, 108, 95, 95)
    same = True
    for k in range(9):
        same &= data[start + k] == prefix[k]
    return same


@helper
def is_end(data, start, stop):
    """Whether a word is fastText's end-of-sentence word, `</s>`."""
    return (
        stop - start == 4
        and data[start] == 60
        and data[start + 1] == 47
        and data[start + 2] == 115
        and data[start + 3] == 62
    )


@kernel("int64(const_uint8, int64, vec_int64, vec_int64, vec_uint8)")
def scan_dictionary(data: np.ndarray, at: int, starts: np.ndarray, counts: np.ndarray, kinds: np.ndarray) -> int:
    """Find where each entry's word begins, its count and kind; returns where the entries end, -1 past the file's end."""
    for entry in range(len(starts)):
        starts[entry] = at
        while at < len(data) and data[at] != 0:
            at += 1
        if at + 10 > len(data):
            return -1
        count = np.int64(0)
        for k in range(8):
            count |= np.int64(data[at + 1 + k]) << (8 * k)
        counts[entry], kinds[entry] = count, data[at + 9]
        at += 10
    return at


@kernel("void(const_uint8, const_int64, const_int64, vec_uint8)")
def copy_words(data: np.ndarray, starts: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
    """Copy each word to its place, end to end."""
    for word in range(len(starts)):
        for k in range(offsets[word + 1] - offsets[word]):
            out[offsets[word] + k] = data[starts[word] + k]
