"""A run on a Ray cluster of two nodes, of which one is killed in each phase of its dedups."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import gated_dedup
import pytest
import yaml
from dedup_corpus import altered, prose

from pipeline.cli import main
from pipeline.place import RAY_ENVIRONMENT

WAIT = 300.0  # seconds, for what does not come


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


def run_gated(arguments: list[str]) -> None:
    gated_dedup.instead_of_the_job(gated_dedup.Waiting)
    raise SystemExit(main(arguments))


def test_a_node_killed_in_each_phase_of_dedups_is_survived(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every phase a task waits on the second node until that is killed; another node takes its place."""
    gate = tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv(gated_dedup.GATE, str(gate))
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    for name, value in RAY_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    out = tmp_path / "run"
    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "memory": 2 << 30}
    soon = {"health_check_period_ms": 300, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 4}
    head = {**node, "include_dashboard": False, "_system_config": soon}  # dead nodes are told within a second or two
    cluster = Cluster(initialize_head=True, head_node_args=head)
    killed: list[str] = []
    try:
        other = cluster.add_node(**node)
        arguments = ["run", str(recipe), "--out", str(out), "--quiet", "--address", cluster.address]
        process = multiprocessing.get_context("spawn").Process(target=run_gated, args=(arguments,))
        process.start()
        until = time.monotonic() + WAIT
        while process.is_alive() and time.monotonic() < until:
            raylet = other.all_processes["raylet"][0].process.pid
            for marker in gate.glob(f"*.at.{raylet}"):
                phase = marker.name.removesuffix(f".at.{raylet}")
                if phase not in killed:
                    cluster.remove_node(other, allow_graceful=False)
                    killed.append(phase)
                    (gate / f"{phase}.open").touch()
                    other = cluster.add_node(wait=False, **node)
                    break
            time.sleep(0.01)
        process.join(20)
        assert process.exitcode == 0
    finally:
        cluster.shutdown()
    assert sorted(killed) == sorted(f"{source}.{phase}" for source, phases in PHASES.items() for phase in phases)
    assert main(["run", str(recipe), "--out", str(tmp_path / "inline"), "--quiet", "--inline"]) == 0
    assert digests(out) == digests(tmp_path / "inline")
