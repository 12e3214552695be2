"""A run's documents shared as text, with a dataset card, to a folder, to S3 and to a hub on loopback."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
import yaml
from datatrove.pipeline.readers import JsonlReader

import pipeline
from pipeline.cli import main

LONG = [text for _, text in sorted(topics.items()) if len(text) > 300][:30]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pipeline.Run:
    folder = tmp_path_factory.mktemp("share")
    rows = [
        {"id": f"d{i}", "text": f" {text}", "url": f"https://docs.example/{i}", "date": f"2024-01-{i + 1:02d}", "topic": i}
        for i, text in enumerate(LONG)
    ]
    rows += [{"id": "copy", "text": rows[3]["text"]}, {"id": "short", "text": "A few words."}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:12]))
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[12:]))
    gopher = {"words": {"min": 10}, "symbol_ratio": None, "non_alphabetic_words": None, "stop_words": None}
    docs = {
        "read": {"paths": [f"{folder}/[ab].jsonl"]},
        "steps": [{"gopher_quality": gopher}, {"dedup": {"method": "bff", "ngram": 5}}],
        "license": "psf-2.0",
        "citation": "The Python Software Foundation, The Python Language Reference",
    }
    data = {
        "name": "shared",
        "sources": {"docs": docs},
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"held_out": 0.2},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "1"},
    }
    return pipeline.run(data, out=folder / "run", inline=True)


def export(run: pipeline.Run, out: str, *flags: str) -> int:
    return main(["export", run.out, "--out", out, "--inline", "--quiet", *flags])


def wanted(run: pipeline.Run, split: str = "train") -> dict[str, dict]:
    ids = set(run.tokens("docs", split).read_all()["id"].to_pylist())
    return {row["id"]: row for row in run.documents("docs").read_all().to_pylist() if row["id"] in ids}


def test_json_lines_hold_the_documents_as_they_were(run: pipeline.Run, tmp_path: Path) -> None:
    flags = ("--format", "jsonl", "--documents", "--measures", "gopher_quality.words", "--compression", "gz")
    assert export(run, str(tmp_path / "out"), *flags) == 0
    found = {document.id: document for document in JsonlReader(str(tmp_path / "out"), glob_pattern="*/*.jsonl.gz").run()}
    rows = wanted(run)
    assert set(found) == set(rows) and 10 < len(rows) < len(LONG)
    lengths = {row["id"]: len(row["tokens"]) for row in run.tokens("docs").read_all().to_pylist()}
    for name, document in found.items():
        row, metadata = rows[name], document.metadata
        assert document.text == row["text"]  # white space that the tokenizer strips included
        assert (metadata["url"], metadata["source"], metadata["token_count"]) == (row["url"], "docs", lengths[name])
        assert metadata["topic"] == json.loads(row["metadata"])["topic"]
        assert (metadata["record"], metadata["file"]) == (row["record"], row["file"])
        assert metadata["date"] == f"2024-01-{metadata['topic'] + 1:02d}"
        assert metadata["measures"] == {"gopher_quality.words": row["gopher_quality.words"]}


def test_parquet_holds_the_held_out_documents_with_all_measures(run: pipeline.Run, tmp_path: Path) -> None:
    flags = ("--format", "parquet", "--documents", "--measures", "all", "--split", "held_out")
    assert export(run, str(tmp_path / "out"), *flags) == 0
    table = pq.read_table(tmp_path / "out/docs")
    rows = wanted(run, "held_out")
    names = [measure.name for measure in run.measures["docs"]]
    assert len(names) > 4 and set(names) < set(table.column_names)
    assert {row["id"]: [row["text"], *(row[name] for name in names)] for row in table.to_pylist()} == {
        name: [row["text"], *(row[measure] for measure in names)] for name, row in rows.items()
    }


def test_the_card_tells_counts_licences_filters_and_provenance(run: pipeline.Run, tmp_path: Path, capsys) -> None:
    assert main(["card", run.out, "--out", str(tmp_path / "README.md")]) == 0
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "psf-2.0" and head["size_categories"] == ["n<1K"] and "configs" not in head
    s = run.summary.sources["docs"]
    assert f"| docs | {s.documents_in} | {s.documents_kept} |" in text and "`gopher_quality.words.min` | 1 |" in text
    assert run.manifest["fingerprint"] in text and "[ab].jsonl" in text and "The Python Language Reference" in text
    capsys.readouterr()
    assert main(["card", run.out]) == 0 and capsys.readouterr().out == text
    assert export(run, str(tmp_path / "out"), "--format", "parquet", "--documents") == 0
    configs = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---")[1])["configs"]
    assert {"config_name": "docs", "data_files": "docs/*.parquet"} in configs
    assert list((tmp_path / "out").glob(configs[1]["data_files"]))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format", "megatron", "--documents"), "megatron holds tokens, and no documents; choose jsonl or parquet"),
        (("--format", "jsonl", "--documents", "--measures", "gopher_quality.word"), "did you mean gopher_quality.words"),
        (("--format", "jsonl", "--measures", "all"), "add --documents"),
        (("--format", "jsonl", "--documents", "--tokens"), "leave out --tokens"),
    ],
)
def test_a_mistake_is_one_sentence(run: pipeline.Run, tmp_path: Path, flags: tuple, message: str, capsys) -> None:
    assert export(run, str(tmp_path / "out"), *flags) == 2
    assert message in capsys.readouterr().err


class Hub(BaseHTTPRequestHandler):
    """What of the hub an upload uses: repositories, what kind of upload each file is, and commits."""

    files: ClassVar[dict[str, bytes]] = {}
    refuse = False

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if self.headers.get("Authorization") != "Bearer mine" or (self.refuse and path.endswith("/main")):
            return self._answer(403, {"error": "You don't have the right"})
        if path == "/api/repos/create":
            return self._answer(200, {"url": "https://huggingface.co/datasets/me/corpus"})
        if path.endswith("/preupload/main"):
            asked = json.loads(data)["files"]
            told = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
            return self._answer(200, {"files": told})
        if path.endswith("/commit/main"):
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = "https://huggingface.co/datasets/me/corpus/commit/1"
            return self._answer(200, {"commitUrl": url, "commitOid": "1" * 40, "pullRequestUrl": None})
        return self._answer(200, {"warnings": [], "errors": []})  # validate-yaml

    def do_GET(self) -> None:
        self._answer(200, {"id": "me/corpus", "sha": "0" * 40, "siblings": [], "private": True})

    def _answer(self, status: int, told: dict) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "mine")
    Hub.files, Hub.refuse = {}, False
    yield Hub
    server.shutdown()
    server.server_close()


def test_an_export_goes_to_the_hub_with_its_card(run: pipeline.Run, tmp_path: Path, hub: type[Hub], capsys) -> None:
    flags = ("--format", "jsonl", "--documents", "--compression", "none")
    assert export(run, "hf://datasets/me/corpus", *flags) == 0
    assert "hf://datasets/me/corpus: jsonl" in capsys.readouterr().out
    assert export(run, str(tmp_path / "here"), *flags) == 0
    here = {str(p.relative_to(tmp_path / "here")): p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()}
    assert {name: hub.files[name] for name in here if name != "run.lock"} == {k: v for k, v in here.items() if k != "run.lock"}
    assert {"README.md", "docs/00000.jsonl"} <= set(hub.files) and not any("scratch" in name for name in hub.files)
    hub.refuse = True
    assert export(run, "hf://datasets/me/corpus", *flags) == 2
    told = capsys.readouterr().err
    assert "hf://datasets/me/corpus: the hub did not take the upload" in told and "HF_TOKEN" in told and "mine" not in told
    assert export(run, "hf://me/model", *flags) == 2
    assert "exports go to datasets" in capsys.readouterr().err


def test_an_export_goes_to_s3_as_it_goes_to_a_folder(run: pipeline.Run, tmp_path: Path, s3: Any) -> None:
    flags = ("--format", "parquet", "--documents")
    assert export(run, s3.uri("shared"), *flags) == 0 and export(run, str(tmp_path / "here"), *flags) == 0
    bucket, _, prefix = s3.uri("shared").removeprefix("s3://").partition("/")
    listed = s3.client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]
    there = {entry["Key"].removeprefix(f"{prefix}/"): entry["Size"] for entry in listed}
    here = {str(p.relative_to(tmp_path / "here")): p.stat().st_size for p in (tmp_path / "here").rglob("*") if p.is_file()}
    assert "README.md" in there and {name for name in here if name != "run.lock"} <= set(there)
    assert all(there[name] == here[name] for name in here if name.endswith((".parquet", ".md")))
