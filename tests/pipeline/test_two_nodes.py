"""A run on a Ray cluster of two nodes, of which one is killed in the middle of a dedup."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
import yaml
from dedup_corpus import altered, prose

from pipeline.cli import main
from pipeline.engine import RAY_ENVIRONMENT

WAIT = 100.0  # seconds, for what does not come


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rng = random.Random(7)
    texts = [prose(rng, 40, 99) for _ in range(150)]
    texts += [altered(rng, rng.choice(texts), 1) for _ in range(50)]
    rng.shuffle(texts)
    for part in range(4):
        rows = [json.dumps({"id": f"{part}-{i}", "text": text}) + "\n" for i, text in enumerate(texts[part::4])]
        (tmp_path / f"web-{part}.jsonl").write_text("".join(rows))
    path = tmp_path / "recipe.yaml"
    dedup = {"method": "minhash", "ngram": 2, "rows": 4, "partitions": 60}
    data = {
        "name": "nodes",
        "sources": {"web": {"read": {"paths": [f"{tmp_path}/web-*.jsonl"]}, "steps": [{"dedup": dedup}]}},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "20KB"}},
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "8KB", "task_memory": "100MB"},  # so that dedup tasks have their memory reserved
    }
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def digests(out: Path) -> dict[str, str]:
    manifest = json.loads((out / "manifest.json").read_bytes())
    names = ["manifest.json", *(s[key] for s in manifest["sources"]["web"]["shards"] for key in ("path", "index"))]
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


def test_a_node_killed_in_a_dedup_is_survived(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in RAY_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    out = tmp_path / "run"
    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "memory": 2 << 30}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        other = cluster.add_node(**node)
        arguments = ["run", str(recipe), "--out", str(out), "--quiet", "--address", cluster.address]
        process = multiprocessing.get_context("spawn").Process(target=main, args=(arguments,))
        process.start()
        began = time.monotonic()
        raylet = other.all_processes["raylet"][0].process.pid
        while process.is_alive() and time.monotonic() - began < WAIT and not (_grouping(out) and _at_work(raylet)):
            time.sleep(0.002)
        assert process.is_alive() and _grouping(out)
        cluster.remove_node(other, allow_graceful=False)
        process.join(WAIT)
        assert process.exitcode == 0 and (out / "manifest.json").exists()
    finally:
        cluster.shutdown()
    assert main(["run", str(recipe), "--out", str(tmp_path / "inline"), "--quiet", "--inline"]) == 0
    assert digests(out) == digests(tmp_path / "inline")


def _names(out: Path) -> list[str]:
    """Of the tasks that are done."""
    files = [Path(file.path) for file in os.scandir(out / "ledger") if file.name[0] != "."]
    return [json.loads(file.read_bytes())["name"] for file in files]


def _grouping(out: Path) -> bool:
    """True once the dedup is within its second phase."""
    return (out / "ledger").exists() and sum("/group-" in name for name in _names(out)) >= 5


def _at_work(raylet: int) -> bool:
    """True while a worker of this node carries out a task."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet and b"ray::execute" in (folder / "cmdline").read_bytes():
                return True
        except OSError:
            continue  # it ended
    return False
