"""Core time holds what other processes took for a task: the parser of pages above all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core_time import core_seconds

BURN = "import time\nbegan = time.process_time()\nwhile time.process_time() - began < 0.3: pass\n"


def test_a_child_counts_once_while_it_lives_and_after_it_was_killed() -> None:
    before = core_seconds()
    command = [sys.executable, "-c", BURN + "print('burnt', flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"burnt\n"
        alive = core_seconds() - before
        child.kill()
    dead = core_seconds() - before
    assert alive >= 0.29 and dead >= alive
    assert dead - alive < 0.25  # the child's own came from one place to the other, and was not added


PAGE = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/%d\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>The water of the river turns the wheel of mill number %d.</p>"


def test_status_tells_the_time_of_the_parsers_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pages = [HTTP % number for number in range(4)]
    Path("a.warc").write_bytes(b"".join(PAGE % (number, len(page), page) for number, page in enumerate(pages)))
    Path("slow_parser.py").write_text(f"def text(html):\n    exec({BURN!r})\n    return html\n")
    Path("recipe.yaml").write_text(
        "name: slow\nsources: {web: {read: {paths: [a.warc]}, steps: [extract: {engine: 'slow_parser:text'}]}}\n"
        "tokenizer: {train: {vocab_size: 300}}\nshards: {held_out: 0}\nmixture: {epochs: 1}\n"
    )
    assert main(["run", "recipe.yaml", "--inline", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["status", "runs/slow", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phases"]["documents/web/0"]["cpu_seconds"] >= 4 * 0.29
