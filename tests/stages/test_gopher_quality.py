"""Gopher's heuristics against a plain reference of DCLM's definitions, with fastText's own cutting of words."""

from __future__ import annotations

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.document import text_array
from stages.filters.gopher_quality import GopherQuality

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


def batch(texts: list[str]) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def measures(texts: list[str]) -> list[dict[str, float]]:
    found = GopherQuality().measure(batch(texts))
    return [{name: float(values[row]) for name, values in found.items()} for row in range(len(texts))]


def reference(text: str) -> dict[str, float]:
    words = text.split()
    lines = [line for part in text.split("\n") if (line := part.strip())]
    symbols = sum(text.count(symbol) for symbol in ("#", "...", ". . .", "…"))
    return {
        "words": sum(word[0].isalnum() for word in fasttext.FastText.tokenize(text)),
        "mean_word_length": sum(map(len, words)) / len(words) if words else 0.0,
        "symbol_ratio": symbols / len(words) if words else 1.0,
        "bullet_lines": sum(line[0] in "●•*-" for line in lines) / len(lines) if lines else 0.0,
        "ellipsis_lines": sum(line.endswith(("...", ". . .", "…")) for line in lines) / len(lines) if lines else 0.0,
        "non_alphabetic_words": sum(not any(map(str.isalpha, w)) for w in words) / len(words) if words else 1.0,
        "stop_words": sum(word.lower() in STOP_WORDS for word in words),
    }


PIECES = [
    "#",
    ".",
    "..",
    "...",
    ". . .",
    " ",
    " ",
    "\n",
    "\n\n",
    "…",
    "•",
    "●",
    "*",
    "-",
    "the",
    "The",
    "WITH",
    "of",
    "thé",
    "é",
]
PIECES += [
    "1",
    "²",
    "\0",
    "\x1c",
    "\x85",
    "\xa0",
    "\u3000",
    "\r",
    "\t",
    "\v",
    "a",
    "日本",
    "İ",
    "K",
    "ſ",
    "x̂",
    "\u0301",
    "👍🏽",
    "א",
]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), max_size=4))
@settings(max_examples=250, deadline=None)
def test_texts_of_what_matters(texts: list[str]) -> None:
    assert measures(texts) == [reference(text) for text in texts]


@given(st.lists(st.text(max_size=60), max_size=3))
@settings(max_examples=250, deadline=None)
def test_any_text(texts: list[str]) -> None:
    assert measures(texts) == [reference(text) for text in texts]


@pytest.mark.parametrize(
    "text", ["", "a", "\0", "of\0", "." * 10, ". . . . . .", "… ", "-", "*\n", "\xa0", "K\xa0x", "the THE tHe"]
)
def test_edges(text: str) -> None:
    assert measures([text]) == [reference(text)]


def test_reasons_are_the_recipes_keys_in_dclm_order() -> None:
    step = GopherQuality()
    prose = "It is the habit of the river to be slow and to have mud with it in the spring, so that boats wait. " * 3
    texts = [prose, "", "word " * 60, "the of # " * 30, "- the and of them\n" * 30, "all that the trees say...\n" * 20]
    verdicts = step.decide(step.measure(batch(texts)))
    assert [step.reasons()[verdict] if verdict >= 0 else None for verdict in verdicts] == [
        None,
        "words.min",
        "stop_words.min",
        "mean_word_length.min",
        "mean_word_length.min",
        "symbol_ratio.max",
    ]
    assert list(step.limits()) == list(reference(""))


@pytest.mark.parametrize("piece", ["a", ".", ". ", "\n", " ", "…", "* "])
def test_adversarial_texts_take_linear_time(piece: str) -> None:
    text = piece * (2_000_000 // len(piece))
    assert measures([text]) == [reference(text)]


def test_bytes_that_are_not_utf8_do_no_harm() -> None:
    raw = [
        b"\xed\xa0\x80 \xed\xa0\x80",
        b"\xff\xfe\xf0",
        b"abc\xe2\x80",
        b"\x80" * 9,
        np.random.default_rng(0).bytes(5000),
    ]
    column = text_array(np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)]))
    found = GopherQuality().measure(pa.record_batch({"text": column}))
    assert all(np.isfinite(values).all() for values in found.values())
