"""Writes: a file or bytes appear at a URI whole or not at all."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.storage import local
from pipeline.storage.backends import backend, writable
from pipeline.storage.entry import Stat
from pipeline.storage.errors import from_os_error, no_space
from pipeline.storage.stream import BUFFER, open_stream
from pipeline.storage.uri import is_local, local_path, name_of, scheme


def stat(uri: str | Path) -> Stat:
    """Size and version of one file; MissingError if it is not there."""
    return backend(str(uri)).stat(str(uri))


def publish(local_file: str | Path, uri: str | Path, *, keep: bool = False) -> None:
    """Moves a finished local file to `uri`, atomically, over what is there; its bytes are checked on arrival.

    keep: leave the local file where it is.
    """
    path = Path(local_file)
    writable(str(uri)).put_file(path, str(uri), keep)


def write_bytes(uri: str | Path, data: bytes) -> None:
    """Writes a small file, atomically, over what is there."""
    writable(str(uri)).put_bytes(data, str(uri))


@contextmanager
def open_output(uri: str | Path, scratch: str | Path | None = None) -> Iterator[Path]:
    """A local path to write a file at; on a clean exit the file appears, whole, at `uri`, on an error it is removed.

    For a local URI the path lies in the target's folder, for a remote one in `scratch` (default: the temporary
    folder). Its name ends like that of `uri`.
    """
    text = str(uri)
    storage = writable(text)
    if is_local(text):
        unfinished = local.temporary(local_path(text))
    else:
        folder = Path(scratch) if scratch is not None else Path(tempfile.gettempdir())
        unfinished = local.temporary(folder / name_of(text))
    try:
        try:
            yield unfinished
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_space(unfinished.parent, 0, text) from None
            raise
        storage.put_file(unfinished, text, keep=False)
    finally:
        unfinished.unlink(missing_ok=True)


def copy_to(uri: str | Path, path: str | Path) -> None:
    """Copies the file at `uri` to a local path, atomically, checked against its checksum where there is one."""
    target = Path(path)
    unfinished = local.temporary(target)
    try:
        with open_stream(uri) as source, unfinished.open("wb") as file:
            shutil.copyfileobj(source, file, BUFFER)
        unfinished.replace(target)
    except OSError as error:
        raise from_os_error(error, target, "write") from None
    finally:
        unfinished.unlink(missing_ok=True)


def delete(uri: str | Path) -> None:
    """Deletes one file; no error if it is not there."""
    delete_many([uri])


def delete_many(uris: Iterable[str | Path]) -> None:
    """Deletes files, in as few requests as the storage allows; those that are not there are passed over."""
    kinds: dict[str, list[str]] = {}
    for uri in uris:
        kinds.setdefault(scheme(str(uri)), []).append(str(uri))
    for group in kinds.values():
        writable(group[0]).delete_many(group)


def delete_tree(folder: str | Path) -> None:
    """Deletes a folder with all that lies in it, hidden names too; no error if it is not there."""
    writable(str(folder)).delete_tree(str(folder))


def clear_scratch(run: str | Path) -> None:
    """Removes what killed writers left in a run's folder: temporary files, scratch, unfinished uploads to S3.

    Call it only while the run's lock is held, before any task starts: it would take the files of running writers.
    """
    writable(str(run)).remove_leftovers(str(run))
