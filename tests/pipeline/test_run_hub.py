"""The full profile of the OLMoE recipe, against a small hub on loopback that holds files of the same shape and names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
import zstandard
from fake_hub import FakeHub
from web_server import running_web_server

from pipeline.carry_out import Options, run_recipe
from pipeline.progress import Progress
from pipeline.recipe import load_recipe
from stages.quality.settings import TrainSettings
from stages.quality.train import train_classifier
from stages.tokens.shard_format import load_manifest
from stages.tokens.train_tokenizer import train_tokenizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TEXTS = [text for _, text in sorted(topics.items()) if len(text.split()) > 80]
SOURCES = {
    "dclm": "dclm-0000.json.zst",
    "starcoder": "starcoder-0000.json.gz",
    "pes2o": "pes2o-0000.json.gz",
    "arxiv": "arxiv-0000.json.gz",
    "open-web-math": "open-web-math-train-0000.json.gz",
    "algebraic-stack": "algebraic-stack-train-0000.json.gz",
    "wiki": "wiki-0000.json.gz",
}


def rows(source: str, texts: list[str]) -> bytes:
    found = []
    for number, text in enumerate(texts):
        row = {"id": f"{source}-{number}", "text": text, "added": "2024-01-01T00:00:00.000Z", "created": "2023-01-01"}
        if source == "dclm":
            row["metadata"] = {"url": f"http://{source}.example/{number}", "language": "en"}
        found.append(json.dumps(row))
    return ("\n".join(found) + "\n").encode()


def test_the_full_profile_runs_where_its_names_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {}
    for number, (source, name) in enumerate(SOURCES.items()):
        data = rows(source, (TEXTS * 3)[number * 8 : number * 8 + 24])
        packed = zstandard.compress(data) if name.endswith("zst") else gzip.compress(data, mtime=0)
        files[f"data/{source}/{name}"] = packed
    train_tokenizer(TEXTS[:20], tmp_path / "tokenizer.json", 600)
    settings = TrainSettings(bucket=1000, dim=8, held_out=0)
    train_classifier(TEXTS[:20], ["buy now cheap cheap"] * 20, tmp_path / "model.bin", settings)
    model = "openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train.bin"
    with running_web_server() as web:
        FakeHub(
            web,
            {
                ("datasets", "allenai/OLMoE-mix-0924", "main"): files,
                ("models", "allenai/gpt-neox-olmo-dolma-v1_5", "main"): {
                    "tokenizer.json": (tmp_path / "tokenizer.json").read_bytes()
                },
                ("models", "mlfoundations/fasttext-oh-eli5", "main"): {model: (tmp_path / "model.bin").read_bytes()},
            },
        )
        for name, value in {
            "HF_ENDPOINT": web.address,
            "HEADRACE_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": "none",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        changes = [
            "mixture.tokens=null",
            "mixture.epochs=1.26",
            "sources.dclm.steps.dedup.memory=64MiB",
            "shards.held_out=0.1",
        ]
        recipe = load_recipe(CONFIGS / "dclm_mix.yaml", "full", changes)
        summary = run_recipe(recipe, Options(str(tmp_path / "out"), inline=True, progress=Progress(quiet=True)))
    found = {s.name: s for s in summary.sources}
    assert list(found) == list(SOURCES)
    assert all(s.into.docs == 24 for s in found.values())
    assert found["starcoder"].out.docs == 24  # its stars are unknown here, and not asked for
    assert 0 < found["dclm"].out.docs <= 24
    manifest = load_manifest(tmp_path / "out")
    assert manifest["profile"] == "full"
    shard = manifest["sources"]["wiki"]["shards"][0]
    assert len(np.fromfile(tmp_path / "out" / shard["path"], manifest["dtype"])) == shard["tokens"]
    assert not list((tmp_path / "out").glob("parts/**/*.kept.parquet"))  # keep: none
