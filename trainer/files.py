"""Reading many small pieces of many files at once, into one array.

Files are read, not mapped: training reads 4 to 16 KiB at random places, where a page fault costs more than a
call, and pages of a map would count as this process's memory until it holds the whole corpus.
"""

from __future__ import annotations

import os
import queue
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import TrainerError
from trainer.submit import READS, Submitter

OPEN_FILES = 512  # kept open at once; the usual limit of a process is 1,024
THREADS = max(1, min(4, os.cpu_count() or 1))  # that read at once: more only compete for memory


class DataError(TrainerError):
    """A run whose data cannot be trained on as asked; the text says why and what would help."""


class _Open:
    """Open files: the least recently used is closed when there are too many. For one thread at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.most = min(limit, READS)  # reads at once: so many files can be open together
        self.submitter = Submitter()
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

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when the interpreter ends
        for descriptor in self.open.values():
            close(descriptor)


class Reader:
    """Reads from a growing list of files. Several threads may read at once, each through open files of its own; it can
    be used after a fork, and in another process (it pickles as the list)."""

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self.limit = limit
        self.paths: list[Path] = []
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._free: queue.LifoQueue[_Open] = queue.LifoQueue()
        for _ in range(THREADS):
            self._free.put(_Open(max(1, self.limit // THREADS)))

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

        Reads go by file and offset, as disks like them. Raises DataError for a file that is gone or ends early.
        """
        if self._process != os.getpid():
            self._start()  # another process: its own open files, and no lock that a thread of the parent held
        order = np.lexsort((offsets, files))
        opened = self._free.get()  # waits where more threads read than there are sets of open files
        try:
            for start in range(0, len(order), opened.most):
                some = order[start : start + opened.most]
                self._some(opened, *(part[some] for part in (files, offsets, sizes, targets)), out)
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
        """The same for reads sorted by file, of no more files than may be open."""
        begins = np.flatnonzero(np.diff(files, prepend=-1))
        counts = np.diff(begins, append=len(files))
        descriptors = [opened.descriptor(number, self.paths[number]) for number in files[begins].tolist()]
        each = np.repeat(descriptors, counts)
        got = opened.submitter.read(each, offsets, sizes, targets + out.ctypes.data) if opened.submitter.works else None
        if got is None:
            view = memoryview(out.reshape(-1).view(np.uint8))
            reads = zip(each.tolist(), offsets.tolist(), sizes.tolist(), targets.tolist(), strict=True)
            got = np.array([os.preadv(file, [view[to : to + size]], at) for file, at, size, to in reads])
        wrong = np.flatnonzero(got != sizes)
        if len(wrong):
            at, name = wrong[0], self.paths[files[wrong[0]]]
            if got[at] < 0:
                raise DataError(f"{name}: cannot be read ({os.strerror(-int(got[at]))})")
            raise DataError(f"{name}: ends before byte {offsets[at] + sizes[at]}; it was cut while in use")
