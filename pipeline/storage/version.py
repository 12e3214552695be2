"""Versions of local files: what a task's key holds of them, and what a reader compares.

A key holds size, modification time and inode. A file whose bytes were replaced, by a rename or by a copy that keeps times, has
another version; one that was read, renamed, or given other rights has the same. A file that was restored from a backup is
another one, as nothing but its bytes could prove that it is not: `run.check_inputs: content` compares these.

A reader also compares the time of the last status change (ctime), which no program can put back, so that a file rewritten in
place under its old times is noticed while a run reads it. It is no part of a key: `chmod`, a hard link or a backup that resets
access times change it too, and the next run has nothing to do for that.

Inode and ctime mean little on another machine, where the same path may lead to a copy, and on FUSE mounts, which hand out
inodes as they like: there, size and modification time are compared. So they are where a reader is given a version alone.
"""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path

from pipeline.storage.errors import ChangedError


@cache
def _machine() -> str:
    """This machine since its last start; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:12]
    except OSError:
        return ""


@cache
def _is_fuse(device: int) -> bool:
    """True for a FUSE mount, by /proc/self/mountinfo (proc(5): third field the device, after the dash the type)."""
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    found = [line for line in lines if line.split()[2] == name]
    return any(line.partition(" - ")[2].startswith("fuse") for line in found)


def version_of(status: os.stat_result) -> str:
    """What a key holds: modification time, size and inode (0 where it means nothing), in hex."""
    inode = 0 if _is_fuse(status.st_dev) else status.st_ino
    return f"{status.st_mtime_ns:x}.{status.st_size:x}.{inode:x}"


def witness_of(status: os.stat_result) -> str:
    """What readers compare: the version, the ctime, and the machine that saw them."""
    changed = 0 if _is_fuse(status.st_dev) else status.st_ctime_ns
    return f"{version_of(status)}.{changed:x}@{_machine()}"


def _differs(listed: str, status: os.stat_result) -> str:
    """ "" where the file is what `listed` (a witness or a version) says, else words for the difference."""
    facts, _, machine = listed.partition("@")
    here = witness_of(status).partition("@")[0].split(".")
    there = facts.split(".")
    if there[1] != here[1]:
        return f"it has {status.st_size:,} bytes now, not {int(there[1], 16):,}"
    if there[0] != here[0]:
        return "it was written again"
    if machine != _machine() or len(there) < 4:
        return ""
    inodes = there[2], here[2]
    if inodes[0] != inodes[1] and "0" not in inodes:
        return "another file lies there"
    if there[3] != here[3] and "0" not in (there[3], here[3]):
        return "it was written, or given other rights or links"
    return ""


def check_listed(path: Path, status: os.stat_result, listed: str) -> None:
    """ChangedError where a file is not the one that was listed. listed: a witness, or a version."""
    if difference := _differs(listed, status):
        raise ChangedError(f"{path}: changed since it was listed: {difference}; start the run again")


class WatchedFile(io.FileIO):
    """A local file that must be the listed one when it is opened, and still be it when it is closed.

    Raises ChangedError from the constructor, `check` and `close`. What was read between is then of that one version.
    """

    def __init__(self, path: Path, listed: str) -> None:
        super().__init__(path, "rb")
        self._path = path
        try:
            self._opened = os.fstat(self.fileno())
            check_listed(path, self._opened, listed)
        except BaseException:
            super().close()
            raise

    def check(self) -> None:
        """ChangedError if the file was written, replaced or removed since it was opened."""
        if difference := self._elsewhere() or _differs(witness_of(self._opened), os.fstat(self.fileno())):
            raise ChangedError(f"{self._path}: changed while it was being read: {difference}; start the run again")

    def _elsewhere(self) -> str:
        """Words, where the path leads to another file now."""
        try:
            now = self._path.stat()
        except OSError:
            return "it was removed"
        return "" if os.path.samestat(now, self._opened) else "another file lies there"

    def close(self) -> None:
        if self.closed:
            return
        try:
            self.check()
        finally:
            super().close()
