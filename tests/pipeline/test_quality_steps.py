"""Several classifiers in one source: each under its own name, in measures, reasons and on the command line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.cli import main

GOOD = ["the", "mill", "wheel", "turns", "in", "the", "river", "and", "grinds", "the", "grain", "of", "the", "village"]
BAD = ["buy", "cheap", "watches", "now", "best", "price", "click", "here", "free", "offer", "win"]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of two kinds, and a model that tells them apart."""
    folder, rng = tmp_path_factory.mktemp("quality"), random.Random(1)
    rows = [{"text": " ".join(rng.choices(GOOD if i % 2 else BAD, k=30)), "label": i % 2} for i in range(120)]
    labelled = write(folder / "labelled.jsonl", rows)
    write(folder / "docs.jsonl", [{"id": f"d{i}", "text": row["text"]} for i, row in enumerate(rows[:20])])
    assert main(["train-classifier", "--labelled", labelled, "--out", str(folder / "model.bin")]) == 0
    return folder


def recipe(folder: Path, steps: list[dict]) -> str:
    return write(folder / "recipe.json", [{
        "name": "several",
        "sources": {"docs": {"read": {"paths": [str(folder / "docs.jsonl")]}, "steps": steps}},
        "tokenizer": {"train": {"vocab_size": 300, "max_bytes": "50KB"}}, "shards": {"held_out": 0}, "mixture": {"epochs": 1},
    }])  # fmt: skip


def test_two_classifiers_by_name(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(folder / "model.bin")
    steps = [
        {"quality": {"name": "education", "model": model, "score": 0.0, "labels": "all"}},
        {"quality": {"model": model, "positive": "cc", "score": 0.0}},
        {"quality": {"name": "education", "model": model, "score": 0.0, "labels": 1}},
    ]
    path, out = recipe(folder, steps), str(tmp_path / "run")
    assert main(["run", path, "--inline", "--quiet", "--out", out]) == 0
    (part,) = [one for one in Path(out).rglob("*kept*") if "education.score" in pq.read_schema(one).names]
    found = pq.read_table(part).to_pydict()
    names = ("education.score", "education.p_hq", "education.p_cc", "quality.score", "education_2.top_1", "education_2.top_1_p")
    assert set(names) <= set(found)
    for score, p_hq, p_cc, other, top, top_p in zip(*(found[name] for name in names), strict=True):
        assert score == pytest.approx(p_hq, abs=1e-4) and other == pytest.approx(p_cc, abs=1e-4)
        assert top == ("hq" if p_hq > p_cc else "cc") and top_p == pytest.approx(max(p_hq, p_cc), abs=1e-4)
    capsys.readouterr()
    limit = "sources.docs.steps.education.score=0.5"
    assert main(["run", path, "--inline", "--out", out, "--set", limit]) == 0
    told = capsys.readouterr().out
    assert "education.score.min" in told and "quality.score.min" not in told


def test_a_name_that_cannot_be_one_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(folder, [{"quality": {"name": "a b", "model": str(folder / "model.bin")}}])
    assert main(["validate", path]) == 2
    assert "name" in capsys.readouterr().err
