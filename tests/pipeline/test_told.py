"""What the command line tells of sources that are not as they should be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import forked
import pytest
import yaml


def run(folder: Path, name: str, content: bytes, *options: str) -> tuple[int, str]:
    """Run over one file; the exit status and what is printed."""
    (folder / name).write_bytes(content)
    recipe = {
        "name": "told",
        "sources": {"docs": {"read": {"paths": [f"{folder}/{name}"]}}},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "100KB"}},
        "shards": {"bytes": "1MB", "held_out": 0},
        "mixture": {"epochs": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    asked = ["run", f"{folder}/recipe.yaml", "--out", f"{folder}/out", "--inline", *options]
    done = forked.call(folder / "printed", *asked, environment=os.environ | {"COLUMNS": "200"})
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_documents_that_hold_the_end_token_are_in_the_printed_summary(tmp_path: Path) -> None:
    texts = [f"document {i} has words{' <|endoftext|> and more' if i < 3 else ''}" for i in range(12)]
    status, printed = run(tmp_path, "a.jsonl", b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts))
    assert status == 0
    (line,) = [line for line in printed.splitlines() if "end token written in their text" in line]
    assert line.split()[-1] == "3"


def test_the_cause_of_a_damaged_file_is_the_damage(tmp_path: Path) -> None:
    status, printed = run(tmp_path, "a.csv", b'id,text\n1,a b c\n2\n3,"it ends\n')
    assert status == 2
    assert "1 source files could not be read to their end" in printed and "the file ends inside this row" in printed


def test_tasks_that_run_again_say_that_what_they_read_changed(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {i} has words"}).encode() + b"\n" for i in range(12)]
    assert run(tmp_path, "a.jsonl", b"".join(lines))[0] == 0
    status, printed = run(tmp_path, "a.jsonl", b"".join(lines[:9]))
    assert status == 0
    for stage in ("read and filter", "tokenize", "shard"):
        assert f"{stage}: 1 task again: what they read changed" in printed


@pytest.mark.parametrize("unit", [b"{},", b"1.5,", b'{"a":[]},'])
def test_dense_json_stays_within_the_memory_of_a_task(tmp_path: Path, unit: bytes) -> None:
    size = 40 << 20
    dense = b'{"text": "dense", "a": [' + unit * (size // len(unit)) + b"0]}\n"
    allow = ("--set", "run.failures.documents=1")
    status, printed = run(
        tmp_path, "a.jsonl", dense + b'{"text": "a text of words"}\n', *allow, "--set", "run.task_memory=300MiB"
    )
    assert status == 0
    assert any(line.split()[:5] == ["docs", "2", "1", "0", "1"] for line in printed.splitlines())
    peak = printed.partition("most memory of one task ")[2].split()
    assert peak[1] == "MB" and float(peak[0]) < 600
