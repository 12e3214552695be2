"""How much of a document repeats itself: lines, paragraphs, and n-grams of words for n = 2..10, in one call a batch.

The definitions are those of DCLM (mlfoundations/dclm, baselines/mappers/filters/content_filters.py), which follow
Gopher (Rae et al. 2021, appendix A1.1). Lengths are in characters.

Words, lines and paragraphs are compared by 64-bit hashes; n-grams exactly, from those: an (n+1)-gram is the pair of the
n-grams at its place and the next, each by its number. A pair can repeat only where both of its n-grams do, so n-grams
that occur once are struck off and the work shrinks with every n; at worst it is ten table look-ups a word.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.numbering import clear, hash_bytes, number_of, room
from stages.kernels.unicode_tables import ALNUM
from stages.kernels.utf8 import count_chars, decode, next_newline, properties, skip_space, skip_space_back
from stages.kernels.words import plain_word_end, skip_separators, word_end

MEASURES = (
    "duplicate_lines",
    "duplicate_paragraphs",
    "duplicate_line_chars",
    "duplicate_paragraph_chars",
    *(f"top_{n}gram" for n in (2, 3, 4)),
    *(f"duplicate_{n}grams" for n in range(5, 11)),
)
_TOP_2GRAM = MEASURES.index("top_2gram")
_COLUMNS = len(MEASURES)


@helper
def _duplicate_segments(data, start, stop, newlines, table, state, slots, keys, counts, lengths):
    """Shares (by count, by characters) of the segments between `newlines` newlines that occur more than once.

    Segments are stripped of white space, empty ones left out; every occurrence of a repeated segment counts. A text
    of one segment has (0, 0); a text of none (1, 1), so that a limit drops it, as the original does.
    """
    clear(state, slots, (stop - start) // 32)
    segments = 0
    while start <= stop:
        end = next_newline(data, start, stop, newlines)
        first = skip_space(data, start, end, table)
        if first < end:
            last = skip_space_back(data, first, end, table)
            number = number_of(hash_bytes(data, first, last), state, slots, keys)
            if number == state[0] - 1 and counts[number] == 0:
                lengths[number] = count_chars(data, first, last)
            counts[number] += 1
            segments += 1
        start = end + newlines
    repeated = 0
    repeated_chars = 0
    chars = 0
    for number in range(state[0]):
        chars += counts[number] * lengths[number]
        if counts[number] > 1:
            repeated += counts[number]
            repeated_chars += counts[number] * lengths[number]
        counts[number] = 0
    if segments == 0:
        return 1.0, 1.0
    return repeated / segments, repeated_chars / max(chars, 1)


@helper
def _number_words(data, start, stop, table, ids, ends, counts, state, slots, keys):
    """Number the words that begin with a letter or digit; ends[i + 1]: characters of the words up to the i-th.

    Returns how many words there are.
    """
    clear(state, slots, (stop - start) // 16)
    words = 0
    chars = 0
    ends[0] = 0
    while True:
        start = skip_separators(data, start, stop)
        if start >= stop:
            return words
        end = plain_word_end(data, start, stop)
        if end > start:
            chars += end - start
        else:
            end = word_end(data, start, stop, table)
            point, _ = decode(data, start, stop)
            if not properties(table, point) & ALNUM:
                start = end
                continue
            chars += count_chars(data, start, end)
        number = number_of(hash_bytes(data, start, end), state, slots, keys)
        counts[number] += 1
        ids[words] = number
        words += 1
        ends[words] = chars
        start = end


@helper
def _strike_single(kept, places, ids, counts):
    """Keep only n-grams that occur more than once: closes up places[:kept] and ids[:kept], returns how many stay."""
    left = 0
    for i in range(kept):
        number = ids[i]
        places[left] = places[i]
        ids[left] = number
        left += np.int64(counts[number] > 1)
    return left


@helper
def _pair_up(kept, places, ids, pairs, counts, state, slots, keys):
    """From the repeated n-grams (where they begin, their numbers) make the (n+1)-grams in place; returns how many."""
    left = 0
    for i in range(kept - 1):
        pairs[left] = np.uint64(ids[i]) << np.uint64(32) | np.uint64(ids[i + 1])
        adjacent = places[i + 1] == places[i] + 1
        places[left] = places[i]
        left += np.int64(adjacent)
    clear(state, slots, left)
    for i in range(left):
        number = number_of(pairs[i], state, slots, keys)
        counts[number] += 1
        ids[i] = number
    return left


@helper
def _top_share(n, kept, places, ids, counts, ends, words):
    """Characters of the commonest n-gram (count x length, the longest if several are) over those of all words."""
    most = 1
    longest = 0
    for i in range(kept):
        count = counts[ids[i]]
        if count > 1 and count >= most:
            length = ends[places[i] + n] - ends[places[i]]
            longest = length if count > most else max(longest, length)
            most = count
    return longest * most / max(ends[words], 1) if most > 1 else 0.0


@helper
def _covered_share(n, kept, places, ends, words):
    """Characters of the words that lie in any repeated n-gram, each word once, over those of all words."""
    chars = 0
    done = 0  # words before this one are counted
    for i in range(kept):
        chars += ends[places[i] + n] - ends[max(np.int64(places[i]), done)]
        done = np.int64(places[i]) + n
    return chars / ends[words] if chars > 0 else 0.0


@kernel("float64[:, ::1](text, offsets, const_uint16)")
def repetition(data, offsets, table):
    """MEASURES of each text: float64 [texts, measures], each a share from 0 to 1 or above (overlapping n-grams)."""
    documents = len(offsets) - 1
    longest = 0
    for row in range(documents):
        longest = max(longest, offsets[row + 1] - offsets[row])
    # No more words than two in three bytes ("a²a²"): ASCII letters and digits part only at a character of other bytes.
    # No more lines than one in two.
    most = 2 * longest // 3 + 4
    slots = np.empty(room(most), np.int32)
    keys = np.empty(most, np.uint64)
    state = np.zeros(2, np.int64)
    counts = np.zeros(most, np.int64)
    ends = np.empty(most + 1, np.int64)
    places = np.empty(most, np.int32)
    ids = np.empty(most, np.int32)
    pairs = np.empty(most, np.uint64)
    out = np.zeros((documents, _COLUMNS), np.float64)
    for row in range(documents):
        start, stop = offsets[row], offsets[row + 1]
        for newlines in range(1, 3):
            found = _duplicate_segments(data, start, stop, newlines, table, state, slots, keys, counts, ends)
            out[row, newlines - 1], out[row, newlines + 1] = found
        words = _number_words(data, start, stop, table, ids, ends, counts, state, slots, keys)
        for i in range(words):
            places[i] = i
        kept = _strike_single(words, places, ids, counts)
        counts[: state[0]] = 0
        for n in range(2, 11):
            kept = _pair_up(kept, places, ids, pairs, counts, state, slots, keys)
            if kept == 0:
                break
            if n <= 4:
                out[row, _TOP_2GRAM + n - 2] = _top_share(n, kept, places, ids, counts, ends, words)
            kept = _strike_single(kept, places, ids, counts)
            counts[: state[0]] = 0
            if n >= 5:
                out[row, _TOP_2GRAM + n - 2] = _covered_share(n, kept, places, ends, words)
    return out
