"""Headrace's steps and dedups as blocks of a datatrove pipeline, under datatrove's own executor, reader and writers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow as pa
import pytest
import yaml
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

import pipeline
from pipeline.datatrove_blocks import HeadraceDedup, HeadraceSteps
from stages.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
LONG = [text for _, text in sorted(topics.items()) if len(text) > 600][:30]
STEPS: list[Any] = [
    {"remove_urls": {"urls": "all"}},
    {"gopher_quality": {"words": [20, 5000], "stop_words": None}},
    "repetition_datatrove",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two files of prose, with short texts, a link in each text, and copies."""
    rows = [{"id": f"d{i}", "text": f"{text}\nSee https://example.org/{i}", "place": [i, None]} for i, text in enumerate(LONG)]
    added = {"short": "too short", "copy": rows[3]["text"], "loop": "la la la\n" * 90}
    rows += [{"id": name, "text": text} for name, text in added.items()]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:17]))
    (tmp_path / "in/1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[17:]))
    return tmp_path


def execute(folder: Path, block: Any, tasks: int = 2, **options: Any) -> dict[str, dict]:
    """The documents that a pipeline of reader, block and writer leaves, by id, and the block's statistics."""
    blocks = [JsonlReader(str(folder / "in")), block, JsonlWriter(str(folder / "out"), compression=None)]
    stats = LocalPipelineExecutor(blocks, tasks=tasks, logging_dir=str(folder / "logs"), **options).run()
    (mine,) = [one for one in stats.stats if "Headrace" in one.name]
    return {row["id"]: row for row in read(folder / "out")} | {"stats": {key: stat.total for key, stat in mine.stats.items()}}


def read(folder: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.rglob("*.jsonl")) for line in path.read_text().splitlines()]


def of_a_run(folder: Path, steps: list[Any]) -> tuple[dict[str, str], dict[str, str]]:
    """What a run of the same steps keeps (id -> text) and drops (id -> reason)."""
    data = {
        "name": "same",
        "sources": {"web": {"read": {"paths": [str(folder / "in/*.jsonl")]}, "steps": steps}},
        "tokenizer": {"train": {"vocab_size": 300}},
        "mixture": {},
    }
    run = pipeline.run(data, out=folder / "run", inline=True)
    rows = run.documents("web", dropped=True, columns=["id", "text", "reason"]).read_all().to_pylist()
    kept = {row["id"]: row["text"] for row in rows if row["reason"] is None}
    return kept, {row["id"]: row["reason"] for row in rows if row["reason"] is not None}


@pytest.mark.parametrize("workers", [1, 2])
def test_steps_keep_edit_and_drop_as_a_run_does(corpus: Path, workers: int) -> None:
    kept, dropped = of_a_run(corpus, STEPS)
    excluded = JsonlWriter(str(corpus / "excluded"), compression=None)
    found = execute(corpus, HeadraceSteps(STEPS, excluded, measures=True, batch_bytes=20_000), workers=workers)
    stats = found.pop("stats")
    assert {name: row["text"] for name, row in found.items()} == kept and len(dropped) >= 3
    assert {row["id"]: row["metadata"]["filter_reason"] for row in read(corpus / "excluded")} == dropped
    assert found["d3"]["metadata"]["place"] == [3, None] and found["d3"]["metadata"]["gopher_quality.words"] > 20
    assert (stats["total"], stats["forwarded"], stats["dropped"]) == (33, len(kept), len(dropped))
    assert {key: n for key, n in stats.items() if key.startswith("dropped_")} == {
        f"dropped_{reason}": n for reason, n in Counter(dropped.values()).items()
    }


@pytest.mark.parametrize("method", [{"method": "exact"}, {"method": "minhash"}, {"method": "bff", "ngram": 5}])
def test_a_dedup_keeps_and_cuts_as_a_run_does(corpus: Path, method: dict) -> None:
    kept, dropped = of_a_run(corpus, [{"dedup": method}])
    excluded = JsonlWriter(str(corpus / "excluded"), compression=None)
    found = execute(corpus, HeadraceDedup(method, exclusion_writer=excluded), tasks=1)
    stats = found.pop("stats")
    assert {name: row["text"] for name, row in found.items()} == kept and "copy" in dropped
    rows = {row["id"]: row["metadata"] for row in read(corpus / "excluded")}
    assert {name: row["filter_reason"] for name, row in rows.items()} == dropped
    assert rows["copy"]["representative"] in (("d3", "d0") if method["method"] == "bff" else ("d3",))
    assert found["d3"]["metadata"]["place"] == [3, None] and stats["dropped"] == len(dropped)


def test_pages_are_extracted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    page = f"<html><body><nav>Home</nav><article><p>{LONG[0]}</p></article></body></html>"
    (tmp_path / "in/0.jsonl").write_text(json.dumps({"id": "page", "text": page}) + "\n")
    found = execute(tmp_path, HeadraceSteps(["extract"]), tasks=1)
    assert "assert" in found["page"]["text"] and "<p>" not in found["page"]["text"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadraceSteps(["gopher_qualit"]), "steps: gopher_qualit: no such step; did you mean gopher_quality"),
        (lambda: HeadraceSteps([{"gopher_quality": {"word": [1, 2]}}]), "gopher_quality.word.*did you mean words"),
        (lambda: HeadraceSteps([{"dedup": {"method": "exact"}}]), "dedup needs all documents: use HeadraceDedup"),
        (lambda: HeadraceDedup({"method": "minhas"}), "minhas"),
        (lambda: list(HeadraceDedup({"method": "exact"}).run(iter(()), world_size=2)), "tasks=1, not 2"),
    ],
)
def test_a_mistake_is_named_when_the_block_is_made(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_the_examples_of_the_docs_run(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/datatrove.md").read_text()
    recipe, program = re.findall(r"```(?:yaml|python)\n# \S+\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(corpus)
    table = pa.Table.from_pylist(read(corpus / "in"))
    with pa.OSFile("docs.arrow", "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table)
    run = pipeline.run(yaml.safe_load(recipe), out="run", inline=True)
    assert run.summary.sources["docs"].dropped["datatrove_3.length.min"].documents == 1
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dropped, copies = ({row["id"] for row in read(corpus / name)} for name in ("dropped", "copies"))
    assert {"short", "loop"} <= dropped and "copy" in dropped | copies
    left = {row["id"] for row in read(corpus / "in")} - dropped - copies
    assert {row["id"] for row in read(corpus / "out")} == left and len(left) > 10
    assert "example.org" not in str(read(corpus / "out"))
