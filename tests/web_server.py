"""A small HTTP server on loopback that serves bytes from memory, with the faults that a test asks of it."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Hit:
    """One request: method, path with query, range asked for, and the headers."""

    method: str
    path: str
    range: tuple[int, int] | None
    headers: dict[str, str]


@dataclass
class WebServer:
    """What is served, and how. Change it while it runs."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)  # path -> more headers
    ranges: bool = True
    head: bool = True
    etags: bool = True
    lengths: bool = True
    cut_after: int | None = None  # bytes of each body after which the connection is cut
    cuts: int = 1 << 30  # how many connections are cut
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # answers to give first
    redirects: dict[str, str] = field(default_factory=dict)
    routes: Callable[[Hit], tuple[int, dict[str, str], bytes] | None] = lambda hit: None
    before_body: Callable[[Hit], None] = lambda hit: None
    hits: list[Hit] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def ranges_asked(self, path: str) -> list[tuple[int, int] | None]:
        """Ranges of the GETs of a path, but for those that only try out whether there are ranges."""
        return [
            hit.range for hit in self.hits if hit.method == "GET" and hit.path == f"/{path}" and hit.range != (0, 0)
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        web = self.server.web
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        span = (int(asked[1]), int(asked[2])) if asked else None
        hit = Hit(self.command, self.path, span, dict(self.headers))
        with self.server.guard:
            web.hits.append(hit)
            failure = web.failures.pop(0) if web.failures else None
        if failure:
            return self.reply(failure[0], failure[1], b"", body)
        if routed := web.routes(hit):
            status, headers, data = routed
            if status == 200 and "ETag" in headers:
                return self.file(hit, data, headers, body)
            return self.reply(status, headers, data, body)
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if path in web.redirects:
            return self.reply(302, {"Location": web.redirects[path]}, b"", body)
        if not web.head and not body:
            return self.reply(405, {}, b"", body)
        if path not in web.files:
            return self.reply(404, {}, b"not here", body)
        data = web.files[path]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()[:16]}"'} if web.etags else {}
        return self.file(hit, data, {**headers, **web.headers.get(path, {})}, body)

    def file(self, hit: Hit, data: bytes, headers: dict[str, str], body: bool) -> None:
        web, span = self.server.web, hit.range
        condition = self.headers.get("If-Range")
        if span and web.ranges and (condition is None or condition == headers.get("ETag")):
            start, end = span[0], min(span[1], len(data) - 1)
            if start >= len(data):
                return self.reply(416, {}, b"", body)
            headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}
            return self.reply(206, headers, data[start : end + 1], body, hit)
        return self.reply(200, headers, data, body, hit)

    def reply(self, status: int, headers: dict[str, str], data: bytes, body: bool, hit: Hit | None = None) -> None:
        web = self.server.web
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if web.lengths or hit is None:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.close_connection = True
        self.end_headers()
        if not body:
            return
        if hit is not None:
            web.before_body(hit)
        if hit is not None and web.cut_after is not None and len(data) > web.cut_after and self.server.take_cut():
            self.wfile.write(data[: web.cut_after])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    web: WebServer
    guard: threading.Lock

    def take_cut(self) -> bool:
        with self.guard:
            self.web.cuts -= 1
            return self.web.cuts >= 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def running_web_server() -> Iterator[WebServer]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.web, server.guard = WebServer(f"http://127.0.0.1:{server.server_address[1]}"), threading.Lock()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.web
    finally:
        server.shutdown()
        server.server_close()
