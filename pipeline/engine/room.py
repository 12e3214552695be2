"""Room on a machine's disk for the tasks that run there at the same time, of this run and of others.

A task that finds 8 GB free and needs 6 may begin; a second one that needs as much may not, though it still finds nearly 8.
So each notes what it needs, in a file that it keeps locked: the lock goes with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.storage.errors import no_space

LOOK_AGAIN = 0.5  # seconds


@contextmanager
def room(folder: Path, needed: int, task: str) -> Iterator[None]:
    """Keep `needed` bytes of the disk of a task's scratch folder for it, meanwhile.

    Waits for tasks that were there before, whose bytes are not all written yet. Raises StorageError where there is too
    little without any of them.
    """
    if not needed:
        yield
        return
    notes = _notes(folder)
    with (notes / "gate").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # kept while waiting: first come, first served
        while shutil.disk_usage(folder).free < needed + (others := _still_to_come(notes)):
            if not others:
                raise no_space(folder.parent, needed, task)
            time.sleep(LOOK_AGAIN)
        note = notes / f"{folder.name}.needs"
        kept = note.open("w")
        fcntl.flock(kept, fcntl.LOCK_EX)
        kept.write(f"{needed} {folder}")
        kept.flush()
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        kept.close()


def _notes(folder: Path) -> Path:
    """Where this machine's tasks of this user note what they need of the folder's disk."""
    notes = Path(tempfile.gettempdir(), f"headrace-room-{os.getuid()}", str(folder.stat().st_dev))
    notes.mkdir(parents=True, exist_ok=True)
    return notes


def _still_to_come(notes: Path) -> int:
    """Bytes that tasks which run have noted and not yet written; notes of those that were killed are removed."""
    total = 0
    for note in notes.glob("*.needs"):
        with suppress(FileNotFoundError), note.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                needed, _, folder = file.read().partition(" ")
                total += max(0, int(needed) - _written(Path(folder)))
            else:
                note.unlink(missing_ok=True)
    return total


def _written(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            found += path.stat().st_blocks * 512
    return found
