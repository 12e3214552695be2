"""The Hugging Face hub: hf://datasets/ORG/NAME[@REVISION]/PATH, and hf://ORG/NAME[@REVISION]/PATH for models.

Listings, tokens (HF_TOKEN, `hf auth login`) and offline mode (HF_HUB_OFFLINE: what `hf download` left in its cache is read,
module hub_cache) are huggingface_hub's; the server is HF_ENDPOINT. Bytes go through this package's own HTTP reader, in ranges,
as they are read: no file is laid on disk first. Files are known by their content hash (SHA-256 of large files, git's
SHA-1 of small ones), so equal files have equal versions in any revision.

The hub counts requests that resolve a file, and allows some thousands in five minutes. A listing tells sizes and hashes, so
a file that was listed costs one: its answer leads to where the bytes are, and further ranges are asked for there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urljoin

from requests import Response

from pipeline.storage import http, hub_cache, pace
from pipeline.storage.entry import Entry, Stat
from pipeline.storage.errors import Broken, ChangedError, MissingError, StorageError, TransientError, redact

ENDPOINT = "https://huggingface.co"
TARGET_SECONDS = 1800.0
"""How long the address of a file's bytes is used; the hub signs them for an hour."""
MOST_TARGETS = 1000

_targets: dict[tuple[str, str, str], tuple[str, float]] = {}  # (server, URI, version) -> signed address, until when; only here
_commits: dict[str, str] = {}  # repository with its revision, as URIs name it -> the commit that was listed last

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
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers(library_name="headrace")


def _get(method: str, url: str, uri: str, more: dict[str, str] | None = None) -> tuple[Response, str]:
    """The hub's answer for a file, and the address elsewhere that it leads to, or ""; a renamed repository is followed."""
    headers = {**_headers(), **(more or {})}
    for _ in range(5):
        pace.await_turn("hub")
        response = http.request(method, url, uri, headers, allow_redirects=False, refused=_refused)
        pace.note("hub", response.headers)
        target = urljoin(url, response.headers.get("Location", ""))
        if target == url or "X-Linked-ETag" in response.headers or not target.startswith(endpoint() + "/"):
            return response, "" if target == url else target
        response.close()
        url = target
    raise StorageError(f"{uri}: {redact(endpoint())} leads in a circle; check HF_ENDPOINT")


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
    if hub_cache.is_offline():
        return hub_cache.stat(parse(uri), uri)
    url = _url(uri)
    try:
        response, _ = _get("HEAD", url, uri)
    except Broken as broken:
        raise broken.given_up(uri) from None
    if commit := response.headers.get("X-Repo-Commit"):
        _commits[parse(uri).root.rstrip("/")] = commit
    etag = _etag(response)
    size = response.headers.get("X-Linked-Size") or response.headers.get("Content-Length") or ""
    if not etag or not size.isdigit():
        raise StorageError(f"{uri}: {endpoint()} does not answer like a hub (no size or ETag); check HF_ENDPOINT")
    return Stat(int(size), etag, hub_cache.digest(etag))


def _etag(response: Response) -> str:
    """The content hash: of a large file the hub states it itself, before it redirects to where the bytes are."""
    linked = response.headers.get("X-Linked-ETag") or response.headers.get("ETag", "")
    return linked.removeprefix("W/").strip('"')


def known(size: int, version: str) -> Stat:
    """All that there is to know of a file that was listed: no request is needed before its bytes are asked for."""
    return Stat(size, version, hub_cache.digest(version))


def find_digest(uri: str, stat: Stat) -> str:
    return ""  # `stat` already tells all that there is


def has_ranges(uri: str, stat: Stat) -> bool:
    return True


def open_whole(uri: str) -> tuple[Stat, None]:
    return stat(uri), None


def verify(uri: str, stat: Stat) -> None:
    """Files are kept by their content: an answer is of one version."""


def open_range(uri: str, start: int, stop: int, stat: Stat) -> http.HttpBody | hub_cache.FileBody:
    if hub_cache.is_offline():
        return hub_cache.open_range(parse(uri), uri, start, stat)
    span = {"Range": f"bytes={start}-{stop - 1}"}
    key = (endpoint(), uri, stat.version)
    target, until = _targets.get(key, ("", 0.0))
    if target and time.monotonic() < until:
        try:
            return http.body_of(http.request("GET", target, uri, span), uri)
        except (StorageError, Broken):
            _targets.pop(key, None)  # it lapsed, or is out of reach: the hub gives another
    response, target = _resolve(uri, span, stat)
    if not target:
        return http.body_of(response, uri)
    response.close()
    response = http.request("GET", target, uri, span)
    if len(_targets) >= MOST_TARGETS:
        _targets.clear()
    _targets[key] = (target, time.monotonic() + TARGET_SECONDS)
    return http.body_of(response, uri)


def _resolve(uri: str, span: dict[str, str], stat: Stat) -> tuple[Response, str]:
    """The hub's answer to a request for a file's bytes: they are in it, or lie at the address that comes with it."""
    response, target = _get("GET", _url(uri), uri, span)
    if _etag(response) != stat.version:
        response.close()
        raise ChangedError(
            f"{uri}: changed on the hub while it was being read; name a revision (@COMMIT), or start the run again"
        )
    return response, target


def list_level(folder: str, name_prefix: str) -> tuple[list[str], list[Entry]]:
    place = parse(folder)
    base = len(place.path.rstrip("/")) + 1 if place.path else 0
    folders: list[str] = []
    files: list[Entry] = []
    for path, stat in _tree(folder, place, recursive=False):
        if path[base:].startswith(name_prefix):
            if stat is not None:
                files.append(Entry(place.root + path, stat))
            else:
                folders.append(path[base:])
    return folders, files


def list_tree(folder: str) -> Iterator[Entry]:
    place = parse(folder)
    for path, stat in _tree(folder, place, recursive=True):
        if stat is not None:
            yield Entry(place.root + path, stat)


def commits(uris: Iterable[str]) -> dict[str, str]:
    """The commits at which files were found in this process, by the address of a repository as these URIs or patterns have it."""
    roots = {parse(uri).root.rstrip("/") for uri in uris}
    return {root: _commits[root] for root in sorted(roots) if root in _commits}


def _tree(folder: str, place: Place, recursive: bool) -> Iterator[tuple[str, Stat | None]]:
    """Paths under a folder, with what is known of a file (None: a folder), of one commit; none if it is not there."""
    if hub_cache.is_offline():
        yield from hub_cache.tree(place, folder, recursive)
        return
    from huggingface_hub import HfApi, RepoFile
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    transport: Any = HfHubHTTPError.__mro__[1]  # the error of whichever HTTP library it was built on
    commit = _commit(folder, place)
    api = HfApi(endpoint=endpoint(), library_name="headrace")
    path = place.path.strip("/") or None
    try:
        for item in api.list_repo_tree(place.repo, path, recursive=recursive, revision=commit, repo_type=place.kind):
            if isinstance(item, RepoFile):
                yield item.path, known(item.size, item.lfs.sha256 if item.lfs else item.blob_id)
            else:
                yield item.path, None
    except EntryNotFoundError:
        return
    except HfHubHTTPError as error:
        code, status = error.response.headers.get("X-Error-Code", ""), error.response.status_code
        refused = _reason(folder, code, status)
        raise refused or TransientError(f"{folder}: the hub answers {status} to a listing; try again later") from None
    except (transport, ValueError) as error:
        raise TransientError(f"{folder}: listing broke off ({http.cause(error)}); check the network and HF_ENDPOINT") from None


def _commit(folder: str, place: Place) -> str:
    """The commit that a revision stands for now."""
    url = f"{endpoint()}/api/{place.kind}s/{place.repo}/revision/{quote(place.revision, safe='')}?expand=sha"
    try:
        with http.request("GET", url, folder, _headers(), refused=_refused) as response:
            commit = response.json()["sha"]
    except Broken as broken:
        raise broken.given_up(folder) from None
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{folder}: {redact(endpoint())} does not answer like a hub; check HF_ENDPOINT") from None
    _commits[place.root.rstrip("/")] = commit
    return commit
