"""A cache of remote files on the local disk, of limited size, shared by all processes of a machine.

FOLDER/<hash of URI and version>/ holds one file under its own name, and beside it `lock`: locked exclusively by the
process that downloads the file, shared by those that use it, with the time of last use as its modification time.
Room is made under FOLDER/lock, by removing the files used longest ago that nobody has locked.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from pipeline.storage import flock
from pipeline.storage.backends import remote
from pipeline.storage.digest import file_mismatch
from pipeline.storage.download import CONNECTIONS, PART_BYTES, download, reserved_bytes
from pipeline.storage.entry import Remote, Stat
from pipeline.storage.errors import StorageError, from_os_error, no_space, shown
from pipeline.storage.local import sync_folder
from pipeline.storage.public import public_name
from pipeline.storage.stream import stat_listed
from pipeline.storage.uri import is_local, local_path, name_of
from pipeline.storage.version import check_listed

LOCK = "lock"
PARTIAL = ".partial"
JOURNAL = ".parts"


class Cache:
    """A folder and its limit in bytes, and the files of it that this object's user has in use.

    A file that `fetch` returned is in use, and never removed, until `release(path)`, `close()`, the end of the `with`
    block, or the end of the object or the process. Sent to another process, it goes as folder and limit alone.
    """

    def __init__(
        self, folder: str | Path, max_bytes: int, *, part_bytes: int = PART_BYTES, connections: int = CONNECTIONS
    ) -> None:
        """max_bytes: of all files together; those being downloaded count in full.

        part_bytes: size of the parts that a download asks for. connections: how many of them at once.
        """
        self.folder = Path(folder)
        self.max_bytes = int(max_bytes)
        self.part_bytes, self.connections = part_bytes, connections
        self._held: dict[Path, list[int]] = {}
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple:
        return (_rebuild, (self.folder, self.max_bytes, self.part_bytes, self.connections))

    def release(self, path: Path) -> None:
        """The file is no longer in use here; as often as it was fetched."""
        with self._guard:
            descriptors = self._held.get(path)
            if descriptors:
                flock.release(descriptors.pop())
                if not descriptors:
                    del self._held[path]

    def close(self) -> None:
        """No file is in use here any more."""
        with self._guard:
            for descriptors in self._held.values():
                for descriptor in descriptors:
                    flock.release(descriptor)
            self._held.clear()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_guard"):
            self.close()

    def _hold(self, path: Path, descriptor: int) -> Path:
        os.utime(descriptor)
        with self._guard:
            self._held.setdefault(path, []).append(descriptor)
        return path


def _rebuild(folder: Path, max_bytes: int, part_bytes: int, connections: int) -> Cache:
    return Cache(folder, max_bytes, part_bytes=part_bytes, connections=connections)


def fetch(uri: str | Path, cache: Cache, *, version: str | None = None) -> Path:
    """A local path with the whole, checked content of `uri`: from the cache, or downloaded into it.

    Local URIs are returned as they are. version: as for open_stream; a file that is in the cache then needs no request at
    all, and of a local one it is compared once, here. Processes that want the same file at once wait for one download. A
    download that was interrupted goes on where it stopped. StorageError also where the cache or the disk has no room for
    the file.
    """
    text = str(uri)
    if is_local(text):
        path = local_path(text)
        try:
            status = path.stat()
        except OSError as error:
            raise from_os_error(error, path, "read") from None
        if version is not None:
            check_listed(path, status, version)
        return path
    storage = remote(text)
    known = stat_listed(storage, text, None) if version is None else None
    wanted = known.version if known else version
    folder = cache.folder / hashlib.sha256(f"{public_name(text)}\0{wanted}".encode()).hexdigest()[:32]
    path = folder / _safe_name(text)
    while True:
        descriptor = _lock(folder / LOCK, exclusive=False)
        if path.exists():
            return cache._hold(path, descriptor)
        flock.release(descriptor)
        descriptor = _lock(folder / LOCK, exclusive=True)
        try:
            if not path.exists():
                known = known or stat_listed(storage, text, version)
                if not known.digest:
                    known = replace(known, digest=storage.find_digest(text, known))
                _download(storage, text, known, cache, path)
            flock.share(descriptor)
            if path.exists():
                return cache._hold(path, descriptor)
        except BaseException:
            flock.release(descriptor)
            raise
        flock.release(descriptor)


@contextmanager
def pinned(uri: str | Path, cache: Cache, *, version: str | None = None) -> Iterator[Path]:
    """`fetch` for the length of a `with` block: after it, the file may be removed when room is needed."""
    path = fetch(uri, cache, version=version)
    try:
        yield path
    finally:
        cache.release(path)


def _safe_name(uri: str) -> str:
    """The file's own name (readers go by its suffix), shortened from the front if it is longer than names may be."""
    name = name_of(uri).encode()[-200:].decode(errors="ignore").lstrip(".") or "file"
    return "_" + name if name in (LOCK,) else name


def _lock(path: Path, exclusive: bool) -> int:
    try:
        descriptor = flock.acquire(path, exclusive=exclusive)
    except OSError as error:
        raise from_os_error(error, path, "write") from None
    assert descriptor is not None  # it waits
    return descriptor


def _download(storage: Remote, uri: str, stat: Stat, cache: Cache, path: Path) -> None:
    partial, journal = path.with_name(path.name + PARTIAL), path.with_name(path.name + JOURNAL)
    _reserve(cache, uri, stat, path.parent, journal)
    for attempt in (1, 2):
        download(storage, uri, stat, partial, journal, cache.part_bytes, cache.connections)
        difference = file_mismatch(partial, stat.digest) if stat.digest else ""
        if not difference:
            break
        # The partial file may be an old one that a power cut damaged: once more, from nothing.
        partial.unlink()
        journal.unlink()
        if attempt == 2:
            raise StorageError(
                f"{shown(uri)}: downloaded twice, and wrong both times: {difference}; "
                "the stored file or the way to it is damaged"
            )
    partial.replace(path)
    journal.unlink()
    sync_folder(path.parent)


def _reserve(cache: Cache, uri: str, stat: Stat, entry: Path, journal: Path) -> None:
    """Makes room for a file of stat.size bytes in the folder `entry`, and marks it as taken by writing the journal."""
    descriptor = _lock(cache.folder / LOCK, exclusive=True)
    try:
        _make_room(cache, uri, stat.size, entry)
        if reserved_bytes(journal) != stat.size:
            journal.write_text(f'{{"size": {stat.size}}}\n')
    except OSError as error:
        raise from_os_error(error, journal, "write", stat.size) from None
    finally:
        flock.release(descriptor)


class _Kept(NamedTuple):
    """One entry of the cache. bytes: the size it has or will have; missing: how many of them are not yet on disk."""

    used: float
    folder: Path
    bytes: int
    missing: int


def _make_room(cache: Cache, uri: str, needed: int, entry: Path) -> None:
    if needed > cache.max_bytes:
        raise StorageError(
            f"{shown(uri)}: its {needed:,} bytes are more than the cache {cache.folder} may hold "
            f"({cache.max_bytes:,} bytes); raise the cache's limit"
        )
    kept = sorted(_kept(folder) for folder in cache.folder.iterdir() if folder.is_dir() and folder != entry)
    total = sum(item.bytes for item in kept)
    here = _kept(entry)
    missing = needed - (here.bytes - here.missing)
    for item in kept:
        pending = sum(other.missing for other in kept)
        fits = total + needed <= cache.max_bytes
        if fits and shutil.disk_usage(cache.folder).free - pending >= missing:
            return
        if _evict(item.folder):
            total -= item.bytes
            kept = [other for other in kept if other is not item]
    if total + needed > cache.max_bytes:
        raise StorageError(
            f"{cache.folder}: the cache is full: {needed:,} bytes needed for {shown(uri)}, and the files in use take "
            f"{total:,} of {cache.max_bytes:,} bytes; raise the cache's limit or use fewer workers"
        )
    if shutil.disk_usage(cache.folder).free - sum(other.missing for other in kept) < missing:
        raise no_space(cache.folder, missing, uri)


def _kept(folder: Path) -> _Kept:
    used, size, on_disk = 0.0, 0, 0
    for file in _files(folder):
        try:
            status = file.stat()
        except FileNotFoundError:  # its download has just been finished and renamed
            continue
        if file.name == LOCK:
            used = status.st_mtime
        elif file.name.endswith(JOURNAL):
            size = max(size, reserved_bytes(file))
        else:
            size = max(size, status.st_size)
            on_disk += status.st_blocks * 512
    return _Kept(used, folder, size, max(size - on_disk, 0))


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _evict(folder: Path) -> bool:
    """Removes one entry unless it is in use."""
    descriptor = flock.acquire(folder / LOCK, exclusive=True, wait=False)
    if descriptor is None:
        return False
    try:
        for file in _files(folder):
            if file.name != LOCK:
                file.unlink(missing_ok=True)
        (folder / LOCK).unlink()
        with suppress(OSError):  # another process has just begun the same entry anew
            folder.rmdir()
    except OSError as error:
        raise from_os_error(error, folder, "delete") from None
    finally:
        flock.release(descriptor)
    return True
