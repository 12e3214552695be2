"""Normalization against the plain rules, one after another, on strings."""

from __future__ import annotations

import re
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.dedup.normalize import DECIMAL_SEPARATORS, PUNCTUATION, normalize
from stages.document import text_array, text_buffers


def simplified(text: str) -> str:
    """The rules of `simple` as stages.dedup.normalize states them."""
    text = text.lower()
    digits = "".join({c for c in text if unicodedata.category(c) == "Nd"}) or "0"
    text = re.sub(f"[{digits}]+([{re.escape(DECIMAL_SEPARATORS)}][{digits}]+)?", "0", text)
    text = text.translate(dict.fromkeys(map(ord, PUNCTUATION), " "))
    text = re.sub(r"\s+", " ", text.strip())
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return text.strip()


def run(texts: list[str], how: str) -> list[str]:
    data, offsets = normalize(*text_buffers(pa.array(texts, pa.large_string())), how)
    return text_array(data, offsets).to_pylist()


# Marks that are not dropped are put into canonical order by NFD alone; see the kernel.
ORDERED = [c for c in map(chr, range(0x110000)) if unicodedata.combining(c) and unicodedata.category(c) != "Mn"]
TEXT = st.text(
    st.one_of(
        st.sampled_from("ab Zz0123456789.,،٫⎖ΣσςAİIé́\n\t—“’\u00ad\u200d٣१ǅßﬁ한각\x1c\u2028"),
        st.characters(exclude_categories=["Cs"], exclude_characters=ORDERED),
    ),
    max_size=40,
)


@settings(max_examples=250, deadline=None)
@given(st.lists(TEXT, max_size=4))
@example(["ΑΣ", "ΑΣ.", "Σ", "ΑΣΑ", "Α\u00adΣ\u0301", "Σ\u0301Α", "a \u0300 b", "\u0301"])
@example(["1.2.3", "1,234,567", "1.", ".1", "1\u03002", "1⎖2", "1⎖a"])
def test_simple_equals_the_rules(texts: list[str]) -> None:
    assert run(texts, "simple") == [simplified(t) for t in texts]


def test_simple_equals_the_rules_on_every_character() -> None:
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts = ["a" + "b".join(every[i : i + 64]) for i in range(0, len(every), 64)]
    assert run(texts, "simple") == [simplified(t) for t in texts]


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, max_size=4))
def test_white_space_is_squeezed(texts: list[str]) -> None:
    assert run(texts, "whitespace") == [" ".join(t.split()) for t in texts]
    assert run(texts, "none") == texts


def test_slices_of_an_array_are_normalized_alone() -> None:
    column = pa.array(["first ONE", "Second Two", "third"], pa.large_string()).slice(1, 1)
    data, offsets = normalize(*text_buffers(column), "simple")
    assert text_array(data, offsets).to_pylist() == ["second two"]


def test_simple_equals_datatrove(shared_data) -> None:
    datatrove = pytest.importorskip("datatrove.utils.text", reason="datatrove is not installed")
    assert set(datatrove.PUNCTUATION) == set(PUNCTUATION)
    from dedup_corpus import shared_texts

    for name in ("c4", "wiki-fr", "wiki-es", "code"):
        texts = shared_texts(shared_data, name, 300_000)
        assert run(texts, "simple") == [datatrove.simplify_text(t) for t in texts]
