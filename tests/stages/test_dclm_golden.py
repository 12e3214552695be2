"""Every filter and edit against what DCLM's own code answered on real documents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from stages.filters.gopher_quality import GopherQuality
from stages.filters.limit_newlines import LimitNewlines
from stages.filters.refinedweb_lines import RefinedWebLines
from stages.filters.remove_urls import RemoveUrls
from stages.filters.repetition import Repetition
from stages.kernels.unicode_tables import ALNUM, code_points
from stages.kernels.words import word_ends

HEURISTICS = {
    "page_length": "words",
    "word_length": "mean_word_length",
    "symbol_ratio": "symbol_ratio",
    "bullet": "bullet_lines",
    "ellipsis": "ellipsis_lines",
    "alphabetic": "non_alphabetic_words",
    "stop_word": "stop_words",
}


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


@pytest.fixture(scope="module", params=["dclm-web", "dclm-text"])
def golden(request: pytest.FixtureRequest, shared_data: Path) -> tuple[list[dict], pa.RecordBatch]:
    """The rows, and a batch of their texts after URL removal and newline limiting."""
    raw = zstandard.open(shared_data / "golden" / f"{request.param}.jsonl.zst", "rb").read()
    rows = [json.loads(line) for line in raw.splitlines()]
    batch = pa.record_batch({"text": pa.array([row["text"] for row in rows], pa.large_string())})
    for step in (RemoveUrls(), LimitNewlines()):
        batch, _ = step.edit(batch)
    return rows, batch


def test_urls_and_newlines(golden: tuple[list[dict], pa.RecordBatch]) -> None:
    rows, batch = golden
    assert [sha1(text) for text in batch.column("text").to_pylist()] == [row["cleaned_sha1"] for row in rows]


def test_number_of_words(golden: tuple[list[dict], pa.RecordBatch]) -> None:
    rows, batch = golden
    counts = []
    for text in batch.column("text").to_pylist():
        data = np.frombuffer(text.encode(), np.uint8)
        ends = np.zeros(len(data) + 1, np.int64)
        count = word_ends(data, 0, len(data), code_points(), ends)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        character = np.cumsum(data & 0xC0 != 0x80) - 1  # which character a byte belongs to
        firsts = points[character[np.concatenate([[0], ends[: count - 1]])]] if count else points
        counts.append(np.count_nonzero(code_points()[firsts] & ALNUM))
    assert counts == [row["n_words"] for row in rows]


@pytest.mark.parametrize("name", HEURISTICS)
def test_heuristics(golden: tuple[list[dict], pa.RecordBatch], name: str) -> None:
    rows, batch = golden
    step = GopherQuality()
    drops = step.limits()[HEURISTICS[name]].decide(step.measure(batch)[HEURISTICS[name]])
    kept = ~np.logical_or.reduce(list(drops.values()))
    assert kept.tolist() == [row[name] for row in rows]


def test_repetition(golden: tuple[list[dict], pa.RecordBatch]) -> None:
    rows, batch = golden
    step = Repetition()
    assert (step.decide(step.measure(batch)) < 0).tolist() == [row["repetition"] for row in rows]


def test_line_edits(golden: tuple[list[dict], pa.RecordBatch]) -> None:
    rows, batch = golden
    texts = RefinedWebLines().edit(batch)[0].column("text").to_pylist()
    assert texts == [row["lines_text"] or "" for row in rows]
    assert [sha1(text) for text in texts if text] == [row["final_sha1"] for row in rows if row["lines_text"]]


TEXT = """The river runs down to the sea, and it has run so for all of the years that we have with us in memory.
See www.example.com/page for a map of it.



12 likes
It is a slow river... and the boats that go up to the town have to be towed with ropes by men who walk the bank.
"""


def test_a_document_through_all_steps() -> None:
    """The same chain on one text whose answers are plain to see."""
    batch = pa.record_batch({"text": pa.array([TEXT], pa.large_string())})
    batch, removed = RemoveUrls().edit(batch)
    batch, _ = LimitNewlines().edit(batch)
    assert removed["removed"].tolist() == [1]
    assert batch.column("text").to_pylist() == [TEXT.replace(" www.example.com/page", "").replace("\n\n\n", "\n")]
    assert GopherQuality(words=[40, 100]).decide(GopherQuality().measure(batch)).tolist() == [-1]
    assert Repetition().decide(Repetition().measure(batch)).tolist() == [-1]
    batch, found = RefinedWebLines().edit(batch)
    assert "likes" not in batch.column("text")[0].as_py()
    assert found["removed_words"].tolist() == [pytest.approx(2 / 58, abs=0.01)]


def test_one_line_of_50_mb_through_all_steps() -> None:
    part = "the " + " ".join(f"Word{number}" for number in range(1000)) + " "
    text = part * (50_000_000 // len(part))
    batch = pa.record_batch({"text": pa.array([text], pa.large_string())})
    for step in (RemoveUrls(), LimitNewlines(), RefinedWebLines()):
        batch, _ = step.edit(batch)
    assert batch.column("text")[0].as_py() == text.strip()
    repeats = len(text) // len(part)
    measures = {name: float(values[0]) for name, values in GopherQuality().measure(batch).items()}
    assert measures["words"] == 1001 * repeats
    assert measures["stop_words"] == repeats
    measures = {name: float(values[0]) for name, values in Repetition().measure(batch).items()}
    assert measures["duplicate_10grams"] == 1
    assert measures["top_2gram"] == pytest.approx(14 / (len(part) - 1001))
    assert measures["duplicate_lines"] == 0
