"""A shard's tokens as one stream, whether they lie in a file of their own or in ranges of others."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from pipeline import storage
from pipeline.run_folder.manifest import read_manifest
from stages.tokens.manifest_shape import OrderedShard, ShardEntry, WholeFile
from stages.tokens.shard_format import Ranges, open_ranges

BUFFER = 1 << 20


def open_shard(run: str, shard: ShardEntry | OrderedShard | WholeFile, dtype: np.dtype, random: bool = False) -> BinaryIO:
    """A shard's tokens, to be read from front to back, or where `random` at any place; the caller closes it.

    Raises ShardError for ranges that are not of the size that the manifest says, StorageError.
    """
    if "ranges" not in shard or "whole" not in shard:
        uri = storage.join(run, shard["path"])
        return storage.open_random(uri) if random else storage.open_stream(uri)
    files = read_manifest(run).get("whole", {})[shard["whole"]]
    uri = storage.join(run, shard["path"])
    with tempfile.TemporaryDirectory(prefix="headrace-ranges-") as folder:  # a map stays when its file is gone
        local = storage.local_path(uri) if storage.is_local(uri) else Path(folder) / "ranges"
        if not storage.is_local(uri):
            storage.copy_to(uri, local)
        ranges = open_ranges(local, shard["ranges"], len(files))
    return cast(BinaryIO, io.BufferedReader(_OfRanges(run, files, ranges, dtype.itemsize), BUFFER))


class _OfRanges(io.RawIOBase):
    """The bytes of some ranges of files, one after another."""

    def __init__(self, run: str, files: Sequence[WholeFile], ranges: Ranges, width: int) -> None:
        self._run, self._files, self._ranges, self._width = run, files, ranges, width
        self._bounds = np.concatenate([[0], np.cumsum([file["tokens"] for file in files], dtype=np.int64)])
        self._size = int(ranges.ends[-1]) * width if len(ranges.ends) else 0
        self._position = 0
        self._opened: tuple[int, BinaryIO] | None = None
        self._stack = ExitStack()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As many bytes as there are for the buffer, over as many ranges as it takes."""
        view, filled = memoryview(buffer).cast("B"), 0
        number = int(np.searchsorted(self._ranges.ends, self._position // self._width, side="right"))
        while filled < len(view) and number < len(self._ranges.ends):
            before = int(self._ranges.ends[number - 1]) if number else 0
            inside = self._position - before * self._width
            left = int(self._ranges.ends[number]) * self._width - self._position
            count = min(left, len(view) - filled)
            got = self._read(int(self._ranges.starts[number]) * self._width + inside, view[filled : filled + count])
            filled, self._position = filled + got, self._position + got
            if got < count:
                break
            number += 1
        return filled

    def _read(self, place: int, view: memoryview) -> int:
        """Read from a place among the bytes of all files, which one of them holds; 0 where there is none."""
        file = int(np.searchsorted(self._bounds, place // self._width, side="right")) - 1
        if not 0 <= file < len(self._files):
            return 0
        if self._opened is None or self._opened[0] != file:
            self._stack.close()
            stream = storage.open_random(storage.join(self._run, self._files[file]["path"]))
            self._opened = file, self._stack.enter_context(stream)
        stream = self._opened[1]
        stream.seek(place - int(self._bounds[file]) * self._width)
        data = stream.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stack.close()
        super().close()
