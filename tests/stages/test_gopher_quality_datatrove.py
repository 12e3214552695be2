"""Gopher's rules as datatrove reads them: the step against datatrove's own block given the same words."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.filters.gopher_quality_datatrove import GopherQualityDatatrove
from stages.kernels.fineweb import SENTENCE_ENDS
from stages.kernels.gopher_datatrove import SYMBOLS

REASONS = {
    "words.min": "gopher_short_doc",
    "words.max": "gopher_long_doc",
    "mean_word_length.min": "gopher_below_avg_threshold",
    "mean_word_length.max": "gopher_above_avg_threshold",
    "hash_ratio.max": "gopher_too_many_hashes",
    "ellipsis_ratio.max": "gopher_too_many_ellipsis",
    "bullet_lines.max": "gopher_too_many_bullets",
    "ellipsis_lines.max": "gopher_too_many_end_ellipsis",
    "alphabetic_words.min": "gopher_below_alpha_threshold",
    "stop_words.min": "gopher_enough_stop_words",
}
PIECES = [
    "the ",
    "be ",
    "word ",
    "The ",
    "to-and ",
    "# ",
    "…",
    "...",
    ".... ",
    "\n",
    "\r\n",
    "\u2028",
    "- ",
    "• ",
    "12 ",
    "é ",
    "日本。",
]
PIECES += ["\x07", "~~ ", "don't ", "\xa0", "with", " that", "\t", "abcdefghijklmnop "]


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("datatrove.pipeline.filters.gopher_quality_filter")
    uniseg = pytest.importorskip("uniseg.wordbreak")
    monkeypatch.setattr(
        module,
        "split_into_words",
        lambda text, language: [word for word in uniseg.words(text) if not word[0].isspace()],
    )
    return module.GopherQualityFilter


def check(texts: list[str], block: Any, least: int = 50) -> set[str]:
    from datatrove.data import Document

    step = GopherQualityDatatrove(words={"min": least, "max": 2000}, splitter="unicode")
    theirs = block(min_doc_words=least, max_doc_words=2000)
    measures = step.measure(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    verdict, reasons, seen = step.decide(measures), step.reasons(), set()
    for text, place in zip(texts, verdict, strict=True):
        answer = theirs.filter(Document(text=text, id=""))
        wanted = answer[1] if isinstance(answer, tuple) else None
        assert (REASONS[reasons[place]] if place >= 0 else None) == wanted, text[:200]
        seen.add(str(wanted))
    return seen


@given(
    st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join), min_size=1, max_size=5)
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_decides_as_datatrove_does(block: Any, texts: list[str]) -> None:
    check(texts, block, least=1)
    check([text + " the word of be and to have that we all know so well" for text in texts], block, least=2)


def test_every_reason_comes_up_where_it_should(block: Any) -> None:
    prose = "and that is the way of all words to be read with care in this text which we have "
    texts = [
        "too short",
        prose * 4,
        "a b c " * 30,
        "abcdefghijklm " * 60,
        prose * 4 + "# " * 20,
        prose * 4 + "... " * 20,
    ]
    texts += [f"- {prose}\n" * 5, f"{prose}...\n" * 5, prose * 4 + "123456 " * 60, "word " * 60, prose * 200]
    assert check(texts, block) == {"None", *REASONS.values()}


def test_real_documents_are_decided_alike(shared_data: Path, block: Any) -> None:
    for name in ("c4", "code", "wiki-fr"):
        with (shared_data / f"{name}.jsonl.zst").open("rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
            check([json.loads(line)["text"][:1500] for line, _ in zip(lines, range(40), strict=False)], block)


def test_symbols_are_datatroves() -> None:
    text = pytest.importorskip("datatrove.utils.text")
    ours = {chr(point) for first, last in SYMBOLS + SENTENCE_ENDS for point in range(first, last + 1)}
    assert ours == text.PUNCTUATION_SET
