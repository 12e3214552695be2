"""A page of this machine's browser that shows runs while they go on: the standard library's server, and no build step."""

from __future__ import annotations

import threading
import time
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline import storage
from pipeline.live.look import Now, Watch
from pipeline.report import filters
from pipeline.run_folder.folder import CLAIM, RUN
from stages.errors import UserError

LOOK_SECONDS = 1.0  # a look is shown for so long, or ten times as long as it took
POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
STATIC = {"/live.css": "text/css; charset=utf-8", "/live.js": "text/javascript; charset=utf-8"}
MOST_RUNS = 50  # are listed, the newest
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


class Looker:
    """The last look at one run, for several readers: nobody looks twice within a second."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._now: Now | None = None
        self._until = 0.0

    def now(self) -> Now:
        """The run, as it was a moment ago. Raises UserError."""
        with self._lock:
            began = time.monotonic()
            if self._now is None or began > self._until:
                self._watch = self._watch or Watch(self.run)
                self._now = self._watch.look()
                end = time.monotonic()
                self._until = end + max(LOOK_SECONDS, 10 * (end - began))
            return self._now


class Runs:
    """The runs that are shown: those named, and those in folders that are named, as they come and go."""

    def __init__(self, folders: list[str]) -> None:
        self.folders = folders
        self._lookers: dict[str, Looker] = {}

    def find(self) -> dict[str, Looker]:
        """By the name in the page's address, newest first."""
        runs = [run for folder in self.folders for run in runs_in(folder)[:MOST_RUNS]]
        for run in runs:
            self._lookers.setdefault(run, Looker(run))
        return {run: self._lookers[run] for run in dict.fromkeys(runs)}


def runs_in(folder: str) -> list[str]:
    """A run's folder itself; of a local folder of runs those in it, newest first."""
    if not storage.is_local(folder):
        return [folder.rstrip("/")]
    path = storage.local_path(folder)
    found = [path, *sorted(path.iterdir())] if path.is_dir() else []
    runs = [one for one in found if (one / CLAIM).exists() or (one / RUN).exists()]
    return [str(one) for one in sorted(runs, key=_changed, reverse=True)]


def _changed(run: Path) -> float:
    return max((path.stat().st_mtime for name in (CLAIM, RUN) if (path := run / name).exists()), default=0.0)


def make_server(folders: list[str], host: str, port: int) -> ThreadingHTTPServer:
    """A server of the pages, not yet serving. port: 0 for any free one. Raises UserError where the port is taken."""
    runs = Runs(folders)

    class Handler(_Pages):
        shown = runs
        hosts = LOOPBACK if host in LOOPBACK else None

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise UserError(f"--port {port}: cannot listen at {host}:{port} ({error.strerror}); choose another --port") from None


class _Pages(BaseHTTPRequestHandler):
    """/ is the list of runs, /run/NAME a run's page, /run/NAME.json the same for programs."""

    shown: Runs
    hosts: tuple[str, ...] | None  # that requests may name; None: any
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        name = self.headers.get("Host", "").rsplit(":", 1)[0] if self.hosts else ""
        path = unquote(urlsplit(self.path).path)
        if self.hosts and name not in self.hosts:  # a site that gave its own name this machine's address
            self._send(HTTPStatus.FORBIDDEN, "text/plain", b"this server answers to localhost alone\n")
        elif path in STATIC:
            self._send(HTTPStatus.OK, STATIC[path], files("pipeline.live").joinpath(f"templates{path}").read_bytes())
        else:
            try:
                self._answer(path)
            except (UserError, storage.StorageError) as error:
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/html; charset=utf-8", _page("wrong.html", error=str(error)))

    def _answer(self, path: str) -> None:
        runs = self.shown.find()
        if path == "/":
            found = [(run, _address(run), *_seen(looker)) for run, looker in runs.items()]
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", _page("runs.html", runs=found, folders=self.shown.folders))
        elif (name := path.removeprefix("/run/")) in runs:
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", _page("run.html", now=runs[name].now()))
        elif name.removesuffix(".json") in runs:
            data = msgspec.json.encode(runs[name.removesuffix(".json")].now())
            self._send(HTTPStatus.OK, "application/json", data)
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/html; charset=utf-8", _page("wrong.html", error="There is no such page."))

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        self.send_response(status)
        for header, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ):
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not told on the terminal."""


def _seen(looker: Looker) -> tuple[Now | None, str]:
    """A run, or what is wrong with it: one that is damaged, or was removed a moment ago, hides no other."""
    try:
        return looker.now(), ""
    except (UserError, storage.StorageError) as error:
        return None, str(error)


def _address(run: str) -> str:
    return f"/run/{quote(run, safe='/')}"


def _page(name: str, **values: object) -> bytes:
    return _templates().get_template(name).render(values).encode()


@cache
def _templates() -> Environment:
    env = Environment(
        loader=PackageLoader("pipeline.live"),
        autoescape=True,
        finalize=filters.visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for one in ("breakable", "count", "seconds", "share", "short", "size"):
        env.filters[one] = getattr(filters, one)
    return env
