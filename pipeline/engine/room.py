"""Room on a machine's disk for the tasks that run there at the same time, of this run and of others.

A task that finds 8 GB free and needs 6 may begin; a second one that needs as much may not, though it still finds nearly 8.
So each notes what it needs, in a file that it keeps locked: the lock goes with the process, however that ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.storage import flock
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
    note = notes / f"{folder.name}.needs"
    gate = flock.acquire(notes / "gate", exclusive=True)  # kept while waiting: first come, first served
    assert gate is not None
    try:
        while shutil.disk_usage(folder).free < needed + (others := _still_to_come(notes)):
            if not others:
                raise no_space(folder.parent, needed, task)
            time.sleep(LOOK_AGAIN)
        kept = flock.acquire(note, exclusive=True)
        assert kept is not None
        note.write_text(f"{needed} {folder}")
    finally:
        flock.release(gate)
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        flock.release(kept)


def _notes(folder: Path) -> Path:
    """Where this machine's tasks of this user note what they need of the folder's disk."""
    notes = Path(tempfile.gettempdir(), f"headrace-room-{os.getuid()}", str(folder.stat().st_dev))
    notes.mkdir(parents=True, exist_ok=True)
    return notes


def _still_to_come(notes: Path) -> int:
    """Bytes that tasks which run have noted and not yet written; notes of those that were killed are removed."""
    total = 0
    for note in notes.glob("*.needs"):
        free = flock.acquire(note, exclusive=True, wait=False)
        if free is None:
            with suppress(FileNotFoundError):  # it has just ended
                needed, _, folder = note.read_text().partition(" ")
                total += max(0, int(needed) - _written(Path(folder)))
        else:
            note.unlink()
            flock.release(free)
    return total


def _written(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            found += path.stat().st_blocks * 512
    return found
