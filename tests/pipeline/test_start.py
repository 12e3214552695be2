"""From files of one's own to a recipe that is right: `init`, `validate`, and paths that are relative to the recipe."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.recipe.recipe import load_recipe

TEXTS = [text for _, text in sorted(topics.items()) if len(text) > 1000][:12]
PAGE = "<html><body><article>" + "".join(f"<p>{part}</p>" for part in TEXTS[0].split("\n\n")) + "</article></body></html>"


def warc(page: str = PAGE) -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{page}".encode()
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\nWARC-Target-URI: http://a.example/\r\n"
    head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    return head.encode() + http + b"\r\n\r\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of all kinds, as people have them."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Path("news").mkdir(exist_ok=True)
        rows = ({"nr": i, "headline": text[:30], "story": text, "link": f"http://a.example/{i}"} for i, text in enumerate(TEXTS))
        Path(f"news/{number}.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    Path("news/index.json").write_text(json.dumps([{"id": str(i), "content": text} for i, text in enumerate(TEXTS)], indent=1))
    with Path("table.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["id", "remark"], *([i, text] for i, text in enumerate(TEXTS))])
    pq.write_table(pa.table({"id": ["1", "1"], "text": TEXTS[:2], "stars": [1, 2]}), "code.parquet")
    Path("page.warc").write_bytes(warc())
    Path("letters").mkdir()
    for number, text in enumerate(TEXTS[:3]):
        Path(f"letters/{number}.txt").write_text(text)
    Path("numbers.csv").write_text("a,b\n,\n,\n")
    Path("empty.jsonl").write_text("")
    Path("notes.md").write_text("no records")
    Path("runs/old").mkdir(parents=True)
    Path("runs/old/run.json").write_text("{}")
    Path("runs/old/dropped.jsonl").write_text('{"text": "of an earlier run"}\n')
    return tmp_path


def test_init_finds_what_files_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--name", "mine", "--language", "en"]) == 0
    told = capsys.readouterr()
    assert "left out: numbers.csv: none of its fields holds text (a, b)" in told.err and "empty.jsonl: is empty" in told.err
    assert "next: python -m pipeline validate recipe.yaml" in told.out
    recipe = load_recipe("recipe.yaml")
    assert recipe.name == "mine"
    found = {name: (source.read.paths, source.read.text_field) for name, source in recipe.sources.items()}
    assert found == {
        "code": (("code.parquet",), "text"),
        "letters": (("letters/*.txt",), "text"),
        "news": (("news/*.jsonl.gz",), "story"),
        "index": (("news/index.json",), "content"),
        "page": (("page.warc",), "text"),
        "table": (("table.csv",), "remark"),
    }
    reads = {name: source.read for name, source in recipe.sources.items()}
    assert (reads["news"].id_field, reads["news"].url_field) == (None, "link")
    assert (reads["code"].id_field, reads["index"].id_field, reads["table"].delimiter) == (None, "id", ";")
    assert [name for name, _ in recipe.sources["page"].steps] == ["extract", "language", "gopher_quality", "repetition", "dedup"]
    assert [name for name, _ in recipe.sources["table"].steps] == ["language", "dedup"]
    text = Path("recipe.yaml").read_text()
    assert all("#" in line for line in text.splitlines() if line.strip().startswith(("-", "# -")))


def test_init_takes_files_and_a_tokenizer_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipes").mkdir()
    assert main(["init", "table.csv", "news", "--out", "recipes/r.yaml", "--tokenizer", "org/model", "--language", "any"]) == 0
    recipe = load_recipe("recipes/r.yaml")
    assert {name: source.read.paths for name, source in recipe.sources.items()} == {
        "table": (("../table.csv",)),
        "news": (("../news/*.jsonl.gz",)),
        "index": (("../news/index.json",)),
    }
    assert recipe.tokenizer.hub == "org/model"
    assert [name for name, _ in recipe.sources["table"].steps] == ["dedup"]


def test_what_is_not_english_is_not_measured_by_english_words(folder: Path) -> None:
    text = "Der Müller öffnet das Wehr, und das Wasser des Flusses dreht das Rad, das die Steine der Mühle treibt. " * 20
    Path("de.warc").write_bytes(warc(f"<html><body><article><p>{text}</p></article></body></html>"))
    assert main(["init", "de.warc", "--out", "de.yaml"]) == 0
    steps = dict(load_recipe("de.yaml").sources["de"].steps)
    assert steps["language"].label.keep == ("de",) and steps["gopher_quality"].stop_words.min == 0


def test_what_init_writes_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    assert main(["validate", "recipe.yaml"]) == 0
    told = capsys.readouterr().out
    assert "page: 1 file, " in told and "steps: extract, language, gopher_quality, repetition, dedup" in told
    assert "other fields, kept as metadata: nr, headline" in told and "languages: en" in told
    assert TEXTS[0][:20].split("\n")[0] in told
    assert main(["run", "recipe.yaml", "--inline", "--quiet", "--set", "tokenizer.train.vocab_size=500"]) == 0
    assert "next: python -m trainer train olmoe_tiny --data runs/" in capsys.readouterr().out


def test_validate_tells_all_that_is_wrong_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(
        "name: bad\n"
        "sources:\n"
        "  one: {read: {paths: [nothing.jsonl]}}\n"
        "  two: {read: {paths: [table.csv]}}\n"
        "  three: {read: {paths: [news/index.json], text_field: body}}\n"
        "  four: {read: {paths: [page.warc]}}\n"
        "  five: {read: {paths: [code.parquet]}, steps: [{python: {function: 'rules:share', measure: share}}]}\n"
        "tokenizer: {path: tokenizer.json}\n"
        "mixture: {epochs: 1}\n"
    )
    before = {path for path in folder.rglob("*") if "cache" not in path.parts}
    assert main(["validate", "bad.yaml"]) == 2
    told = capsys.readouterr()
    lines = told.err.splitlines()
    for part in (
        "error: tokenizer.path: ",
        "error: sources.one.read.paths: nothing found at nothing.jsonl",
        "error: table.csv: it has no column 'text'",
        "error: sources.three.read: news/index.json, record 1",
        "error: sources.four.steps: page.warc holds web pages",
        "error: sources.five.steps.python: function rules",
    ):
        assert any(line.startswith(part) for line in lines), (part, lines)
    assert len(lines) == 6 and "five: 1 file, " in told.out and "next:" not in told.out
    assert {path for path in folder.rglob("*") if "cache" not in path.parts} == before


def test_paths_of_a_recipe_are_relative_to_it_and_documents_are_named_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same recipe gives the same bytes from any folder, also in one whose name looks like a pattern."""
    (folder / "a [b]{c}").mkdir()
    recipe = folder / "a [b]{c}" / "r.yaml"
    recipe.write_text(
        "name: r\nsources:\n"
        "  news: {read: {paths: ['../news/*.jsonl.gz'], text_field: story}, steps: [remove_urls]}\n"
        "  letters: {read: {paths: [letters]}}\n"
        "tokenizer: {train: {vocab_size: 400}}\nshards: {held_out: 0}\nmixture: {epochs: 1}\n"
    )
    (folder / "letters").rename(recipe.parent / "letters")
    found = []
    for number, (place, path) in enumerate([(recipe.parent, "r.yaml"), (folder, "a [b]{c}/r.yaml"), (Path("/"), str(recipe))]):
        monkeypatch.chdir(place)
        assert main(["run", path, "--inline", "--quiet", "--out", str(folder / f"out{number}")]) == 0
        found.append((folder / f"out{number}" / "manifest.json").read_bytes())
    assert found[0] == found[1] == found[2]
    capsys.readouterr()
    monkeypatch.chdir("/")
    assert main(["why", str(folder / "out0"), "../news/0.jsonl.gz:1"]) == 0
    told = capsys.readouterr().out
    assert "read from ../news/0.jsonl.gz, record 1" in told and "remove_urls: " in told and "cannot be made again" not in told
    assert main(["why", str(folder / "out0"), "letters/1.txt:1"]) == 0


def test_a_dedup_over_the_whole_mixture_is_written_as_in_a_source_or_without_its_name(folder: Path) -> None:
    written = [
        "{method: exact}",
        "{dedup: {method: exact}}",
        "[{method: exact}]",
        "[{dedup: {method: exact}}]",
        "\n  - dedup: {method: exact}",
    ]
    found = []
    for text in written:
        Path("r.yaml").write_text(
            f"name: r\nsources: {{a: {{read: {{paths: [table.csv]}}}}}}\ndedup: {text}\n"
            "tokenizer: {train: {}}\nmixture: {}\n"
        )
        found.append(load_recipe("r.yaml").dedup)
    assert all(one == found[0] for one in found) and found[0][0][0] == "dedup" and found[0][0][1].method == "exact"


def test_init_takes_files_whatever_their_values_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dates beyond Python's, names that are no UTF-8, a field longer than Python's csv takes by itself, no CSV at all."""
    monkeypatch.chdir(tmp_path)
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff\xfe"], pa.binary()).buffers())
    far = pa.array([1, 2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"id": ["1", "2"], "text": TEXTS[:2], "crawled": far, "title": bad}), "odd.parquet")
    Path("long.csv").write_text(f'id,text\n1,"{"words " * 50_000}"\n2,few words\n')
    Path("old.csv").write_bytes(b'id,text\r1,"one\r2,two\r')
    assert main(["init"]) == 0
    assert "old.csv: it is not valid CSV" in capsys.readouterr().err
    sources = load_recipe("recipe.yaml").sources
    assert {name: (source.read.text_field, source.read.id_field) for name, source in sources.items()} == {
        "odd": ("text", "id"),
        "long": ("text", "id"),
    }
