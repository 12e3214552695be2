"""Google Cloud Storage (gs://BUCKET/KEY) and Azure Blob Storage (az://CONTAINER/KEY), through obstore.

obstore (object_store, the storage library of Arrow's Rust project) makes and signs the requests, and takes settings and
credentials from where each cloud's tools do: GOOGLE_APPLICATION_CREDENTIALS or the machine's service account;
AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, a SAS token, a managed or workload identity. Neither cloud's
answers tell a checksum through it, so uploads keep the file's SHA-256 beside it, and downloads are held to that.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from pipeline.storage import retry
from pipeline.storage.cloud_errors import broken, from_cloud_error, is_busy
from pipeline.storage.entry import Entry, Stat
from pipeline.storage.errors import Broken, MissingError, StorageError, TransientError, from_os_error, shown
from pipeline.storage.retry import OPEN_ATTEMPTS
from pipeline.storage.uri import scheme

try:
    import obstore
    from obstore import store as stores
except ImportError:
    raise StorageError(
        'gs:// and az:// are read and written by obstore, which is not installed: pip install "headrace[clouds]"'
    ) from None

from pipeline.storage.cloud_wait import asked_for  # which needs obstore

T = TypeVar("T")
SHA256 = "headrace_sha256"
"""Metadata key under which uploads of this package keep the file's SHA-256; a name that Azure allows."""
PART_BYTES = 16 << 20
MOST_PARTS = 10_000
UPLOADERS = 4
CHUNK_BYTES = 1 << 20
DELETE_BATCH = 256
ENDPOINTS = {"az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"), "gs": ("GOOGLE_BASE_URL",)}
_TIMES = {
    "timeout": timedelta(hours=12),
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=60),
}
_SOON = {"timeout": timedelta(seconds=8)}
SOON_ATTEMPTS = 2

_lock = threading.Lock()
_stores: dict[tuple[Any, ...], Any] = {}


def store_of(uri: str, soon: bool = False) -> tuple[Any, str]:
    """The store of this process that a URI's bucket is in, and the key there. soon: for requests that wait seconds at most."""
    kind = scheme(uri)
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket or "@" in bucket:
        place = (
            "az://CONTAINER/KEY, and the account in AZURE_STORAGE_ACCOUNT_NAME" if kind == "az" else "gs://BUCKET/KEY"
        )
        raise StorageError(f"{shown(uri)}: names no {'container' if kind == 'az' else 'bucket'}; write {place}")
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith(("AZURE_", "GOOGLE_")))
    known = (os.getpid(), kind, bucket, soon, hash(tuple(settings)))
    with _lock:
        if known not in _stores:
            _stores[known] = _make(uri, kind, bucket, soon)
        return _stores[known], key


def _make(uri: str, kind: str, bucket: str, soon: bool) -> Any:
    plain = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS[kind])
    options: dict[str, Any] = {
        "client_options": {**(_SOON if soon else _TIMES), "allow_http": plain},
        "retry_config": {
            "max_retries": SOON_ATTEMPTS if soon else OPEN_ATTEMPTS,
            "retry_timeout": timedelta(seconds=20 if soon else 120),
        },
    }
    try:
        if kind == "az":
            return stores.AzureStore(bucket, **options)
        return stores.GCSStore(bucket, **options)
    except Exception as error:
        raise from_cloud_error(error, uri, "reach") from None


def _file(uri: str) -> tuple[Any, str]:
    store, key = store_of(uri)
    if not key or key.endswith("/"):
        raise StorageError(f"{uri}: names a folder, not an object; name an object")
    return store, key


def _asking(uri: str, action: str, call: Callable[[], T]) -> T:
    """What a call of obstore returns, where need be once a busy server's time to wait is over. Raises StorageError."""
    try:
        return left_alone(uri, action, call)
    except Exception as error:
        raise from_cloud_error(error, uri, action) from None


def left_alone(uri: str, action: str, call: Callable[[], T], patience: float | None = None) -> T:
    """What a call of obstore returns. Where it gave up on a busy server, it is called again once that asked to wait is over.

    patience: seconds to wait in all, by default ASKED_IN_ALL. Raises TransientError where the server asks for longer, which
    tells for how long; else what obstore raised.
    """
    waited, most = 0.0, retry.ASKED_IN_ALL if patience is None else patience
    while True:
        try:
            return call()
        except Exception as error:
            pause = asked_for(*store_of(uri), uri) if is_busy(error) else 0.0
            if not pause:
                raise
            if waited + pause > most:
                raise TransientError(f"{from_cloud_error(error, uri, action)}", pause) from None
            waited += max(pause, 1.0)
        retry.wait(1, pause)


def _stat(meta: Any, attributes: Any = None) -> Stat:
    own = (attributes or {}).get(SHA256)
    return Stat(meta["size"], (meta["e_tag"] or "").strip('"'), f"sha256:{own}" if own else "")


def stat(uri: str) -> Stat:
    store, key = _file(uri)
    return _stat(_asking(uri, "read", lambda: obstore.head(store, key)))


def find_digest(uri: str, stat: Stat) -> str:
    """The SHA-256 that an upload of this package kept beside an object; "" for others'."""
    store, key = _file(uri)
    options: Any = {"head": True, "if_match": f'"{stat.version}"'}
    answer = _asking(uri, "read", lambda: obstore.get(store, key, options=options))
    return _stat(answer.meta, answer.attributes).digest


def _entries(uri: str, found: Iterable[Any]) -> Iterator[Entry]:
    root = "/".join(uri.split("/", 3)[:3])
    for meta in found:
        yield Entry(f"{root}/{meta['path']}", _stat(meta))


def list_level(folder: str, name_prefix: str) -> tuple[list[str], list[Entry]]:
    store, key = store_of(folder)
    answer = _asking(folder, "list", lambda: obstore.list_with_delimiter(store, key.rstrip("/") or None))
    folders = [path.rstrip("/").rpartition("/")[2] for path in answer["common_prefixes"]]
    files = [meta for meta in answer["objects"] if meta["path"].rpartition("/")[2].startswith(name_prefix)]
    return [name for name in folders if name.startswith(name_prefix)], list(_entries(folder, files))


def list_tree(folder: str) -> Iterator[Entry]:
    store, key = store_of(folder)
    pages: Iterator[Any] | None = None
    last: str | None = None

    def page() -> Any:
        """The next page of the listing; after an error it goes on behind the last object that was told."""
        nonlocal pages
        try:
            pages = pages or iter(obstore.list(store, key.rstrip("/") or None, offset=last))
            return next(pages, ())
        except Exception:
            pages = None
            raise

    while found := _asking(folder, "list", page):
        last = found[-1]["path"]
        yield from _entries(folder, found)


class CloudBody:
    """The body of one GET."""

    def __init__(self, answer: Any) -> None:
        self.start = answer.range[0]
        self._left, self._chunks = memoryview(b""), iter(answer.stream(min_chunk_size=CHUNK_BYTES))

    def read(self, size: int, /) -> bytes:
        if not self._left:
            try:
                self._left = memoryview(bytes(next(self._chunks, b"")))
            except Exception as error:
                raise broken(error) from None
        data, self._left = self._left[:size], self._left[size:]
        return bytes(data)

    def close(self) -> None:
        self._left, self._chunks = memoryview(b""), iter(())


def has_ranges(uri: str, stat: Stat) -> bool:
    return True


def open_whole(uri: str) -> tuple[Stat, CloudBody]:
    """One GET without a condition: its ETag and its bytes are of one version, however often the object is rewritten."""
    store, key = _file(uri)
    answer = _asking(uri, "read", lambda: obstore.get(store, key))
    return _stat(answer.meta, answer.attributes), CloudBody(answer)


def verify(uri: str, stat: Stat) -> None:
    """Each GET is answered from one version, whose ETag was asked for."""


def open_range(uri: str, start: int, stop: int, stat: Stat) -> CloudBody:
    store, key = _file(uri)
    options: Any = {"range": (start, stop), "if_match": f'"{stat.version}"'}
    try:
        return CloudBody(_asking(uri, "read", lambda: obstore.get(store, key, options=options)))
    except TransientError as error:
        raise Broken(f"{error}".removeprefix(f"{shown(uri)}: "), "try again later", error.asked) from None


def put_file(path: Path, uri: str, keep: bool) -> None:
    store, key = _file(uri)
    try:
        with path.open("rb") as file:
            size, sha256 = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise from_os_error(error, path, "read") from None
    _put(uri, store, key, path if size > PART_BYTES else path.read_bytes(), size, sha256)
    if not keep:
        path.unlink()


def put_bytes(data: bytes, uri: str) -> None:
    store, key = _file(uri)
    _put(uri, store, key, data, len(data), hashlib.sha256(data).hexdigest())


def _put(uri: str, store: Any, key: str, content: Path | bytes, size: int, sha256: str) -> None:
    chunk = max(PART_BYTES, -(-size // MOST_PARTS))
    put = {"attributes": {SHA256: sha256}, "chunk_size": chunk, "max_concurrency": UPLOADERS}
    _asking(uri, "write", lambda: obstore.put(store, key, content, **put))
    if size > PART_BYTES and (there := _asking(uri, "write", lambda: obstore.head(store, key))["size"]) != size:
        raise TransientError(f"{uri}: arrived damaged: {there:,} bytes, not {size:,}; run again")


def delete_many(uris: Iterable[str]) -> None:
    buckets: dict[str, list[str]] = {}
    for uri in uris:
        _file(uri)
        buckets.setdefault(uri.split("/", 3)[2], []).append(uri)
    for found in buckets.values():
        for i in range(0, len(found), DELETE_BATCH):
            _delete(found[i : i + DELETE_BATCH])


def _delete(uris: list[str]) -> None:
    """Delete objects of one bucket. One that is not there ends a request for many, so then each is asked for by itself."""
    store, _ = store_of(uris[0])
    try:
        _asking(uris[0], "delete", lambda: obstore.delete(store, [store_of(uri)[1] for uri in uris]))
    except MissingError:
        if len(uris) > 1:
            for uri in uris:
                _delete([uri])


def delete_tree(folder: str) -> None:
    with suppress(MissingError):
        delete_many([entry.uri for entry in list_tree(folder)])


def remove_leftovers(folder: str) -> None:
    """Nothing to do: Azure lets go of unused blocks after a week; on Google's storage a lifecycle rule does."""
