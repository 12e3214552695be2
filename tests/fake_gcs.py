"""A server on loopback that answers as the XML API of Google Cloud Storage does, as far as obstore asks it.

Written from Google's reference of that API: objects with ETag and generation, x-goog-if-generation-match on writes, If-Match
and Range on reads, list type 2, uploads in several parts. It holds objects in memory, and asks for no credentials.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 3  # objects of one answer to a listing: so that listings go over several


@dataclass
class Kept:
    """An object."""

    data: bytes
    generation: int
    headers: dict[str, str] = field(default_factory=dict)
    written: str = field(default_factory=lambda: formatdate(usegmt=True))

    def answer(self) -> dict[str, str]:
        etag = hashlib.md5(self.data, usedforsecurity=False).hexdigest()
        return {
            "ETag": f'"{etag}"',
            "x-goog-generation": str(self.generation),
            "Last-Modified": self.written,
        } | self.headers


@dataclass
class FakeGcs:
    """bucket: the only one. uploads: unfinished, by id: the object's headers, and parts by number."""

    bucket: str
    address: str = ""
    objects: dict[str, Kept] = field(default_factory=dict)
    uploads: dict[str, tuple[dict[str, str], dict[int, bytes]]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    lose: int = 0  # parts of the next uploads that are lost on their way
    busy: float = 0.0  # seconds from the next request on for which all are answered by `busy_status`, with Retry-After
    busy_status: int = 429
    busy_until: float = 0.0
    turned_away: int = 0  # requests that were
    guard: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __getattr__(self, name: str):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        gcs, url = self.server.gcs, urlsplit(self.path)
        bucket, _, key = url.path.lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if left := self.busy():
            return self.reply(gcs.busy_status, {"Retry-After": str(math.ceil(left))})
        if bucket != gcs.bucket:
            return self.error(404, "NoSuchBucket")
        with gcs.guard:
            if not key:
                return self.list(query)
            if "uploads" in query or "uploadId" in query:
                return self.upload(unquote(key), query, body)
            return {"PUT": self.put, "DELETE": self.delete}.get(self.command, self.get)(unquote(key), body)

    def busy(self) -> float:
        """Seconds for which the server is still busy."""
        gcs = self.server.gcs
        with gcs.guard:
            if gcs.busy:
                gcs.busy, gcs.busy_until = 0.0, time.monotonic() + gcs.busy
            left = max(0.0, gcs.busy_until - time.monotonic())
            gcs.turned_away += left > 0
            return left

    def own_headers(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower().startswith("x-goog-meta-")}

    def put(self, key: str, body: bytes) -> None:
        gcs = self.server.gcs
        known = gcs.objects.get(key)
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (known.generation if known else 0):
            return self.error(412, "PreconditionFailed")
        gcs.objects[key] = kept = Kept(body, next(gcs.numbers), self.own_headers())
        self.reply(200, kept.answer())

    def delete(self, key: str, body: bytes) -> None:
        there = self.server.gcs.objects.pop(key, None)
        self.reply(204) if there else self.error(404, "NoSuchKey")

    def get(self, key: str, body: bytes) -> None:
        kept = self.server.gcs.objects.get(key)
        if kept is None:
            return self.error(404, "NoSuchKey")
        headers, data, status = kept.answer(), kept.data, 200
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            return self.error(412, "PreconditionFailed")
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            stop = min(int(last) + 1 if last else len(data), len(data))
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
            data, status = data[int(first) : stop], 206
        self.reply(status, headers, data)

    def list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        folders: set[str] = set()
        names = []
        for name in sorted(self.server.gcs.objects):
            if not name.startswith(prefix) or name <= query.get("continuation-token", query.get("start-after", "")):
                continue
            inner, slash, _ = name[len(prefix) :].partition("/")
            if delimiter and slash:
                folders.add(f"{prefix}{inner}/")
            else:
                names.append(name)
        page = names[:PAGE]
        parts = [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        for name in page:
            kept = self.server.gcs.objects[name]
            parts.append(
                f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>{escape(kept.answer()['ETag'])}</ETag><Size>{len(kept.data)}</Size></Contents>"
            )
        if len(names) > PAGE:
            parts.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
        self.reply(200, {}, f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode())

    def upload(self, key: str, query: dict[str, str], body: bytes) -> None:
        gcs = self.server.gcs
        if "uploads" in query:
            number = str(next(gcs.numbers))
            gcs.uploads[number] = (self.own_headers(), {})
            answer = f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
            return self.reply(200, {}, answer.encode())
        headers, parts = gcs.uploads[query["uploadId"]]
        if self.command == "PUT":
            parts[int(query["partNumber"])] = body
            return self.reply(200, {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'})
        del gcs.uploads[query["uploadId"]]
        if self.command == "DELETE":
            return self.reply(204)
        gcs.objects[key] = kept = Kept(b"".join(parts[n] for n in sorted(parts)[gcs.lose :]), next(gcs.numbers), headers)
        etag = escape(kept.answer()["ETag"])
        answer = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
        return self.reply(200, kept.answer(), answer.encode())

    def error(self, status: int, code: str) -> None:
        self.reply(
            status, {}, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>a fake's</Message></Error>".encode()
        )

    def reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    gcs: FakeGcs


@contextmanager
def running_fake_gcs(bucket: str) -> Iterator[FakeGcs]:
    """A server with one empty bucket."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.gcs = gcs = FakeGcs(bucket)
    gcs.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield gcs
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
