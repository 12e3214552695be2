"""RefinedWeb's line edits against a plain reference of DCLM's modifiers."""

from __future__ import annotations

import re
from collections.abc import Callable

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.document import text_array
from stages.filters.refinedweb_lines import RefinedWebLines

COUNTED = "likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads|views|followers"
COUNTER = re.compile(rf"^\W*\d(?:,|\.|\d)*(?:k|m|b)?\s+(?:{COUNTED})\W*$")
PHRASES = [re.compile(p, re.IGNORECASE) for p in (r"\s?items in cart", r"\s?read more...$", r"^sign-in\s?")]


def edited(texts: list[str], **settings: object) -> list[tuple[str, float]]:
    batch, found = RefinedWebLines(**settings).edit(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    return list(zip(batch.column("text").to_pylist(), found["removed_words"].tolist(), strict=True))


def words(text: str) -> int:
    return sum(word[0].isalnum() for word in fasttext.FastText.tokenize(text))


def share(line: str, test: Callable[[str], bool]) -> float:
    return sum(map(test, line)) / len(line) if line else 0.0


def reference(text: str) -> tuple[str, float]:
    before = words(text)
    text = "\n".join(line for line in text.split("\n") if share(line, str.isupper) <= 0.5).strip()
    text = "\n".join(line for line in text.split("\n") if share(line, str.isdigit) <= 0.999999).strip()
    text = "\n".join(line for line in text.split("\n") if not COUNTER.search(line.lower())).strip()
    text = "\n".join(line for line in text.split("\n") if not line or len(line.split()) >= 2)
    for phrase in PHRASES:
        lines = []
        for line in text.split("\n"):
            short = phrase.sub("", line) if len(line.split()) <= 10 else line
            if not (line and len(line.split()) <= 10 and not short.strip()):
                lines.append(short)
        text = "\n".join(lines).strip()
    return text, (before - words(text)) / before if before else 1.0


SAMPLES = [
    "",
    "\n",
    "word",
    "Two words\n\nTHIS IS LOUD\n12345\n3 likes\n 1.2K views!\none\nThree items in cart now\nGo on, read more...\nSign-in please",
    "  leading space\nand trailing  \n\n\n",
    "items in cart",
    "ITEMS IN CART items in cart x y",
    "sign-in\nsign-in\xa0sign-in x",
    "a b c d e f g h i items in cart\na b c d e f g h items in cart",
    "x ıtemſ in cart İtems in cart ᄰtems in cart",
    "see read more…!? and Read More.\nread more»»»\nRead more....",
    "5 liKes\n4 lİkes\n٣ views\n² views\n(7,5M  FOLLOWERS)\n8views\n8 views of it\n_8 views",
    "\u3000\n \x1c \nk l",
]


@pytest.mark.parametrize("text", SAMPLES)
def test_samples(text: str) -> None:
    assert edited([text]) == [reference(text)]


PIECES = [
    "items in cart",
    "İTEMS IN CART",
    "ıtemſ in cart",
    "Read more...",
    "read MORE…..",
    "read more»»»",
    "Sign-in",
    "ſıgn-in",
]
PIECES += [
    " ",
    "\n",
    "\n",
    " ",
    "3 likes",
    "1.2K views",
    " 12,3M followers!!",
    "(5 shares)",
    "7K  LIKES",
    "4 liKes",
    "2 lİkes",
]
PIECES += [
    "ABC DEF",
    "123",
    "²³",
    "\xa0",
    "\u3000",
    "\x1c",
    "\0",
    "a b c d e f g h i j",
    "hello",
    "é",
    "٣ views",
    "5k",
    "\t",
    "_",
]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), max_size=5))
@settings(max_examples=400, deadline=None)
def test_texts_of_what_is_edited(texts: list[str]) -> None:
    assert edited(texts) == [reference(text) for text in texts]


@given(st.lists(st.text(max_size=60), max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_text(texts: list[str]) -> None:
    assert edited(texts) == [reference(text) for text in texts]


def test_settings_turn_edits_off() -> None:
    text = "LOUD\n123\n3 likes\n\nitems in cart"
    off = {"max_upper_case": 1, "max_digits": 1, "counters": False, "min_words": 0, "phrase_words": -1}
    assert edited([text], **off) == [(text, 0.0)]
    assert edited([text], **(off | {"counters": True})) == [("LOUD\n123\n\nitems in cart", pytest.approx(2 / 7))]


def test_documents_that_lose_much_are_dropped() -> None:
    step = RefinedWebLines()
    texts = ["all of this stays here\n" * 9 + "alone", "alone\nbut this stays", ""]
    found = step.edit(pa.record_batch({"text": pa.array(texts, pa.large_string())}))[1]
    assert step.decide(found).tolist() == [-1, 0, 0]
    assert step.reasons() == ["removed_words.max"]


@pytest.mark.parametrize("piece", ["a", "\n", "A\n", "items in cart ", "3 likes\n", " ", "a b\n", "\u0301", "i"])
def test_adversarial_texts_take_linear_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    assert edited([text]) == [reference(text)]


def test_bytes_that_are_not_utf8_do_no_harm() -> None:
    raw = [
        b"th\xed\xa0\x80e items in\xed\xb0\x80 cart",
        b"\xff\xfe\xf0",
        b"in a.\xe2\x80",
        np.random.default_rng(0).bytes(5000),
    ]
    column = text_array(np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)]))
    assert RefinedWebLines().edit(pa.record_batch({"text": column}))[0].num_rows == 4
