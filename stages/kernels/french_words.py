"""Words as spaCy's rules for French part them, made of those of its rules for English.

French parts words behind an apostrophe (`l'eau` is `l'` and `eau`), and leaves English contractions whole (`dont`). It leaves
words with hyphens whole that begin with one of some words (`demi-finale`), or have one of others in the middle
(`Aix-en-Provence`), and parts a pronoun with its hyphen from a verb (`dit-il` is `dit` and `-il`).
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8
from stages.kernels.pii_words import has_word

HYPHEN, DOT = 0x2D, 0x2E
CHRIST = np.frombuffer(b"J.-C.", np.uint8)
FIRST, MIDDLE, LAST, SHORT = range(4)  # sets of words


def word_hash(word: str) -> int:
    """The hash by which words are looked up: FNV-1a over UTF-8 bytes in lower case, that of Latin-1."""
    value = 0xCBF29CE484222325
    for byte in word.lower().encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


@helper
def _hash(data, begin, end):
    value = np.uint64(0xCBF29CE484222325)
    before = np.uint64(0)
    for i in range(begin, end):
        byte = load_u8(data, i)
        if 0x41 <= byte <= 0x5A or (before == 0xC3 and byte <= 0x9E and byte != 0x97):
            byte |= np.uint64(32)
        value = (value ^ byte) * np.uint64(0x100000001B3)
        before = byte
    return value


@helper
def _apostrophe(data, at, end):
    """Bytes of the apostrophe at `at`, `'` or `’`; 0 where there is none."""
    byte = load_u8(data, at)
    if byte == 0x27:
        return 1
    typed = byte == 0xE2 and at + 2 < end and load_u8(data, at + 1) == 0x80 and load_u8(data, at + 2) == 0x99
    return 3 if typed else 0


@helper
def _in_letter(byte):
    """Whether a byte is an ASCII letter or part of another character."""
    return byte >= 0x80 or 0x61 <= (byte | np.uint64(0x20)) <= 0x7A


@helper
def _is_word(data, begin, end):
    """Whether there are letters and apostrophes only, no punctuation of Latin-1, General Punctuation and CJK among them."""
    at = begin
    while at < end:
        byte = load_u8(data, at)
        size = _apostrophe(data, at, end)
        second = load_u8(data, at + 1) if at + 1 < end else np.uint64(0)
        other = (byte == 0xE2 and second <= 0x82) or (byte == 0xE3 and second == 0x80) or (byte == 0xEF and second >= 0xBC)
        if size == 0 and (byte == 0xC2 or other or not _in_letter(byte)):
            return False
        at += max(size, 1)
    return end > begin


@helper
def _is_hyphen(data, spans, word):
    return spans[2 * word + 1] - spans[2 * word] == 1 and load_u8(data, spans[2 * word]) == HYPHEN


@helper
def _joined(data, spans, word, last):
    """Behind which of the words `word` to `last` - 1 the word ends that begins with `word`, English contractions put together."""
    behind = word + 1
    if not _is_word(data, spans[2 * word], spans[2 * word + 1]) or _apostrophe(data, spans[2 * word], spans[2 * word + 1]):
        return behind
    while behind < last and spans[2 * behind] == spans[2 * behind - 1]:
        begin, end = spans[2 * behind], spans[2 * behind + 1]
        size = _apostrophe(data, begin, end)
        quoted = load_u8(data, begin - 1) == 0x27 or (begin - 3 > spans[2 * word] and _apostrophe(data, begin - 3, begin) == 3)
        if quoted or begin + size == end or not _is_word(data, begin, end):
            break
        behind += 1
    return behind


@helper
def _chain(data, spans, word, last):
    """Behind which word a chain of words and hyphens ends that begins with `word`."""
    behind = _joined(data, spans, word, last)
    while behind + 1 < last and spans[2 * behind] == spans[2 * behind - 1] and _is_hyphen(data, spans, behind):
        after = behind + 1
        if spans[2 * after] != spans[2 * after - 1] or not _is_word(data, spans[2 * after], spans[2 * after + 1]):
            break
        behind = _joined(data, spans, after, last)
    return behind


@helper
def _is_whole(data, begin, end, sets, bounds):
    """Whether a chain with hyphens is one word: by its first word, or by the second of three."""
    first = second = np.int64(-1)
    hyphens = 0
    for i in range(begin, end):
        if load_u8(data, i) == HYPHEN:
            hyphens += 1
            if hyphens == 1:
                first = i
            elif hyphens == 2:
                second = i
    if first < 0:
        return False
    if has_word(sets[bounds[FIRST] : bounds[FIRST + 1]], _hash(data, begin, first)):
        return True
    plain = True
    for i in range(begin, first):
        plain = plain and _apostrophe(data, i, first) == 0
    return plain and hyphens == 2 and has_word(sets[bounds[MIDDLE] : bounds[MIDDLE + 1]], _hash(data, first + 1, second))


@helper
def _part(data, begin, end, out, count):
    """Part the word behind each apostrophe between two letters, but for `aujourd'hui`, and `J.-C.`; returns how many."""
    at = begin + 1
    same = 0
    while end - begin == len(CHRIST) and same < len(CHRIST) and load_u8(data, begin + same) == CHRIST[same]:
        same += 1
    if same == len(CHRIST):
        out[2 * count], out[2 * count + 1] = begin, begin + 2
        count += 1
        begin = at = begin + 2
    while at < end - 1:
        size = _apostrophe(data, at, end)
        behind = at + size
        if size and behind < end and _in_letter(load_u8(data, at - 1)) and _in_letter(load_u8(data, behind)):
            today = at - begin == 7 and end - behind == 3 and load_u8(data, at - 1) == 0x64 and load_u8(data, behind) == 0x68
            if not today:
                out[2 * count], out[2 * count + 1] = begin, behind
                count += 1
                begin = behind
        at += max(size, 1)
    out[2 * count], out[2 * count + 1] = begin, end
    return count + 1


@kernel("int64(text, const_int64, const_int64, const_uint64, const_int64, vec_int64, vec_int64)")
def french_words(data, spans, ends, sets, bounds, out, out_ends):
    """French words from English ones, `spans` (begin and end behind one another, in bytes); returns how many they are.

    ends: how many words stand before each text, n + 1. sets: hashes of words, sorted within each of FIRST (that make a word with
    hyphens one), MIDDLE (the same in the middle of three), LAST (parted together with the hyphen before), SHORT (abbreviations
    that keep their dot), which begin at `bounds`. out: room for 2 numbers a byte of the words; out_ends: n + 1.
    """
    count = 0
    out_ends[0] = 0
    for row in range(len(ends) - 1):
        word, last = ends[row], ends[row + 1]
        while word < last:
            behind = _chain(data, spans, word, last)
            begin, end = spans[2 * word], spans[2 * behind - 1]
            if _is_whole(data, begin, end, sets, bounds):
                out[2 * count], out[2 * count + 1] = begin, end
                count += 1
                word = behind
                continue
            while word < behind:
                after = _joined(data, spans, word, behind)
                begin, end = spans[2 * word], spans[2 * after - 1]
                if _is_hyphen(data, spans, word) and after == behind - 1:
                    with_it = spans[2 * after + 1]
                    if has_word(sets[bounds[LAST] : bounds[LAST + 1]], _hash(data, end, with_it)):
                        after, end = behind, with_it
                elif after == behind and after < last and spans[2 * after] == end and spans[2 * after + 1] == end + 1:
                    short = has_word(sets[bounds[SHORT] : bounds[SHORT + 1]], _hash(data, begin, end))
                    if short and load_u8(data, end) == DOT:
                        out[2 * count], out[2 * count + 1] = begin, end + 1
                        count += 1
                        word = behind = after + 1
                        continue
                count = _part(data, begin, end, out, count)
                word = after
        out_ends[row + 1] = count
    return count
