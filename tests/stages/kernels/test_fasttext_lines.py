"""Texts made one line, against Python's own string methods."""

from __future__ import annotations

import string
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.document import text_array, text_buffers
from stages.kernels.fasttext_lines import JOIN_LINES, NEWLINE_REMOVE, NEWLINE_SPACE, join_lines, only_punctuation

SPACES = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and chr(c).isspace()]
NEAR = ["\x1b", "\x84", "\x86", "\u009f", "\u00a1", "\u1681", "\u180e", "\u200b", "\u2027", "\u202a", "\u205e", "\u2060",
        "\u3001",        "\ufeff", "\U00012000", "\U0001f35e", "â", "Â", "a", "."]  # fmt: skip
TEXTS = st.lists(st.one_of(st.text(st.sampled_from(SPACES + NEAR), max_size=12), st.text(max_size=12)), max_size=6).map(
    lambda texts: [text.encode("utf-8", "ignore").decode() for text in texts]
)
PLAIN = {
    NEWLINE_SPACE: lambda text: text.replace("\n", " "),
    NEWLINE_REMOVE: lambda text: text.replace("\n", ""),
    JOIN_LINES: lambda text: " ".join(text.strip().splitlines()),
}


@pytest.mark.parametrize("newlines", list(PLAIN))
@settings(max_examples=300, deadline=None)
@given(texts=TEXTS)
@example(
    texts=[
        "".join(SPACES),
        "a".join(SPACES),
        "\r\n\n\r a\r\n\r\nb \x85c\x1c\x1d\x1e\x1fd\v\f\u2028\u2029 e\u3000\u00a0",
    ]
)
def test_joined_as_python_joins(newlines: int, texts: list[str]) -> None:
    data, offsets = text_buffers(pa.array(["skipped", *texts], pa.large_string())[1:])
    expected = [PLAIN[newlines](text) for text in texts]
    assert text_array(*join_lines(data, offsets, newlines, 0)).to_pylist() == expected
    line, begins = join_lines(data, offsets, newlines, 1)
    assert line[: begins[-1]].tobytes().decode() == "".join(" " + text for text in expected) + " "
    assert [line[a : b - 1].tobytes().decode() for a, b in pairwise(begins)] == expected


def test_every_space_is_stripped_and_every_line_break_splits() -> None:
    texts = [f"{space}a{space}b{space}" for space in SPACES]
    joined = text_array(*join_lines(*text_buffers(pa.array(texts, pa.large_string())), JOIN_LINES, 0))
    assert joined.to_pylist() == [PLAIN[JOIN_LINES](text) for text in texts]


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from([*string.punctuation, " ", "\n", "\t", "a", "0", "é", "\x7f"]), max_size=4))
)
@example(texts=["", " ", string.punctuation, "…", "\n"])
def test_only_punctuation(texts: list[str]) -> None:
    expected = [all(c in string.punctuation or c == " " for c in text) for text in texts]
    np.testing.assert_array_equal(only_punctuation(*text_buffers(pa.array(texts, pa.large_string()))), expected)
