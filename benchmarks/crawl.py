"""The crawl that benchmarks read: real pages in WARC files, and as many altered copies of them as are asked for.

A copy has the same markup, but other words: in each page over half of its distinct words, those that filters count as
stop words left out, become other words of the crawl of the same length, one in ten of them spelled as no other. So
neither dedup nor a tokenizer's cache meets the same text again, while the filters keep about the same share of pages.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType

SHARED = Path(os.environ.get("HEADRACE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FACTS = "crawl.json"
VERSION = 1  # of how copies are made
CHANGED = 0.6  # of a page's distinct words of four letters and more
NEW_SPELLING = 0.1  # of those

# Scripts, styles, comments and tags; else text, in the group of that name.
_PIECES = re.compile(rb"(?is)<(script|style|noscript)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>|(?P<text>[^<]+)")
# ASCII words that are whole words in any encoding that extends ASCII; no entity, no part of an accented word.
_WORD = re.compile(rb"(?<![A-Za-z0-9\x80-\xff&#])[A-Za-z]{4,}(?![A-Za-z0-9\x80-\xff;])")
_STOP = {b"that", b"have", b"with"}


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
    words = _vocabulary([html for found in pages.values() for _, _, _, html in found]) if scale > 1 else {}
    files, html_bytes, count = [], 0, 0
    for copy in range(scale):
        for path, found in pages.items():
            file = f"{copy:03d}-{path.name}"
            with (folder / file).open("wb") as out:
                for ordinal, (record_id, url, http, html) in enumerate(found):
                    if copy:
                        html = alter(html, words, f"{copy}/{path.name}/{ordinal}")
                        record_id = f"<urn:uuid:{_uuid(f'{copy}/{record_id}')}>"
                        url = f"{url}{'&' if '?' in url else '?'}copy={copy}"
                    out.write(gzip.compress(_record(record_id, url, http, html), 6, mtime=0))
                    html_bytes += len(html)
                    count += 1
            files.append(file)
    size = sum((folder / file).stat().st_size for file in files)
    facts = asdict(Crawl(name, tuple(files), count, html_bytes, size, scale))
    (folder / FACTS).write_text(json.dumps(facts, indent=1))


def read_pages(path: Path, limit: int | None = None) -> Iterator[tuple[str, str, bytes, bytes]]:
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


def alter(html: bytes, words: dict[int, list[bytes]], seed: str) -> bytes:
    """The page with other words in its text: equal words become equal words, so what repeats goes on to repeat."""
    rng = random.Random(seed)
    changed: dict[bytes, bytes] = {}

    def replace(found: re.Match[bytes]) -> bytes:
        word = found[0].lower()
        if word not in changed:
            changed[word] = _other_word(word, words, rng)
        new = changed[word]
        return new.upper() if found[0].isupper() else new.capitalize() if found[0][:1].isupper() else new

    return _PIECES.sub(lambda piece: _WORD.sub(replace, piece[0]) if piece["text"] else piece[0], html)


def _other_word(word: bytes, words: dict[int, list[bytes]], rng: random.Random) -> bytes:
    if word in _STOP or rng.random() >= CHANGED or len(word) not in words:
        return word
    new = bytearray(rng.choice(words[len(word)]))
    if rng.random() < NEW_SPELLING:
        new[rng.randrange(len(new))] = rng.randrange(ord("a"), ord("z") + 1)
    return bytes(new)


def _vocabulary(pages: list[bytes]) -> dict[int, list[bytes]]:
    """All distinct words of the pages' text, by length."""
    found: set[bytes] = set()
    for html in pages:
        for piece in _PIECES.finditer(html):
            if piece["text"]:
                found.update(word.lower() for word in _WORD.findall(piece[0]))
    words: dict[int, list[bytes]] = {}
    for word in sorted(found - _STOP):
        words.setdefault(len(word), []).append(word)
    return words


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
