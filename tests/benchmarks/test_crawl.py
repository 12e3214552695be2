"""The crawl that benchmarks read: real pages several times over, in files that any reader takes."""

import gzip
from pathlib import Path

import pytest

from benchmarks import crawl
from stages.read import ReadSpec, read_batches

HTML = "<html><body><p>{}</p></body></html>"


def page(number: int) -> crawl.Page:
    words = [f"{a}{b}{chr(97 + number)}ed" for a in ("walk", "talk", "jump", "look") for b in "abcdefghij"]
    body = HTML.format(" ".join(words))
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1"
    return f"<urn:uuid:{number:032x}>", f"http://example.org/{number}", http, body.encode()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "web.warc.gz"
    crawl.copy_pages([page(n) for n in range(5)], {}, 0, "web", path)
    monkeypatch.setattr(crawl, "originals", lambda work: ("test pages", [path]))
    return path


def rows(file: str) -> list[dict]:
    events: list = []
    with Path(file).open("rb") as stream:
        batches = list(read_batches(stream, file, ReadSpec(), on_event=events.append))
    assert [event for event in events if type(event).__name__ == "Problem"] == []
    return [row for batch in batches for row in batch.to_pylist()]


def test_each_copy_has_all_pages_with_other_ids_urls_and_texts(source: Path, tmp_path: Path):
    made = crawl.make_crawl(tmp_path / "work", scale=3)
    found = [rows(file) for file in made.files]
    assert (made.pages, len(made.files), made.scale) == (15, 3, 3)
    assert [len(copy) for copy in found] == [5, 5, 5]
    assert made.html_bytes == sum(len(row["html"]) for copy in found for row in copy)
    assert [row["html"] for row in found[0]] == [html for _, _, _, html in crawl.read_pages(source)]
    for column in ("id", "url", "html"):
        assert len({row[column] for copy in found for row in copy}) == 15, column


def test_a_crawl_is_made_once(source: Path, tmp_path: Path):
    first = crawl.make_crawl(tmp_path / "work", scale=2)
    times = [Path(file).stat().st_mtime_ns for file in first.files]
    assert crawl.make_crawl(tmp_path / "work", scale=2) == first
    assert [Path(file).stat().st_mtime_ns for file in first.files] == times


def test_a_limit_takes_the_first_pages(source: Path, tmp_path: Path):
    made = crawl.make_crawl(tmp_path / "work", limit=2)
    assert made.pages == 2
    assert gzip.decompress(Path(made.files[0]).read_bytes()).count(b"WARC-Type: response") == 2
