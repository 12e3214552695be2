"""What tells an input from another one between two runs: its version, or with `run.check_inputs: content` its bytes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from web_server import WebServer, running_web_server

from pipeline.cli import main
from pipeline.storage import ChangedError, ContentDigests, list_files
from pipeline.storage.content import NAME

ROWS = [{"id": f"d{n}", "text": f"Document {n:03} says what it has to say about the old mill. " * 5} for n in range(60)]


def text_of(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for part in "ab":
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{part}.jsonl").write_text(text_of([{**row, "id": part + row["id"]} for row in ROWS]))
    data = {
        "name": "checked",
        "sources": {"web": {"read": {"paths": [str(tmp_path / "in/*.jsonl")]}}},
        "tokenizer": {"train": {"vocab_size": 300}},
        "mixture": {},
        "run": {"split_bytes": "10KB", "check_inputs": "content"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "recipe.yaml"


def run(recipe: Path, capsys: pytest.CaptureFixture[str], *more: str) -> int:
    """How many tasks ran."""
    assert main(["run", str(recipe), "--out", str(recipe.parent / "out"), "--inline", "--json", *more]) == 0, (
        capsys.readouterr()
    )
    return json.loads(capsys.readouterr().out)["tasks_run"]


def put_back(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_bytes_alone_decide(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recipe, capsys) > 0
    file = recipe.parent / "in" / "a.jsonl"
    os.utime(file)  # touched
    assert run(recipe, capsys) == 0
    shutil.copy(file, recipe.parent / "copy")  # restored
    (recipe.parent / "copy").replace(file)
    assert run(recipe, capsys) == 0
    before = file.stat()
    file.write_bytes(
        file.read_bytes().replace(b"old", b"new")
    )  # written over, of the same size, with its time and inode
    put_back(file, before)
    assert (file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    assert run(recipe, capsys) > 0
    assert run(recipe, capsys) == 0


def test_versions_decide_where_nothing_else_is_asked(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = ("--set", "run.check_inputs=version")
    assert run(recipe, capsys, *version) > 0
    file = recipe.parent / "in" / "a.jsonl"
    before = file.stat()
    file.chmod(0o640)
    assert run(recipe, capsys, *version) == 0
    (recipe.parent / "new").write_bytes(file.read_bytes().replace(b"old", b"new"))
    (recipe.parent / "new").replace(file)  # another file, of the same size and time
    put_back(file, before)
    assert file.stat().st_mtime_ns == before.st_mtime_ns and file.stat().st_size == before.st_size
    assert run(recipe, capsys, *version) > 0
    assert not (recipe.parent / "out" / NAME).exists()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_web_server() as server:
        yield server


def test_a_file_is_read_once_and_its_digest_kept(web: WebServer, tmp_path: Path) -> None:
    web.files["x"] = web.files["y"] = b"12345" * 1000
    files = [entry for name in "xy" for entry in list_files(web.url(f"{name}?token=secret"))]
    first = ContentDigests(str(tmp_path)).of(files)
    assert first[0] == first[1] and first[0].startswith("xxh3:")
    assert "secret" not in (tmp_path / NAME).read_text()
    hits = len(web.hits)
    assert ContentDigests(str(tmp_path)).of(files) == first and len(web.hits) == hits
    (tmp_path / NAME).write_text("{ torn")
    assert ContentDigests(str(tmp_path)).of(files) == first and len(web.hits) > hits
    web.files["x"] = b"54321" * 1000
    with pytest.raises(ChangedError, match="changed since it was listed"):
        ContentDigests(str(tmp_path / "other")).of(files)
    again = ContentDigests(str(tmp_path)).of(list_files(web.url("x")))
    assert again[0] != first[0] and len(json.loads((tmp_path / NAME).read_text())) == 1
