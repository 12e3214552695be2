"""The Hugging Face hub: hf://datasets/ORG/NAME[@REVISION]/PATH, and hf://ORG/NAME[@REVISION]/PATH for models.

Requests go through this package's own HTTP reader, with its retries. The token comes from where huggingface_hub looks
for it (HF_TOKEN, `hf auth login`), the server from HF_ENDPOINT. Files are known by their content
hash (SHA-256 of large files, git's SHA-1 of small ones), so equal files have equal versions in any revision.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urljoin

from requests import Response
from requests.exceptions import RequestException

from pipeline.storage import http, retry
from pipeline.storage.entry import Entry, Stat
from pipeline.storage.errors import Broken, ChangedError, MissingError, StorageError, redact

ENDPOINT = "https://huggingface.co"

_SHAPE = re.compile(
    r"hf://(?P<kind>datasets/)?(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?",
    re.S,
)


class NoEntry(MissingError):
    """The repository and revision exist, the file or folder in it does not."""


class Place(NamedTuple):
    """A path in a revision of a repository. root: the URI up to the path, with a slash."""

    kind: str  # "dataset" or "model"
    repo: str
    revision: str
    path: str
    root: str


def parse(uri: str) -> Place:
    found = _SHAPE.fullmatch(uri)
    if not found or found["repo"].startswith(("datasets/", "spaces/")):
        raise StorageError(f"{uri}: not an address on the hub; write hf://datasets/ORG/NAME[@REVISION]/PATH")
    path = found["path"] or ""
    root = uri[: len(uri) - len(path)]
    return Place(
        "dataset" if found["kind"] else "model",
        found["repo"],
        unquote(found["revision"] or "main"),
        path,
        root if root.endswith("/") else root + "/",
    )


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def _url(uri: str) -> str:
    from huggingface_hub import hf_hub_url

    place = parse(uri)
    if not place.path or place.path.endswith("/"):
        raise StorageError(f"{uri}: names a folder, not a file; name a file")
    return hf_hub_url(place.repo, place.path, repo_type=place.kind, revision=place.revision, endpoint=endpoint())


def _headers() -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _refused(uri: str, response: Response) -> StorageError | None:
    """The hub's own reasons, which it gives in a header."""
    return _reason(uri, response.headers.get("X-Error-Code", ""), response.status_code)


def _reason(uri: str, code: str, status: int) -> StorageError | None:
    place = parse(uri)
    if code == "EntryNotFound":
        return NoEntry(f"{uri}: no such file in {place.repo} at revision {place.revision}; check the path")
    if code == "RevisionNotFound":
        return MissingError(f"{uri}: {place.repo} has no revision {place.revision!r}; check what follows the @")
    if code == "GatedRepo":
        return StorageError(
            f"{uri}: {place.repo} is gated; ask for access on its page, then set HF_TOKEN or run `hf auth login`"
        )
    if code == "RepoNotFound" or status == 401:
        return MissingError(
            f"{uri}: there is no {place.kind} {place.repo} that this user may see; check the name, "
            "and for a private one set HF_TOKEN or run `hf auth login`"
        )
    if status == 403:
        return StorageError(f"{uri}: the token may not read {place.repo}; use another HF_TOKEN")
    return None


def stat(uri: str) -> Stat:
    url, headers = _url(uri), _headers()
    try:
        response = http.request("HEAD", url, uri, headers, allow_redirects=False, refused=_refused)
        # A renamed repository redirects within the hub, and a large file to where its bytes are: stop before that.
        for _ in range(5):
            target = urljoin(url, response.headers.get("Location", ""))
            if "X-Linked-ETag" in response.headers or target == url or not target.startswith(endpoint() + "/"):
                break
            url = target
            response = http.request("HEAD", url, uri, headers, allow_redirects=False, refused=_refused)
    except Broken as broken:
        raise StorageError(f"{uri}: {broken}; {broken.fix}") from None
    etag = _etag(response)
    size = response.headers.get("X-Linked-Size") or response.headers.get("Content-Length") or ""
    if not etag or not size.isdigit():
        raise StorageError(f"{uri}: {endpoint()} does not answer like a hub (no size or ETag); check HF_ENDPOINT")
    return Stat(int(size), etag, _digest(etag))


def _etag(response: Response) -> str:
    """The content hash: of a large file the hub states it itself, before it redirects to where the bytes are."""
    for answer in (*response.history, response):
        if linked := answer.headers.get("X-Linked-ETag"):
            return linked.removeprefix("W/").strip('"')
    return response.headers.get("ETag", "").removeprefix("W/").strip('"')


def _digest(etag: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return f"sha256:{etag}"
    return f"git-sha1:{etag}" if re.fullmatch(r"[0-9a-f]{40}", etag) else ""


def find_digest(uri: str, stat: Stat) -> str:
    return ""  # `stat` already tells all that there is


def has_ranges(uri: str, stat: Stat) -> bool:
    return http.ranged(_url(uri), uri, _headers())


def open_whole(uri: str) -> tuple[Stat, None]:
    return stat(uri), None


def verify(uri: str, stat: Stat) -> None:
    """Files are kept by their content: an answer is of one version."""


def open_range(uri: str, start: int, stop: int, stat: Stat) -> http.HttpBody:
    headers = {**_headers(), "Range": f"bytes={start}-{stop - 1}"}
    response = http.request("GET", _url(uri), uri, headers, refused=_refused)
    if _etag(response) != stat.version:
        response.close()
        raise ChangedError(
            f"{uri}: changed on the hub while it was being read; name a revision (@COMMIT), or run again"
        )
    return http.body_of(response, uri)


def list_level(folder: str, name_prefix: str) -> tuple[list[str], list[Entry]]:
    place = parse(folder)
    base = len(place.path.rstrip("/")) + 1 if place.path else 0
    folders: list[str] = []
    files: list[Entry] = []
    for item in _tree(folder, place, recursive=False):
        if item["path"][base:].startswith(name_prefix):
            if item["type"] == "file":
                files.append(_entry(place, item))
            else:
                folders.append(item["path"][base:])
    return folders, files


def list_tree(folder: str) -> Iterator[Entry]:
    place = parse(folder)
    for item in _tree(folder, place, recursive=True):
        if item["type"] == "file":
            yield _entry(place, item)


def _entry(place: Place, item: dict[str, Any]) -> Entry:
    etag = item["lfs"]["oid"] if item.get("lfs") else item["oid"]
    return Entry(place.root + item["path"], Stat(item["size"], etag, _digest(etag)))


def _tree(folder: str, place: Place, recursive: bool) -> Iterator[dict[str, Any]]:
    """Files and folders under a folder; none if it is not there.

    Route and paging (Link: rel="next") are those of the hub's own client; see "list_repo_tree" in huggingface_hub.
    """
    path = quote(place.path.strip("/"))
    url = (
        f"{endpoint()}/api/{place.kind}s/{place.repo}/tree/{quote(place.revision, safe='')}{'/' + path if path else ''}"
    )
    url += f"?recursive={str(recursive).lower()}&expand=false"
    headers = _headers()
    while url:
        try:
            items, url = _page(url, folder, headers)
        except NoEntry:
            return
        yield from items


def _page(url: str, folder: str, headers: dict[str, str]) -> tuple[list[dict[str, Any]], str]:
    """One page of a listing, and the address of the next or ""."""
    items: list[dict[str, Any]] = []
    following = ""
    for attempt in range(1, retry.OPEN_ATTEMPTS + 1):
        try:
            response = http.request("GET", url, folder, headers, refused=_refused)
            items, following = response.json(), response.links.get("next", {}).get("url", "")
            break
        except Broken as broken:
            raise StorageError(f"{folder}: {broken}; {broken.fix}") from None
        except ValueError:
            raise StorageError(
                f"{folder}: {redact(endpoint())} does not answer like a hub; check HF_ENDPOINT"
            ) from None
        except RequestException as error:
            if attempt == retry.OPEN_ATTEMPTS:
                raise StorageError(f"{folder}: listing broke off ({http.cause(error)}); check the network") from None
            retry.wait(attempt)
    if following and not following.startswith(endpoint() + "/"):  # it would be sent the token
        raise StorageError(f"{folder}: its listing goes on at another host; check HF_ENDPOINT")
    return items, following
