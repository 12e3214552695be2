"""How the documents of each source are written: WARC, Parquet, and JSONL in the shapes of the originals.

All writers give the same bytes for the same documents: no times, no random names.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from stages.sample.pages import Page
from stages.sample.records import DATE, Record

# One WARC record a gzip member, as crawls have it.


def _warc(pages: Sequence[Page], name: str) -> bytes:
    out = io.BytesIO()
    about = "software: headrace sample\r\nformat: WARC File Format 1.1\r\nisPartOf: headrace-sample\r\n"
    headers = {"WARC-Filename": PurePosixPath(name).name, "Content-Type": "application/warc-fields"}
    out.write(_member("warcinfo", name, headers, about.encode()))
    for page in pages:
        host, _, path = page.url.removeprefix("http://").partition("/")
        request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: headrace-sample\r\nAccept: text/html\r\n\r\n"
        target = {"WARC-Target-URI": page.url}
        marked = {**target, "WARC-Headrace-Planted": page.planted} if page.planted else target
        kind = {"Content-Type": "application/http; msgtype=request"}
        out.write(_member("request", page.url, {**target, **kind}, request.encode()))
        server = (
            f"HTTP/1.1 {page.status}\r\nContent-Type: {page.content_type}\r\nServer: sample\r\n"
            f"Content-Length: {len(page.body)}\r\n\r\n"
        )
        kind = {"Content-Type": "application/http; msgtype=response"}
        out.write(_member("response", page.url, {**marked, **kind}, server.encode() + page.body))
    return out.getvalue()


def _member(kind: str, about: str, headers: dict[str, str], block: bytes) -> bytes:
    digest = hashlib.blake2b(f"{kind} {about}".encode(), digest_size=16).hexdigest()
    identifier = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"
    fields = {
        "WARC-Type": kind,
        "WARC-Record-ID": f"<urn:uuid:{identifier}>",
        "WARC-Date": f"{DATE[:19]}Z",
        **headers,
        "Content-Length": str(len(block)),
    }
    head = "WARC/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
    return gzip.compress(head.encode() + block + b"\r\n\r\n", compresslevel=5, mtime=0)


# The other sources.


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _marked(record: Record) -> dict[str, Any]:
    return {**record.meta, "planted": record.planted} if record.planted else dict(record.meta)


def _dolma(source: str) -> Callable[[Sequence[Record], str], bytes]:
    def write(records: Sequence[Record], name: str) -> bytes:
        stamp = {"added": DATE, "created": DATE, "source": source, "version": "sample"}
        rows = [{"id": r.id, "text": r.text, **stamp, "metadata": _marked(r)} for r in records]
        return gzip.compress(_lines(rows), compresslevel=5, mtime=0)

    return write


def _text_and_meta(records: Sequence[Record], name: str) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(_lines([{"text": r.text, "meta": _marked(r)} for r in records]))


def _web_math(records: Sequence[Record], name: str) -> bytes:
    rows = []
    for record in records:
        metadata: dict[str, Any] = {"extraction_info": {"found_math": "$" in record.text}}
        if record.planted:
            metadata["planted"] = record.planted
        rows.append(
            {"url": record.meta["url"], "text": record.text, "date": DATE[:10], "metadata": json.dumps(metadata)}
        )
    return zstandard.ZstdCompressor(level=3).compress(_lines(rows))


_CODE_SCHEMA = pa.schema(
    [
        ("max_stars_repo_path", pa.string()),
        ("max_stars_repo_name", pa.string()),
        ("max_stars_count", pa.int64()),
        ("id", pa.string()),
        ("content", pa.string()),
        ("planted", pa.string()),
    ]
)


def _parquet(records: Sequence[Record], name: str) -> bytes:
    rows = [{"id": r.id, "content": r.text, "planted": None, **_marked(r)} for r in records]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _CODE_SCHEMA), out, compression="zstd", row_group_size=200)
    return out.getvalue()


WRITERS: dict[str, Callable[[Sequence[Any], str], bytes]] = {
    "dclm": _warc,
    "starcoder": _parquet,
    "pes2o": _dolma("pes2o"),
    "arxiv": _text_and_meta,
    "open_web_math": _web_math,
    "algebraic_stack": _text_and_meta,
    "wiki": _dolma("wikipedia"),
}
