"""Inputs that change while a run reads them: it stops with one sentence, and what it made until then is of one version."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fake_hub import FakeHub
from web_server import Hit, WebServer, running_web_server

from pipeline import storage
from pipeline.cli import main
from pipeline.storage.s3_objects import split
from stages.tokens.train_tokenizer import train_tokenizer

ROWS = 500
SWAP = """
import os, sys
from pathlib import Path
seen = 0
def look(text):
    global seen
    seen += 1
    if seen == 100:
        swap(Path(os.environ["SWAPPED"]))
    return 1.0
def swap(path):
    old = path.stat()
    new = path.with_name("new").read_bytes()
"""


def rows(word: str) -> list[dict[str, str]]:
    """Documents of equal length for words of equal length."""
    return [
        {"id": f"d{n:04}", "text": f"Document {n:04} of the {word} file. " + f"{word} {n:04} " * 60}
        for n in range(ROWS)
    ]


def jsonl(word: str) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(word)).encode()


def recipe(folder: Path, paths: list[str], function: str = "") -> Path:
    steps = [{"python": {"function": f"{function}:look", "measure": "look"}}] if function else []
    data = {
        "name": "changed",
        "sources": {"web": {"read": {"paths": paths}, "steps": steps}},
        "tokenizer": {"train": {"vocab_size": 400}},
        "mixture": {},
        "run": {"split_bytes": "50KB", "batch_bytes": "16KB", "cache_bytes": "100MB"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    return folder / "recipe.yaml"


def digests(out: Path) -> dict[str, str]:
    files = [out / "manifest.json", *out.glob("tokens/*/*"), *out.glob("parts/web/0/*.kept.parquet")]
    found = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
    assert len(found) > 3
    return found


def run(path: Path, out: Path, *more: str) -> int:
    return main(["run", str(path), "--out", str(out), "--inline", "--quiet", *more])


def refused(capsys: pytest.CaptureFixture[str], *names: str) -> None:
    """One sentence was printed that names the file, what is wrong and what to do."""
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error
    assert "changed" in error and "start the run again" in error
    for name in names:
        assert name in error


def same_as_fresh(path: Path, out: Path, fresh: Path, *more: str) -> None:
    """The run goes on to the end, and holds what a run from nothing makes of the inputs as they are now."""
    assert run(path, out, *more) == 0 and run(path, fresh, *more) == 0
    assert digests(out) == digests(fresh)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WebServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr("pipeline.storage.cache_folder", lambda: tmp_path / "cache")
    with running_web_server() as server:
        yield server


def after_range(web: WebServer, number: int, change: Callable[[], None]) -> None:
    """Does `change` once that many ranges of a file, which begin behind its start, were asked for and answered."""
    count = 0

    def look(hit: Hit) -> None:
        nonlocal count
        if hit.method == "GET" and hit.range and hit.range != (0, 0):
            count += 1
            if count == number:
                change()

    web.before_body = look


@pytest.mark.parametrize("more", [[], ["--set", "run.stage_inputs=true"]])
@pytest.mark.parametrize("headers", ["etag", "date"])
def test_a_file_on_a_web_server(
    web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], headers: str, more: list[str]
) -> None:
    old, new = jsonl("old"), jsonl("new")
    web.files["x.jsonl"] = old
    if headers == "date":
        web.etags = False
        web.headers["x.jsonl"] = {"Last-Modified": "Sat, 01 Aug 2026 10:00:00 GMT"}

    def change() -> None:
        web.files["x.jsonl"] = new
        if headers == "date":
            web.headers["x.jsonl"] = {"Last-Modified": "Sat, 01 Aug 2026 10:00:01 GMT"}

    after_range(web, 1 if more else 3, change)
    path = recipe(tmp_path, [web.url("x.jsonl")])
    assert run(path, tmp_path / "out", *more) == 2
    refused(capsys, web.url("x.jsonl"))
    same_as_fresh(path, tmp_path / "out", tmp_path / "fresh")
    texts = [
        t for p in (tmp_path / "out").glob("parts/web/0/*.kept.parquet") for t in pq.read_table(p)["text"].to_pylist()
    ]
    assert len(texts) == ROWS and all("new file" in text for text in texts)


SWAP_WEB = """
import os, urllib.request
asked = []
def look(text):
    if not asked:
        asked.append(urllib.request.urlopen(os.environ["SWAP"]).read())
    return 1.0
"""


@pytest.mark.parametrize("staged", ["false", "true"])
def test_a_file_that_is_replaced_after_the_listing_and_before_it_is_read(
    web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, staged: str
) -> None:
    """Every request of its task finds one and the same version, and not the one that was listed."""
    web.files["x.jsonl"] = jsonl("old")[:40_000].rpartition(b"\n")[0] + b"\n"

    def swap(hit: Hit) -> tuple[int, dict[str, str], bytes] | None:
        if hit.path == "/swap":
            web.files["x.jsonl"] = web.files["x.jsonl"].replace(b"old", b"new")
            return 200, {}, b"swapped"
        return None

    web.routes = swap
    monkeypatch.setenv("SWAP", web.url("swap"))
    (tmp_path / "swap_web.py").write_text(SWAP_WEB)
    (tmp_path / "first.jsonl").write_bytes(jsonl("first"))
    path = recipe(tmp_path, [str(tmp_path / "first.jsonl")], "swap_web")
    data = yaml.safe_load(path.read_text())
    data["sources"]["later"] = {"read": {"paths": [web.url("x.jsonl")]}}
    data["run"] |= {"stage_inputs": staged == "true", "split_bytes": "10MB"}
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    assert run(path, tmp_path / "out") == 2
    refused(capsys, web.url("x.jsonl"))
    path.write_text(path.read_text().replace("swap_web:look", "swap_none:look"))
    (tmp_path / "swap_none.py").write_text("def look(text):\n    return 1.0\n")
    same_as_fresh(path, tmp_path / "out", tmp_path / "fresh")


def test_a_file_that_is_written_over_while_its_only_answer_is_sent(
    web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The headers are those of the old file, and no request comes after: the server is asked once more at the end."""
    web.etags = False
    web.files["x.jsonl"] = jsonl("old")[:40_000].rpartition(b"\n")[0] + b"\n"
    web.headers["x.jsonl"] = {"Last-Modified": "Sat, 01 Aug 2026 10:00:00 GMT"}

    def write_over(hit: Hit) -> None:
        if hit.method == "GET" and hit.range != (0, 0):
            web.headers["x.jsonl"] = {"Last-Modified": "Sat, 01 Aug 2026 10:00:01 GMT"}

    path = recipe(tmp_path, [web.url("x.jsonl")])
    web.before_body = write_over
    assert run(path, tmp_path / "out") == 2
    refused(capsys, web.url("x.jsonl"))
    web.before_body = lambda hit: None
    same_as_fresh(path, tmp_path / "out", tmp_path / "fresh")


def test_a_server_that_tells_neither_etag_nor_date_is_named_once(
    web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web.etags = False
    web.files["x.jsonl"] = web.files["y.jsonl"] = jsonl("old")
    path = recipe(tmp_path, [web.url("x.jsonl"), web.url("y.jsonl")])
    assert main(["run", str(path), "--out", str(tmp_path / "out"), "--inline"]) == 0
    notes = [line for line in capsys.readouterr().err.split("\n") if "neither an ETag nor" in line]
    assert len(notes) == 1 and web.url("x.jsonl") in notes[0] and "1 more" in notes[0]


def test_a_file_on_s3(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = s3.uri("x.jsonl")
    storage.write_bytes(uri, jsonl("old"))
    (tmp_path / "swap_s3.py").write_text(
        SWAP + f"    from pipeline import storage\n    storage.write_bytes({uri!r}, new)\n"
    )
    (tmp_path / "new").write_bytes(jsonl("new"))
    (tmp_path / "here").write_bytes(b"")
    monkeypatch.setenv("SWAPPED", str(tmp_path / "here"))
    path = recipe(tmp_path, [uri], "swap_s3")
    assert run(path, tmp_path / "out") == 2
    refused(capsys, split(uri)[1])
    same_as_fresh(path, tmp_path / "out", tmp_path / "fresh")


def test_a_file_on_the_hub(
    web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"data/x.jsonl": jsonl("old")}
    hub = FakeHub(web, {("datasets", "org/mix", "main"): files})
    assert hub.large < len(files["data/x.jsonl"])
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    monkeypatch.setenv("HF_TOKEN_PATH", "none")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    after_range(web, 3, lambda: files.update({"data/x.jsonl": jsonl("new")}))
    path = recipe(tmp_path, ["hf://datasets/org/mix/data/*.jsonl"])
    assert run(path, tmp_path / "out") == 2
    refused(capsys, "hf://datasets/org/mix/data/x.jsonl", "@COMMIT")
    same_as_fresh(path, tmp_path / "out", tmp_path / "fresh")


PUT_BACK = "    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))\n"


def test_token_files_that_are_imported(web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    train_tokenizer(["the water turns the wheel of the mill"], tokenizer, 300)
    for name, first in (("x.jsonl", 1), ("new", 2)):
        web.files[name] = "".join(
            json.dumps({"id": f"d{n}", "input_ids": [first, n]}) + "\n" for n in range(9)
        ).encode()

    def change(hit: Hit) -> None:  # after it was listed, before it is opened
        if sum(hit.method == "HEAD" for hit in web.hits) == 2:
            web.files["x.jsonl"] = web.files["new"]

    web.routes = change
    command = ["import", web.url("x.jsonl"), "--out", str(tmp_path / "out"), "--format", "jsonl", "--source", "docs"]
    assert main([*command, "--tokenizer", str(tokenizer), "--inline", "--quiet"]) == 2
    refused(capsys, web.url("x.jsonl"))
    assert main([*command, "--tokenizer", str(tokenizer), "--inline"]) == 0


WAYS = {
    "renamed over": "    path.with_name('new').replace(path)\n",
    "renamed over, with its time": "    path.with_name('new').replace(path)\n" + PUT_BACK,
    "written over": "    path.write_bytes(new)\n",
    "written over, with its time": "    path.write_bytes(new)\n" + PUT_BACK,
    "grown": "    with path.open('ab') as file:\n        file.write(new[:1000])\n",
    "removed": "    path.unlink()\n",
}


@pytest.mark.parametrize("split", ["50KB", "1GB"])  # several tasks a file, one for all
@pytest.mark.parametrize("way", WAYS)
def test_a_local_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str, split: str
) -> None:
    name = f"swap_{list(WAYS).index(way)}_{split}"
    (tmp_path / f"{name}.py").write_text(SWAP + WAYS[way])
    file = tmp_path / "x.jsonl"
    file.write_bytes(jsonl("old"))
    (tmp_path / "new").write_bytes(jsonl("new"))
    monkeypatch.setenv("SWAPPED", str(file))
    before = file.stat()
    path = recipe(tmp_path, [str(file)], name)
    more = ["--set", f"run.split_bytes={split}"]
    assert run(path, tmp_path / "out", *more) == 2
    if way == "removed" and split == "50KB":
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and str(file) in error
    else:
        refused(capsys, str(file))
    file.write_bytes(jsonl("old"))  # as it was, with its time: what a task made of the other one must not stay
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    same_as_fresh(path, tmp_path / "out", tmp_path / "fresh", *more)
    texts = [
        t for p in (tmp_path / "out").glob("parts/web/0/*.kept.parquet") for t in pq.read_table(p)["text"].to_pylist()
    ]
    assert len(texts) == ROWS and all("old file" in text for text in texts)


@pytest.mark.parametrize("name", ["list.txt", "tokenizer.json"])
def test_files_that_the_recipe_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A list of a step, and the tokenizer: keys hold their versions, so no other version may be used."""
    (tmp_path / "swap_named.py").write_text(
        SWAP.replace("new = ", "new = path.read_bytes() + b'\\n' #") + WAYS["written over"]
    )
    (tmp_path / "x.jsonl").write_bytes(jsonl("old"))
    (tmp_path / "list.txt").write_text("casino\n")
    train_tokenizer(["the water turns the wheel of the mill"], tmp_path / "tokenizer.json", 300)
    monkeypatch.setenv("SWAPPED", str(tmp_path / name))
    path = recipe(tmp_path, [str(tmp_path / "x.jsonl")], "swap_named")
    data = yaml.safe_load(path.read_text())
    data["sources"]["web"]["steps"].append({"url_filter": {"hard_files": [str(tmp_path / "list.txt")]}})
    data["tokenizer"] = {"path": str(tmp_path / "tokenizer.json")}
    path.write_text(yaml.safe_dump(data))
    assert run(path, tmp_path / "out") == 2
    refused(capsys, str(tmp_path / name))
    same_as_fresh(path, tmp_path / "out", tmp_path / "fresh")


@pytest.mark.parametrize("kind", ["x.parquet", "x.jsonl.gz"])
def test_damage_of_a_file_that_is_written_over_is_no_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What is read of two versions may look damaged; it is no document that failed, and enters no books."""
    file, name = tmp_path / kind, f"swap_{kind.partition('.')[2].replace('.', '_')}"
    for target, word in ((file, "old"), (tmp_path / "new", "other")):
        if kind.endswith("gz"):
            target.write_bytes(gzip.compress(jsonl(word), 1))
        else:
            pq.write_table(pa.Table.from_pylist(rows(word)), target, row_group_size=100, compression="none")
    (tmp_path / f"{name}.py").write_text(SWAP + WAYS["written over"])
    monkeypatch.setenv("SWAPPED", str(file))
    path = recipe(tmp_path, [str(file)], name)
    assert run(path, tmp_path / "out", "--set", "run.split_bytes=1GB", "run.failures.files=9") == 2
    refused(capsys, str(file))
    assert not list((tmp_path / "out").glob("parts/**/*.parquet"))


def test_other_rights_between_runs_are_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(jsonl("old"))
    path = recipe(tmp_path, [str(file)])
    assert run(path, tmp_path / "out") == 0
    file.chmod(0o600)
    os.link(file, tmp_path / "link")
    capsys.readouterr()
    assert run(path, tmp_path / "out") == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("swap_")]:
        del sys.modules[name]
