"""Reading many small pieces of many files at once, into one array.

Files are read, not mapped: training reads 4 to 16 KiB at random places, where a page fault costs more than a
call, and pages of a map would count as this process's memory until it holds the whole corpus.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import TrainerError
from trainer.loader.submit import READS, Submitter

OPEN_FILES = 512  # kept open at once; the usual limit of a process is 1,024
JOINED_BYTES = 1 << 26  # reads are joined up to about this; the system does no more than 2 GiB in one
THREADS = max(1, min(4, os.cpu_count() or 1))  # that read at once: more only compete for memory


class DataError(TrainerError):
    """A run whose data cannot be trained on as asked; the text says why and what would help."""


class _Open:
    """Open files: the least recently used are closed when there are too many. For one thread at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.most = min(limit, READS)  # reads at once: so many files can be open together
        self.submitter = Submitter()
        self.descriptor = np.full(0, -1, np.int64)  # of each file; -1 where it is not open
        self.used = np.zeros(0, np.int64)  # the turn in which it was
        self.turn = self.count = 0

    def descriptors(self, files: np.ndarray, paths: Sequence[Path]) -> np.ndarray:
        """The descriptor of each of these files, of which there are no more than `most`, by their numbers."""
        if len(self.descriptor) < len(paths):
            more = len(paths) - len(self.descriptor)
            self.descriptor = np.append(self.descriptor, np.full(more, -1))
            self.used = np.append(self.used, np.zeros(more, np.int64))
        self.turn += 1
        self.used[files] = self.turn
        found = self.descriptor[files]
        if (found < 0).any():
            for number in np.unique(files[found < 0]).tolist():
                self._make_room()
                try:
                    self.descriptor[number] = os.open(paths[number], os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise DataError(f"{paths[number]}: the file cannot be read ({error.strerror})") from None
                self.count += 1
            found = self.descriptor[files]
        return found

    def _make_room(self) -> None:
        if self.count >= self.limit:
            opened = np.flatnonzero(self.descriptor >= 0)
            oldest = opened[self.used[opened].argmin()]
            os.close(int(self.descriptor[oldest]))
            self.descriptor[oldest] = -1
            self.count -= 1

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when the interpreter ends
        for descriptor in self.descriptor[self.descriptor >= 0].tolist():
            close(descriptor)


class Reader:
    """Reads from a growing list of files. Several threads may read at once, each through open files of its own; it can
    be used after a fork, and in another process (it pickles as the list)."""

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self.limit = limit
        self.paths: list[Path] = []
        self._start()

    def _start(self) -> None:
        free: queue.LifoQueue[_Open] = queue.LifoQueue()
        for _ in range(THREADS):
            free.put(_Open(max(1, self.limit // THREADS)))
        self._free, self._process = free, os.getpid()  # in this order: another thread may ask for the process first

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "paths": self.paths}

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

        Reads go by file and offset, as disks like them, and what follows one another in both places is one read.
        Raises DataError for a file that is gone or ends early.
        """
        if self._process != os.getpid():
            self._start()  # another process: its own open files, and no lock that a thread of the parent held
        order = np.lexsort((offsets, files))
        files, offsets, sizes, targets = (part[order] for part in (files, offsets, sizes, targets))
        apart = np.ones(len(files), bool)
        ends = [part[:-1] + sizes[:-1] for part in (offsets, targets)]
        apart[1:] = (files[1:] != files[:-1]) | (offsets[1:] != ends[0]) | (targets[1:] != ends[1])
        apart[1:] |= targets[1:] // JOINED_BYTES != targets[:-1] // JOINED_BYTES
        if not apart.all():
            heads = np.flatnonzero(apart)
            sizes = np.add.reduceat(sizes, heads)
            files, offsets, targets = files[heads], offsets[heads], targets[heads]
        opened = self._free.get()  # waits where more threads read than there are sets of open files
        try:
            for start in range(0, len(files), opened.most):
                some = slice(start, start + opened.most)
                self._some(opened, files[some], offsets[some], sizes[some], targets[some], out)
        finally:
            self._free.put(opened)

    def _some(
        self,
        opened: _Open,
        files: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        targets: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """The same for reads sorted by file, no more than `opened.most`."""
        each = opened.descriptors(files, self.paths)
        got = opened.submitter.read(each, offsets, sizes, targets + out.ctypes.data) if opened.submitter.works else None
        if got is None:
            view = memoryview(out.reshape(-1).view(np.uint8))
            reads = zip(each.tolist(), offsets.tolist(), sizes.tolist(), targets.tolist(), strict=True)
            got = np.array([os.preadv(file, [view[to : to + size]], at) for file, at, size, to in reads])
        wrong = got != sizes
        if wrong.any():
            at = int(wrong.argmax())
            name = self.paths[files[at]]
            if got[at] < 0:
                raise DataError(f"{name}: cannot be read ({os.strerror(-int(got[at]))})")
            raise DataError(f"{name}: ends before byte {offsets[at] + sizes[at]}; it was cut while in use")
