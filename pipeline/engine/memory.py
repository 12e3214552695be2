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
from pathlib import Path

import pyarrow as pa

_PROC = Path("/proc")
_SELF = _PROC / "self"
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
            (process / "clear_refs").write_text("5")


def peak() -> int:
    """Bytes at the high-water marks since the last reset, of this process and those that it started and that still run.

    Their marks may be of different moments, so together they never held more. Files that are mapped now (libraries, models)
    are not counted: all processes of a machine share them. Without /proc: of this process since it began, all counted.
    """
    own = _high_water(_SELF)
    if own is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return own + sum(_high_water(process) or 0 for process in _children())


def held() -> int:
    """Resident bytes of this process now, without mapped files and shared memory; 0 where there is no /proc."""
    try:
        fields = (_SELF / "statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def release() -> None:
    """Give freed memory back to the system: a worker that stays would hold what its largest task took."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library than glibc has no such function
        ctypes.CDLL(None).malloc_trim(0)


def _children(process: Path = _SELF) -> Iterator[Path]:
    """The folders in /proc of running processes that this one started, and of those that they did."""
    for thread in process.glob("task/*/children"):
        with suppress(OSError):
            for number in thread.read_text().split():
                yield _PROC / number
                yield from _children(_PROC / number)


def _ticks(process: Path) -> int:
    """Clock ticks that a process took, and its children that have ended: fields 14 to 17 of /proc/PID/stat (proc(5))."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0  # it has ended meanwhile
    return sum(map(int, fields[11:15]))


def _high_water(process: Path) -> int | None:
    with suppress(OSError, KeyError):
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return (int(status["VmHWM"].split()[0]) - int(status["RssFile"].split()[0])) * 1024
    return None
