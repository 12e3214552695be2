"""One run per output: the lock of a run's folder, RUN/run.lock.

On a local disk it is a flock, which the kernel lets go when the process ends, even by kill -9. On object storage
it is an object with a heartbeat; see lock_object.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pipeline.storage import flock
from pipeline.storage.backends import writable
from pipeline.storage.errors import MissingError, StorageError, from_os_error
from pipeline.storage.stream import read_bytes
from pipeline.storage.uri import is_local, join, local_path, scheme

NAME = "run.lock"


class Lock(Protocol):
    token: str

    def check(self) -> None: ...
    def release(self) -> None: ...


class RunLock:
    """`with RunLock(run): ...` - at most one at a time for each folder, over all processes and machines.

    Entering raises StorageError, naming the holder, where the run is being written by another.
    """

    def __init__(self, uri: str | Path) -> None:
        writable(str(uri))
        self.uri = str(uri)
        self._lock: Lock | None = None

    def __enter__(self) -> RunLock:
        if is_local(self.uri):
            self._lock = LocalLock(self.uri)
        else:
            self._lock = _object_lock(self.uri)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    @property
    def token(self) -> str:
        """What tells this holding of the lock from all others: tasks show it before they write final files."""
        assert self._lock is not None
        return self._lock.token

    def check(self) -> None:
        """StorageError if the lock has been lost (no heartbeat came through for long, and another run took over).

        To be called before a task's results are committed.
        """
        if self._lock is not None:
            self._lock.check()


def _object_lock(run: str) -> Lock:
    if scheme(run) == "s3":
        from pipeline.storage.lock_s3 import S3Lock as Held
    else:
        from pipeline.storage.lock_cloud import CloudLock as Held
    return Held(run, join(run, NAME))


def describe_holder() -> dict[str, Any]:
    """Who holds a lock: process, host, since when, and a token that no other holding has."""
    return {
        "token": secrets.token_hex(8),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    }


def parse_holder(data: bytes) -> dict[str, Any]:
    """What `describe_holder` wrote; {} if it is unreadable (its writer may be at it)."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def taken(run: str, holder: dict[str, Any], remark: str = "") -> StorageError:
    who = "another run"
    if holder:
        who += f" (pid {holder.get('pid')} on host {holder.get('host')} since {holder.get('since')})"
    return StorageError(f"{run} is being written by {who}; wait for it, stop it, or choose another --out{remark}")


def check_token(run: str | Path, token: str) -> None:
    """StorageError where the run's lock is not the one with this token: its driver was killed, and another took over.

    Between this check and a write that follows there is a moment; what it leaves open is as small as that.
    """
    if (_held(run) or {}).get("token") != token:
        raise StorageError(f"{run}: the run that this task belongs to is gone; what it would have written is not wanted")


def _held(run: str | Path) -> dict[str, Any] | None:
    """What the run's lock says now; None if there is none. One read: a question before it could meet another lock."""
    try:
        return parse_holder(read_bytes(join(str(run), NAME)))
    except MissingError:
        return None


def lock_holder(run: str | Path) -> str | None:
    """Who is writing a run's folder now, in words; None if no one is."""
    if is_local(run):
        path = local_path(run) / NAME
        descriptor = flock.acquire(path, exclusive=False, wait=False) if path.exists() else None
        if descriptor is not None:
            flock.release(descriptor)
        if descriptor is not None or not path.exists():
            return None
    holder = _held(run)
    if holder is None:
        return None
    return f"pid {holder.get('pid')} on host {holder.get('host')} since {holder.get('since')}"


class LocalLock:
    """A held lock on a local folder, which is made if missing."""

    def __init__(self, run: str) -> None:
        self._path = local_path(run) / NAME
        if local_path(run).is_file():
            raise StorageError(f"{run} is a file, not a folder; choose another --out")
        try:
            descriptor = flock.acquire(self._path, exclusive=True, wait=False)
            if descriptor is None:
                raise taken(run, parse_holder(self._path.read_bytes() if self._path.exists() else b""))
            holder = describe_holder()
            self.token = holder["token"]
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)
        except OSError as error:
            raise from_os_error(error, self._path, "write") from None
        self._descriptor = descriptor

    def check(self) -> None:
        """A flock is not lost while its process lives."""

    def release(self) -> None:
        with suppress(OSError):  # the folder may have been removed
            self._path.unlink(missing_ok=True)
        flock.release(self._descriptor)
