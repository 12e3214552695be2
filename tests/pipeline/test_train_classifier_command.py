"""The command that trains a quality classifier from files."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import yaml
import zstandard

from pipeline.cli import main

ROOT = Path(__file__).resolve().parents[2]


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


def test_few_labelled_documents_are_told_apart_by_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [text for _, text in sorted(topics.items())]
    rows = [{"text": text, "label": 1} for text in texts[:50]]
    rows += [{"text": f"cheap offer {i} buy now click here", "label": 0} for i in range(50)]
    labelled, out = write(tmp_path / "labelled.jsonl", rows), str(tmp_path / "model.bin")
    judged = write(tmp_path / "judged.jsonl", [*rows[:3], {"text": texts[60], "label": 1}, {"text": "buy cheap now", "label": 0}])
    assert main(["train-classifier", "--labelled", labelled, "--out", out, "--evaluate", judged, "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["documents"]["positive"]["given"] == card["documents"]["negative"]["given"] == 50
    assert (card["settings"]["epoch"], card["settings"]["word_ngrams"]) == (25, 1)
    assert card["evaluated"]["roc_auc"] == 1
    assert card["evaluated"]["also_trained_on"] == 3
    assert card["held_out"]["spread"] > 0.1
    assert len(card["warnings"]) == 1 and "3 of the 5 documents" in card["warnings"][0]
    assert main(["train-classifier", "--labelled", labelled, "--out", out, "--set", "lr=0.0001", "bucket=1000"]) == 0
    assert "do not spread" in capsys.readouterr().out
    assert main(["train-classifier", "--positive", labelled, "--out", out]) == 2
    assert "--labelled" in capsys.readouterr().err


def test_people_s_labels_are_learned_by_defaults(tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A third of the shared labels judges a model of the others."""
    raw = zstandard.ZstdDecompressor().stream_reader((shared_data / "quality-labels.jsonl.zst").open("rb")).read()
    rows = [json.loads(line) for line in raw.splitlines()]
    training, judged = write(tmp_path / "a.jsonl", rows[::3] + rows[1::3]), write(tmp_path / "b.jsonl", rows[2::3])
    command = ["train-classifier", "--labelled", training, "--out", str(tmp_path / "m.bin"), "--evaluate", judged, "--json"]
    assert main([*command, "--set", "held_out=0"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["evaluated"]["roc_auc"] > 0.85
    assert card["warnings"] == []
    assert card["model"]["bytes"] < 8 << 20


def command(tmp_path: Path, out: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Train a model of about 4 MB in a process of its own, whose files may have `limit` bytes at most."""
    texts = [text for _, text in sorted(topics.items())]
    good = write(tmp_path / "good.jsonl", [{"text": text} for text in texts[:40]])
    ordinary = write(tmp_path / "web.jsonl", [{"text": f"cheap offer {i} buy now click here"} for i in range(40)])
    arguments = ["train-classifier", "--positive", good, "--negative", ordinary, "--out", str(out)]
    arguments += ["--set", "bucket=120000", "dim=8"]
    before = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, preexec_fn=before, capture_output=True, text=True
    )


def test_a_model_that_finds_no_room_is_one_sentence_about_the_disk(tmp_path: Path) -> None:
    """fastText itself takes no notice: what was wrong then was the model."""
    done = command(tmp_path, tmp_path / "model.bin", 1 << 20)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "model.bin: cannot write it: File too large" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.jsonl", "web.jsonl"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_sentence(tmp_path: Path, small_disk: Path) -> None:
    done = command(tmp_path, small_disk / "model.bin")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "no space left" in done.stderr and "free some space" in done.stderr
    assert not list(small_disk.iterdir())


def test_a_full_disk_stops_a_run_that_trains_its_classifier_with_one_sentence(tmp_path: Path, small_disk: Path) -> None:
    texts = [text for _, text in sorted(topics.items())]
    good = write(tmp_path / "good.jsonl", [{"text": text} for text in texts[:20]])
    ordinary = write(tmp_path / "web.jsonl", [{"text": f"cheap offer {i} buy now click here"} for i in range(20)])
    settings = {"bucket": 120_000, "dim": 8, "held_out": 0.2}
    training = {"positive": ["good"], "negative": ["web"], "settings": settings}
    quality = {"quality": {"train": training, "score": None}}
    recipe = {
        "name": "full",
        "sources": {
            "web": {"read": {"paths": [ordinary]}, "steps": [{"dedup": {"method": "exact"}}, quality]},
            "good": {"read": {"paths": [good]}},
        },
        "tokenizer": {"train": {"vocab_size": 400}},
        "mixture": {},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    arguments = ["run", str(tmp_path / "recipe.yaml"), "--out", str(small_disk / "run"), "--inline", "--quiet"]
    done = subprocess.run([sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "no space left" in done.stderr and "fastText model" not in done.stderr
