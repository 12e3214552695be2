"""A small hub on loopback: the routes of the Hugging Face hub that listing and downloading use, over real files.

Small files are served in place under git's hash of them; large ones redirect to a signed address, as the hub does.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from web_server import Hit, WebServer


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class FakeHub:
    """repos: (kind, "org/name", revision) -> path -> content. Files of `large` bytes and more are kept as LFS does."""

    web: WebServer
    repos: dict[tuple[str, str, str], dict[str, bytes]] = field(default_factory=dict)
    large: int = 1000
    page: int = 2  # entries on a page of a listing
    token: str = ""  # if set, the only one that may read

    def __post_init__(self) -> None:
        self.web.routes = self.route

    def route(self, hit: Hit) -> tuple[int, dict[str, str], bytes] | None:
        url = urlsplit(hit.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "cdn":
            content = {hashlib.sha256(d).hexdigest(): d for files in self.repos.values() for d in files.values()}
            return 200, {"ETag": '"of-the-store"'}, content[parts[1]]
        if self.token and hit.headers.get("authorization", hit.headers.get("Authorization")) != f"Bearer {self.token}":
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if parts[0] == "api":
            kind, org, name, _, revision, *path = parts[1:]
            return self.listing(kind, f"{org}/{name}", revision, "/".join(path), parse_qs(url.query))
        kind = "models"
        if parts[0] == "datasets":
            kind, parts = "datasets", parts[1:]
        org, name, _, revision, *path = parts
        return self.resolve(kind, f"{org}/{name}", revision, "/".join(path))

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> tuple[int, dict[str, str], bytes]:
        files = self.repos.get((kind, repo, revision))
        if files is None:
            known = any((kind, repo) == key[:2] for key in self.repos)
            return 404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"}, b""
        if path not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        data = files[path]
        if len(data) < self.large:
            return 200, {"ETag": f'"{git_hash(data)}"', "X-Repo-Commit": "0" * 40}, data
        sha256 = hashlib.sha256(data).hexdigest()
        headers = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": "0" * 40}
        return 302, {**headers, "Location": self.web.url(f"cdn/{sha256}?Signature=topsecret")}, b""

    def listing(
        self, kind: str, repo: str, revision: str, folder: str, query: dict
    ) -> tuple[int, dict[str, str], bytes]:
        files = self.repos.get((kind, repo, revision))
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
                    found[path] = {"type": "file", "oid": git_hash(data), "size": len(data), "path": path}
                    if len(data) >= self.large:
                        sha256 = hashlib.sha256(data).hexdigest()
                        found[path]["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 130}
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
