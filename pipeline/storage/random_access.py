"""A remote file that can be read at any place, as Parquet readers do, in few requests.

Each miss asks for at least READ_AHEAD_FIRST bytes; while reading goes on in sequence the amount doubles up to
READ_AHEAD_MOST. The last few pieces are kept, because column readers take turns.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.storage.backends import remote
from pipeline.storage.entry import Remote, Stat
from pipeline.storage.stream import open_local, read_range, stat_listed
from pipeline.storage.uri import is_local

READ_AHEAD_FIRST = 64 << 10
READ_AHEAD_MOST = 8 << 20
KEPT_BYTES = 32 << 20
"""Bytes of pieces kept per open file."""


class RandomReader(io.RawIOBase):
    """A seekable view of one version of a remote file; may be shared by threads."""

    def __init__(self, storage: Remote, uri: str, stat: Stat, listed: bool = False) -> None:
        """listed: the version was asked for, so at the closing the storage is asked whether it still is that one."""
        self._storage, self._uri, self._stat, self._listed = storage, uri, stat, listed
        self._position = 0
        self._ahead = READ_AHEAD_FIRST
        self._next_miss = -1
        self._pieces: OrderedDict[int, bytes] = OrderedDict()  # start -> bytes, oldest use first
        self._kept = 0
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        return self._stat.size

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stat.size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek before the start of {self._uri}")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        with self._lock:
            start = self._position
            stop = self._stat.size if size is None or size < 0 else min(self._stat.size, start + size)
            if start >= stop:
                return b""
            data = self._read(start, stop)
            self._position = stop
            return data

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if self._listed and self._next_miss >= 0:
            self._storage.verify(self._uri, self._stat)

    def _read(self, start: int, stop: int) -> bytes:
        parts = []
        while start < stop:
            piece_start, piece = self._piece(start, stop)
            parts.append(piece[start - piece_start : stop - piece_start])
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _piece(self, start: int, stop: int) -> tuple[int, bytes]:
        """A kept or fresh piece that holds byte `start`."""
        for piece_start, piece in self._pieces.items():
            if piece_start <= start < piece_start + len(piece):
                self._pieces.move_to_end(piece_start)
                return piece_start, piece
        self._ahead = min(self._ahead * 2, READ_AHEAD_MOST) if start == self._next_miss else READ_AHEAD_FIRST
        end = min(self._stat.size, max(stop, start + self._ahead))
        # Never ask twice for what a kept piece further on already holds.
        end = min([end, *(s for s in self._pieces if start < s < end)])
        piece = read_range(self._storage, self._uri, self._stat, start, end)
        self._next_miss = end
        self._kept += len(piece)
        self._pieces[start] = piece
        while self._kept > KEPT_BYTES and len(self._pieces) > 1:
            self._kept -= len(self._pieces.popitem(last=False)[1])
        return start, piece


def open_random(uri: str | Path, *, version: str | None = None, stat: Stat | None = None) -> BinaryIO:
    """Opens a file for reading at any place. version, stat: as for open_stream."""
    text = str(uri)
    if is_local(text):
        return cast(BinaryIO, io.BufferedReader(open_local(text, version), READ_AHEAD_FIRST))
    storage = remote(text)
    known = stat or stat_listed(storage, text, version)
    return cast(BinaryIO, RandomReader(storage, text, known, version is not None))
