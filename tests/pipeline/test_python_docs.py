"""docs/python.md and docs/explore.ipynb: every program, query and cell of them runs, on a run that they could be about."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import duckdb
import notebooks
import pytest

import pipeline

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/python.md").read_text()
LONG = [text for _, text in sorted(topics.items()) if len(text) > 600][:12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe of the page, and its run in runs/mine."""
    folder = tmp_path_factory.mktemp("python")
    words = [word for word in LONG[2].split() if word.isalpha()]
    texts = [*LONG, "Some words alone.", "too short", LONG[4], " ".join(words[:30])]
    rows = [{"id": f"some-{i}", "text": text, "topic": f"t{i % 3}"} for i, text in enumerate(texts)]
    rows[0]["id"] = "some-id"
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gopher = "{words: {min: 20}, symbol_ratio: null, non_alphabetic_words: null, stop_words: null}"
    (folder / "recipe.yaml").write_text(
        f"name: mine\nsources: {{docs: {{read: {{paths: ['{folder}/docs.jsonl']}}, "
        f"steps: [gopher_quality: {gopher}, dedup: {{method: exact}}]}}}}\n"
        "tokenizer: {train: {vocab_size: 400}}\nshards: {held_out: 0}\nmixture: {epochs: 1}\n"
    )
    pipeline.run(folder / "recipe.yaml", out=folder / "runs/mine", inline=True)
    return folder


def ran(code: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_example_names_what_there_is(folder: Path) -> None:
    (code,) = re.findall(r"```python\n(import pipeline\n.*?)```", PAGE, re.DOTALL)
    code = code.replace('"recipe.yaml")', '"recipe.yaml", inline=True)')
    told = ran(re.sub(r"^(run\.[^#\n]*?)\s*(#.*)?$", r"print(\1)", code, flags=re.M), folder)
    assert told.startswith("('docs',)\n{'gopher_quality.words.min': Amount(documents=2, bytes=26)")
    assert "gopher_quality.words" in told and "RecordBatchReader" in told


def test_the_programs_of_the_page_run(folder: Path) -> None:
    programs = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
    assert list(programs) == ["documents.py", "pandas_queries.py"]
    told = ran(programs["documents.py"], folder)
    assert re.search(r"^13$", told, re.M) and re.search(r"gopher_quality.words.min\s+2$", told, re.M)
    assert re.search(r"dropped\s*│\s*3 ", told) and re.search(r"kept\s*│\s*13 ", told)
    told = ran(programs["pandas_queries.py"], folder)
    assert re.search(r"^count\s+14\.0", told, re.M) and re.search(r"^gopher_quality.words.min\s+2\s+26$", told, re.M)
    assert re.search(r"^dedup.exact\s+1\s+\d+$", told, re.M)


def test_the_queries_of_the_page_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    queries = re.findall(r"```sql\n-- (.*?)\n(.*?)```", PAGE, re.DOTALL)
    answers = {title.split(",")[0].split(":")[0]: duckdb.sql(query).fetchall() for title, query in queries}
    assert answers["which reasons drop most"] == [
        ("gopher_quality.words.min", 2, 13.0),
        ("dedup.exact", 1, float(len(LONG[4].encode()))),
    ]
    assert [(name, words) for name, words, _ in answers["what another limit would drop"]] == [("some-15", 30)]
    assert answers["a field of the records themselves"] == [("t0", 5), ("t2", 5), ("t1", 4)]  # the copy is t2
    lengths = answers["the tokens of each document"]
    assert len(lengths) == 5 and lengths == sorted(lengths, key=lambda row: -row[1]) and lengths[0][1] > 500


def test_the_notebook_runs_and_holds_what_its_cells_give(tmp_path: Path) -> None:
    path = ROOT / "docs/explore.ipynb"
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    told = notebooks.execute(path, tmp_path)
    assert len(told) == len(cells) > 8
    for number, (cell, (printed, value)) in enumerate(zip(cells, told, strict=True), 1):
        kinds = [output["output_type"] for output in cell["outputs"]]
        assert kinds == [output["output_type"] for output in notebooks.outputs(printed, value, number)], cell["source"]
        assert value != "False", cell["source"]
