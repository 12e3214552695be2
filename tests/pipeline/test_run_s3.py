"""A run with source and output both on a real S3 server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import forked
import pytest
import yaml

from pipeline import storage
from pipeline.cli import main
from pipeline.ledger import Entry, Ledger, Output, Ref, report_of
from pipeline.plan.node import Report
from pipeline.storage.s3_client import client

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bucket(s3: Any) -> str:
    """A folder of 1,020 small JSON lines files."""
    folder = s3.uri("many")
    if storage.exists(folder):
        return folder
    for number in range(1020):
        row = {
            "id": f"d{number}",
            "text": f"This is document {number} of the many that lie here, and it has its number {number}.",
        }
        storage.write_bytes(storage.join(folder, f"{number:05d}.jsonl"), json.dumps(row).encode() + b"\n")
    return folder


def recipe(folder: str) -> dict[str, Any]:
    return {
        "name": "many",
        "sources": {"many": {"read": {"paths": [f"{folder}/*.jsonl"]}, "steps": [{"dedup": {"method": "exact"}}]}},
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"held_out": 0.05},
        "mixture": {},
        "run": {"split_bytes": "30KB"},
    }


def test_a_run_from_s3_to_s3_gives_the_same_bytes_as_to_disk(bucket: str, s3: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(bucket)))
    out = s3.uri("runs", "many")
    env = s3.environment()
    call = partial(forked.call, tmp_path / "printed", environment=env)
    first = call("run", str(tmp_path / "recipe.yaml"), "--out", out, "--inline", "--json")
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)["sources"]["many"]
    assert (found["documents_in"], found["documents_kept"]) == (1020, 1020)
    local = call("run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--workers", "2", "--json")
    assert local.returncode == 0, local.stderr
    manifest = (tmp_path / "out/manifest.json").read_bytes()
    assert storage.read_bytes(f"{out}/manifest.json") == manifest
    for shard in json.loads(manifest)["sources"]["many"]["shards"]:
        assert storage.read_bytes(f"{out}/{shard['path']}") == (tmp_path / "out" / shard["path"]).read_bytes()
    again = call("run", str(tmp_path / "recipe.yaml"), "--out", out)
    assert "nothing to do" in again.stdout
    assert call("inspect", out, "--json").returncode == 0
    assert "finished" in call("status", out).stdout
    secrets = [env["AWS_SECRET_ACCESS_KEY"], env["AWS_ACCESS_KEY_ID"]]
    texts = [first.stdout + first.stderr + again.stdout + again.stderr]
    texts += [storage.read_bytes(e.uri).decode("latin-1") for e in storage.list_files(out)]
    texts += [p.read_bytes().decode("latin-1") for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert not [text for text in texts if any(secret in text for secret in secrets)]


def test_wrong_credentials_and_missing_buckets_are_one_sentence(bucket: str, s3: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(bucket)))
    printed = tmp_path / "printed"
    wrong = s3.environment() | {"AWS_SECRET_ACCESS_KEY": "wrongwrongwrong"}
    asked = ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--inline"]
    failed = forked.call(printed, *asked, environment=wrong)
    assert failed.returncode == 2
    assert failed.stderr.strip().count("\n") == 0 and failed.stderr.startswith("error: s3://")
    assert "wrongwrongwrong" not in failed.stderr
    asked[3] = "s3://no-such-bucket/run"
    nowhere = forked.call(printed, *asked, environment=s3.environment())
    assert nowhere.returncode == 2 and "no-such-bucket" in nowhere.stderr


def small_recipe(folder: Path, **shards: Any) -> Path:
    rows = [json.dumps({"id": name, "text": text}) + "\n" for name, text in sorted(topics.items())]
    (folder / "topics.jsonl").write_text("".join(rows))
    data = {
        "name": "small",
        "sources": {"docs": {"read": {"paths": [f"{folder}/topics.jsonl"]}}},
        "tokenizer": {"train": {"vocab_size": 300}},
        "shards": shards,
        "mixture": {},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(data))
    return folder / "small.yaml"


# The command, with a heartbeat that writes the lock again as fast as the server takes it.
RESTLESS = """
import sys
from pipeline import cli
from pipeline.storage import lock_object

lock_object.HEARTBEAT = 0
status = cli.main(sys.argv[1:])
print(f"{status=}", flush=True)
"""


def test_a_run_whose_tasks_check_the_lock_while_it_is_written_goes_through(s3: Any, tmp_path: Path) -> None:
    """Each shard is a final file, and its task asks before it writes one whether the run is still there."""
    command = ["run", str(small_recipe(tmp_path, bytes=4096)), "--out", s3.uri("restless"), "--inline"]
    done = subprocess.run(
        [sys.executable, "-c", RESTLESS, *command], cwd=ROOT, env=s3.environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0 and "status=0" in done.stdout, done.stderr
    shards = [entry for entry in storage.list_files(s3.uri("restless/tokens")) if entry.uri.endswith(".npy")]
    assert len(shards) > 40  # how many, hangs on Python's own pages, which are the text
    assert not storage.exists(s3.uri("restless/run.lock"))


@contextmanager
def requests_to(run: str) -> Iterator[list[str]]:
    sent: list[str] = []
    events = client(run).meta.events
    events.register("before-send.s3", lambda request, **_: sent.append(request.url), unique_id="count")
    try:
        yield sent
    finally:
        events.unregister("before-send.s3", unique_id="count")


def test_questions_about_a_large_run_cost_few_requests(s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thousands of tasks are a few files of the ledger: each more costs no request, and parts are not listed."""
    out = s3.uri("large")
    assert main(["run", str(small_recipe(tmp_path)), "--out", out, "--inline", "--quiet"]) == 0
    costs: list[dict[str, int]] = []
    for added in (0, 3000):
        with Ledger(out, writable=True) as ledger:
            for number in range(added):
                ref, outputs = Ref("documents", "more", "0", number), [Output(f"parts/more/0/{number}.parquet", 1, "0" * 32)]
                times, report = (1.0, 1.0, 1, "host", "now"), report_of(Report())
                ledger.add(Entry(f"{number:032x}", ref, "b", "i", None, outputs, [], *times, report=report))
        costs.append({})
        for question in ("status", "inspect"):
            capsys.readouterr()
            with requests_to(out) as sent:
                assert main([question, out, "--json"]) == 0
            costs[-1][question] = len(sent)
            told = json.loads(capsys.readouterr().out)
            if question == "status":
                assert told["phases"].get("documents/more/0", {"tasks": 0})["tasks"] == added
    assert costs[1]["inspect"] == costs[0]["inspect"] and costs[1]["status"] <= costs[0]["status"] + 8, costs
