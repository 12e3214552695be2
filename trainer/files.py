"""Reading many small pieces of many files at once, into one array.

Files are read (`preadv`), not mapped: training reads 4 to 16 KiB at random places, where a page fault costs more than a
call, and pages of a map would count as this process's memory until it holds the whole corpus.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import TrainerError

OPEN_FILES = 512  # kept open at once; the usual limit of a process is 1,024
THREADS = max(1, min(4, os.cpu_count() or 1))  # a copy from the page cache is bound by memory, not by cores
PARALLEL_BYTES = 1 << 19  # less than this is read before a second thread has woken up


class DataError(TrainerError):
    """A run whose data cannot be trained on as asked; the text says why and what would help."""


class _Open:
    """Open files: the least recently used is closed when there are too many."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lock = threading.Lock()  # held for a whole read: a file in use must not be closed
        self.open: OrderedDict[int, int] = OrderedDict()

    def descriptor(self, number: int, path: Path) -> int:
        found = self.open.get(number)
        if found is not None:
            self.open.move_to_end(number)
            return found
        try:
            found = self.open[number] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{path}: the file cannot be read ({error.strerror})") from None
        if len(self.open) > self.limit:
            os.close(self.open.popitem(last=False)[1])
        return found

    def __del__(self) -> None:
        for descriptor in self.open.values():
            os.close(descriptor)


class Reader:
    """Reads from a growing list of files, with as many threads as help. Usable from several threads, after a fork,
    and in another process (it pickles as the list)."""

    def __init__(self, limit: int = OPEN_FILES, threads: int = THREADS) -> None:
        self.limit, self.threads = limit, threads
        self.paths: list[Path] = []
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._open = [_Open(max(1, self.limit // self.threads)) for _ in range(self.threads)]
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "threads": self.threads, "paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def add(self, paths: Sequence[Path]) -> int:
        """Add files; returns the number of the first, by which `read` knows it."""
        first = len(self.paths)
        self.paths += paths
        return first

    def read(
        self, files: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, targets: np.ndarray, out: np.ndarray
    ) -> None:
        """Copy sizes[i] bytes at offsets[i] of file files[i] to byte targets[i] of `out` (contiguous), for every i.

        Reads go by file and offset, as disks like them. Raises DataError for a file that is gone or ends early.
        """
        if self._process != os.getpid():
            self._start()  # threads do not survive a fork
        by_place = np.lexsort((offsets, files))
        plan = [part[by_place].tolist() for part in (files, offsets, sizes, targets)]
        view = memoryview(out.reshape(-1).view(np.uint8))
        parts = self.threads if len(plan[0]) > 1 and int(sizes.sum()) >= PARALLEL_BYTES else 1
        cuts = [len(plan[0]) * part // parts for part in range(parts + 1)]
        work = [(self._open[n], *(part[cuts[n] : cuts[n + 1]] for part in plan), view) for n in range(parts)]
        if parts == 1:
            self._read(*work[0])
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, "headrace-read")
        others = [self._pool.submit(self._read, *one) for one in work[1:]]
        try:
            self._read(*work[0])
        finally:
            failed = [other.exception() for other in others]  # waits: nobody may write to `out` after this
        for error in failed:
            if error is not None:
                raise error

    def _read(
        self,
        opened: _Open,
        files: list[int],
        offsets: list[int],
        sizes: list[int],
        targets: list[int],
        view: memoryview,
    ) -> None:
        with opened.lock:
            last, descriptor = -1, -1
            for file, offset, size, target in zip(files, offsets, sizes, targets, strict=True):
                if file != last:
                    last, descriptor = file, opened.descriptor(file, self.paths[file])
                if os.preadv(descriptor, [view[target : target + size]], offset) != size:
                    raise DataError(f"{self.paths[file]}: ends before byte {offset + size}; it was cut while in use")
