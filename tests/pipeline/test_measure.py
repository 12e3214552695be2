"""`plan --measure` goes by the recipe's own files: of text of another kind than the sample's it foretells what a run finds."""

from __future__ import annotations

import bz2
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from warc_records import members, record
from web_server import WebServer, running_web_server

from pipeline.cli import main
from pipeline.forecast.own_files import beginnings, shares, spread
from pipeline.plan.sources import list_files
from stages.errors import UserError
from stages.read import ReadSpec, read_batches
from stages.tokens.shard_format import load_manifest

WORDS = [word for _, text in sorted(topics.items()) for word in text.split() if word.isalpha()]
CRAWL = "crawl.warc.gz"


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def page(rng: random.Random) -> bytes:
    """Much markup, which compresses badly, around a short text: of each second page so short that it is dropped."""
    marks = "".join(f'<div class="{rng.getrandbits(64):x}" data-id="{rng.getrandbits(64):x}"></div>' for _ in range(60))
    text = f"<p>{sentence(rng, rng.choice((20, 60)))}.</p>"
    return f"<html><body>{marks}<article>{text}</article>{marks}</body></html>".encode()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    with running_web_server() as server:
        rng = random.Random(1)
        server.files[CRAWL] = members(*(record(number, body=page(rng)) for number in range(500)))
        yield server


def recipe_of(folder: Path, web: WebServer) -> dict[str, Any]:
    """Pages on a web server; in two local files tiny documents, and rows of Parquet in one row group."""
    rng = random.Random(2)
    lines = [json.dumps({"id": f"t{n}", "text": sentence(rng, rng.choice((4, 8)))}) for n in range(12_000)]
    (folder / "tiny.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    rows = [{"id": f"r{n}", "text": sentence(rng, 150), "other": f"{rng.getrandbits(256):x}"} for n in range(1500)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", compression="zstd")
    others = ("symbol_ratio", "non_alphabetic_words", "stop_words", "mean_word_length", "bullet_lines", "ellipsis_lines")
    words = dict.fromkeys(others)
    exact = {"dedup": {"method": "exact"}}
    return {
        "name": "other",
        "sources": {
            "pages": {
                "read": {"paths": [web.url(CRAWL)]},
                "steps": ["extract", {"gopher_quality": words | {"words": {"min": 40}}}, exact],
            },
            "tiny": {
                "read": {"paths": ["tiny.jsonl.gz"]},
                "steps": [{"gopher_quality": words | {"words": {"min": 6}}}, exact],
            },
            "rows": {"read": {"paths": ["rows.parquet"]}},
        },
        "tokenizer": {"train": {"vocab_size": 600, "max_bytes": "100KB"}},
        "mixture": {"epochs": 1},
    }


def planned(path: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", str(path), "--measure", "--json", *flags]) == 0
    return orjson.loads(capsys.readouterr().out)


def test_what_is_measured_on_a_part_of_a_recipes_files_is_what_a_run_finds(
    tmp_path: Path, web: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "other.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(tmp_path, web)))
    found = planned(recipe, capsys, "--measure-bytes", "500KB")
    asked = [span for span in web.ranges_asked(CRAWL) if span is not None]
    assert asked and sum(last - first + 1 for first, last in asked) < 0.4 * len(web.files[CRAWL])
    assert len(asked) == len(web.ranges_asked(CRAWL))  # none asked for all of it
    assert found["rate_notes"] == [] and "of 3 files" in found["rates"]
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), "--inline", "--quiet"]) == 0
    summary = orjson.loads((tmp_path / "run/summary.json").read_bytes())["sources"]
    manifest = load_manifest(tmp_path / "run")
    for name, foretold in found["sources"].items():
        entry, taken = manifest["sources"][name], summary[name]
        held = entry["held_out"]
        assert foretold["documents"] == pytest.approx(taken["documents_in"], rel=0.05), name
        assert foretold["text_bytes"] == pytest.approx(taken["bytes_in"], rel=0.05), name
        kept = entry["text_bytes"] + held["text_bytes"]
        assert foretold["bytes_kept"] / foretold["text_bytes"] == pytest.approx(kept / taken["bytes_in"], rel=0.15), name
        assert foretold["tokens"] == pytest.approx(entry["tokens"] + held["tokens"], rel=0.15), name
    tasks = {(stage["phase"], stage["source"]): stage["tasks"] for stage in found["stages"]}
    assert [tasks["read and filter", name] for name in ("pages", "tiny", "rows")] == [1, 1, 1]


def test_files_that_are_listed_and_cannot_be_read_are_stood_for_by_the_sample_and_told(
    tmp_path: Path, web: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    data = recipe_of(tmp_path, web)
    del data["sources"]["rows"]
    data["sources"]["far"] = {"read": {"paths": ["/nowhere/*.jsonl"]}, "expected": {}}
    known = {"documents": 1000, "text_bytes": "1MB"}
    data["expected"] = known | {"sources": {"far": known}}
    recipe = tmp_path / "other.yaml"
    recipe.write_text(yaml.safe_dump(data))
    web.routes = lambda hit: (403, {}, b"") if hit.method == "GET" and hit.range != (0, 0) else None
    capsys.readouterr()
    assert main(["plan", str(recipe), "--measure", "--json", "--measure-bytes", "500KB"]) == 1  # /nowhere is not there
    found = orjson.loads(capsys.readouterr().out)
    far, pages = (next(n for n in found["rate_notes"] if n.startswith(f"{name}: ")) for name in ("far", "pages"))
    assert far.startswith("far: measured on the sample's text: its own files cannot be read here (sources.far.read.paths: ")
    assert pages.startswith("pages: measured on the sample's pages, of which more is text than of the web's: its own files")
    assert not any(note.startswith("tiny: ") for note in found["rate_notes"])
    assert found["sources"]["tiny"]["documents"] == pytest.approx(12_000, rel=0.05)
    web.hits.clear()
    code = main(["plan", str(recipe), "--measure", "--json", "--measure-bytes", "500KB", "--offline"])
    told = capsys.readouterr()
    assert code == 2 and not web.hits
    assert "pages: its files cannot be listed (--offline), and the recipe does not say what to expect" in told.err


def test_a_size_to_measure_on_goes_with_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(Path(__file__).resolve().parents[2] / "configs/dclm_mix.yaml")
    for flags, told in (
        (["--measure-bytes", "1MB"], "--measure-bytes goes with --measure"),
        (["--measure", "--measure-bytes", "none"], "--measure-bytes none: give a size above 0"),
        (["--measure", "--measure-bytes", "0"], "--measure-bytes 0: give a size above 0"),
    ):
        assert main(["plan", recipe, *flags]) == 2
        assert told in capsys.readouterr().err


def rows_of(path: Path, name: str, read: ReadSpec) -> int:
    """Documents that are read of a copy, though a record may be cut at its end."""
    with path.open("rb") as stream:
        return sum(batch.num_rows for batch in read_batches(stream, name, read, on_event=lambda event: None))


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "jsonl.bz2", "json", "csv", "txt", "parquet"])
def test_the_beginning_of_a_file_holds_the_share_of_documents_that_it_has_of_the_bytes(kind: str, tmp_path: Path) -> None:
    rng = random.Random(3)
    texts = [sentence(rng, 100) for _ in range(20_000 if kind in ("jsonl.bz2", "jsonl.zst") else 3000)]
    rows = [{"id": f"{n}", "text": text} for n, text in enumerate(texts)]
    lines = "\n".join(json.dumps(row) for row in rows).encode() + b"\n"
    data = {
        "jsonl": lines,
        "jsonl.gz": gzip.compress(lines, 5),
        "jsonl.zst": zstandard.compress(lines),
        "jsonl.bz2": bz2.compress(lines) if kind == "jsonl.bz2" else b"",
        "json": json.dumps(rows, indent=1).encode(),
        "csv": b"id,text\n" + b"".join(b'%d,"%s"\n' % (n, text.encode()) for n, text in enumerate(texts)),
        "txt": "\n".join(texts).encode(),
    }
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, compression="snappy")
    else:
        path.write_bytes(data[kind])
    read = ReadSpec(document="line")
    (tmp_path / "copies").mkdir()
    files = list_files("a", [str(path)])
    found = beginnings(files, read, files[0].size // 4, tmp_path / "copies")
    (copy,) = found.files
    assert found.stored <= 0.26 * files[0].size and copy.size <= 0.35 * files[0].size
    share = rows_of(Path(copy.uri), copy.name, read) / len(texts)
    assert share == pytest.approx(found.stored / files[0].size, rel=0.1)
    if kind in ("jsonl", "csv", "txt"):  # cut at a line's end
        assert Path(copy.uri).read_bytes() == path.read_bytes()[: copy.size] and Path(copy.uri).read_bytes().endswith(b"\n")


def test_of_a_parquet_file_far_away_the_first_pages_are_read(tmp_path: Path, web: WebServer) -> None:
    rng = random.Random(4)
    rows = [{"id": f"{n}", "text": rng.randbytes(4000).hex()} for n in range(4000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "far.parquet", compression="zstd")
    web.files["far.parquet"] = (tmp_path / "far.parquet").read_bytes()
    found = beginnings(list_files("a", [web.url("far.parquet")]), ReadSpec(), 500_000, tmp_path)
    asked = [span for span in web.ranges_asked("far.parquet") if span is not None]
    assert asked and sum(last - first + 1 for first, last in asked) < 0.5 * len(web.files["far.parquet"])
    assert pq.read_metadata(found.files[0].uri).num_rows == pytest.approx(500_000 / 4068, abs=2)


def test_a_text_file_is_one_document_and_so_is_its_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("A line of text.\n" * 1000)
    (tmp_path / "copies").mkdir()
    files = list_files("a", [f"{tmp_path}/*.txt"])
    found = beginnings(files, ReadSpec(), 40_000, tmp_path / "copies")
    assert [file.size for file in found.files] == [16_000] * 3 and found.stored == 48_000
    assert [file.name[-5:] for file in found.files] == ["1.txt", "5.txt", "8.txt"]  # evenly over the listing
    monkeypatch.setattr("pipeline.forecast.own_files.MOST_WHOLE", 1000)
    with pytest.raises(UserError, match=r"1\.txt can only be read as a whole, and has 16 kB"):
        beginnings(files, ReadSpec(), 40_000, tmp_path / "copies")


def test_of_many_files_some_are_read_whole_and_of_large_ones_the_beginnings(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03d}.jsonl").write_bytes(b'{"text": "a"}\n' * 10)
    files = list_files("a", [f"{tmp_path}/*.jsonl"])
    assert len(spread(files, 1 << 30)) == 256 and len(spread(files, 1000)) == 8
    assert len({file.name for file in spread(files, 1 << 30)}) == 256
    assert shares({"a": 10, "b": 1000, "c": 1000}, 310) == {"a": 10, "b": 150, "c": 150}
    assert shares({"a": 10, "b": 20}, 310) == {"a": 10, "b": 20}
