"""The command that trains a quality classifier from files."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from pipeline.cli import main


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_good_and_ordinary_files_give_a_model_and_its_card(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    texts = [text for _, text in sorted(topics.items())]
    good = write(tmp_path / "good.jsonl", [{"text": text} for text in texts[:40]])
    ordinary = write(tmp_path / "web.jsonl", [{"text": f"cheap offer {i} buy now click here"} for i in range(40)])
    labelled = [{"text": t, "label": 1} for t in texts[50:60]] + [{"text": "buy cheap click now", "label": 0}] * 10
    command = ["train-classifier", "--positive", good, "--negative", ordinary, "--out", str(tmp_path / "model.bin")]
    fast = ["--set", "bucket=1000", "--set", "dim=8", "--set", "lr=1.0"]
    assert main([*command, *fast, "--evaluate", write(tmp_path / "labelled.jsonl", labelled), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["evaluated"]["documents"] == 20
    assert card["evaluated"]["roc_auc"] > 0.9
    assert (tmp_path / "model.bin.card.md").exists()
    assert main([*command, "--set", "buckets=3"]) == 2
    assert "did you mean bucket?" in capsys.readouterr().err
    bad = write(tmp_path / "bad.jsonl", [{"text": "x", "label": "good"}])
    assert main([*command, *fast, "--evaluate", bad]) == 2
    assert "record 1: `label` must be 0 or 1" in capsys.readouterr().err
