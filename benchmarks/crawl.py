"""The crawl that benchmarks read: real pages in WARC files, and as many altered copies of them as are asked for.

A copy of a page has the same markup, but other words (benchmarks/alter.py).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType

from benchmarks.alter import alter, vocabulary

SHARED = Path(os.environ.get("HEADRACE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FACTS = "crawl.json"
VERSION = 1  # of how copies are made
Page = tuple[str, str, bytes, bytes]  # record id, URL, HTTP header, HTML


@dataclass(frozen=True)
class Crawl:
    """WARC files and what is in them: pages, bytes of HTML, and how often the real pages were multiplied."""

    name: str
    files: tuple[str, ...]
    pages: int
    html_bytes: int
    warc_bytes: int
    scale: int

    def describe(self) -> str:
        return f"{self.name}: {self.pages:,} pages, {self.html_bytes / 1e6:,.1f} MB of HTML in {len(self.files)} WARC files"


def originals(work: Path) -> tuple[str, list[Path]]:
    """The real pages on this machine: those of ../shared/data, else the crawl of the sample."""
    found = sorted(SHARED.glob("web-*.warc.gz"))
    if found:
        return "real web pages", found
    from stages.sample.write import write_sample

    write_sample(work / "sample")
    return "the sample's crawl", sorted((work / "sample" / "dclm").glob("*.warc.gz"))


def make_crawl(work: Path, scale: int = 1, limit: int | None = None) -> Crawl:
    """A crawl of `scale` times the real pages (of each file the first `limit`), made once and kept in `work`."""
    name, sources = originals(work)
    identity = json.dumps([VERSION, limit, [(path.name, path.stat().st_size) for path in sources]])
    folder = work / f"crawl-{scale}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not (folder / FACTS).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(folder, name, sources, scale, limit)
    facts = json.loads((folder / FACTS).read_text())
    return Crawl(**facts | {"files": tuple(str(folder / file) for file in facts["files"])})


def _write(folder: Path, name: str, sources: list[Path], scale: int, limit: int | None) -> None:
    pages = {path: list(read_pages(path, limit)) for path in sources}
    words = vocabulary(html for found in pages.values() for _, _, _, html in found) if scale > 1 else {}
    files, html_bytes, count = [], 0, 0
    for copy in range(scale):
        for path, found in pages.items():
            file = f"{copy:03d}-{path.name}"
            html_bytes += copy_pages(found, words, copy, path.name, folder / file)
            count += len(found)
            files.append(file)
    size = sum((folder / file).stat().st_size for file in files)
    facts = asdict(Crawl(name, tuple(files), count, html_bytes, size, scale))
    (folder / FACTS).write_text(json.dumps(facts, indent=1))


def copy_pages(pages: list[Page], words: dict[int, list[bytes]], copy: int, name: str, path: Path) -> int:
    """Write pages as a WARC file, altered unless `copy` is 0; returns their bytes of HTML."""
    size = 0
    with path.open("wb") as out:
        for ordinal, (record_id, url, http, html) in enumerate(pages):
            if copy:
                html = alter(html, words, f"{copy}/{name}/{ordinal}")
                record_id = f"<urn:uuid:{_uuid(f'{copy}/{record_id}')}>"
                url = f"{url}{'&' if '?' in url else '?'}copy={copy}"
            out.write(gzip.compress(_record(record_id, url, http, html), 6, mtime=0))
            size += len(html)
    return size


def read_pages(path: Path, limit: int | None = None) -> Iterator[Page]:
    """Record id, URL, HTTP header and HTML of each response that has some."""
    with path.open("rb") as file:
        count = 0
        for record in ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=False):
            if count == limit:
                return
            block = record.reader.read()
            http, _, html = block.partition(b"\r\n\r\n")
            if html:
                count += 1
                yield record.record_id, record.headers["WARC-Target-URI"], http, html


def _uuid(text: str) -> str:
    digest = hashlib.md5(text.encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:]))


def _record(record_id: str, url: str, http: bytes, html: bytes) -> bytes:
    """A response record of WARC 1.0 with the page's own HTTP header."""
    http = re.sub(rb"(?i)\r\ncontent-length:[^\r]*", b"", http) + b"\r\nContent-Length: %d\r\n\r\n" % len(html)
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: {record_id}\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Date: 2024-09-03T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"WARC-Identified-Payload-Type: text/html\r\nContent-Length: {len(http) + len(html)}\r\n\r\n"
    )
    return head.encode() + http + html + b"\r\n\r\n"
