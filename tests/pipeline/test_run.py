"""Whole runs on small real input: the same bytes every time, nothing done twice, nothing lost, clear errors."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import forked
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from ledgers import entries
from told import first_source

from pipeline import storage
from pipeline.carry_out import Options, run_recipe
from pipeline.engine.engine import TooManyFailures
from pipeline.questions.status import status
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.run_summary import RunSummary
from stages.errors import UserError
from stages.tokens.shard_format import load_manifest

ROOT = Path(__file__).resolve().parents[2]
WORDS = [word for _, text in sorted(topics.items()) for word in text.split() if word.isalpha()]  # real prose


def text_of(number: int, words: int = 120) -> str:
    start = number * 37 % (len(WORDS) - words)
    lines = [" ".join(WORDS[start + i : start + i + 12]) for i in range(0, words, 12)]
    return f"Document {number} is about the of and to have with that be.\n" + "\n".join(lines)


def page(number: int, body: str) -> bytes:
    main = f"<nav>menu</nav><main><article><p>{body}</p></article></main>"
    html = f"<html><head><title>{number}</title></head><body>{main}</body></html>"
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{html}".encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:032d}>\r\nWARC-Target-URI: http://a.example/{number}\r\n"
        "WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for part in range(3):
        rows = [
            {"id": f"j{part}-{i}", "text": text_of(i + part * 40), "metadata": {"stars": i % 5}, "url": None}
            for i in range(40)
        ]
        rows.append({"id": f"copy{part}", "text": text_of(3)})  # an exact copy, twice in other files
        rows.append({"id": f"short{part}", "text": "too short"})
        (folder / f"docs-{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for part in range(2):
        (folder / f"crawl-{part}.warc.gz").write_bytes(
            b"".join(page(i + 1000 * part, text_of(i + 300 * part).replace("\n", " ")) for i in range(25))
        )
    return folder


PROSE = {"gopher_quality": {"words": {"min": 20}, "symbol_ratio": None, "non_alphabetic_words": None}}


def recipe_data(inputs: Path | str) -> dict[str, Any]:
    return {
        "name": "small",
        "sources": {
            "web": {
                "read": {"paths": [f"{inputs}/crawl-*.warc.gz"]},
                "steps": ["extract", PROSE,
                          {"dedup": {"method": "minhash"}}, {"quality": {"train": {"positive": ["docs"], "negative": ["web"],
                          "settings": {"bucket": 1000, "dim": 8, "held_out": 0.2}}, "score": None}}],
            },
            "docs": {
                "read": {"paths": [f"{inputs}/docs-*.jsonl"]},
                "steps": [PROSE, {"dedup": {"method": "exact"}}],
            },
        },
        "tokenizer": {"train": {"vocab_size": 600, "max_bytes": "100KB"}},
        "shards": {"bytes": "40KB", "held_out": 0.1},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "20KB"},
    }  # fmt: skip


def run(
    data: dict[str, Any], out: Path | str, *assignments: str, inline: bool = True, workers: int | None = None
) -> RunSummary:
    from pipeline.progress import Progress

    recipe = build_recipe(data, None, assignments)
    return run_recipe(recipe, Options(str(out), workers=workers, inline=inline, progress=Progress(quiet=True)))


def digests(out: Path | str) -> dict[str, str]:
    """Name -> sha256 of the manifest and of all that it names."""
    out = str(out)
    manifest = json.loads(storage.read_bytes(storage.join(out, "manifest.json")))
    names = ["manifest.json", manifest["tokenizer"]["path"]]
    for source in manifest["sources"].values():
        names += [
            shard[key]
            for split in (source, source["held_out"])
            for shard in split["shards"]
            for key in ("path", "index")
        ]
    return {name: hashlib.sha256(storage.read_bytes(storage.join(out, name))).hexdigest() for name in names}


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunSummary]:
    out = tmp_path_factory.mktemp("run")
    return out, run(recipe_data(inputs), out)


def test_a_run_ends_in_shards_that_hold_every_kept_document(finished: tuple[Path, RunSummary]) -> None:
    out, summary = finished
    manifest = load_manifest(out)
    sources = summary.sources
    docs = sources["docs"]
    assert docs.documents_in == 126
    assert {reason: a.documents for reason, a in docs.dropped.items()} == {"gopher_quality.words.min": 3, "dedup.exact": 3}
    assert docs.documents_kept == 120
    for name, source in sources.items():
        entry = manifest["sources"][name]
        assert entry["documents"] + entry["held_out"]["documents"] == source.documents_kept
        for shard in entry["shards"]:
            tokens = np.fromfile(out / shard["path"], manifest["dtype"])
            assert len(tokens) == shard["tokens"]
            rows = [
                line.split(",") for line in gzip.decompress((out / shard["index"]).read_bytes()).decode().splitlines()
            ]
            assert all(tokens[int(row[1]) - 1] == manifest["tokenizer"]["eos_id"] for row in rows)
    assert len(manifest["sources"]["docs"]["shards"]) > 1
    assert manifest["sources"]["docs"]["held_out"]["documents"] > 0


def test_every_dropped_document_is_on_record_with_reason_and_measures(finished: tuple[Path, RunSummary]) -> None:
    out, _ = finished
    rows = [
        row for path in sorted(out.glob("parts/docs/**/*.dropped.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    reasons = {row["id"]: row for row in rows}
    assert {"short0", "short1", "short2", "copy0", "copy1", "copy2"} == set(reasons)
    assert reasons["short0"]["gopher_quality.words"] == 2
    assert reasons["copy1"]["reason"] == "dedup.exact"
    assert reasons["copy1"]["representative"] == "j0-3"


def test_the_same_run_again_does_nothing_and_starts_no_ray(finished: tuple[Path, RunSummary], inputs: Path) -> None:
    out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name != "run.lock"}
    code = (
        "import sys, json; from pathlib import Path\n"
        "sys.path[:0] = [str(Path(p).resolve()) for p in ('tests/pipeline', 'tests')]\n"
        "from test_run import recipe_data, run\n"
        f"summary = run(recipe_data({str(inputs)!r}), {str(out)!r}, inline=False)\n"
        "assert summary.unchanged and summary.tasks_run == 0\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name != "run.lock"}


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_same_bytes(finished: tuple[Path, RunSummary], inputs: Path, tmp_path: Path, workers: int) -> None:
    out, _ = finished
    run(recipe_data(inputs), tmp_path / "ray", inline=False, workers=workers)
    assert digests(tmp_path / "ray") == digests(out)


def test_batches_and_what_is_kept_change_no_byte(finished: tuple[Path, RunSummary], inputs: Path, tmp_path: Path) -> None:
    out, _ = finished
    run(recipe_data(inputs), tmp_path / "none", "run.batch_bytes=3KB", "run.keep=none")
    assert digests(tmp_path / "none") == digests(out)
    assert not list((tmp_path / "none").glob("parts/**/*.kept.parquet"))
    run(recipe_data(inputs), tmp_path / "measures", "run.keep=measures")
    assert digests(tmp_path / "measures") == digests(out)
    tables = [pq.read_schema(p).names for p in (tmp_path / "measures").glob("parts/docs/0/*.measures.parquet")]
    assert tables and all("gopher_quality.words" in names and "text" not in names for names in tables)


def test_parts_that_were_let_go_are_made_again_when_needed(inputs: Path, tmp_path: Path) -> None:
    data = recipe_data(inputs)
    run(data, tmp_path / "a", "run.keep=none")
    run(data, tmp_path / "a", "run.keep=none", "shards.held_out=0.3")
    run(data, tmp_path / "b", "shards.held_out=0.3")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.mark.parametrize("words", [15, 125])
def test_a_changed_limit_reruns_only_what_follows_and_runs_no_kernel(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    data = recipe_data(inputs)
    change = f"sources.docs.steps.gopher_quality.words.min={words}"
    run(data, tmp_path / "a")
    from stages.filters.gopher_quality import GopherQuality

    with monkeypatch.context() as patch:
        measure = GopherQuality.measure
        patch.setattr(
            GopherQuality,
            "measure",
            lambda self, docs: pytest.fail("a kernel ran") if docs.num_rows else measure(self, docs),
        )
        before = {entry.key for entry in entries(tmp_path / "a")}
        summary = run(data, tmp_path / "a", change)
    new = [entry.ref for entry in entries(tmp_path / "a") if entry.key not in before]
    assert new and not any((ref.kind, ref.source) == ("documents", "web") for ref in new)
    run(data, tmp_path / "b", change)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert summary.tasks_run > 0


def test_dedup_over_the_mixture_finds_copies_across_sources(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = [{"id": f"{name}{i}", "text": text_of(i if i < 5 else i + 100 * (name == "b"))} for i in range(30)]
        rows.append({"id": f"{name}-again", "text": text_of(7 if name == "a" else 107)})
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = {
        "name": "mixed",
        "sources": {
            "a": {"read": {"paths": [str(tmp_path / "a.jsonl")]}, "steps": [{"dedup": {"method": "exact"}}]},
            "b": {"read": {"paths": [str(tmp_path / "b.jsonl")]}, "steps": [{"dedup": {"method": "exact"}}]},
        },
        "dedup": [{"dedup": {"method": "exact", "normalize": "none"}}],
        "tokenizer": {"train": {"vocab_size": 400}},
        "mixture": {},
    }
    found = run(data, tmp_path / "out").sources
    assert (found["a"].documents_in, found["a"].documents_kept) == (31, 30)  # a-again goes for a7
    assert (found["b"].documents_in, found["b"].documents_kept) == (31, 25)  # b-again for b7; five for a's
    rows = [r for p in (tmp_path / "out").glob("parts/b/**/*.dropped.parquet") for r in pq.read_table(p).to_pylist()]
    assert {r["id"]: r["representative"] for r in rows} == {"b-again": "b7", **{f"b{i}": f"a{i}" for i in range(5)}}


def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(
    finished: tuple[Path, RunSummary], inputs: Path, tmp_path: Path
) -> None:
    """From before the first task to behind the last one, told by how many files the run has touched until then."""
    out, _ = finished
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_data(inputs), sort_keys=False))

    def command(last: int, folder: str) -> tuple[int, str]:
        arguments = ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / folder), "--inline", "--quiet"]
        killer = [str(ROOT / "tests/kill_at.py"), str(last), *arguments]
        with forked.started(tmp_path / "said", *killer, loaded=forked.PIPELINE) as process:
            (status,) = process.wait()
            assert status in (0, -signal.SIGKILL), process.printed("err")
            return status, process.printed("out")

    touched = int(command(0, "uninterrupted")[1].splitlines()[-1])
    kills = 0
    while command(touched // 7 + kills, "run")[0] != 0:  # each goes on from where the one before was killed
        kills += 1
        assert kills < touched
    assert kills >= 5
    assert digests(tmp_path / "run") == digests(out)
    left, expected = (
        {str(p.relative_to(folder)) for p in folder.rglob("*") if p.relative_to(folder).parts[0] != "ledger"}
        for folder in (tmp_path / "run", tmp_path / "uninterrupted")
    )
    assert left == expected


def test_a_second_run_on_the_same_output_is_refused(inputs: Path, tmp_path: Path) -> None:
    with storage.RunLock(str(tmp_path)), pytest.raises(UserError, match="being written by another run"):
        run(recipe_data(inputs), tmp_path)


def test_a_missing_input_is_named(inputs: Path, tmp_path: Path) -> None:
    data = recipe_data(inputs)
    data["sources"]["docs"]["read"]["paths"] = [f"{inputs}/nothing-*.jsonl"]
    with pytest.raises(UserError, match=r"sources.docs.read.paths: nothing found at .*nothing-"):
        run(data, tmp_path)


def test_bad_records_stop_the_run_or_are_quarantined_as_the_recipe_says(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"d{i}", "text": text_of(i)}) for i in range(50)]
    lines[20] = '{"id": "broken", "text": '
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    data = {
        "name": "bad",
        "sources": {"a": {"read": {"paths": [str(tmp_path / "a.jsonl")]}}},
        "tokenizer": {"train": {"vocab_size": 400}},
        "mixture": {},
    }
    with pytest.raises(TooManyFailures, match=r"1 of 50 documents failed.*a\.jsonl, record 21"):
        run(data, tmp_path / "out")
    summary = run(data, tmp_path / "out", "run.failures.documents=0.05")
    source = first_source(summary)
    assert (source.documents_in, source.failed.documents, source.documents_kept) == (50, 1, 49)
    rows = [r for p in (tmp_path / "out").glob("parts/a/0/*.failed.parquet") for r in pq.read_table(p).to_pylist()]
    assert [(r["record"], r["step"]) for r in rows] == [(21, "read")]


def test_an_unreadable_file_is_counted_and_named(tmp_path: Path) -> None:
    good = "\n".join(json.dumps({"id": f"d{i}", "text": text_of(i)}) for i in range(300))
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        file.write(good.encode())
    (tmp_path / "a.jsonl").write_text(good)
    (tmp_path / "b.jsonl.gz").write_bytes(buffer.getvalue()[:-600])
    data = {
        "name": "cut",
        "sources": {"a": {"read": {"paths": [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl.gz")]}}},
        "tokenizer": {"train": {"vocab_size": 400}},
        "mixture": {},
        "run": {"failures": {"documents": 0.5}},
    }
    with pytest.raises(TooManyFailures, match=r"1 source files could not be read to their end.*b\.jsonl\.gz"):
        run(data, tmp_path / "out")
    found = first_source(run(data, tmp_path / "out", "run.failures.files=1"))
    assert found.documents_kept > 300 and found.notes == {"file that could not be read to its end": 1}


def test_the_command_line_prints_one_sentence_and_fails(inputs: Path, tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
        )

    missing = call("run", "configs/nothing.yaml")
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1 and "does not exist" in missing.stderr
    nowhere = call("status", str(tmp_path / "nowhere"))
    assert nowhere.returncode == 2 and "there is no run here" in nowhere.stderr
    unfinished = call("inspect", str(tmp_path))
    assert unfinished.returncode == 2 and "no finished run" in unfinished.stderr


def test_status_and_inspect_answer(finished: tuple[Path, RunSummary]) -> None:
    from pipeline.questions.inspect import inspect

    out, summary = finished
    found = status(str(out))
    assert found.finished and found.tasks == summary.tasks_run
    held = inspect(str(out), 1)
    assert held.problems == []
    assert held.sources["docs"].documents + held.sources["docs"].held_out.documents == 120
    assert held.samples["docs"][0].text.startswith("Document 0 is about")


def test_inspect_finds_damage(inputs: Path, tmp_path: Path) -> None:
    from pipeline.questions.inspect import inspect

    run(recipe_data(inputs), tmp_path / "run")
    shard = tmp_path / "run" / load_manifest(tmp_path / "run")["sources"]["docs"]["shards"][0]["path"]
    data = bytearray(shard.read_bytes())
    data[-2:] = b"\x07\x00"
    shard.write_bytes(data)
    assert any("does not end in the end token" in p for p in inspect(str(tmp_path / "run")).problems)
    shard.write_bytes(data[:-2])
    assert any("the manifest says" in p for p in inspect(str(tmp_path / "run")).problems)


def test_the_status_of_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="there is no run here; start one with"):
            status(str(folder))
    assert not list(tmp_path.iterdir())
