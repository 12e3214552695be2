"""A run while it goes on: what Prometheus is told, and what its tasks print, which stays in the run's folder."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import yaml

from pipeline.cli import main
from pipeline.engine.said import MOST, listening

FILTER = """
import os, sys, urllib.request

def length(text: str) -> float:
    if "PORT" in os.environ:
        with urllib.request.urlopen(f"http://127.0.0.1:{os.environ.pop('PORT')}/metrics") as answer:
            print(answer.read().decode())
        print("read https://user:secret-word@a.example/x", file=sys.stderr)
    return len(text)
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    rows = [json.dumps({"id": str(i), "text": text}) + "\n" for i, (_, text) in enumerate(sorted(topics.items()))]
    (tmp_path / "docs.jsonl").write_text("".join(rows))
    (tmp_path / "scraping.py").write_text(FILTER)
    step = {"python": {"function": "scraping:length", "measure": "length", "min": 1}}
    data = {
        "name": "small",
        "sources": {"docs": {"read": {"paths": ["docs.jsonl"]}, "steps": [step]}},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "20KB"}},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "200KB"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    before = list(sys.path)
    yield tmp_path / "recipe.yaml"
    sys.path[:] = before
    sys.modules.pop("scraping", None)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_prometheus_is_told_and_what_tasks_print_is_kept(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port, out = free_port(), recipe.parent / "out"
    monkeypatch.setenv("PORT", str(port))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    command = ["run", str(recipe), "--out", str(out), "--inline", "--metrics-port", str(port)]
    assert main(command) == 0
    printed = {path.name: path.read_text() for path in (out / "logs/printed").iterdir()}
    assert list(printed) == ["documents-docs-0-00000.txt"]
    lines = printed["documents-docs-0-00000.txt"].splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("headrace_"))
    tasks = float(told['headrace_phase_tasks{phase="read and filter"}'])
    assert tasks > 1 and told['headrace_phase_done{phase="read and filter"}'] == "0.0"
    assert float(told['headrace_phase_bytes{phase="read and filter"}']) == (recipe.parent / "docs.jsonl").stat().st_size
    assert float(told["headrace_run_phases"]) > 3 and float(told["headrace_run_number"]) >= 1
    assert lines[-1] == "read https://a.example/x"
    assert 'headrace_phase_tasks{phase="read and filter"}' in capsys.readouterr().out  # as it would be without
    with socket.create_server(("0.0.0.0", port)):  # which nothing else listens at any more
        (recipe.parent / "docs.jsonl").write_bytes((recipe.parent / "docs.jsonl").read_bytes() + b"\n")
        assert main(command) == 2
    assert f"--metrics-port {port}: nothing can be served there" in capsys.readouterr().err


def test_what_is_said_is_kept_as_far_as_there_is_room(capsys: pytest.CaptureFixture[str]) -> None:
    with listening() as said:
        print("first", flush=True)
        sys.stdout.write("x" * MOST)
        assert sys.stdout.buffer
    assert said.text.startswith("first\nxxx") and said.text.endswith("\n... and 6 characters more\n")
    assert len(capsys.readouterr().out) == 6 + MOST
