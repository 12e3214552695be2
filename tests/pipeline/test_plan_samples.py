"""What is trained in a run sees the same documents, drawn by the training task itself or by tasks of their own."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from pipeline.carry_out import Options, run_recipe
from pipeline.plan import training
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.run_summary import RunSummary
from stages.document import document_hash

TEXTS = [" ".join(text.split()) for _, text in sorted(topics.items()) if len(text.split()) > 20]


def run(out: Path, files: dict[str, Path]) -> RunSummary:
    training = {"positive": ["good"], "negative": ["web"], "max_bytes": 20_000}
    steps = [
        {"dedup": {"method": "exact"}},
        {"quality": {"train": training | {"settings": {"dim": 4, "bucket": 1000, "epoch": 1, "held_out": 0}}, "score": 0}},
    ]
    data = {
        "name": "samples",
        "sources": {
            "good": {"read": {"paths": [str(files["good"])]}, "steps": [{"dedup": {"method": "exact"}}]},
            "web": {"read": {"paths": [str(files["web"])]}, "steps": steps},
        },
        "tokenizer": {"train": {"vocab_size": 300, "max_bytes": 20_000}},
        "mixture": {},
        "run": {"split_bytes": "60KB"},
    }
    return run_recipe(build_recipe(data), Options(str(out), inline=True, progress=Progress(quiet=True)))


def test_samples_made_apart_are_those_that_the_training_task_would_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: tmp_path / f"{name}.jsonl" for name in ("good", "web")}
    for name, path in files.items():
        rows = [json.dumps({"id": f"{name}-{i}", "text": f"{name} {text}"}) + "\n" for i, text in enumerate(TEXTS)]
        path.write_text("".join(rows))
    assert files["web"].stat().st_size > 20 * training.AT_ONCE * 1000
    run(tmp_path / "apart", files)
    drawn = sorted((tmp_path / "apart/parts/sample").glob("*/*.parquet"))
    assert {path.parent.name for path in drawn} == {"tokenizer", "classifier"} and len(drawn) > 10
    assert sum(path.stat().st_size for path in drawn) < files["web"].stat().st_size / 4
    assert run(tmp_path / "apart", files).unchanged
    monkeypatch.setattr(training, "AT_ONCE", 10**9)
    run(tmp_path / "itself", files)
    assert not (tmp_path / "itself/parts/sample").exists()
    for name in ("tokenizer/tokenizer.json", "models/web.quality.bin", "tokens/web/00000.npy", "manifest.json"):
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "itself" / name).read_bytes(), name


def test_of_documents_larger_than_the_sample_one_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 documents of 40 kB for a sample of 20 kB, a hash may well choose none: here it does."""
    files = {name: tmp_path / f"{name}.jsonl" for name in ("good", "web")}
    for name, path in files.items():
        ids = (f"{name}-{i}" for i in range(1000))
        unlucky = [id for id in ids if all(document_hash(id, purpose) >> 61 for purpose in ("tokenizer", "classifier"))]
        rows = [{"id": id, "text": f"{id} {' '.join(TEXTS)[number * 20 :][:40_000]}"} for number, id in enumerate(unlucky[:40])]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "apart", files)
    assert len(list((tmp_path / "apart/parts/sample").glob("*/*.parquet"))) > 10
    monkeypatch.setattr(training, "AT_ONCE", 10**9)
    run(tmp_path / "itself", files)
    for name in ("tokenizer/tokenizer.json", "models/web.quality.bin", "manifest.json"):
        assert (tmp_path / "apart" / name).read_bytes() == (tmp_path / "itself" / name).read_bytes(), name
