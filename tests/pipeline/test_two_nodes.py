"""A run on a Ray cluster of two nodes, of which one is killed in each phase of its dedups."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
from pathlib import Path

import gated_dedup
import pytest
import two_nodes
import yaml
from dedup_corpus import altered, prose

from pipeline.cli import main


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rng = random.Random(7)
    texts = [prose(rng, 40, 99) for _ in range(150)]
    texts += [altered(rng, rng.choice(texts), 1) for _ in range(50)]
    rng.shuffle(texts)
    for part in range(4):
        rows = [json.dumps({"id": f"{part}-{i}", "text": text}) + "\n" for i, text in enumerate(texts[part::4])]
        (tmp_path / f"web-{part}.jsonl").write_text("".join(rows))
        pages = [f"{prose(rng, 20, 99)}\n{text}" for text in texts[part : part + 40]]
        rows = [json.dumps({"id": f"p{part}-{i}", "text": text}) + "\n" for i, text in enumerate(pages)]
        (tmp_path / f"page-{part}.jsonl").write_text("".join(rows))
    path = tmp_path / "recipe.yaml"
    near = {"method": "minhash", "ngram": 2, "rows": 4, "partitions": 3}
    cut = {"method": "bff", "fp_rate": 1e-6, "shards": 2}
    data = {
        "name": "nodes",
        "sources": {
            "web": {"read": {"paths": [f"{tmp_path}/web-*.jsonl"]}, "steps": [{"dedup": near}]},
            "pages": {"read": {"paths": [f"{tmp_path}/page-*.jsonl"]}, "steps": [{"dedup": cut}]},
        },
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "20KB"}},
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "8KB", "task_memory": "100MB"},  # so that dedup tasks have their memory reserved
    }
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def digests(out: Path) -> dict[str, str]:
    manifest = json.loads((out / "manifest.json").read_bytes())
    shards = [shard for source in manifest["sources"].values() for shard in source["shards"]]
    names = ["manifest.json", *(shard[key] for shard in shards for key in ("path", "index"))]
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


# Each dedup's phases.
PHASES = {
    "web": ["scatter", "group", "large-00", "small-01", "large-01", "choose", "name", "remove"],
    "pages": ["count", "filter", "holders", "edit"],
}


def test_a_node_killed_in_each_phase_of_dedups_is_survived(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every phase a task waits on the second node until that is killed; another node takes its place."""
    gate, told, out = tmp_path / "gate", tmp_path / "killed.json", tmp_path / "run"
    gate.mkdir()
    monkeypatch.setenv(gated_dedup.GATE, str(gate))
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    arguments = ["run", str(recipe), "--out", str(out), "--quiet"]
    process = multiprocessing.get_context("spawn").Process(target=two_nodes.killing_nodes, args=(arguments, gate, told))
    process.start()
    process.join()
    assert process.exitcode == 0
    killed = json.loads(told.read_text())
    assert sorted(killed) == sorted(f"{source}.{phase}" for source, phases in PHASES.items() for phase in phases)
    assert main(["run", str(recipe), "--out", str(tmp_path / "inline"), "--quiet", "--inline"]) == 0
    assert digests(out) == digests(tmp_path / "inline")
