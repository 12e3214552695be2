"""Conversations as tokens with a mask, and what is done with those that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.pairs.chat import Segment
from pipeline.pairs.options import TooLong
from stages.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Encoded:
    """One sequence."""

    tokens: np.ndarray  # uint16 or uint32
    mask: np.ndarray  # uint8, 1 where the token is of an answer and learned
    text_bytes: int
    cut: str | None = None  # cut_answer, cut_prompt


def encode(sequences: Sequence[list[Segment]], tokenizer: Tokenizer) -> list[Encoded]:
    """Tokens of each sequence. Segments are encoded apart, so that a prompt has the tokens that it has when a model is
    asked to answer it."""
    texts = [segment.text for sequence in sequences for segment in sequence]
    tokens, offsets = tokenizer.encode(pa.array(texts, pa.large_string()))
    lengths, found, at = np.diff(offsets), [], 0
    for sequence in sequences:
        count = len(sequence)
        part = tokens[offsets[at] : offsets[at + count]]
        learned = np.array([segment.answer for segment in sequence], np.uint8)
        mask = np.repeat(learned, lengths[at : at + count])
        found.append(Encoded(part, mask, sum(len(segment.text.encode()) for segment in sequence)))
        at += count
    return found


def fit(sequences: Sequence[Encoded], most: int, rule: TooLong) -> list[Encoded] | str:
    """A pair's sequences, cut to `most` tokens where one is longer; or the name of the rule by which the pair is dropped.

    cut_answer cuts at the end, as the code that fine-tuned OLMoE does; cut_prompt at the start, up to the first answer,
    and as much of each sequence, so that both still answer the same prompt.
    """
    over = max(len(sequence.tokens) for sequence in sequences) - most
    if over <= 0:
        return list(sequences)
    if rule == "drop":
        return "too_long"
    if rule == "cut_prompt":
        if any(over >= int(np.argmax(sequence.mask)) for sequence in sequences):
            return "too_long"  # the answers alone fill it
        found = [_cut(sequence, slice(over, None), rule) for sequence in sequences]
    else:
        found = [_cut(one, slice(0, most), rule) if len(one.tokens) > most else one for one in sequences]
    if not all(sequence.mask[1:].any() for sequence in found):
        return "no_answer_left"
    if len(found) > 1 and all(np.array_equal(sequence.tokens, found[0].tokens) for sequence in found):
        return "same_answers"
    return found


def _cut(sequence: Encoded, kept: slice, rule: str) -> Encoded:
    tokens, mask = sequence.tokens[kept], sequence.mask[kept]
    return Encoded(tokens, mask, round(sequence.text_bytes * len(tokens) / len(sequence.tokens)), rule)
