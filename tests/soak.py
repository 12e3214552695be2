"""`make soak`: a run of made-up crawl on a cluster and storage that fail all the time ends in the bytes of an undisturbed one.

HEADRACE_SOAK_BYTES says how much HTML is crawled (default 5e9; 60e6 has more phases), HEADRACE_SOAK_SECONDS how long all of
it may take once the crawl is made. It is no part of `make test`.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import soak_cluster
import yaml
from faulty_proxy import KINDS, running_faulty_proxy, share

from benchmarks.crawl import make_crawl
from pipeline import storage
from pipeline.questions.status import status

ROOT = Path(__file__).resolve().parents[1]
BYTES = float(os.environ.get("HEADRACE_SOAK_BYTES", "5e9"))
SECONDS = float(os.environ.get("HEADRACE_SOAK_SECONDS", "1150"))
FAULTS = 0.05
PAGES = 60  # of each of the real files, where less than all of them is asked for
LARGE = 1e9  # bytes from which on the recipe has few phases and cheap steps: most time goes with nodes that start again


def crawl_of(size: float, work: Path) -> tuple[str, ...]:
    """WARC files of about so many bytes of HTML."""
    limit = PAGES if size < 200e6 else None
    once = make_crawl(work, 1, limit)
    return make_crawl(work, max(1, round(size / once.html_bytes)), limit).files


def recipe_of(crawl: str) -> dict[str, Any]:
    steps = ["extract", "remove_urls", "gopher_quality", "repetition", {"dedup": {"method": "minhash", "partitions": 2}}]
    more = [{"language": {"label": ["en"], "score": 0.3}}, {"dedup": {"method": "bff", "shards": 2, "fp_rate": 0.001}}]
    if BYTES >= LARGE:
        steps, more = ["extract", "gopher_quality"], [{"dedup": {"method": "bff", "shards": 2, "name_holders": False}}]
    return {
        "name": "soak",
        "sources": {"web": {"read": {"paths": [crawl]}, "steps": [*steps, *more]}},
        "tokenizer": {"train": {"vocab_size": 2000, "max_bytes": "1MB"}},
        "shards": {"bytes": "16MiB", "held_out": 0.01},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": max(2_000_000, int(BYTES / 200)), "tasks": {"attempts": 6, "wait_seconds": 1}},
    }


def digests(out: str) -> dict[str, str]:
    """Of the manifest, and of all that it names."""
    manifest = json.loads(storage.read_bytes(f"{out}/manifest.json"))
    shards = [shard for source in manifest["sources"].values() for shard in source["shards"]]
    names = ["manifest.json", *(shard[key] for shard in shards for key in ("path", "index"))]
    return {name: hashlib.sha256(storage.read_bytes(f"{out}/{name}")).hexdigest() for name in names}


def books(out: str) -> Any:
    """What became of every source's documents, without the times that it took."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: timeless(item) for name, item in value.items() if "seconds" not in name}
        return [timeless(item) for item in value] if isinstance(value, list) else value

    return timeless(json.loads(storage.read_bytes(f"{out}/summary.json"))["sources"])


@pytest.mark.timeout(int(2 * SECONDS))  # the crawl, which is made once, is not counted among the seconds
def test_a_run_survives_what_happens_to_clusters(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    files = crawl_of(BYTES, Path(os.environ.get("HEADRACE_SOAK_WORK", "/tmp/headrace-soak")))
    began = time.monotonic()
    for file in files:
        storage.publish(file, s3.uri("crawl", Path(file).name), keep=True)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(s3.uri("crawl", "*.warc.gz")), sort_keys=False))
    calm, troubled = s3.uri("calm"), s3.uri("troubled")
    print(f"{len(files)} files are there after {time.monotonic() - began:.0f} s", file=sys.stderr)
    command = [sys.executable, "-m", "pipeline", "run", str(recipe), "--out", calm, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS / 2)
    assert done.returncode == 0, done.stderr
    print(f"the undisturbed run is done after {time.monotonic() - began:.0f} s", file=sys.stderr)
    said, told = tmp_path / "said", tmp_path / "told"
    with running_faulty_proxy(urlsplit(s3.endpoint).port, share(FAULTS)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        arguments = ([str(recipe), "--out", troubled], said, told, SECONDS - (time.monotonic() - began))
        process = multiprocessing.get_context("spawn").Process(target=soak_cluster.troubled, args=arguments)
        process.start()
        process.join()
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert process.exitcode == 0, said.read_text()[-3000:]
    facts = json.loads(told.read_text())
    faults = f"{proxy.met.total()} of {proxy.requests} requests failed {dict(proxy.met)}"
    print(f"{facts}; {faults}; all is done after {time.monotonic() - began:.0f} s", file=sys.stderr)
    assert set(proxy.met) == set(KINDS)
    assert facts["drivers_killed"] == 1 and facts["joined"] == 1 and len(facts["nodes_killed"]) >= 6
    assert digests(troubled) == digests(calm)
    assert status(troubled).finished
    assert books(troubled) == books(calm)  # nothing is lost, and nothing counted twice
    left = [entry.uri for entry in storage.list_files(troubled) if "/.tmp-" in entry.uri]
    assert not left
