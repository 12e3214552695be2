"""An HTTP proxy on loopback that answers a share of all requests as a busy or broken server would."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS = {
    "500": (500, {}, b"<Error><Code>InternalError</Code><Message>a fault</Message></Error>"),
    "503": (503, {"Retry-After": "1"}, b"<Error><Code>SlowDown</Code><Message>a fault</Message></Error>"),
    "429": (429, {"RateLimit": '"requests";r=0;t=1'}, b"<Error><Code>TooManyRequests</Code><Message>a fault</Message></Error>"),
}
RESET_BEFORE, RESET_AFTER, SHORT = "reset before", "reset after", "short body"
KINDS = (*ANSWERS, RESET_BEFORE, RESET_AFTER, SHORT)
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
CHUNK = 1 << 18


@dataclass
class FaultyProxy:
    """choose: which fault a request meets, by its method and path; None: none. met: how often each was met."""

    port: int
    choose: Callable[[str, str], str | None]
    address: str = ""
    requests: int = 0
    met: Counter[str] = field(default_factory=Counter)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> str | None:
        kind = self.choose(method, path)
        with self.guard:
            self.requests += 1
            if kind == SHORT and method != "GET":
                kind = RESET_BEFORE
            if kind:
                self.met[kind] += 1
            return kind


def share(part: float, seed: int = 0) -> Callable[[str, str], str | None]:
    """Of all requests this part meets a fault, each kind as often."""
    rng = random.Random(seed)
    return lambda method, path: rng.choice(KINDS) if rng.random() < part else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    upstream: HTTPConnection | None = None

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.fault(self.command, self.path)
        if fault in ANSWERS:
            return self.reply(*ANSWERS[fault])
        if fault == RESET_BEFORE:
            return self.reset()
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP - {"content-length"}}
        for attempt in (1, 2):  # the server may have closed a connection that was not used for long
            try:
                self.upstream = self.upstream or HTTPConnection("127.0.0.1", proxy.port, timeout=120)
                self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    self.upstream.putheader(name, value)
                self.upstream.endheaders(body or None)
                answer = self.upstream.getresponse()
                break
            except (HTTPException, OSError):
                self.upstream = None
                if attempt == 2:
                    return self.reset()
        if fault == RESET_AFTER:
            answer.read()
            return self.reset()
        length = answer.headers.get("Content-Length")
        whole = None if length is not None else answer.read()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        size = int(length) if whole is None else len(whole)  # type: ignore[arg-type]
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "HEAD":
            answer.read()
            return
        if whole is not None:
            self.wfile.write(whole)
            return
        left = size // 2 if fault == SHORT and size > 1 else size
        while left and (data := answer.read(min(left, CHUNK))):
            self.wfile.write(data)
            left -= len(data)
        if fault == SHORT:
            self.upstream.close()
            self.upstream = None
            self.close_connection = True

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            self.connection.close()
        self.close_connection = True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (OSError, ValueError):  # the client went away, or its connection was reset
            self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()
        if self.upstream is not None:
            self.upstream.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    proxy: FaultyProxy

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@contextmanager
def running_faulty_proxy(port: int, choose: Callable[[str, str], str | None]) -> Iterator[FaultyProxy]:
    """Forwards to 127.0.0.1:port, but for the faults."""
    proxy = FaultyProxy(port, choose)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.proxy = proxy
    proxy.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
