"""Repetition measures against a plain reference of DCLM's definitions."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.document import text_array
from stages.filters.repetition import Repetition

uniseg_words = pytest.importorskip("uniseg.wordbreak").words


def measures(*texts: str) -> list[dict[str, float]]:
    found = Repetition().measure(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    return [{name: float(values[row]) for name, values in found.items()} for row in range(len(texts))]


def reference(text: str) -> dict[str, float]:
    found = {}
    for name, separator in (("line", "\n"), ("paragraph", "\n\n")):
        segments = [segment for part in re.split(separator, text) if (segment := part.strip())]
        counts = {segment: count for segment, count in Counter(segments).items() if count > 1}
        chars = sum(len(segment) * count for segment, count in counts.items())
        found[f"duplicate_{name}s"] = sum(counts.values()) / len(segments) if segments else 1.0
        found[f"duplicate_{name}_chars"] = chars / sum(map(len, segments)) if segments else 1.0
    words = [word for word in uniseg_words(text) if word[0].isalnum()]
    for n in range(2, 11):
        ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(ngrams)
        most = max(counts.values(), default=1)
        chars = 0
        if most > 1 and n <= 4:
            chars = most * max(len("".join(ngram)) for ngram, count in counts.items() if count == most)
        elif most > 1:
            covered = {i + j for i, ngram in enumerate(ngrams) if counts[ngram] > 1 for j in range(n)}
            chars = sum(len(words[i]) for i in covered)
        found[f"top_{n}gram" if n <= 4 else f"duplicate_{n}grams"] = chars / len("".join(words)) if chars else 0.0
    return found


SAMPLES = [
    "",
    "a",
    " \n\n \t",
    "one line only",
    "a b\na b\n\n a b \n\nc d e\n\nc d e\r\n",
    "the cat sat on the mat the cat sat on the hat " * 3,
    "größe Größe größe 日本語日本語日本語 can't can’t can't 3.14 3.14 x_y x_y",
    "a²" * 50,
    "👍🏽 x 👍🏽 x \u0301a \u0301a",
    "w " * 300,
    "b\0 a \0b " * 4,
    "\n\n\n\nq\n\n\nq\n\n\n\nq",
    "אבא אמא אבא אמא مرحبا بالعالم مرحبا بالعالم",
]


@pytest.mark.parametrize("text", SAMPLES)
def test_samples(text: str) -> None:
    assert measures(text) == [reference(text)]


WORDS = st.sampled_from(
    ["a", "b", "the", "longer", "é", "日本", "can't", "3.5", "x_", "²", ".", "-", "\n", "\n\n", " \n", "\u0301"]
)


@given(st.lists(st.lists(WORDS, max_size=60).map(" ".join), max_size=4))
@settings(max_examples=150, deadline=None)
def test_texts_of_few_words(texts: list[str]) -> None:
    assert measures(*texts) == [reference(text) for text in texts]


@given(st.lists(st.text(max_size=80), max_size=3))
@settings(max_examples=150, deadline=None)
def test_any_text(texts: list[str]) -> None:
    assert measures(*texts) == [reference(text) for text in texts]


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_text_that_repeats_a_part_of_itself(period: int, repeats: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    around = " ".join(f"w{number}" for number in rng.integers(0, 900, 400))
    text = around + " " + "".join(f"p{i} " for i in range(period)) * repeats + around[: 10 * repeats]
    assert measures(text) == [reference(text)]


def test_many_distinct_words_outgrow_the_first_table() -> None:
    text = " ".join(f"word{number}" for number in range(6_000)) + " word1 word2 word3 word4 word5"
    found = measures("x y", text, "x y")
    assert found == [reference("x y"), reference(text), reference("x y")]


@pytest.mark.parametrize("piece", ["a", "a b ", "\n", "a\n", "a²", "a'", "\u0301"])
def test_adversarial_texts_take_linear_time(piece: str) -> None:
    """No assertion of time: anything worse than linear would not end."""
    text = piece * (2_000_000 // len(piece))
    found = measures(text)[0]
    repeats = text[:2] in ("a ", "a\n", "a²")
    assert (found["top_2gram"] > 0.9) == repeats
    assert (found["duplicate_10grams"] > 0.9) == repeats


def test_limits_are_those_of_dclm_and_decide_in_its_order() -> None:
    limits = Repetition().limits()
    assert list(limits)[:4] == [
        "duplicate_lines",
        "duplicate_paragraphs",
        "duplicate_line_chars",
        "duplicate_paragraph_chars",
    ]
    assert list(limits)[4:] == list(reference(""))[4:]
    expected = [0.3, 0.3, 0.2, 0.2, 0.2, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    assert [bound.max for bound in limits.values()] == expected
    texts = ["same line\nsame line\nsame line", "all of these words stand here once only", ""]
    step = Repetition()
    verdicts = step.decide(step.measure(pa.record_batch({"text": pa.array(texts, pa.large_string())})))
    assert [step.reasons()[verdict] if verdict >= 0 else None for verdict in verdicts] == [
        "duplicate_lines.max",
        None,
        "duplicate_lines.max",
    ]


def test_bytes_that_are_not_utf8_do_no_harm() -> None:
    raw = [
        b"\xed\xa0\x80 \xed\xa0\x80",
        b"\xff\xfe\xf0",
        b"abc\xe2\x80",
        b"\x80" * 9,
        np.random.default_rng(0).bytes(5000),
    ]
    offsets = np.cumsum([0, *map(len, raw)])
    column = text_array(np.frombuffer(b"".join(raw), np.uint8), offsets)
    found = Repetition().measure(pa.record_batch({"text": column}))
    assert all(np.isfinite(values).all() for values in found.values())
