"""Files on this machine: listing, durable atomic writes, deletion, scratch space.

A file is written under a hidden temporary name in its own folder, synced, renamed over its name, and the folder
synced: at any moment the name holds the old bytes or the new ones, whole, also after a power cut.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat as modes
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.storage.entry import Entry, Stat
from pipeline.storage.errors import StorageError, from_os_error, shown
from pipeline.storage.uri import is_local, local_path
from pipeline.storage.version import version_of, witness_of
from stages.cache import cache_root

TEMPORARY = ".tmp-"
"""Start of the names of unfinished files; the rest is random, then the final name (so its suffix is kept)."""
SCRATCH = ".scratch"
"""Folder for scratch files in a local run's folder, so that finishing one is a rename."""
NO_FILE = "no file: "
"""Start of the version of what is listed like a file and cannot be read as one; the rest says what it is."""
_DANGLING, _SPECIAL = "a link to a file that is not there", "a pipe, a socket or a device"


def _stat(status: os.stat_result) -> Stat:
    if not (modes.S_ISREG(status.st_mode) or modes.S_ISDIR(status.st_mode)):
        return Stat(0, NO_FILE + _SPECIAL)
    return Stat(status.st_size, version_of(status), witness=witness_of(status))


def stat(uri: str) -> Stat:
    path = local_path(uri)
    try:
        status = path.stat()
    except OSError as error:
        raise from_os_error(error, path, "read") from None
    if path.is_dir():
        raise from_os_error(IsADirectoryError(errno.EISDIR, ""), path, "read")
    check_file(uri, _stat(status))
    return _stat(status)


def check_file(uri: str, stat: Stat) -> None:
    """Raises StorageError for what is listed like a file and cannot be read as one."""
    if stat.version.startswith(NO_FILE):
        what = stat.version.removeprefix(NO_FILE)
        raise StorageError(f"{shown(uri)}: it is {what}; remove it, name the files beside it, or put a file in its place")


def exists(uri: str) -> bool:
    return local_path(uri).exists()


def _join(folder: str, name: str) -> str:
    return folder + name if not folder or folder.endswith("/") else f"{folder}/{name}"


def list_level(folder: str, name_prefix: str) -> tuple[list[str], list[Entry]]:
    folders, files = [], []
    for item in _scan(folder):
        if item.name.startswith(name_prefix):
            if _is_dir(item):
                folders.append(item.name)
            elif (entry := _entry(folder, item)) is not None:
                files.append(entry)
    return folders, files


def list_tree(folder: str) -> Iterator[Entry]:
    """Links to folders are followed, each folder once, so that a link upwards ends."""
    seen: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            status = Path(current).stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for item in _scan(current):
            if item.name.startswith("."):
                continue
            if _is_dir(item):
                pending.append(_join(current, item.name))
            elif (entry := _entry(current, item)) is not None:
                yield entry


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder or ".") as items:
            return list(items)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise from_os_error(error, folder, "list") from None


def _is_dir(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _entry(folder: str, item: os.DirEntry[str]) -> Entry | None:
    try:
        status = item.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise from_os_error(error, _join(folder, item.name), "read") from None
        if not item.is_symlink():  # removed since it was listed
            return None
        return Entry(_join(folder, item.name), Stat(0, NO_FILE + _DANGLING))
    return Entry(_join(folder, item.name), _stat(status))


def temporary(target: Path) -> Path:
    """A fresh hidden name in the folder of `target` (which is made), on the same file system."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, target.parent, "make") from None
    return target.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{target.name}")


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


sync_folder = sync_file  # the same call: a folder opens read-only too


def put_file(path: Path, uri: str, keep: bool) -> None:
    target = local_path(uri)
    size = path.stat().st_size if path.exists() else 0
    try:
        if not keep:
            sync_file(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.replace(target)
                sync_folder(target.parent)
                return
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
        unfinished = temporary(target)
        try:
            shutil.copyfile(path, unfinished)
            sync_file(unfinished)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_folder(target.parent)
        if not keep:
            path.unlink()
    except FileNotFoundError as error:
        raise from_os_error(error, error.filename or path, "read") from None
    except OSError as error:
        raise from_os_error(error, target, "write", size) from None


def put_bytes(data: bytes, uri: str) -> None:
    target = local_path(uri)
    unfinished = temporary(target)
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise from_os_error(error, target, "write", len(data)) from None
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def delete_many(uris: Iterable[str]) -> None:
    for uri in uris:
        path = local_path(uri)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:  # an upper "folder" of it is a file: it does not exist
            continue
        except OSError as error:
            raise from_os_error(error, path, "delete") from None


def delete_tree(folder: str) -> None:
    path = local_path(folder)
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os_error(error, error.filename or path, "delete") from None


def remove_leftovers(folder: str) -> None:
    root = local_path(folder)
    for current, folders, files in os.walk(root):
        for name in files:
            if name.startswith(TEMPORARY):
                with suppress(FileNotFoundError):
                    (Path(current) / name).unlink()
        if SCRATCH in folders:
            shutil.rmtree(Path(current) / SCRATCH, ignore_errors=True)
            folders.remove(SCRATCH)


def scratch_folder(run: str) -> str:
    """Where the tasks of a run keep unfinished files, made if missing.

    HEADRACE_SCRATCH if set; else RUN/.scratch for a local run (so that finishing a file is a rename), else the
    machine's temporary folder.
    """
    named = os.environ.get("HEADRACE_SCRATCH")
    if named:
        folder = Path(named).expanduser()
    elif is_local(run):
        folder = local_path(run) / SCRATCH
    else:
        folder = Path(tempfile.gettempdir())
    return str(_made(folder))


def cache_folder() -> Path:
    """Where fetched files are kept, made if missing."""
    return _made(cache_root() / "files")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, folder, "make") from None
    if not os.access(folder, os.W_OK):
        raise StorageError(f"{folder}: no permission to write in it; change its permissions or choose another folder")
    return folder
