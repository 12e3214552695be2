"""Runs on a folder that holds a run already: what is missing is made again, what is there is left, no file vouches for others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from told import first_source

from pipeline.carry_out import Options, run_recipe
from pipeline.engine import place as places
from pipeline.engine.engine import TooManyFailures
from pipeline.engine.execute import Finished
from pipeline.plan.node import Node
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.run_summary import RunSummary
from stages.errors import UserError
from stages.filters.gopher_quality import GopherQuality

TEXTS = [" ".join(text.split()[:90]) for _, text in sorted(topics.items()) if len(text.split()) > 60][:40]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for half in (0, 1):
        rows = [json.dumps({"id": f"{half}-{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS[half::2])]
        (folder / f"{half}.jsonl").write_text("".join(rows))
    return folder


def recipe(**sources: Any) -> dict[str, Any]:
    return {
        "name": "again",
        "sources": {name: {"read": {"paths": [str(path)]}} for name, path in sources.items()},
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"bytes": "7KB", "held_out": 0},
        "mixture": {},
        "run": {"split_bytes": "4KB"},
    }


def run(data: dict[str, Any], out: Path, *changes: str) -> RunSummary:
    return run_recipe(build_recipe(data, None, changes), Options(str(out), inline=True, progress=Progress(quiet=True)))


def test_a_shard_that_is_missing_is_written_again(inputs: Path, tmp_path: Path) -> None:
    run(recipe(a=f"{inputs}/*.jsonl"), tmp_path)
    shard = tmp_path / "tokens/a/00001.npy"
    data = shard.read_bytes()
    shard.write_bytes(data[:-2])
    summary = run(recipe(a=f"{inputs}/*.jsonl"), tmp_path)
    assert (summary.tasks_run, shard.read_bytes() == data) == (1, True)
    shard.unlink()
    assert run(recipe(a=f"{inputs}/*.jsonl"), tmp_path).tasks_run == 1
    assert shard.read_bytes() == data


@pytest.mark.parametrize("keep", ["none", "measures"])
def test_a_run_that_let_its_parts_go_does_nothing_the_second_time(inputs: Path, tmp_path: Path, keep: str) -> None:
    run(recipe(a=f"{inputs}/*.jsonl"), tmp_path, f"run.keep={keep}")
    assert len(list((tmp_path / "tokens/a").glob("*.npy"))) > 3
    assert not list(tmp_path.rglob("*.kept.parquet")) and not list(tmp_path.rglob("*.tokens"))
    assert run(recipe(a=f"{inputs}/*.jsonl"), tmp_path, f"run.keep={keep}").unchanged


def test_two_sources_may_read_the_same_file(inputs: Path, tmp_path: Path) -> None:
    found = run(recipe(a=inputs / "0.jsonl", b=inputs / "0.jsonl"), tmp_path).sources
    assert [(name, s.documents_in, s.documents_kept, [b.step for b in s.steps]) for name, s in found.items()] == [
        (name, 20, 20, ["read", "dedup", "tokenize"]) for name in "ab"
    ]
    assert found["a"].tokens == found["b"].tokens > 0


def test_no_manifest_vouches_for_another_tokenizer(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is stopped after its tokenizer took the place of the one that the manifest names."""
    run(recipe(a=inputs / "0.jsonl"), tmp_path)
    before = hashlib.sha256((tmp_path / "tokenizer/tokenizer.json").read_bytes()).hexdigest()
    execute = places.execute

    def stopped(node: Node, *more: Any) -> Finished:
        if node.ref.kind == "tokenize":
            raise KeyboardInterrupt
        return execute(node, *more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(places, "execute", stopped)
        run(recipe(a=inputs / "1.jsonl"), tmp_path)
    assert hashlib.sha256((tmp_path / "tokenizer/tokenizer.json").read_bytes()).hexdigest() != before
    assert not (tmp_path / "manifest.json").exists()


def crawl(path: Path) -> Path:
    pages = []
    for number, text in enumerate(TEXTS):
        html = f"<html><body><main><p>{text}</p></main></body></html>"
        http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{html}".encode()
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:032d}>\r\n"
        head += f"WARC-Target-URI: http://a.example/{number}\r\n"
        head += "WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        head += f"Content-Length: {len(http)}"
        pages.append(f"{head}\r\n\r\n".encode() + http + b"\r\n\r\n")
    path.write_bytes(b"".join(pages))
    return path


def test_pages_that_were_dropped_before_extraction_are_read_again_where_they_now_go_on(inputs: Path, tmp_path: Path) -> None:
    data = recipe(web=crawl(tmp_path / "a.warc"), docs=inputs / "0.jsonl")
    data["sources"]["web"]["allow_empty"] = True
    nothing = dict.fromkeys(GopherQuality().limits())
    data["sources"]["web"]["steps"] = [{"gopher_quality": nothing | {"words": {"min": 1}}}, "extract"]
    assert first_source(run(data, tmp_path / "a")).documents_kept == 0  # a page has no words before it is extracted
    data["sources"]["web"]["steps"] = [{"gopher_quality": nothing}, "extract"]
    again, fresh = first_source(run(data, tmp_path / "a")), first_source(run(data, tmp_path / "b"))
    assert (again.documents_kept, again.bytes_kept, again.tokens) == (fresh.documents_kept, fresh.bytes_kept, fresh.tokens)
    assert fresh.documents_kept == len(TEXTS)


def test_pages_without_a_step_that_extracts_them_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sources.web.steps: .*a\.warc holds web pages.*add `extract`"):
        run(recipe(web=crawl(tmp_path / "a.warc")), tmp_path / "out")


def test_a_large_parquet_file_that_cannot_be_read_counts_as_a_failed_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "good.parquet")
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[:-100])
    data = recipe(a=f"{tmp_path}/*.parquet")
    with pytest.raises(TooManyFailures, match=r"1 source files could not be read.*bad\.parquet"):
        run(data, tmp_path / "out")
    found = first_source(run(data, tmp_path / "out", "run.failures.files=1"))
    assert found.documents_kept == len(TEXTS) and found.notes == {"file that could not be read to its end": 1}


def test_what_a_run_left_that_was_killed_while_it_tidied_up_goes_with_the_next(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.ledger import Ledger

    run(recipe(a=inputs / "0.jsonl", b=inputs / "1.jsonl"), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "sweep", lambda self, used: 0)
        run(recipe(a=inputs / "0.jsonl"), tmp_path)
    assert (tmp_path / "tokens/b/00000.npy").exists()
    assert run(recipe(a=inputs / "0.jsonl"), tmp_path).unchanged
    assert not list(tmp_path.glob("tokens/b/*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": {"path": "/none/tokenizer.json"}}, r"tokenizer\.path: /none/tokenizer\.json: no such file"),
        ({"dedup": [{"dedup": {"method": "bff", "load": "/none/filter"}}]}, r"dedup\.dedup\.load: /none/filter: no such file"),
    ],
)
def test_what_is_needed_late_is_looked_up_first(inputs: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(recipe(a=f"{inputs}/*.jsonl") | change, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tasks_take_relative_paths_from_where_the_run_was_started(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a cluster that was started elsewhere: a worker begins in a folder of its own."""
    monkeypatch.chdir(inputs)
    execute = places.execute

    def elsewhere(*arguments: Any) -> Finished:
        monkeypatch.chdir(tmp_path)
        try:
            return execute(*arguments)
        finally:
            monkeypatch.chdir(inputs)

    monkeypatch.setattr(places, "execute", elsewhere)
    summary = run(recipe(a="*.jsonl"), Path("../relative-out"))
    assert first_source(summary).documents_kept == len(TEXTS)
    assert {path.name for path in (inputs.parent / "relative-out").iterdir()} >= {"manifest.json", "tokens", "parts"}
