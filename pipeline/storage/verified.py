"""Files that a run wrote itself, compared with the digest they were written with before a byte of them is used.

A reader cannot be left to notice damage. Of 300 single-bit flips in a Parquet file (zstd, 343 kB) 192 were read as other text.
With checksums of pages, written and verified, 12 were not noticed; of 300 flips in the footer 2 were read as other text, and
one ended the process. XXH3-128 over the whole file notices all of them, before the file is parsed.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.storage.digest import CHUNK, Check
from pipeline.storage.errors import DamagedError, from_os_error, shown
from pipeline.storage.random_access import READ_AHEAD_FIRST
from pipeline.storage.stream import open_stream
from pipeline.storage.uri import is_local, local_path


def open_verified(uri: str | Path, digest: str, scratch: str | Path | None = None) -> BinaryIO:
    """Opens a file for reading at any place, once all of its bytes are found to be those of `digest` (see `file_digest`).

    A remote file is copied to a nameless file in `scratch` (default: the temporary folder), which goes when it is closed.
    Raises DamagedError where the bytes are others; MissingError, StorageError as everywhere.
    """
    text = str(uri)
    file = _local_file(local_path(text)) if is_local(text) else _copy_of(text, scratch)
    try:
        verify_file(file, text, digest)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, io.BufferedReader(file, READ_AHEAD_FIRST))


def _local_file(path: Path) -> io.FileIO:
    try:
        return io.FileIO(path, "rb")
    except OSError as error:
        raise from_os_error(error, path, "read") from None


def _copy_of(uri: str, scratch: str | Path | None) -> io.FileIO:
    """A nameless local file with the content of a remote one."""
    descriptor, name = tempfile.mkstemp(dir=scratch)
    Path(name).unlink()
    file = io.FileIO(descriptor, "rb")
    try:
        with open_stream(uri) as source, os.fdopen(os.dup(descriptor), "wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
        file.seek(0)
    except OSError as error:
        file.close()
        raise from_os_error(error, name, "write") from None
    except BaseException:
        file.close()
        raise
    return file


def verify_file(file: io.FileIO, uri: str, digest: str) -> None:
    """DamagedError where the bytes from here to the end are not those of `digest`. file: of `uri`, unbuffered."""
    check = Check(digest, os.fstat(file.fileno()).st_size)
    buffer = memoryview(bytearray(CHUNK))
    try:
        while count := file.readinto(buffer):
            check.update(buffer[:count])
    except OSError as error:
        raise from_os_error(error, uri, "read") from None
    if difference := check.mismatch():
        raise DamagedError(
            f"{shown(uri)}: damaged since it was written: {difference}; run again with --verify, which makes it anew",
            uri,
        )


def verify_path(path: Path, digest: str, uri: str = "") -> None:
    """`verify_file` for a local path; uri: of what it is a copy."""
    with _local_file(path) as file:
        verify_file(file, uri or str(path), digest)
