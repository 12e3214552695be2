"""One run per output: the lock of a run's folder, RUN/run.lock.

On a local disk it is a flock, which the kernel lets go when the process ends, even by kill -9. On object storage
it is an object with a heartbeat; see lock_object.
"""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

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


class Holder(msgspec.Struct, omit_defaults=True):
    """Who holds a lock, as its file says. token: no other holding has it. machine, started, beat: of locks on object storage."""

    token: str = ""
    pid: int | None = None
    host: str = ""
    since: str = ""
    machine: str = ""  # boot and container
    started: str = ""  # when the process started, in ticks since boot
    beat: int = 0

    def __str__(self) -> str:
        return f"pid {self.pid} on host {self.host} since {self.since}"


def describe_holder() -> Holder:
    """This process, as a new holder."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Holder(secrets.token_hex(8), os.getpid(), socket.gethostname(), now)


def parse_holder(data: bytes) -> Holder:
    """What a lock's file says; of nobody if it is unreadable (its writer may be at it)."""
    try:
        return msgspec.json.decode(data, type=Holder)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Holder()


def taken(run: str, holder: Holder, remark: str = "") -> StorageError:
    """The error of a run that finds its folder's lock held by another."""
    who = f"another run ({holder})" if holder.token else "another run"
    return StorageError(f"{run} is being written by {who}; wait for it, stop it, or choose another --out{remark}")


def check_token(run: str | Path, token: str) -> None:
    """StorageError where the run's lock is not the one with this token: its driver was killed, and another took over.

    Between this check and a write that follows there is a moment; what it leaves open is as small as that.
    """
    if (_held(run) or Holder()).token != token:
        raise StorageError(f"{run}: the run that this task belongs to is gone; what it would have written is not wanted")


def _held(run: str | Path) -> Holder | None:
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
    return None if holder is None else str(holder)


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
            self.token = holder.token
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(holder) + b"\n", 0)
        except OSError as error:
            raise from_os_error(error, self._path, "write") from None
        self._descriptor = descriptor

    def check(self) -> None:
        """A flock is not lost while its process lives."""

    def release(self) -> None:
        with suppress(OSError):  # the folder may have been removed
            self._path.unlink(missing_ok=True)
        flock.release(self._descriptor)
