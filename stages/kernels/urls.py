"""Find and cut out URLs and IPv4 addresses as DCLM's regular expressions do, without their backtracking.

The expressions are those of url_removal_modifier in mlfoundations/dclm, baselines/mappers/modifiers.py; `top-level`
stands for any name of the list:

    \\s{0,10}(?:((https?|ftp)://))?[-a-zA-Z0-9@:%._\\+~#=]{1,256}\\.(top-level)\\b([-a-zA-Z0-9()@:%_\\+.~#?&//=]*)
    \\s{0,10}\\b((https?|ftp)://)?(?:[0-2]?[0-9]{1,2}\\.){3}[0-2]?[0-9]{1,2}[-a-zA-Z0-9()@:%_\\+.~#?&//=]*

Both kernels go from dot to dot. What stands before the dot is looked at only where what stands behind it fits, and all
of that is then cut out, so time is linear in the text.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8
from stages.kernels.unicode_tables import ALNUM, SPACE
from stages.kernels.utf8 import append, decode, properties, step_back

HOST_CHARS = "-@:%._+~#="
TAIL_CHARS = "-()@:%_+.~#?&/="
MOST_HOST_CHARS = 256
MOST_WHITE = 10

_FTP, _HTTP, _HTTPS = (np.frombuffer(scheme, np.uint8) for scheme in (b"ftp", b"http", b"https"))
_DOT, _SLASH, _COLON = ord("."), ord("/"), ord(":")
_HOST, _TAIL, _DIGIT, _LOWER, _WORD = 1, 2, 4, 8, 16


def _byte_kinds() -> np.ndarray:
    kinds = np.zeros(256, np.uint8)
    for byte in range(128):
        char = chr(byte)
        kinds[byte] = _HOST * (char.isalnum() or char in HOST_CHARS) + _TAIL * (char.isalnum() or char in TAIL_CHARS)
        kinds[byte] += _DIGIT * char.isdigit() + _LOWER * char.islower() + _WORD * (char.isalnum() or char == "_")
    return kinds


_KINDS = _byte_kinds()


@helper
def _is(data, at, kind):
    return _KINDS[load_u8(data, at)] & kind != 0


@helper
def _is_word(data, at, stop, table):
    """Whether the character that begins at `at` is one of the expressions' \\w; False at the end."""
    if at >= stop:
        return False
    point, _ = decode(data, at, stop)
    return point == 0x5F or properties(table, point) & ALNUM != 0


@helper
def _is_word_before(data, start, at, table):
    """The same of the character that ends at `at`; False at the start."""
    return at > start and _is_word(data, step_back(data, start, at), at, table)


@helper
def _name_end(data, start, stop, table, names, name_starts, first_of):
    """Where the top-level domain that begins at `start` ends, the expression's \\b behind it; -1 where there is none.

    Of the list's names at most one fits: a shorter one would have to end amid a word, where no boundary is.
    `names` holds all names one behind another, in order of their first two bytes; `first_of[a << 8 | b]` is the number
    of the first name that begins with the bytes a, b.
    """
    if start + 1 >= stop:
        return -1
    begin = np.int64(load_u8(data, start) << np.uint64(8) | load_u8(data, start + 1))
    for number in range(first_of[begin], first_of[begin + 1]):
        end = start + name_starts[number + 1] - name_starts[number]
        if end > stop:
            continue
        at = start + 2
        offset = name_starts[number] - start
        while at < end and load_u8(data, at) == load_u8(names, offset + at):
            at += 1
        if at == end and _is_word_before(data, start, end, table) != _is_word(data, end, stop, table):
            return end
    return -1


@helper
def _tail_end(data, at, stop):
    while at < stop and _is(data, at, _TAIL):
        at += 1
    return at


@helper
def _ends_with(data, start, at, word):
    if at - start < len(word):
        return False
    same = True
    for i in range(len(word)):
        same = same and load_u8(data, at - len(word) + i) == word[i]
    return same


@helper
def _scheme_start(data, start, at):
    """Where a scheme (http://, https://, ftp://) that ends at `at` begins; `at` where there is none."""
    if at - start < 6 or not (load_u8(data, at - 1) == _SLASH and load_u8(data, at - 2) == _SLASH):
        return at
    if load_u8(data, at - 3) != _COLON:
        return at
    end = at - 3
    if _ends_with(data, start, end, _FTP):
        return end - len(_FTP)
    if load_u8(data, end - 1) == _HTTPS[-1]:
        end -= 1
    return end - len(_HTTP) if _ends_with(data, start, end, _HTTP) else at


@helper
def _white_start(data, start, at, table):
    """Where the white space before `at` begins, at most MOST_WHITE characters of it."""
    for _ in range(MOST_WHITE):
        if at <= start:
            break
        before = step_back(data, start, at)
        point, _ = decode(data, before, at)
        if not properties(table, point) & SPACE:
            break
        at = before
    return at


@helper
def _find_url(data, start, stop, table, names, name_starts, first_of):
    """(begin, end) of the first match of the first expression behind `start`; (stop, stop) where there is none."""
    for dot in range(start + 1, stop):
        if load_u8(data, dot) != _DOT or not _is(data, dot - 1, _HOST):
            continue
        name_end = _name_end(data, dot + 1, stop, table, names, name_starts, first_of)
        if name_end < 0:
            continue
        host = dot - 1
        while host > start and dot - host < MOST_HOST_CHARS and _is(data, host - 1, _HOST):
            host -= 1
        # The host is taken as long as may be, so the last dot within reach decides where the tail begins. That makes a
        # difference only where its name goes on behind the host's characters (all of which a tail may hold).
        end = dot + 1
        last = dot
        while end < stop and _is(data, end, _HOST):
            if load_u8(data, end) == _DOT:
                last = end
            end += 1
        if last > dot and last - host <= MOST_HOST_CHARS:
            last_end = _name_end(data, last + 1, stop, table, names, name_starts, first_of)
            if last_end > end:
                name_end = last_end
        if host == start or not _is(data, host - 1, _HOST):
            host = _white_start(data, start, _scheme_start(data, start, host), table)
        return host, _tail_end(data, name_end, stop)
    return stop, stop


@helper
def _octet_end(data, start, stop):
    """Where the number of one to three digits (three: not above 299) that begins at `start` ends; -1 for none."""
    at = start
    while at < stop and at - start < 4 and _is(data, at, _DIGIT):
        at += 1
    length = at - start
    return at if 0 < length < 3 or (length == 3 and load_u8(data, start) <= 0x32) else -1


@helper
def _find_address(data, start, stop, table):
    """(begin, end) of the first match of the second expression behind `start`; (stop, stop) where there is none."""
    for dot in range(start + 1, stop - 5):
        if load_u8(data, dot) != _DOT or not (_is(data, dot - 1, _DIGIT) and _is(data, dot + 1, _DIGIT)):
            continue
        first = dot - 1
        while first > start and dot - first < 4 and _is(data, first - 1, _DIGIT):
            first -= 1
        if _octet_end(data, first, dot) != dot or _is_word_before(data, start, first, table):
            continue
        second = _octet_end(data, dot + 1, stop)
        if second < 0 or second >= stop or load_u8(data, second) != _DOT:
            continue
        third = _octet_end(data, second + 1, stop)
        if third < 0 or third + 1 >= stop or load_u8(data, third) != _DOT or not _is(data, third + 1, _DIGIT):
            continue
        scheme = _scheme_start(data, start, first)
        if not _is_word_before(data, start, scheme, table):
            first = scheme
        return _white_start(data, start, first, table), _tail_end(data, third + 1, stop)
    return stop, stop


@kernel(
    "int64(text, offsets, const_uint8, const_uint16, const_uint8, const_int64, const_int32,"
    "vec_uint8, vec_int64, vec_int64)"
)
def cut_urls(data, offsets, wanted, table, names, name_starts, first_of, out, out_offsets, counts):
    """Write the texts without their URLs to `out` one behind another, and where each begins to `out_offsets` (n + 1).

    Only where `wanted` is not 0 are they cut out; `counts` gets how many were. Returns the bytes written.
    """
    at = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        counts[row] = 0
        start, stop = offsets[row], offsets[row + 1]
        while start < stop:
            begin = end = stop
            if wanted[row]:
                begin, end = _find_url(data, start, stop, table, names, name_starts, first_of)
            counts[row] += np.int64(end > begin)
            at = append(out, at, data, start, begin)
            start = end
    out_offsets[len(offsets) - 1] = at
    return at


@kernel("int64(text, offsets, const_uint16, vec_uint8, vec_int64, vec_int64)")
def cut_addresses(data, offsets, table, out, out_offsets, counts):
    """The same of IPv4 addresses, in all texts; adds to `counts`."""
    at = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        start, stop = offsets[row], offsets[row + 1]
        while start < stop:
            begin, end = _find_address(data, start, stop, table)
            counts[row] += np.int64(end > begin)
            at = append(out, at, data, start, begin)
            start = end
    out_offsets[len(offsets) - 1] = at
    return at
