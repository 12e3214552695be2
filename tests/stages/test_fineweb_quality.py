"""FineWeb's filter against a plain reference, and against datatrove's own block given the same words."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.filters.fineweb_quality import FineWebQuality
from stages.kernels.fineweb import SENTENCE_ENDS

REASONS = {
    "lines.min": "empty",
    "line_punctuation.min": "line_punct_ratio",
    "short_lines.max": "short_line_ratio",
    "duplicate_chars.max": "char_dup_ratio",
    "newlines_per_word.max": "list_ratio",
}
ENDS = tuple(chr(point) for first, last in SENTENCE_ENDS for point in range(first, last + 1))
PIECES = [
    "a line of words.",
    "short",
    "\n",
    "\n\n",
    " ",
    "\t",
    "é",
    "日本語。",
    "x" * 31,
    "\x1c",
    "\u2028",
    "!",
    "don't",
    "3.14",
    "👩‍👩‍👧",
]


def words_of(text: str) -> list[str]:
    uniseg = pytest.importorskip("uniseg.wordbreak")
    return [word for word in uniseg.words(text) if not word[0].isspace()]


def measures(texts: list[str], step: FineWebQuality | None = None) -> dict[str, np.ndarray]:
    batch = pa.record_batch({"text": pa.array(texts, pa.large_string())})
    return dict((step or FineWebQuality(splitter="unicode")).measure(batch))


def reference(text: str) -> list[float]:
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return [0, *[np.nan] * 4]
    copies = sum(len(line) for i, line in enumerate(lines) if line in lines[:i])
    return [
        len(lines),
        sum(line.endswith(ENDS) for line in lines) / len(lines),
        sum(len(line) <= 30 for line in lines) / len(lines),
        copies / len(text.replace("\n", "")),
        text.count("\n") / len(words_of(text)),
    ]


@given(
    st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=14).map("".join), min_size=1, max_size=4)
)
@settings(max_examples=80, deadline=None)
def test_measures_are_those_of_a_plain_reference(texts: list[str]) -> None:
    found = np.column_stack(list(measures(texts).values()))
    np.testing.assert_array_equal(found, [reference(text) for text in texts])


def check_against_datatrove(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    module = pytest.importorskip("datatrove.pipeline.filters.fineweb_quality_filter")
    from datatrove.data import Document

    monkeypatch.setattr(module, "split_into_words", lambda text, language: words_of(text))
    block, step = module.FineWebQualityFilter(), FineWebQuality(splitter="unicode")
    found = measures(texts, step)
    verdict, reasons = step.decide(found), step.reasons()
    seen = set()
    for text, place in zip(texts, verdict, strict=True):
        answer = block.filter(Document(text=text, id=""))
        wanted = answer[1] if isinstance(answer, tuple) else None
        assert (REASONS[reasons[place]] if place >= 0 else None) == wanted, text[:200]
        seen.add(str(wanted))
    return seen


def test_it_decides_as_datatrove_does(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "This is a line of prose that ends as it should, and is not short at all.\n"
    texts = [
        "",
        " \n\t",
        line,
        line * 3,
        "menu\nhome\nabout\n" * 5,
        "no end of a sentence in a long line of text here\n" * 2,
    ]
    texts += [
        "Short.\n" * 3 + line,
        "".join(f"{i} {line}" for i in range(9)),
        "\n".join(f"{'x' * (31 + i)}." for i in range(9)),
    ]
    assert check_against_datatrove(texts, monkeypatch) == {"None", *REASONS.values()}


def test_it_decides_as_datatrove_does_on_real_documents(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("c4", "code", "wikipedia"):
        with (shared_data / f"{name}.jsonl.zst").open("rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
            texts = [json.loads(line)["text"][:2000] for line, _ in zip(lines, range(40), strict=False)]
        check_against_datatrove(texts, monkeypatch)


def test_sentence_ends_are_datatroves() -> None:
    text = pytest.importorskip("datatrove.utils.text")
    assert set(ENDS) == text.TERMINAL_PUNCTUATION


def test_a_text_without_any_punctuation_can_be_let_through() -> None:
    step = FineWebQuality(ignore_no_punctuation=True, splitter="unicode")
    assert np.isnan(measures(["a line of text without any end to it at all"], step)["line_punctuation"][0])
