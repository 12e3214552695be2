"""URLs against lists: hosts against a sorted array of hashes, words against a sorted list, walked byte by byte.

What is counted is what Python's `re.findall` gives for an alternation of all words that prefers the longest: matches
from the left, none overlapping another. Time is linear in the text; a step narrows the range of words that still fit
by binary search, so a list of any size needs no memory but its own.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import hash_word, load_u8
from stages.kernels.unicode_tables import ALNUM
from stages.kernels.utf8 import decode, properties, step_back

DROPPED = 256  # in the table of `map_bytes`

_DOT, _COLON, _SLASH, _AT, _W = (ord(c) for c in ".:/@w")
_SCHEME, _ALPHA, _HOST_END, _ASIDE = 1, 2, 4, 8


def _byte_kinds() -> np.ndarray:
    """What a byte may be to urllib.parse.urlsplit: in a scheme, at its head, behind a host, or left out."""
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        char = chr(byte)
        kinds[byte] = _SCHEME * (char.isalnum() or char in "+-.") + _ALPHA * char.isalpha()
        kinds[byte] += _HOST_END * (char in "/?#") + _ASIDE * (char in "\t\r\n")
    return kinds


_KINDS = _byte_kinds()


@kernel("int64(text, offsets, const_uint16, vec_uint8, vec_int64)")
def map_bytes(data, offsets, table, out, out_offsets):
    """Each byte replaced by the table's entry for it, or left out where that is DROPPED; returns the bytes written."""
    at = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        for i in range(offsets[row], offsets[row + 1]):
            entry = table[data[i]]
            if entry != DROPPED:
                out[at] = entry
                at += 1
    out_offsets[len(offsets) - 1] = at
    return at


@helper
def _is_www(data, at):
    return load_u8(data, at) == _W and load_u8(data, at + 1) == _W and load_u8(data, at + 2) == _W


@helper
def _bare_host(data, start, stop):
    """(start, stop) of a host without user, port, a leading `www.` and a final dot."""
    for i in range(stop - 1, start - 1, -1):
        if load_u8(data, i) == _AT:
            start = i + 1
            break
    at = stop
    while at > start and load_u8(data, at - 1) - np.uint64(0x30) < np.uint64(10):
        at -= 1
    if at > start and load_u8(data, at - 1) == _COLON:
        stop = at - 1
    if stop - start > 4 and _is_www(data, start) and load_u8(data, start + 3) == _DOT:
        start += 4
    if stop > start and load_u8(data, stop - 1) == _DOT:
        stop -= 1
    return start, stop


@helper
def _host(data, start, stop, out):
    """Write the URL's host (netloc of urllib.parse.urlsplit) to out; returns its length."""
    while start < stop and load_u8(data, start) <= 0x20:
        start += 1
    size = 0
    for i in range(start, stop):
        byte = load_u8(data, i)
        if not _KINDS[byte] & _ASIDE:
            out[size] = byte
            size += 1
    at = 0
    while at < size and _KINDS[out[at]] & _SCHEME:
        at += 1
    at = at + 1 if 0 < at < size and out[at] == _COLON and _KINDS[out[0]] & _ALPHA else 0
    if at + 2 > size or out[at] != _SLASH or out[at + 1] != _SLASH:
        return 0
    begin = at = at + 2
    while at < size and not _KINDS[out[at]] & _HOST_END:
        at += 1
    for i in range(begin, at):
        out[i - begin] = out[i]
    return at - begin


@helper
def _without_www(host, size):
    """Take every `www` out of the host, wherever it stands; returns the length that is left."""
    at = kept = 0
    while at < size:
        if at + 3 <= size and _is_www(host, at):
            at += 3
        else:
            host[kept] = host[at]
            at += 1
            kept += 1
    return kept


@helper
def _holds(sorted_hashes, value):
    low, high = 0, len(sorted_hashes)
    while low < high:
        middle = (low + high) >> 1
        if sorted_hashes[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(sorted_hashes) and sorted_hashes[low] == value


@kernel("int64(text, boolean, vec_uint64)")
def hash_lines(data, bare, out):
    """The hash of each line that is not empty (in `bare` form where asked), as `known_hosts` looks them up.

    `out` must hold one for every two bytes, rounded up. Returns how many lines there are.
    """
    count = start = 0
    for at in range(len(data) + 1):
        if at == len(data) or data[at] == 0x0A or data[at] == 0x0D:
            begin, end = _bare_host(data, start, at) if bare else (start, at)
            if end > begin:
                out[count] = hash_word(data, begin, end)
                count += 1
            start = at + 1
    return count


@kernel("void(text, offsets, boolean, const_uint64, vec_int64)")
def known_hosts(data, offsets, bare, sorted_hashes, out):
    """1 for each URL (in lower case) whose host is among the hashes, else 0.

    `bare`: the host without user, port, leading `www.` and final dot. Else all of the netloc but every `www` in it.
    """
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    host = np.empty(longest, np.uint8)
    for row in range(len(offsets) - 1):
        begin, end = 0, _host(data, offsets[row], offsets[row + 1], host)
        if bare:
            begin, end = _bare_host(host, begin, end)
        else:
            end = _without_www(host, end)
        out[row] = np.int64(end > begin and _holds(sorted_hashes, hash_word(host, begin, end)))


@helper
def _is_word(data, at, stop, table):
    if at >= stop:
        return False
    point, _ = decode(data, at, stop)
    return point == 0x5F or properties(table, point) & ALNUM != 0


@helper
def _is_boundary(data, start, at, stop, table):
    """Whether `\\b` matches at `at`."""
    before = at > start and _is_word(data, step_back(data, start, at), at, table)
    return before != _is_word(data, at, stop, table)


@helper
def _first_not_below(words, starts, low, high, depth, byte):
    """The first word of words[low:high], all longer than `depth`, whose byte at `depth` is not below `byte`."""
    while low < high:
        middle = (low + high) >> 1
        if words[starts[middle] + depth] < byte:
            low = middle + 1
        else:
            high = middle
    return low


@helper
def _longest_word(data, start, at, stop, table, words, starts, low, high, whole):
    """(number, end) of the longest word that begins at `at`, of those in [low, high), which have its first byte; or -1."""
    best, best_end = -1, at
    depth = 1
    while True:
        if starts[low + 1] - starts[low] == depth:  # the shortest of those with this beginning comes first
            if not whole or _is_boundary(data, start, at + depth, stop, table):
                best, best_end = low, at + depth
            low += 1
        if at + depth >= stop:
            break
        byte = np.int64(load_u8(data, at + depth))
        low = _first_not_below(words, starts, low, high, depth, byte)
        high = _first_not_below(words, starts, low, high, depth, byte + 1)
        if low >= high:
            break
        depth += 1
    return best, best_end


@kernel("void(text, offsets, const_uint16, text, offsets, const_int64, const_uint8, boolean, vec_int64)")
def count_words(data, offsets, table, words, starts, first_of, pairs, whole, out):
    """How many different words of a list are found in each text.

    The list is sorted by bytes, without repetition, one word behind another: word i is words[starts[i]:starts[i + 1]],
    and `first_of[b]` (257) the number of the first that begins with byte b or a greater one; pairs[a << 8 | b] is 0
    where no word of the list begins with the bytes a, b, nor is a alone. `whole`: a word counts only between word
    boundaries (`\\b`). `table` is code_points().
    """
    seen_in = np.full(len(starts) - 1, -1, np.int64)
    for row in range(len(offsets) - 1):
        start, stop = offsets[row], offsets[row + 1]
        found = 0
        at = start
        while at < stop:
            byte = np.int64(load_u8(data, at))
            if at + 1 < stop and not pairs[byte << 8 | np.int64(load_u8(data, at + 1))]:
                at += 1
                continue
            low, high = first_of[byte], first_of[byte + 1]
            if low < high and (not whole or _is_boundary(data, start, at, stop, table)):
                word, end = _longest_word(data, start, at, stop, table, words, starts, low, high, whole)
                if word >= 0:
                    found += np.int64(seen_in[word] != row)
                    seen_in[word] = row
                    at = end
                    continue
            at += 1
        out[row] = found
