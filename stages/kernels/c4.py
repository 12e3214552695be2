"""C4's rules for lines and pages: which lines stay, what they hold, and how many sentences are left, in one call a batch.

Definitions: Raffel et al. 2020 (JMLR 21:140), section 2.2, as the filter C4QualityFilter of datatrove 0.10 computes them, but
for sentences: here places where `.`, `?` or `!` ends a word.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import load_u8
from stages.kernels.unicode_tables import DECIMAL, SPACE
from stages.kernels.utf8 import append, count_chars, decode, properties, skip_space, skip_space_back, white_word_end

PHRASES = (
    "lorem ipsum",
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
NO_PUNCTUATION, JAVASCRIPT, POLICY, CITATIONS = 1, 2, 4, 8  # rules that are in force, as bits

_LETTERS = np.frombuffer("".join(PHRASES).encode(), np.uint8).astype(np.int64)
_BEGINS = np.cumsum([0, *map(len, PHRASES)])
_LOREM, _SCRIPT, _POLICY = 1, 2, 4  # what a line holds, as bits
_MEANS = np.array([_LOREM, _SCRIPT, *[_POLICY] * (len(PHRASES) - 2)], np.int64)
_EDIT = np.frombuffer(b"[edit]", np.uint8).astype(np.uint64)
_NEEDED = np.frombuffer(b"[citation needed]", np.uint8).astype(np.uint64)


@helper
def _lower(point):
    """ASCII in lower case, and the Kelvin sign as k: all that str.lower() turns into one ASCII letter."""
    if 0x41 <= point <= 0x5A:
        return point + 0x20
    return 0x6B if point == 0x212A else point


@helper
def _phrase_at(data, at, stop, phrase):
    for k in range(_BEGINS[phrase], _BEGINS[phrase + 1]):
        if at >= stop:
            return False
        point, at = decode(data, at, stop)
        if _lower(point) != _LETTERS[k]:
            return False
    return True


@helper
def _phrases(data, start, stop):
    """Which kinds of phrases data[start:stop] holds, in any case."""
    found = 0
    for at in range(start, stop):
        byte = load_u8(data, at) | np.uint64(0x20)
        if byte == 0x6C or byte == 0x6A or byte == 0x74 or byte == 0x70 or byte == 0x63 or byte == 0x75:  # l j t p c u
            for phrase in range(len(_MEANS)):
                if _LETTERS[_BEGINS[phrase]] == np.int64(byte) and _phrase_at(data, at, stop, phrase):
                    found |= _MEANS[phrase]
    return found


@helper
def _is_at(data, at, stop, wanted):
    if at + len(wanted) > stop:
        return False
    same = True
    for i in range(len(wanted)):
        same = same and load_u8(data, at + i) == wanted[i]
    return same


@helper
def _citation_end(data, at, stop, table):
    """Where a citation ([12], [], [edit], [citation needed]) that begins at `at` ends; `at` where none does."""
    here = at + 1
    while here < stop:
        point, after = decode(data, here, stop)
        if point == 0x5D:
            return after
        if not properties(table, point) & DECIMAL:
            break
        here = after
    if _is_at(data, at, stop, _EDIT):
        return at + len(_EDIT)
    return at + len(_NEEDED) if _is_at(data, at, stop, _NEEDED) else at


@helper
def _copy_line(data, start, stop, table, citations, out, at):
    """Copy a line to out[at:], without citations where they are to go; returns the end of the copy."""
    if not citations:
        return append(out, at, data, start, stop)
    here = start
    while here < stop:
        if load_u8(data, here) == 0x5B:
            end = _citation_end(data, here, stop, table)
            if end > here:
                at = append(out, at, data, start, here)
                start = here = end
                continue
        here += 1
    return append(out, at, data, start, stop)


@helper
def line_end(data, start, stop):
    """(end of the line that begins at `start`, begin of the next): lines as str.splitlines() parts them."""
    at = start
    while at < stop:
        byte = load_u8(data, at)
        if byte == 0x0D and at + 1 < stop and load_u8(data, at + 1) == 0x0A:
            return at, at + 2
        if (byte >= 0x0A and byte <= 0x0D) or (byte >= 0x1C and byte <= 0x1E):
            return at, at + 1
        if byte == 0xC2 and at + 1 < stop and load_u8(data, at + 1) == 0x85:
            return at, at + 2
        if byte == 0xE2 and at + 2 < stop and load_u8(data, at + 1) == 0x80:
            last = load_u8(data, at + 2)
            if last == 0xA8 or last == 0xA9:
                return at, at + 3
        at += 1
    return stop, stop


@helper
def _split(data, at, stop, table):
    """(words, characters of the longest) as str.split() gives them."""
    words = longest = 0
    while True:
        at = skip_space(data, at, stop, table)
        if at >= stop:
            return words, longest
        end = white_word_end(data, at, stop, table)
        words += 1
        longest = max(longest, count_chars(data, at, end))
        at = end


@helper
def _ends_well(data, start, stop):
    """Whether a line ends in `.`, `?`, `!` or a straight quotation mark, and not in three dots."""
    if start >= stop:
        return False
    last = load_u8(data, stop - 1)
    if last == 0x2E:
        return not (stop - start >= 3 and load_u8(data, stop - 2) == 0x2E and load_u8(data, stop - 3) == 0x2E)
    return last == 0x3F or last == 0x21 or last == 0x22 or last == 0x27


@helper
def _sentences(data, start, stop, table):
    """Sentences of a line: runs of text up to a `.`, `?` or `!` that white space or the end follows; a rest counts too.

    Straight quotation marks and closing brackets may stand between. A line of white space has none.
    """
    count = 0
    open_ = ended = False
    while start < stop:
        point, start = decode(data, start, stop)
        if properties(table, point) & SPACE:
            if ended:
                count += 1
                open_ = ended = False
            continue
        open_ = True
        if point == 0x2E or point == 0x3F or point == 0x21:
            ended = True
        elif not (point == 0x22 or point == 0x27 or point == 0x29 or point == 0x5D):
            ended = False
    return count + np.int64(open_)


@helper
def _page(data, start, stop, table, rules, min_words, max_word, out, begin):
    """Write the lines that stay to out[begin:]; returns (its end, lines with lorem ipsum, with a bracket, sentences)."""
    at = begin
    lorem = brackets = sentences = 0
    while start < stop:
        end, following = line_end(data, start, stop)
        first = skip_space(data, start, end, table)
        last = skip_space_back(data, first, end, table)
        start = following
        words, longest = _split(data, first, last, table)
        if max_word >= 0 and longest > max_word:
            continue
        head = at
        if at > begin:
            out[at] = 0x0A
            head = at + 1
        tail = _copy_line(data, first, last, table, rules & CITATIONS, out, head)
        if (rules & NO_PUNCTUATION and not _ends_well(out, head, tail)) or words < min_words:
            continue
        found = _phrases(out, head, tail)
        lorem += np.int64(found & _LOREM != 0)
        if rules & JAVASCRIPT and found & _SCRIPT:
            continue
        for place in range(head, tail):
            if load_u8(out, place) == 0x7B:
                brackets += 1
                break
        if rules & POLICY and found & _POLICY:
            continue
        sentences += _sentences(out, head, tail, table)
        at = tail
    return at, lorem, brackets, sentences


@kernel(
    "int64(text, offsets, const_uint16, int64, int64, int64, vec_uint8, vec_int64, vec_int64, vec_int64, vec_int64)"
)
def c4_lines(data, offsets, table, rules, min_words, max_word, out, out_offsets, lorem, brackets, sentences):
    """Write the edited texts to `out` one behind another, and where each begins to `out_offsets` (n + 1).

    rules: bits of NO_PUNCTUATION, JAVASCRIPT, POLICY, CITATIONS. min_words: a line of fewer goes. max_word: a line with a
    word of more characters goes; -1 for none. out: as many bytes as all texts have. lorem, brackets: lines with the phrase,
    with `{`, among those that the rules before did not take; sentences: of the lines that stay. Returns the bytes written.
    """
    at = 0
    for row in range(len(offsets) - 1):
        out_offsets[row] = at
        end, lorem[row], brackets[row], sentences[row] = _page(
            data, offsets[row], offsets[row + 1], table, rules, min_words, max_word, out, at
        )
        first = skip_space(out, at, end, table)
        last = skip_space_back(out, first, end, table)
        at = append(out, at, out, first, last)
    out_offsets[len(offsets) - 1] = at
    return at
