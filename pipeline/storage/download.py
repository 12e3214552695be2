"""Downloads a file in parallel parts into a partial file, and goes on with one that an earlier process left.

Beside the partial file lies a journal: a line that says which file and part size it is of, then the number of each
part whose bytes are on disk. After a kill the parts that were under way are asked for again, no others.
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from pipeline.storage.entry import Remote, Stat
from pipeline.storage.errors import from_os_error
from pipeline.storage.stream import BUFFER, ResumingStream

PART_BYTES = 16 << 20
CONNECTIONS = 4


class Journal:
    """Which parts of a partial file are complete."""

    def __init__(self, path: Path, stat: Stat, part_bytes: int) -> None:
        """Opens the journal at `path`; one that is of another file or part size is started anew."""
        self.path = path
        self._head = json.dumps({"version": stat.version, "size": stat.size, "part_bytes": part_bytes})
        self.done = self._read()
        self._lock = threading.Lock()
        if not self.done:
            path.write_text(self._head + "\n")

    def _read(self) -> set[int]:
        try:
            lines = self.path.read_text().split("\n")
        except FileNotFoundError:
            return set()
        if lines[0] != self._head:
            return set()
        return {int(line) for line in lines[1:-1]}  # what follows the last newline may be torn

    def add(self, part: int) -> None:
        with self._lock, self.path.open("a") as file:
            file.write(f"{part}\n")
            self.done.add(part)


def reserved_bytes(journal: Path) -> int:
    """The size of the file that a journal is of; 0 if it cannot be read."""
    try:
        with journal.open() as file:
            return int(json.loads(file.readline())["size"])
    except (OSError, ValueError, KeyError):
        return 0


def download(
    storage: Remote, uri: str, stat: Stat, partial: Path, journal: Path, part_bytes: int, connections: int
) -> None:
    """Fills `partial` with the whole file, synced to disk. StorageError if it cannot; the partial file then stays."""
    log = Journal(journal, stat, part_bytes)
    count = -(-stat.size // part_bytes)
    # More than one part is only worth it, and a part only usable later, where the server gives parts.
    if count > 1 and not storage.has_ranges(uri, stat):
        log.done.clear()
        part_bytes, count = stat.size, 1
    missing = [part for part in range(count) if part not in log.done]
    stop = threading.Event()
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise from_os_error(error, partial, "write", stat.size) from None
    try:
        os.ftruncate(descriptor, stat.size)

        def get(part: int) -> None:
            start = part * part_bytes
            end = min(stat.size, start + part_bytes)
            _fill(ResumingStream(storage, uri, stat, start, end), descriptor, start, end, stop)
            if stop.is_set():
                return
            os.fdatasync(descriptor)
            log.add(part)

        with ThreadPoolExecutor(max(1, min(connections, len(missing))), thread_name_prefix="download") as pool:
            tasks = [pool.submit(get, part) for part in missing]
            try:
                done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                for task in done:
                    task.result()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        os.fsync(descriptor)
    except OSError as error:
        raise from_os_error(error, partial, "write", stat.size) from None
    finally:
        os.close(descriptor)


def _fill(stream: ResumingStream, descriptor: int, start: int, end: int, stop: threading.Event) -> None:
    try:
        while start < end and not stop.is_set():
            data = memoryview(stream.read_some(min(BUFFER, end - start)))
            while data:
                written = os.pwrite(descriptor, data, start)
                start += written
                data = data[written:]
    finally:
        stream.close()
