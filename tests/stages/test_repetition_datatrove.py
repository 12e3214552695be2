"""Gopher's repetition rules as datatrove reads them: the step against datatrove's own functions given the same words."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.filters.repetition_datatrove import RepetitionDatatrove

REASONS = {
    "characters.min": "empty",
    "duplicate_paragraphs.max": "dup_para_frac",
    "duplicate_paragraph_chars.max": "dup_para_char_frac",
    "duplicate_lines.max": "dup_line_frac",
    "duplicate_line_chars.max": "dup_line_char_frac",
    **{f"top_{n}gram.max": f"top_{n}_gram" for n in (2, 3, 4)},
    **{f"duplicate_{n}grams.max": f"duplicated_{n}_n_grams" for n in range(5, 11)},
}
PIECES = [
    "a ",
    "ab ",
    "b ",
    "c ",
    "bc ",
    "\n",
    "\n\n",
    "\n\n\n",
    " ",
    "é ",
    "日本 ",
    ". ",
    "one two three four five six. ",
    "considerably longer words ",
    "considerablylonger ",
    " \u0301",
    "\x00",
    "x\n",
    "\u2028",
]


def words_of(text: str, language: str = "") -> list[str]:
    uniseg = pytest.importorskip("uniseg.wordbreak")
    return [word for word in uniseg.words(text) if not word[0].isspace()]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("datatrove.pipeline.filters.gopher_repetition_filter")
    monkeypatch.setattr(module, "split_into_words", words_of)
    return module


def measures(texts: list[str]) -> dict[str, np.ndarray]:
    return dict(RepetitionDatatrove(splitter="unicode").measure(pa.record_batch({"text": pa.array(texts, pa.large_string())})))


def check(texts: list[str], module: Any) -> set[str]:
    from datatrove.data import Document

    step, block, seen = RepetitionDatatrove(splitter="unicode"), module.GopherRepetitionFilter(), set()
    verdict, reasons = step.decide(measures(texts)), step.reasons()
    for text, place in zip(texts, verdict, strict=True):
        answer = block.filter(Document(text=text, id=""))
        wanted = answer[1] if isinstance(answer, tuple) else None
        assert (REASONS[reasons[place]] if place >= 0 else None) == wanted, text[:200]
        seen.add(str(wanted))
    return seen


@given(
    st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=60).map("".join), min_size=1, max_size=4)
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_measures_are_those_of_datatroves_functions(module: Any, texts: list[str]) -> None:
    found = measures(texts)
    for row, text in enumerate(texts):
        if not text:
            assert found["characters"][row] == 0 and np.isnan(found["top_2gram"][row])
            continue
        paragraphs, lines, words = re.split(r"\n{2,}", text.strip()), re.split(r"\n+", text), words_of(text)
        wanted = [len(text)]
        for parts in (paragraphs, lines):
            copies, chars = module.find_duplicates(parts)
            wanted += [copies / len(parts), chars / len(text)]
        for n in (2, 3, 4):
            grams = module.get_n_grams(words, n)
            wanted.append(module.find_top_duplicate(grams) / len(text) if grams else 0)
        wanted += [module.find_all_duplicate(words, n) / len(text) for n in range(5, 11)]
        assert [values[row] for values in found.values()] == wanted, text


def test_reasons_come_in_datatroves_order(module: Any) -> None:
    prose = " ".join(f"word{i} stands{i % 7} here{i * i}" for i in range(60))
    texts = [
        "",
        " ",
        prose,
        "\n\n".join(["same"] * 3 + ["other"]),
        f"{prose}\n\nx\n\ny\n\n{prose}",
        "\na\n",
        "a b\n" * 3,
    ]
    texts += [
        f"{prose}\nx\ny\n{prose}",
        "again and " * 9,
        prose + " one two three four five six seven" * 4 + prose[::-1],
    ]
    assert len(check(texts, module)) >= 6


def test_real_documents_are_decided_alike(shared_data: Path, module: Any) -> None:
    seen = set()
    for name in ("c4", "code", "wiki-es", "arxiv"):
        with (shared_data / f"{name}.jsonl.zst").open("rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
            seen |= check([json.loads(line)["text"][:1500] for line, _ in zip(lines, range(40), strict=False)], module)
    assert len(seen) >= 3


def test_time_does_not_grow_faster_than_the_text() -> None:
    texts = ["a " * 400_000, "ab" * 400_000, "\n" * 500_000, "a\n" * 300_000]
    found = measures(texts)
    assert found["duplicate_10grams"][0] > 0.4 and found["characters"][2] == 500_000
