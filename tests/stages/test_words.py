"""Word boundaries against uniseg, and words against its segments, on made strings and on real text."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.kernels.unicode_tables import CLASS, CODE_POINTS, PICTOGRAPHIC, code_points
from stages.kernels.words import word_ends

uniseg_words = pytest.importorskip("uniseg.wordbreak").words

SAMPLES = [
    "",
    "a",
    "The quick (“brown”) fox can’t jump 32.3 feet, right?",
    "e.g. 3,141.59 a_b _c_ __ 1a2b a1.b2 it's O'Neil's 'quoted' a:b a::b ab: 1:2 1;2 a;b",
    "שלום ל־כם צה\"ל ג'ירפה ג' ד\" \u05d0'\u05d1",
    "e\u0301te\u0301 \u0301abc a\u0301'\u0301b \u00ada\u00adb \u200fאב\u200e",
    "👩‍👩‍👧‍👦👍🏽 🇩🇪🇫🇷🇪 a‍b \u200d👍 👍\u200d\u200d👍 #️⃣ Ⓜ\u200dⓂ",
    "カタカナとひらがな 漢字 ｶﾀｶﾅ_ア ภาษาไทย 한국어",
    "\r\n\n\r\x0b\x0c\x85\u2028 \t  \u2003\u2003 \n\u0301 \x00\x01\x1f",
    "مرحبا بالعالم ١٢٣٫٤٥ हिन्दी में नमस्ते",
    "a²a²a² ½½ ①②",
]


def segments(text: str, pad: bool = False) -> list[str]:
    """The text's segments as the kernel cuts them; with `pad`, from amid a longer buffer."""
    encoded = text.encode("utf-8", "surrogatepass")
    data = np.frombuffer(b"x" * 9 * pad + encoded + "é ".encode() * 9 * pad, np.uint8)
    start = 9 * pad
    ends = np.zeros(len(encoded) + 1, np.int64)
    count = word_ends(data, start, start + len(encoded), code_points(), ends)
    cuts = [start, *ends[:count]]
    return [bytes(data[a:b]).decode("utf-8", "surrogatepass") for a, b in pairwise(cuts)]


def _one_of_each_kind() -> list[str]:
    """Some characters of every word-break class, pictographic or not."""
    points = np.delete(np.arange(CODE_POINTS), slice(0xD800, 0xE000))
    kinds = code_points()[points] & (CLASS | PICTOGRAPHIC)
    return [chr(point) for kind in np.unique(kinds) for point in points[kinds == kind][:6]]


@pytest.mark.parametrize("text", SAMPLES)
@pytest.mark.parametrize("pad", [False, True])
def test_samples_are_cut_as_uniseg_cuts_them(text: str, pad: bool) -> None:
    assert segments(text, pad) == list(uniseg_words(text))


@given(st.text(st.sampled_from(_one_of_each_kind()), max_size=24), st.booleans())
@settings(max_examples=500, deadline=None)
def test_every_class_beside_every_other(text: str, pad: bool) -> None:
    assert segments(text, pad) == list(uniseg_words(text))


@given(st.text(max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text(text: str, pad: bool) -> None:
    assert segments(text, pad) == list(uniseg_words(text))


@given(st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_not_utf8_are_cut_somewhere(raw: bytes) -> None:
    ends = np.zeros(len(raw) + 1, np.int64)
    count = word_ends(np.frombuffer(raw, np.uint8), 0, len(raw), code_points(), ends)
    cuts = [0, *ends[:count].tolist()]
    assert cuts[-1] == len(raw)
    assert cuts == sorted(set(cuts))


@pytest.mark.parametrize("name", ["wiki-en", "wiki-fr", "wiki-es", "wikipedia", "code", "arxiv"])
def test_real_text_is_cut_as_uniseg_cuts_it(shared_data: Path, name: str) -> None:
    lines = zstandard.open(shared_data / f"{name}.jsonl.zst", "rb").read().splitlines()
    text = "\n".join(json.loads(line)["text"][:500] for line in lines[:: len(lines) // 30])
    assert segments(text) == list(uniseg_words(text))
