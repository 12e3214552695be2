"""What this process and those that it started take: processor time, the most memory since a moment, and giving it back.

Processes that a task starts (the one that parses pages, one that trains a classifier) work for it, so what they take is the
task's. Of those that run, /proc tells; of those that have ended and were waited for, the kernel's count of children.
"""

from __future__ import annotations

import ctypes
import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

import pyarrow as pa

_PROC = "/proc"
_SELF = f"{_PROC}/self"
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_time() -> float:
    """Processor seconds of this process and of all that it started, so far; running ones only where there is /proc."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = sum(map(_ticks, _children())) / _TICKS
    return time.process_time() + ended.ru_utime + ended.ru_stime + running


def reset_peak() -> None:
    """Begin the high-water marks anew, where the kernel lets a process do so (Linux)."""
    for process in (_SELF, *_children()):
        with suppress(OSError):
            Path(f"{process}/clear_refs").write_text("5")


def peak() -> int:
    """Bytes at the high-water marks since the last reset, of this process and those that it started and that still run.

    Their marks may be of different moments, so together they never held more. Files that are mapped now (libraries, models;
    those in /dev/shm too) are not counted: all processes of a machine share them. Without /proc: of this process since it
    began, all counted.
    """
    own = _high_water(_SELF)
    if own is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return own + sum(_high_water(process) or 0 for process in _children())


def held() -> int:
    """Resident bytes of this process now, without mapped files and shared memory; 0 where there is no /proc."""
    fields = _read(f"{_SELF}/statm").split()
    if not fields:
        return 0
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def release() -> None:
    """Give freed memory back to the system: a worker that stays would hold what its largest task took."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library than glibc has no such function
        ctypes.CDLL(None).malloc_trim(0)


def _children(process: str = _SELF) -> Iterator[str]:
    """The folders in /proc of running processes that this one started, and of those that they did."""
    with suppress(OSError), os.scandir(f"{process}/task") as threads:
        for thread in threads:
            for number in _read(f"{thread.path}/children").split():
                yield (child := f"{_PROC}/{number.decode()}")
                yield from _children(child)


def _read(path: str) -> bytes:
    """A file of /proc; nothing where its process has ended. Each task of a run reads dozens, so it is done without ado."""
    with suppress(OSError), FileIO(path) as file:
        return file.readall()
    return b""


def _ticks(process: str) -> int:
    """Clock ticks that a process took, and its children that have ended: fields 14 to 17 of /proc/PID/stat (proc(5))."""
    return sum(map(int, _read(f"{process}/stat").rpartition(b")")[2].split()[11:15]))


def _high_water(process: str) -> int | None:
    status = dict(line.split(b":", 1) for line in _read(f"{process}/status").splitlines())
    if b"VmHWM" not in status:  # no /proc, or the process has ended
        return None
    mark, *mapped = (int(status[name].split()[0]) for name in (b"VmHWM", b"RssFile", b"RssShmem"))
    return (mark - sum(mapped)) * 1024
