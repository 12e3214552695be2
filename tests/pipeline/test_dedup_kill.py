"""Killed in each phase of dedups, and started again: the same bytes, in this process and on Ray, however the input is cut."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import gated_dedup
import pyarrow.parquet as pq
import pytest
import yaml
from dedup_corpus import altered, prose

from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.ledger import Ledger
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe

FORK = multiprocessing.get_context("forkserver")  # processes that need not import all anew
FORK.set_forkserver_preload(["pipeline.carry_out", "pipeline.jobs.documents", "pipeline.jobs.dedup", "gated_dedup"])
# The dedups run side by side: the tasks of a phase of the one, then those of the others'.
PHASES = [
    ("near", "scatter"), ("cut", "count"), ("runs", "count"), ("near", "group"), ("cut", "filter"), ("runs", "repeats"),
    ("near", "large-00"), ("cut", "holders"), ("runs", "keepers"), ("near", "small-01"), ("cut", "edit"), ("runs", "edit"),
    ("near", "large-01"), ("near", "members"), ("near", "measure"), ("near", "choose"), ("near", "name"), ("near", "remove"),
    *[("same", phase) for phase in ("scatter", "group", "large-00", "choose", "name", "remove")],
]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources of four files each: near copies in chains; paragraphs that come again; runs of words that do."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = random.Random(3)
    near = [prose(rng, 60, 99) for _ in range(60)]
    for _ in range(60):
        near.append(altered(rng, rng.choice(near), 2))
    paragraphs = [prose(rng, 30, 99) for _ in range(40)]
    cut = ["\n".join([*rng.sample(paragraphs, 3), prose(rng, 20, 99)]) for _ in range(40)]
    words = prose(rng, 200, 99).split()
    runs = []
    for _ in range(60):
        at = rng.randrange(len(words) - 40)
        runs.append(" ".join([prose(rng, rng.randrange(2, 20)), *words[at : at + 40], prose(rng, 8)]))
    for name, texts in (("near", near), ("cut", cut), ("runs", runs)):
        rng.shuffle(texts)
        for part in range(4):
            mine = texts[part::4]
            mine += mine[:2]  # within one file: these go however the files fall into shards
            rows = [json.dumps({"id": f"{name}{part}-{i}", "text": text}) + "\n" for i, text in enumerate(mine)]
            (folder / f"{name}-{part}.jsonl").write_text("".join(rows))
    return folder


def recipe(inputs: Path) -> dict[str, Any]:
    near = {"method": "minhash", "ngram": 2, "rows": 4, "verify": 0.5, "keep": "longest", "partitions": 5}
    cut = {"method": "bff", "fp_rate": 1e-6, "shards": 4}
    runs = {"method": "substring", "length": 12, "min_left": 14, "shards": 2}
    return {
        "name": "killed",
        "sources": {
            "near": {"read": {"paths": [f"{inputs}/near-*.jsonl"]}, "steps": [{"dedup": near}]},
            "cut": {"read": {"paths": [f"{inputs}/cut-*.jsonl"]}, "steps": [{"dedup": cut}]},
            "runs": {"read": {"paths": [f"{inputs}/runs-*.jsonl"]}, "steps": [{"dedup": runs}]},
            "same": {"read": {"paths": [f"{inputs}/near-*.jsonl"]}, "steps": [{"dedup": {"method": "exact"}}]},
        },
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "20KB"}},
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "8KB"},
    }


def digests(out: Path) -> dict[str, str]:
    """Name -> sha256 of the manifest and of all shards."""
    manifest = json.loads((out / "manifest.json").read_bytes())
    shards = [shard for source in manifest["sources"].values() for shard in source["shards"]]
    names = ["manifest.json", *(shard[key] for shard in shards for key in ("path", "index"))]
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


def removals(out: Path) -> dict[str, set[tuple[str, ...]]]:
    """By source: who was removed for whom."""
    found = {}
    for name, dedup in json.loads((out / "summary.json").read_bytes())["dedup"].items():
        rows: set[tuple[str, ...]] = set()
        for ordinal, path in dedup["removals"].items():
            ids = pq.read_table(out / dedup["read"][ordinal]["path"], columns=["id"]).column("id").to_pylist()
            rows |= {(ids[r["row"]], r["representative"], r["reason"]) for r in pq.read_table(out / path).to_pylist()}
        found[name] = rows
    return found


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    run_recipe(build_recipe(recipe(inputs), None, []), Options(str(out), inline=True, progress=Progress(quiet=True)))
    assert phases_done(out) >= set(PHASES)
    assert all(len(rows) > 5 for rows in removals(out).values())
    return out


def phases_done(run: Path) -> set[tuple[str, str]]:
    """(source, phase) of all dedup tasks done."""
    if not run.exists():
        return set()
    with Ledger(str(run)) as ledger:
        refs = [entry.ref for entry in ledger.entries()]
    return {(ref.source, phase) for ref in refs if ref.kind == "dedup" and (phase := ref.stage.partition(" ")[2])}


def run_and_kill(arguments: list[str], out: Path, wanted: tuple[str, str]) -> bool:
    """Start a run and kill it once a task of the wanted phase is done; False where the run was done before."""
    process = FORK.Process(target=main, args=(arguments,))
    process.start()
    while process.is_alive() and wanted not in phases_done(out):
        time.sleep(0.01)
    killed = process.is_alive()
    process.kill()
    process.join()
    return killed


@pytest.fixture
def command(inputs: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(inputs), sort_keys=False))
    return ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--quiet"]


def with_gate(gate: str, arguments: list[str]) -> None:
    os.environ[gated_dedup.GATE] = gate
    gated_dedup.instead_of_the_job(gated_dedup.Dying)
    raise SystemExit(main(arguments))


def test_killed_in_every_phase(finished: Path, command: list[str], tmp_path: Path) -> None:
    """Phase by phase the process dies in a task, its outputs half written or not yet on record, and is started again."""
    out, gate = tmp_path / "run", tmp_path / "gate"
    gate.mkdir()
    kills = 0
    while True:
        process = FORK.Process(target=with_gate, args=(str(gate), [*command, "--inline"]))
        process.start()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
        kills += 1
    died = {path.name.removesuffix(".died") for path in gate.iterdir()}
    assert process.exitcode == 0 and len(died) == kills == len(PHASES)
    assert digests(out) == digests(finished)
    assert removals(out) == removals(finished)


def test_killed_with_one_worker_then_with_two(finished: Path, command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run_and_kill([*command, "--workers", "1"], out, ("near", "group"))
    assert run_and_kill([*command, "--workers", "2"], out, ("cut", "edit"))
    assert main([*command, "--inline"]) == 0
    assert digests(out) == digests(finished)
    assert removals(out) == removals(finished)


@pytest.mark.parametrize("split", ["60KB", "1MB"])
def test_the_size_of_splits_changes_nothing(inputs: Path, finished: Path, tmp_path: Path, split: str) -> None:
    changed = build_recipe(recipe(inputs), None, [f"run.split_bytes={split}", "sources.near.steps.dedup.partitions=3"])
    run_recipe(changed, Options(str(tmp_path), inline=True, progress=Progress(quiet=True)))
    parts = [len(list(out.glob("parts/near/0/*.kept.parquet"))) for out in (tmp_path, finished)]
    assert parts[0] < parts[1]
    assert removals(tmp_path) == removals(finished)
    assert digests(tmp_path) == digests(finished)
