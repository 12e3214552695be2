"""Locks on files, shared or exclusive, which the kernel lets go when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def acquire(path: Path, *, exclusive: bool, wait: bool = True) -> int | None:
    """Locks the file at `path` (made if missing, with its folder) and returns a descriptor; None if it is taken.

    Whoever holds the lock exclusively may delete the file: a lock on a file that is no longer at `path` does not count
    and is tried again.
    """
    mode = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was removed in between
            continue
        try:
            fcntl.flock(descriptor, mode)
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def share(descriptor: int) -> None:
    """Turns an exclusive lock into a shared one. Another may slip in between: check again what it protects."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def release(descriptor: int) -> None:
    os.close(descriptor)
