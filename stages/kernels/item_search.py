"""Where documents hold the texts of evaluation items, whole or with some words changed.

Seed and extend: an n-gram of SEED words that a document shares with an item's text gives a diagonal; along it the two are
aligned, within a band, by their weighted longest common subsequence. What is found of a text is the share of its weight
that was aligned; a word weighs its inverse document frequency among the items. That n-gram hits are extended, overlap is
weighted by IDF, short items must be found whole and answers near their question is the scheme of AI2's decon.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, kernel
from stages.kernels.hashing import NGRAM_BASE, mix64

SEED = 4  # words of an n-gram that begins a comparison
NEAR = 12  # words to both sides of a seed of which half must agree, before the whole is aligned
BAND, MOST_BAND = 4, 24  # words that may be put in or left out on the way: BAND, and one more for 8 words of the text
SHORT_ANSWER = 3  # words: an answer up to here must be there as it is
ANSWER_WINDOW = 50  # words behind the question in which a short answer is looked for; a longer one in twice as many
FIRST_WORDS = 3  # of a longer answer, at each of which, with the next one, an alignment may begin,
MOST_BEGUN = 16  # of which so many are tried
LEAST = 0.6  # of a question's weight, below which its answer is not looked for
ALL_FROM = 25  # words from which the share `enough` of a text is enough; of one with the fewest words, all must be there
ROUNDING = 1e-6
PATIENCE = 8  # alignments of one text in one document that fail for each word passed over before the next, and words at most
DOCUMENT, NEXT, FAILED, DIAGONAL = 0, 1, 2, 3  # what is remembered of a text: in which document, from which word to try again


@helper
def _seed(words, first):
    value = np.uint64(0)
    for i in range(first, first + SEED):
        value = value * NGRAM_BASE + np.uint64(words[i])
    return mix64(value)


@kernel("int64(const_uint32, offsets, vec_uint64, vec_int64)")
def seed_hashes(words, offsets, out, places):
    """The hash of each n-gram of SEED words within a text, and the place of its first word. Returns how many there are.

    words: of all texts, text i being words[offsets[i]:offsets[i + 1]]. The outputs must hold one for each word.
    """
    at = 0
    for text in range(len(offsets) - 1):
        for i in range(offsets[text], offsets[text + 1] - SEED + 1):
            out[at] = _seed(words, i)
            places[at] = i
            at += 1
    return at


@kernel("void(const_uint64, vec_uint64)")
def fill_filter(seeds, out):
    """Set the bit of each seed in `out`, whose length is a power of two: most of what is looked up ends there."""
    for k in range(len(seeds)):
        out[(seeds[k] >> np.uint64(6)) & np.uint64(len(out) - 1)] |= np.uint64(1) << (seeds[k] & np.uint64(63))


@helper
def _may_hold(filter, value):
    return (filter[(value >> np.uint64(6)) & np.uint64(len(filter) - 1)] >> (value & np.uint64(63))) & np.uint64(1)


@helper
def _agrees_near(document, stop, place, words, text, end, seed):
    """Whether half of a text's words around a seed stand opposite to the same ones: words[seed] to document[place]."""
    first, last = max(text, seed - NEAR), min(end, seed + SEED + NEAR)
    same = 0
    for k in range(first, last):
        j = place + k - seed
        if 0 <= j < stop and document[j] == words[k]:
            same += 1
    return 2 * same >= last - first


@helper
def _align(document, first, stop, diagonal, words, text, end, weights, best, begins, ends):
    """The greatest weight of a common subsequence of words[text:end] and document[first:stop]; where it begins and ends.

    Word k of the text may stand at most the band's width from document[diagonal + k]. `best`, `begins` and `ends` are
    scratch of 2 * MOST_BAND + 2. Returns (weight, first word, behind the last word); (0, -1, -1) for nothing in common.
    """
    band = min(MOST_BAND, BAND + (end - text) // 8)
    width = 2 * band + 1
    for c in range(width + 1):
        best[c], begins[c], ends[c] = 0.0, -1, -1
    for k in range(end - text):
        word = words[text + k]
        weight = weights[word]
        for c in range(width):
            j = diagonal + k + c - band
            value, begin, last = best[c], begins[c], ends[c]
            if first <= j < stop and document[j] == word:
                value += weight
                begin = begin if begin >= 0 else j
                last = j + 1
            else:
                value, begin, last = 0.0, -1, -1
            if c + 1 < width and best[c + 1] >= value:  # without this word of the text
                value, begin, last = best[c + 1], begins[c + 1], ends[c + 1]
            if c > 0 and best[c - 1] > value:  # without this word of the document
                value, begin, last = best[c - 1], begins[c - 1], ends[c - 1]
            best[c], begins[c], ends[c] = value, begin, last
    most = 0
    for c in range(1, width):
        if best[c] > best[most]:
            most = c
    return best[most], begins[most], ends[most]


@helper
def _answer(document, first, stop, words, text, end, weights, best, begins, ends):
    """The weight of an answer, words[text:end], that is found in a window behind `first`, and where it ends (-1: not)."""
    length = end - text
    window = min(stop, first + (ANSWER_WINDOW if length <= SHORT_ANSWER else 2 * max(ANSWER_WINDOW, length)))
    found, last, begun = 0.0, -1, 0
    for j in range(first, window):
        if length <= SHORT_ANSWER:
            k = 0
            while k < length and j + k < window and document[j + k] == words[text + k]:
                k += 1
            if k == length:
                total = 0.0
                for i in range(text, end):
                    total += weights[words[i]]
                return total, j + length
            continue
        for k in range(FIRST_WORDS):
            follows = j + 1 < window and document[j + 1] == words[text + k + 1]
            if begun < MOST_BEGUN and follows and document[j] == words[text + k]:
                begun += 1
                weight, _, behind = _align(document, j, window, j - k, words, text, end, weights, best, begins, ends)
                if weight > found:
                    found, last = weight, behind
                break
    return found, last


@helper
def _enough(words, shortest, enough):
    """The share of a text's weight that must be found, by its length: 1 for the shortest, `enough` from ALL_FROM on."""
    if words >= ALL_FROM:
        return enough - ROUNDING
    return 1.0 - (1.0 - enough) * max(0, words - shortest) / max(1, ALL_FROM - shortest) - ROUNDING


@kernel(
    "int64(const_uint32, offsets, const_float64, const_uint32, offsets, const_float64, const_uint32, offsets, offsets, "
    "const_uint64, const_uint64, const_uint32, int64, offsets, const_uint32, const_uint32, const_int64, int64, float64, "
    "Array(int64, 2, 'C'), vec_int64, vec_uint32, vec_int64, vec_int64, vec_float64)"
)
def find_items(
    document_words, offsets, weights, words, texts, text_weights, answer_words, answers, answers_of,
    filter, seeds, index, shift, place_begins, places, place_texts, shortest, answered, enough,
    seen, out_rows, out_texts, out_firsts, out_lasts, out_shares,
):  # fmt: skip
    """Find texts of items in documents; write (row, text, first word, behind the last word, share found) of each.

    document_words: numbers of words as `words` has them, 0 for one that no item has; document i is
    document_words[offsets[i]:offsets[i + 1]]. weights[number]: of each word, weights[0] being 0. Text t is
    words[texts[t]:texts[t + 1]], of weight text_weights[t]; its answers are answers_of[t] to answers_of[t + 1] of
    answer_words[answers[a]:answers[a + 1]]. `seeds`, sorted, with `index` and `shift` as `look_up` has them: seed k is at
    places[place_begins[k]:place_begins[k + 1]] of `words`, in the texts `place_texts`; filter: see `fill_filter`. shortest: of
    each text, words from which it may be found alone; answered: words from which with its answer; enough: see `_enough`.
    seen: scratch, 4 a text, all -1. Returns how many were found; where that is more than the outputs hold, the rest is not
    written.
    """
    count = 0
    best, begins, ends = np.empty(2 * MOST_BAND + 2), np.empty(2 * MOST_BAND + 2, np.int64), np.empty(2 * MOST_BAND + 2, np.int64)
    for row in range(len(offsets) - 1):
        document = document_words[offsets[row] : offsets[row + 1]]
        stop = len(document)
        known = 0  # words before this one that some item has, at a stretch
        for j in range(stop):
            known = known + 1 if document[j] else 0
            if known < SEED:
                continue
            place = j - SEED + 1
            value = _seed(document, place)
            if not _may_hold(filter, value):
                continue
            bucket = value >> np.uint64(shift)
            for k in range(np.int64(index[bucket]), np.int64(index[bucket + np.uint64(1)])):
                if seeds[k] != value:
                    continue
                for p in range(place_begins[k], place_begins[k + 1]):
                    text, seed = np.int64(place_texts[p]), np.int64(places[p])
                    begin, end = texts[text], texts[text + 1]
                    diagonal = place - (seed - begin)
                    if seen[text, DOCUMENT] != row:
                        seen[text, DOCUMENT], seen[text, NEXT], seen[text, FAILED] = row, 0, 0
                        seen[text, DIAGONAL] = -MOST_BAND - end  # none
                    if place < seen[text, NEXT] or abs(diagonal - seen[text, DIAGONAL]) <= BAND // 2:
                        continue  # found or aligned there already
                    if not _agrees_near(document, stop, place, words, begin, end, seed):
                        continue
                    seen[text, DIAGONAL] = diagonal
                    weight, first, last = _align(
                        document, 0, stop, diagonal, words, begin, end, weights, best, begins, ends
                    )
                    length = end - begin
                    share = weight / text_weights[text]
                    found = length >= shortest[text] and share >= _enough(length, shortest[text], enough)
                    behind = last
                    if share >= LEAST:
                        for a in range(answers_of[text], answers_of[text + 1]):
                            total = 0.0
                            for i in range(answers[a], answers[a + 1]):
                                total += weights[answer_words[i]]
                            more, answer_end = _answer(
                                document, last, stop, answer_words, answers[a], answers[a + 1], weights, best, begins, ends
                            )
                            together = (weight + more) / (text_weights[text] + total)
                            both = length + answers[a + 1] - answers[a]
                            if both >= answered and together >= _enough(both, answered, enough):
                                found = True
                                share = max(share, together)
                                behind = max(behind, answer_end)
                    if not found:
                        seen[text, FAILED] += 1
                        seen[text, NEXT] = place + 1 + min(PATIENCE, seen[text, FAILED] // PATIENCE)
                    else:
                        seen[text, NEXT] = last
                        if count < len(out_rows):
                            out_rows[count], out_texts[count] = row, text
                            out_firsts[count], out_lasts[count], out_shares[count] = first, behind, share
                        count += 1
    return count
