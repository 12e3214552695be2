"""Text of evaluation items taken out of documents: the words found, or the lines that hold some."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa

from stages.filters.evaluation_index import Found, count_words

CHUNK = re.compile(r"\S+")
ANY_BYTES = "surrogateescape"  # texts are UTF-8, but where a reader did not check


def words_in_spans(found: Found) -> np.ndarray:
    """Words of each document that belong to what was found; one in several spans counts once."""
    inside = np.zeros(len(found.words), np.int64)
    order = np.lexsort((found.firsts, found.rows))
    row, end = -1, 0
    for k in order:
        if found.rows[k] != row:
            row, end = int(found.rows[k]), 0
        first, last = max(int(found.firsts[k]), end), int(found.lasts[k])
        inside[row] += max(0, last - first)
        end = max(end, last)
    return inside


def take_out(texts: pa.Array, found: Found, whole_lines: bool) -> pa.Array:
    """The texts without the words in spans, or without every line that holds one of them."""
    if not len(found.rows):
        return texts
    values = texts.cast(pa.large_binary()).to_pylist()
    for row in np.unique(found.rows).tolist():
        mine = np.flatnonzero(found.rows == row)
        text = values[row].decode(errors=ANY_BYTES)
        pieces = _pieces(text, list(zip(found.firsts[mine].tolist(), found.lasts[mine].tolist(), strict=True)))
        left = _without_lines(text, pieces) if whole_lines else _without(text, pieces)
        values[row] = left.encode(errors=ANY_BYTES)
    return pa.array(values, pa.large_binary()).view(texts.type)


def _pieces(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Characters [start, end) of spans of words, in order, those that touch as one.

    What white space parts is simplified apart from all else, so its words, counted, say where the words of the text stand.
    """
    chunks = [match.span() for match in CHUNK.finditer(text)]
    encoded = [text[start:end].encode(errors=ANY_BYTES) for start, end in chunks]
    counts = count_words(pa.array(encoded, pa.large_binary()).view(pa.large_string()))
    ends = np.cumsum(counts)
    pieces: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        begin, end = np.searchsorted(ends, [first, last - 1], side="right")
        begin, end = min(begin, len(chunks) - 1), min(end, len(chunks) - 1)  # no UTF-8 may count differently in pieces
        start, stop = chunks[begin][0], chunks[end][1]
        if pieces and start <= pieces[-1][1]:
            pieces[-1] = (pieces[-1][0], max(stop, pieces[-1][1]))
        else:
            pieces.append((start, stop))
    return pieces


def _without(text: str, pieces: list[tuple[int, int]]) -> str:
    """The text without the pieces; of the white space on both sides of one, what has more lines stays."""
    left = ""
    for (_, before), (after, _) in pairwise([(0, 0), *pieces, (len(text), len(text))]):
        part = text[before:after]
        head, body = left.rstrip(), part.lstrip()
        spaces = (left[len(head) :], part[: len(part) - len(body)])
        left = head + max(spaces, key=lambda space: space.count("\n")) + body if before else part
    return left


def _without_lines(text: str, pieces: list[tuple[int, int]]) -> str:
    """The text without each line that a piece has characters of."""
    left, at, number = [], 0, 0
    for line in text.splitlines(keepends=True) if "\n" in text else [text]:
        end = at + len(line)
        while number < len(pieces) and pieces[number][1] <= at:
            number += 1
        if number == len(pieces) or pieces[number][0] >= end:
            left.append(line)
        at = end
    return "".join(left)
