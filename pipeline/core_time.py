"""Core time of this process and of those that it started: the extractor's parser, fastText's training."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_TASKS = Path("/proc/self/task")


def core_seconds() -> float:
    """Seconds of user and system time until now, of this process, its children that ended and those that live.

    Of a child that lives the kernel tells hundredths of a second, and only on Linux; elsewhere it counts once it has ended.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_seconds_of, _children()))


def _children() -> set[int]:
    found: set[int] = set()
    with suppress(OSError):
        for thread in _TASKS.iterdir():
            with suppress(OSError):  # a thread that has ended meanwhile
                found.update(map(int, (thread / "children").read_text().split()))
    return found


def _seconds_of(process: int) -> float:
    """What a living child took; 0 for one that is gone."""
    with suppress(OSError):
        # What stands before the last bracket is the command's name, which may hold anything. proc(5): utime and stime.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0
