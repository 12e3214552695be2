"""A run with source and output both on a real S3 server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import storage

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
    )


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
    first = call("run", str(tmp_path / "recipe.yaml"), "--out", out, "--inline", "--json", env=env)
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)["sources"]["many"]
    assert (found["documents_in"], found["documents_kept"]) == (1020, 1020)
    local = call(
        "run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--workers", "2", "--json", env=env
    )
    assert local.returncode == 0, local.stderr
    manifest = (tmp_path / "out/manifest.json").read_bytes()
    assert storage.read_bytes(f"{out}/manifest.json") == manifest
    for shard in json.loads(manifest)["sources"]["many"]["shards"]:
        assert storage.read_bytes(f"{out}/{shard['path']}") == (tmp_path / "out" / shard["path"]).read_bytes()
    again = call("run", str(tmp_path / "recipe.yaml"), "--out", out, env=env)
    assert "nothing to do" in again.stdout
    assert call("inspect", out, "--json", env=env).returncode == 0
    assert "finished" in call("status", out, env=env).stdout
    secrets = [env["AWS_SECRET_ACCESS_KEY"], env["AWS_ACCESS_KEY_ID"]]
    texts = [first.stdout + first.stderr + again.stdout + again.stderr]
    texts += [storage.read_bytes(e.uri).decode("latin-1") for e in storage.list_files(out)]
    texts += [p.read_bytes().decode("latin-1") for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert not [text for text in texts if any(secret in text for secret in secrets)]


def test_wrong_credentials_and_missing_buckets_are_one_sentence(bucket: str, s3: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(bucket)))
    wrong = s3.environment() | {"AWS_SECRET_ACCESS_KEY": "wrongwrongwrong"}
    failed = call("run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out"), "--inline", env=wrong)
    assert failed.returncode == 2
    assert failed.stderr.strip().count("\n") == 0 and failed.stderr.startswith("error: s3://")
    assert "wrongwrongwrong" not in failed.stderr
    nowhere = call(
        "run", str(tmp_path / "recipe.yaml"), "--out", "s3://no-such-bucket/run", "--inline", env=s3.environment()
    )
    assert nowhere.returncode == 2 and "no-such-bucket" in nowhere.stderr
