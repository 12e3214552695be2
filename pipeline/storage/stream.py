"""A remote file as a sequential stream that outlives broken connections.

When a connection breaks, reading goes on at the byte where it broke, in a request that is bound to the version that
was read so far: a file that changed meanwhile is an error, never a splice of two. A whole file whose storage states
a checksum is checked when its end is reached.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.storage import retry
from pipeline.storage.backends import remote
from pipeline.storage.digest import Check
from pipeline.storage.entry import Body, Remote, Stat
from pipeline.storage.errors import Broken, ChangedError, TransientError, from_os_error, shown
from pipeline.storage.uri import is_local, local_path
from pipeline.storage.version import WatchedFile

BUFFER = 256 << 10
FIRST_ATTEMPTS = 2
"""Attempts at the first byte; each already holds the retries of the request itself."""


class ResumingStream(io.RawIOBase):
    """Bytes [start, stop) of one version of a remote file. Not thread-safe."""

    def __init__(
        self,
        storage: Remote,
        uri: str,
        stat: Stat,
        start: int,
        stop: int,
        body: Body | None = None,
        listed: bool = False,
    ) -> None:
        """body: of an answer that begins at `start`, if there is one already.

        listed: the version was asked for, so at the end the storage is asked whether it still is that one.
        """
        self._storage, self._uri, self._stat, self._listed = storage, uri, stat, listed
        self._position, self._stop = start, stop
        self._body = body
        self._failures, self._received = 0, 0
        whole = start == 0 and stop == stat.size
        self._check = Check(stat.digest, stat.size) if whole and stat.digest else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._stop - self._position)
        if wanted <= 0:
            self._finish()
            return 0
        data = self.read_some(wanted)
        buffer[: len(data)] = data
        return len(data)

    def read_some(self, size: int) -> bytes:
        """Between 1 and `size` bytes, which must not reach over the end."""
        while True:
            try:
                if self._body is None:
                    self._body = self._open()
                data = self._body.read(size)
                if not data:
                    raise Broken("the connection was closed early")
            except Broken as broken:
                self._drop()
                self._failures += 1
                if not self._received and self._failures >= FIRST_ATTEMPTS:
                    raise broken.given_up(self._uri) from None
                if self._failures >= retry.PATIENCE:
                    raise TransientError(
                        f"{shown(self._uri)}: reading broke off at byte {self._position:,} of {self._stat.size:,} and "
                        f"could not be continued: {broken}; {broken.fix}",
                        broken.asked,
                    ) from None
                retry.wait(self._failures)
                continue
            self._failures = 0
            self._received += len(data)
            self._position += len(data)
            if self._check:
                self._check.update(data)
            return data

    def _open(self) -> Body:
        body = self._storage.open_range(self._uri, self._position, self._stop, self._stat)
        ahead = self._position - body.start
        try:
            while ahead > 0:  # a server without ranges starts over: pass what is already read
                skipped = body.read(min(ahead, BUFFER))
                if not skipped:
                    raise Broken("the connection was closed early")
                ahead -= len(skipped)
        except BaseException:
            body.close()
            raise
        return body

    def _finish(self) -> None:
        self._drop()
        check, self._check = self._check, None
        if check and (difference := check.mismatch()):
            raise TransientError(
                f"{shown(self._uri)}: was damaged on its way: {difference}; run again, and if it comes back, "
                "upload the file anew"
            )
        if self._listed:
            self._listed = False
            self._storage.verify(self._uri, self._stat)

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()

    def close(self) -> None:
        self._drop()
        super().close()


class LocalRange(io.RawIOBase):
    """Bytes [start, stop) of a local file, which is closed with it."""

    def __init__(self, file: io.FileIO, start: int, stop: int) -> None:
        self._file = file
        self._file.seek(start)
        self._left = max(stop - start, 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = self._file.readinto(memoryview(buffer)[: self._left]) or 0
        self._left -= count
        return count

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            super().close()


def open_stream(
    uri: str | Path, offset: int = 0, length: int | None = None, *, version: str | None = None, stat: Stat | None = None
) -> BinaryIO:
    """Opens a file for reading from front to back, from byte `offset`, at most `length` bytes.

    version: of the file as it was listed (`Entry.witness`, or `Entry.version`). Then only that very version is read:
    ChangedError at the opening where the file is another, between requests, and at the end, or at the closing of a local
    file, where it was written or replaced meanwhile. Without it, one version is read, whichever is there now.
    stat: all that is known of the file; it stands for the version, and saves a remote storage a request.
    MissingError, StorageError as everywhere.
    """
    text = str(uri)
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"offset and length must not be negative: {offset}, {length}")
    if is_local(text):
        file = open_local(text, version if stat is None else stat.witness)
        size = os.fstat(file.fileno()).st_size
        raw: io.RawIOBase = LocalRange(file, offset, size if length is None else min(size, offset + length))
    else:
        storage = remote(text)
        known = stat or stat_listed(storage, text, version)
        stop = known.size if length is None else min(known.size, offset + length)
        raw = ResumingStream(storage, text, known, min(offset, stop), stop, listed=version is not None)
    return cast(BinaryIO, io.BufferedReader(raw, BUFFER))


def open_local(uri: str, version: str | None) -> io.FileIO:
    """A local file; with a version, watched until it is closed. Folders and missing files are StorageErrors."""
    path = local_path(uri)
    try:
        return io.FileIO(path, "rb") if version is None else WatchedFile(path, version)
    except OSError as error:
        raise from_os_error(error, path, "read") from None


def stat_listed(storage: Remote, uri: str, version: str | None) -> Stat:
    """What a remote file is now; ChangedError where that is not the version that was listed."""
    known = storage.stat(uri)
    if version is not None and known.version != version:
        fix = "name a revision (@COMMIT), or start the run again" if uri.startswith("hf://") else "start the run again"
        raise ChangedError(f"{shown(uri)}: changed since it was listed; {fix}")
    return known


def read_range(storage: Remote, uri: str, stat: Stat, start: int, stop: int) -> bytes:
    """Bytes [start, stop) in one piece."""
    stream = ResumingStream(storage, uri, stat, start, stop)
    try:
        parts, left = [], stop - start
        while left > 0:
            parts.append(stream.read_some(min(left, BUFFER)))
            left -= len(parts[-1])
        return b"".join(parts)
    finally:
        stream.close()


def read_bytes(uri: str | Path) -> bytes:
    """The whole file, of one version, checked against its checksum where the storage states one.

    A file that is replaced meanwhile (locks, manifests and the like are) is read again; ChangedError if it never holds still.
    """
    text = str(uri)
    if is_local(text):
        try:
            return local_path(text).read_bytes()
        except OSError as error:
            raise from_os_error(error, text, "read") from None
    attempt = 1
    while True:
        try:
            return _read_now(remote(text), text)
        except ChangedError:
            if attempt == retry.PATIENCE:
                raise
        attempt += 1


def _read_now(storage: Remote, uri: str) -> bytes:
    stat, body = storage.open_whole(uri)
    with io.BufferedReader(ResumingStream(storage, uri, stat, 0, stat.size, body), BUFFER) as stream:
        return stream.read()
