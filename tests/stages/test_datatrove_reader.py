"""datatrove's readers as readers of a source: the documents that they give under datatrove itself, with Headrace's places."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.pipeline import readers

import pipeline
from pipeline.jobs.inputs import code_of_function
from stages.errors import UserError
from stages.read import ReadSpec, read_batches

ROWS = [{"id": f"r{i}", "text": text, "place": f"p{i}"} for i, (_, text) in enumerate(sorted(topics.items())[:25])]


def written(folder: Path, kind: str) -> Path:
    """The rows as a file of the kind."""
    names = {"JsonlReader": "a.jsonl.gz", "ParquetReader": "a.parquet", "CSVReader": "a.csv", "IpcReader": "a.arrow"}
    path = folder / names[kind]
    if kind == "JsonlReader":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    elif kind == "CSVReader":
        with path.open("w", newline="") as file:
            out = csv.DictWriter(file, list(ROWS[0]))
            out.writeheader()
            out.writerows(ROWS)
    elif kind == "IpcReader":
        table = pa.Table.from_pylist(ROWS)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table)
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def read(path: Path, **options: Any) -> Iterator[dict]:
    spec = ReadSpec(format="datatrove", options=options)
    assert spec.seeks(path.name)
    with path.open("rb") as stream:
        for batch in read_batches(stream, path.name, spec, on_event=lambda event: pytest.fail(str(event)), batch_bytes=9000):
            yield from batch.to_pylist()


@pytest.mark.parametrize("kind", ["JsonlReader", "ParquetReader", "CSVReader", "IpcReader"])
def test_a_reader_gives_what_it_gives_under_datatrove(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    theirs = list(getattr(readers, kind)(str(tmp_path)).run())
    ours = list(read(path, block=kind))
    assert [(row["id"], row["text"]) for row in ours] == [(document.id, document.text) for document in theirs]
    assert [json.loads(row["metadata"]) for row in ours] == [{"place": document.metadata["place"]} for document in theirs]
    assert [row["record"] for row in ours] == list(range(1, len(ROWS) + 1)) and {row["file"] for row in ours} == {path.name}


def test_arguments_and_an_adapter_reach_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_adapter.py").write_text(
        "def shout(self, data, path, number):\n    return {'text': data['text'].upper(), 'id': data['place'], 'metadata': {}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = list(read(written(tmp_path, "ParquetReader"), block="ParquetReader", limit=3, adapter="my_adapter:shout"))
    assert [(row["id"], row["text"]) for row in rows][:2] == [("p0", ROWS[0]["text"].upper()), ("p1", ROWS[1]["text"].upper())]


def test_a_recipe_reads_a_source_with_a_reader_of_datatrove(tmp_path: Path) -> None:
    path = str(written(tmp_path, "IpcReader"))
    data = {
        "name": "theirs",
        "sources": {
            "web": {
                "read": {"paths": [path], "format": "datatrove", "options": {"block": "IpcReader"}},
                "steps": [{"datatrove": {"block": "DocStats", "limits": {"length": [300, None]}}}],
            }
        },
        "tokenizer": {"train": {"vocab_size": 300}},
        "mixture": {},
    }
    run = pipeline.run(data, out=tmp_path / "run", inline=True)
    kept = run.documents("web", columns=["id", "datatrove.length"]).read_all().to_pylist()
    assert [row["id"] for row in kept] == [row["id"] for row in ROWS if len(row["text"]) >= 300]
    assert "library datatrove" in code_of_function("stages.read.datatrove_reader:read")[0]
    again = pipeline.run(data, out=tmp_path / "run", inline=True)
    assert again.manifest["fingerprint"] == run.manifest["fingerprint"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "JsonReader"}, "no reader of files; there are CSVReader, IpcReader, JsonlReader, ParquetReader"),
        ({"block": "JsonlReader", "text_feild": "x"}, "text_feild.*it takes .*text_key"),
        ({"block": "JsonlReader", "glob_pattern": "*"}, "is said by read.paths"),
        ({}, "missing a required argument: 'block'"),
    ],
)
def test_a_mistake_is_named(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        list(read(written(tmp_path, "JsonlReader"), **options))
