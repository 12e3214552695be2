"""The tokenizer's benchmark: text that is new each time, and a difference in any document told."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.tokenizing import bench_memory, bench_tokenizer, new_text
from stages.tokens import tokenizer as module
from stages.tokens.train_tokenizer import train_tokenizer

WORDS = [f"{a}{b}" for a in ("stone", "river", "cloud", "light", "water") for b in ("fall", "side", "mark", "mill")]
TEXTS = [" ".join(random.Random(n).choices(WORDS, k=40)) for n in range(90)]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    train_tokenizer(TEXTS, tmp_path / "t.json", 400)
    return tmp_path / "t.json"


def test_text_is_new_and_of_the_size_asked_for() -> None:
    made = [text for some in new_text(TEXTS, 80_000) for text in some]
    assert 80_000 <= sum(map(len, made)) < 110_000
    assert len(set(made)) == len(made) > 2 * len(TEXTS)
    old = {word for text in TEXTS for word in text.split()}
    assert len({word for text in made for word in text.split()} - old) > 20


def test_a_difference_in_any_document_is_told(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench_tokenizer(trained, TEXTS, 10_000)
    assert "90 documents: all tokens are identical" in capsys.readouterr().out
    right = module.FastokensEngine.encode

    def wrong(self: module.FastokensEngine, texts: list[str]) -> tuple:
        tokens, offsets = right(self, texts)
        if TEXTS[70] in texts:
            tokens = tokens.copy()
            tokens[offsets[texts.index(TEXTS[70])]] += 1
        return tokens, offsets

    monkeypatch.setattr(module.FastokensEngine, "encode", wrong)
    bench_tokenizer(trained, TEXTS, 10_000)
    assert "90 documents: 1 DIFFER, the first is 70" in capsys.readouterr().out


def test_memory_is_told_part_by_part(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.tokenizing.PART_BYTES", 1_000_000)
    bench_memory(trained, TEXTS, 0.0004)
    out = capsys.readouterr().out
    assert out.count("after") == 4 and "memory from the first of these on" in out
