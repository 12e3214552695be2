"""The sample: its size, its shapes, its plants, and that it is the same every time."""

import collections
import gzip
import json

import pyarrow.parquet as pq
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text

from stages.errors import UserError
from stages.read import ReadSpec, read_batches
from stages.sample import sample_sources, write_sample
from stages.sample.collect import stars
from stages.sample.docs import PYDOC_MODULES
from stages.sample.environment import describe, service_models, source_files


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "raw"
    calls = []
    report = write_sample(folder, lambda *done: calls.append(done))
    return folder, report, calls


@pytest.fixture(scope="module")
def pages(sample):
    found = []
    for file in sorted(sample[0].glob("dclm/*")):
        with file.open("rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response, verify_digests=False):
                body = record.reader.read()
                assert len(body) == int(record.http_headers.get("Content-Length"))
                found.append(
                    (record.headers["WARC-Target-URI"], dict(record.headers.items()), record.http_headers, body)
                )
    return found


def _rows(folder, source):
    rows = []
    for file in sorted((folder / source).iterdir()):
        if file.suffix == ".gz":
            data = gzip.decompress(file.read_bytes())
        else:
            data = zstandard.ZstdDecompressor().decompress(file.read_bytes())
        rows += [json.loads(line) for line in data.decode().split("\n") if line]
    return rows


def _planted(rows, get):
    return collections.Counter(get(row) for row in rows if get(row))


def test_the_sample_is_large_enough_and_little_of_it_is_planted(sample):
    _, report, calls = sample
    sources = report["sources"]
    assert list(sources) == list(sample_sources())
    assert sources["dclm"]["documents"] >= 3_000 + sources["dclm"]["planted"]
    assert 30e6 <= sum(entry["bytes"] for entry in sources.values()) <= 70e6
    assert 0 < sum(entry["planted"] for entry in sources.values()) <= 300
    assert sorted(calls) == sorted((name, entry["documents"], entry["bytes"]) for name, entry in sources.items())


def test_a_second_sample_is_the_same_to_the_byte_and_to_the_time(sample, tmp_path):
    folder, report, _ = sample
    again = write_sample(tmp_path / "again")
    assert again == report
    names = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    assert names == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*"))
    for name in names:
        if (folder / name).is_file():
            assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    for name in (file for entry in report["sources"].values() for file in entry["files"]):
        assert (folder / name).stat().st_mtime_ns == (tmp_path / "again" / name).stat().st_mtime_ns
    assert not list(tmp_path.glob("*.part"))


def test_an_unchanged_environment_is_not_collected_again(sample):
    folder, report, _ = sample
    inodes = {path: path.stat().st_ino for path in folder.rglob("*")}
    assert write_sample(folder, lambda *done: pytest.fail("collected again")) == report
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == inodes


def test_another_folder_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="holds other files"):
        write_sample(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_every_source_is_read_as_the_recipe_is_told_to(sample):
    folder, report, _ = sample
    for name, entry in sample_sources().items():
        spec = ReadSpec(**{**entry["read"], **({"status": (200, 404)} if name == "dclm" else {})})
        found, events = 0, []
        for file in sorted(path for pattern in entry["paths"] for path in folder.glob(pattern)):
            with file.open("rb") as stream:
                ids = []
                for batch in read_batches(stream, file.name, spec, on_event=events.append):
                    found += batch.num_rows
                    ids += batch.column("id").to_pylist()
                assert len(ids) == len(set(ids)) and None not in ids
        left_out = 3 if name == "dclm" else 0  # PDF, image, JSON
        assert found == report["sources"][name]["documents"] - left_out, (name, events[:3])


def test_the_crawl_is_of_whole_pages_around_real_text(pages):
    sites = collections.Counter(url.split("/")[2].split(".", 1)[1] for url, *_ in pages)
    assert sites["services.example"] > 2_500 and sites["python.example"] > 100 and sites["packages.example"] > 50
    real = [(url, body.decode()) for url, _, _, body in pages if "planted.example" not in url]
    assert len({url for url, _ in real}) == len(real)
    assert 5_000 < sum(len(body) for _, body in real) / len(real) < 20_000
    for url, body in real[::100]:
        for part in ("<!DOCTYPE html>", "<head>", "<title>", "<script", "/privacy" if "Privacy" in body else "footer"):
            assert part in body, (url, part)
        text = extract_plain_text(body, main_content=True)
        assert len(text) > 100, url
        assert "dataQueue" not in text and "We use cookies" not in text and "All rights reserved" not in text, url


def test_extraction_yields_the_documentation(pages):
    bodies = {url: body.decode() for url, _, _, body in pages if "services.example" in url}
    assert len(service_models()) > 300
    text = " ".join(extract_plain_text(body, main_content=True) for body in list(bodies.values())[:200])
    words = text.split()
    assert len(words) > 20_000
    assert sum(word.lower() in {"the", "of", "to", "and", "a"} for word in words) / len(words) > 0.08


def test_planted_pages_of_every_kind_are_marked(pages):
    planted = [page for page in pages if "planted.example" in page[0]]
    kinds = collections.Counter(url.split("/")[3] for url, *_ in planted)
    assert set(kinds) >= {
        *(f"language_{name}" for name in ("de", "fr", "es", "pl", "it", "pt", "ru", "zh", "ja", "ar")),
        *("repeated_lines", "repeated_paragraphs", "repeated_ngrams", "keywords", "ellipses", "bullets", "symbols"),
        *("long_words", "numbers", "counters", "short", "addresses", "exact_copy", "near_copy", "huge", "empty"),
        *("latin1_declared", "latin1_undeclared", "latin1_as_utf8", "old_encoding", "mojibake"),
        *("unclosed_tags", "deep_nesting", "not_html", "not_found"),
    }
    for url, warc, http, body in planted:
        kind = url.split("/")[3]
        assert warc["WARC-Headrace-Planted"] == kind
        if kind not in ("not_html", "empty", "unclosed_tags", "deep_nesting"):
            assert b'headrace-planted" content="' + kind.encode() in body
        assert (http.status_code == 404) == (kind == "not_found")
    assert not any("WARC-Headrace-Planted" in warc for url, warc, *_ in pages if "planted.example" not in url)


def test_planted_pages_are_what_they_are_called(pages):
    by_kind = collections.defaultdict(list)
    for url, _, http, body in pages:
        by_kind[url.split("/")[3] if "planted.example" in url else ""].append((http.get("Content-Type"), body))
    assert len(by_kind["huge"][0][1]) >= 5_000_000
    for content_type, body in by_kind["latin1_declared"]:
        assert "iso-8859-1" in content_type and "café" in body.decode("windows-1252")
    for content_type, body in by_kind["latin1_undeclared"]:
        assert "charset" not in content_type and b"charset" not in body
    with pytest.raises(UnicodeDecodeError):
        by_kind["latin1_as_utf8"][0][1].decode()
    assert any("水車" in body.decode("shift_jis", "ignore") for _, body in by_kind["old_encoding"])
    real = {extract_plain_text(body.decode(), main_content=True) for _, body in by_kind[""]}
    assert all(extract_plain_text(body.decode(), main_content=True) in real for _, body in by_kind["exact_copy"])
    nearly = [extract_plain_text(body.decode(), main_content=True) for _, body in by_kind["near_copy"]]
    assert not any(text in real for text in nearly)


def test_code_has_repositories_with_stars_and_planted_domination(sample):
    table = pq.read_table(sorted((sample[0] / "starcoder").iterdir()))
    assert table.schema.names[:5] == ["max_stars_repo_path", "max_stars_repo_name", "max_stars_count", "id", "content"]
    rows = table.to_pylist()
    few = sum(row["max_stars_count"] < 2 for row in rows) / len(rows)
    assert 0.02 < few < 0.4
    assert all(row["max_stars_count"] == stars(row["max_stars_repo_name"]) for row in rows if not row["planted"])
    assert set(_planted(rows, lambda row: row["planted"])) == {
        *("one_word", "two_words", "periodic_tokens", "empty", "huge", "exact_copy", "near_copy")
    }
    for row in rows:
        if row["planted"] in ("one_word", "two_words"):
            words = row["content"].split()
            (_, first), (_, second) = collections.Counter(words).most_common(2)
            assert (first / len(words) > 0.3) == (row["planted"] == "one_word")
            assert (first + second) / len(words) > 0.5


@pytest.mark.parametrize("source", ["pes2o", "wiki"])
def test_dolma_sources(sample, source):
    rows = _rows(sample[0], source)
    assert all({"id", "text", "added", "created", "source", "metadata"} <= row.keys() for row in rows)
    kinds = _planted(rows, lambda row: row["metadata"].get("planted"))
    assert set(kinds) >= {"language_de", "repeated_ngrams", "short", "empty", "exact_copy", "near_copy", "cross_copy"}
    assert sum(len(row["text"]) for row in rows) > 1e6


def test_sources_of_mathematics(sample):
    arxiv = _rows(sample[0], "arxiv")
    assert all({"arxiv_id", "language", "timestamp", "url", "yymm"} <= row["meta"].keys() for row in arxiv)
    assert sum("\\begin{equation}" in row["text"] for row in arxiv) > len(arxiv) / 3
    assert all("\x02" not in row["text"] for row in arxiv)
    web = _rows(sample[0], "open_web_math")
    assert all(row.keys() == {"url", "text", "date", "metadata"} for row in web)
    assert _planted(web, lambda row: json.loads(row["metadata"]).get("planted"))
    code = _rows(sample[0], "algebraic_stack")
    assert sum("numpy" in row["text"] for row in code) > len(code) / 3
    assert {"one_word", "cross_copy"} <= set(_planted(code, lambda row: row["meta"].get("planted")))


def test_nothing_of_this_machine_is_collected(sample, pages):
    from pathlib import Path

    home, here = str(Path.home()).encode(), str(Path(__file__).resolve().parents[3]).encode()
    needles = [here, b"site-packages/", *([home + b"/"] if len(home) > 5 else [])]
    for url, _, _, body in pages:
        if "pydoc.python" in url:
            assert not any(needle in body for needle in needles[:1] + needles[2:]), url
    names = [name for distribution in ("cpython", "numpy", "ray") for name, _ in source_files(distribution)]
    assert not any("__pycache__" in n or "_sysconfigdata" in n or n.endswith("__config__.py") for n in names)
    assert "socket" not in PYDOC_MODULES and describe() == describe()
