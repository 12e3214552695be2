"""A small hub on loopback: the routes of the Hugging Face hub that listing and downloading use, over real files.

Small files are served in place under git's hash of them; large ones redirect to a signed address, as the hub does.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from web_server import Hit, WebServer


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def commit_of(revision: str) -> str:
    """The commit that a branch of any repository stands at here."""
    return revision if len(revision) == 40 else hashlib.sha1(revision.encode()).hexdigest()


@dataclass
class FakeHub:
    """repos: (kind, "org/name", revision) -> path -> content. Files of `large` bytes and more are kept as LFS does."""

    web: WebServer
    repos: dict[tuple[str, str, str], dict[str, bytes]] = field(default_factory=dict)
    large: int = 1000
    page: int = 2  # entries on a page of a listing
    token: str = ""  # if set, the only one that may read
    sizes: dict[str, int] = field(default_factory=dict)  # path -> size that a listing tells, of files that nobody reads
    budget: int | None = None  # files that may be resolved in a window
    window: int = 1  # seconds that a refused client is told to wait, after which the budget is there again
    resolved: list[str] = field(default_factory=list)  # paths, in the order of the requests that count
    refused: int = 0
    forgiven: int = 0  # of `resolved`, those of windows that are over
    ends: float = 0.0  # of the window

    def __post_init__(self) -> None:
        self.web.routes = self.route

    def route(self, hit: Hit) -> tuple[int, dict[str, str], bytes] | None:
        url = urlsplit(hit.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "cdn":
            content = {hashlib.sha256(d).hexdigest(): d for files in self.repos.values() for d in files.values()}
            if parts[1] not in content:
                return 404, {}, b""
            return 200, {"ETag": '"of-the-store"'}, content[parts[1]]
        if self.token and hit.headers.get("authorization", hit.headers.get("Authorization")) != f"Bearer {self.token}":
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if parts[0] == "api":
            kind, org, name, what, revision, *path = parts[1:]
            if what == "revision":
                return self.commit(kind, f"{org}/{name}", revision)
            return self.listing(kind, f"{org}/{name}", revision, "/".join(path), parse_qs(url.query))
        kind = "models"
        if parts[0] == "datasets":
            kind, parts = "datasets", parts[1:]
        org, name, _, revision, *path = parts
        if (limited := self.limited()) is not None:
            return limited
        self.resolved.append("/".join(path))
        status, headers, data = self.resolve(kind, f"{org}/{name}", revision, "/".join(path))
        return status, {**headers, **self.allowance()}, data

    def allowance(self) -> dict[str, str]:
        """What the hub tells with each answer of a budget."""
        if self.budget is None:
            return {}
        left = max(0, self.budget - len(self.resolved) + self.forgiven)
        policy = f'"fixed window";"resolvers";q={self.budget};w=300'
        return {"RateLimit": f'"resolvers";r={left};t={self.window}', "RateLimit-Policy": policy}

    def limited(self) -> tuple[int, dict[str, str], bytes] | None:
        """The refusal of a client that has used its budget, until the window is over."""
        if self.budget is None:
            return None
        now = time.monotonic()
        if now >= self.ends:
            self.forgiven, self.ends = len(self.resolved), now + self.window
        if len(self.resolved) - self.forgiven < self.budget:
            return None
        self.refused += 1
        return 429, self.allowance(), b""

    def files(self, kind: str, repo: str, revision: str) -> dict[str, bytes] | None:
        """The files at a branch, or at the commit that a branch stands at."""
        named = [r for k, name, r in self.repos if (k, name) == (kind, repo) and revision in (r, commit_of(r))]
        return self.repos[kind, repo, named[0]] if named else None

    def commit(self, kind: str, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        if self.files(kind, repo, revision) is None:
            known = any((kind, repo) == key[:2] for key in self.repos)
            return 404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"}, b"{}"
        sha = revision if len(revision) == 40 else commit_of(revision)
        return 200, {"Content-Type": "application/json"}, json.dumps({"id": repo, "sha": sha}).encode()

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        files = self.files(kind, repo, revision)
        if files is None:
            known = any((kind, repo) == key[:2] for key in self.repos)
            return 404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"}, b""
        if path not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        data = files[path]
        if len(data) < self.large:
            return 200, {"ETag": f'"{git_hash(data)}"', "X-Repo-Commit": commit_of(revision)}, data
        sha256 = hashlib.sha256(data).hexdigest()
        headers = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit_of(revision)}
        return 302, {**headers, "Location": self.web.url(f"cdn/{sha256}?Signature=topsecret")}, b""

    def listing(
        self, kind: str, repo: str, revision: str, folder: str, query: dict
    ) -> tuple[int, dict[str, str], bytes]:
        files = self.files(kind, repo, revision)
        if files is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        prefix = f"{folder}/" if folder else ""
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        found = {}
        for path, data in files.items():
            if path.startswith(prefix):
                names = path[len(prefix) :].split("/")
                for i in range(1, len(names) if recursive else min(2, len(names))):
                    at = prefix + "/".join(names[:i])
                    found[at] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": at}
                if recursive or len(names) == 1:
                    size = self.sizes.get(path, len(data))
                    found[path] = {"type": "file", "oid": git_hash(data), "size": size, "path": path}
                    if size >= self.large:
                        sha256 = hashlib.sha256(data).hexdigest()
                        found[path]["lfs"] = {"oid": sha256, "size": size, "pointerSize": 130}
        if folder and not found:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        items = [found[path] for path in sorted(found)]
        start = int(query.get("cursor", ["0"])[0])
        headers = {"Content-Type": "application/json"}
        if start + self.page < len(items):
            more = f"recursive={recursive}&cursor={start + self.page}"
            headers["Link"] = (
                f'<{self.web.url(f"api/{kind}/{repo}/tree/{revision}/{folder}".rstrip("/"))}?{more}>; rel="next"'
            )
        return 200, headers, json.dumps(items[start : start + self.page]).encode()
