"""The lock of a run on object storage: an object that only conditional writes change, kept alive by a heartbeat.

The object is created on the condition that there is none, and written again every HEARTBEAT seconds on the condition that
it is the one that was written last. One that has not been written for STALE seconds, both times by the server's clock,
belongs to a run that is gone; it is taken over under the same condition, so that of several only one can. The lock of a
process of this very machine that is not alive any more is taken over at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from pipeline.storage.errors import StorageError, TransientError
from pipeline.storage.lock import Holder, describe_holder, taken

HEARTBEAT = 10.0
STALE = 60.0
LONGEST_PAUSE = 20.0  # between heartbeats, for a busy server that asks for it: another one still comes before the lock lapses
"""Seconds."""

log = logging.getLogger(__name__)


class Refused(Exception):
    """A write whose condition did not hold: the object is there, or is another by now."""


class ObjectLock(ABC):
    """A held lock. `check` tells whether it still is. Subclasses make the requests, each in its storage's way."""

    def __init__(self, run: str, uri: str) -> None:
        self._run, self._uri = run, uri
        self._holder = msgspec.structs.replace(describe_holder(), machine=_machine(), started=_started(os.getpid()))
        self.token = self._holder.token
        self._lost = ""
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._version = self._take()
        self._settle()
        self._written = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    @abstractmethod
    def _create(self, data: bytes) -> str:
        """Write the object where there is none; its version. Raises Refused where there is one."""

    @abstractmethod
    def _replace(self, data: bytes, version: str) -> str:
        """Write the object in the place of this version of it; the new version. Raises Refused where it is another, or gone."""

    @abstractmethod
    def _read(self) -> tuple[str, Holder, Callable[[], float]] | None:
        """Version and holder of the lock that is there, and what tells its age in seconds."""

    @abstractmethod
    def _remove(self, version: str) -> None:
        """Delete this version of the object. Raises Refused where it is another."""

    @abstractmethod
    def _settle(self) -> None:
        """What is to be done once the object is written, before it counts."""

    def _content(self) -> bytes:
        self._holder.beat += 1  # other bytes each time, and so another version
        return msgspec.json.encode(self._holder)

    def _take(self) -> str:
        for _ in range(5):
            with suppress(Refused):
                return self._create(self._content())
            found = self._read()
            if found is None:  # let go in between
                continue
            version, holder, age = found
            if holder.token == self.token:
                return version  # the answer to our write was lost, and the write was not
            self._refuse_if_alive(holder, age)
            with suppress(Refused):
                return self._replace(self._content(), version)
        raise taken(self._run, Holder())

    def _refuse_if_alive(self, holder: Holder, age: Callable[[], float]) -> None:
        if not _died_here(holder) and (seconds := age()) < STALE:
            left = max(1, round(STALE - seconds))
            raise taken(
                self._run, holder, "" if _lives_here(holder) else f" (if it was killed, its lock lapses in {left} s)"
            )
        log.warning("%s: taking over the lock of a run that is gone (pid %s)", self._run, holder.pid)

    def _beat(self) -> None:
        pause = HEARTBEAT
        while not self._stop.wait(pause):
            pause = HEARTBEAT
            try:
                with self._guard:
                    self._version = self._replace(self._content(), self._version)
                    self._written = time.monotonic()
            except Refused:
                if not self._wrote_that():
                    self._lost = "another run has taken it over"
                    return
            except Exception as error:
                # No network for a moment is no loss; silence for STALE seconds is, and `check` sees that.
                asked = error.asked if isinstance(error, TransientError) else 0.0
                pause = max(HEARTBEAT, min(asked, LONGEST_PAUSE))
                log.debug("heartbeat of %s failed", self._uri, exc_info=True)

    def _wrote_that(self) -> bool:
        """True if the lock is ours after all: the answer to our last write may have been lost, and the write not."""
        try:
            found = self._read()
        except Exception:
            return True  # not known yet: the next beat tells
        if found is None or found[1].token != self.token:
            return False
        self._version = found[0]
        return True

    def check(self) -> None:
        """StorageError if this run no longer holds the lock."""
        lost = self._lost
        if not lost and time.monotonic() - self._written > STALE:
            lost = f"it could not be renewed for {STALE:.0f} s"
        if lost:
            raise StorageError(
                f"{self._run}: this run has lost its lock: {lost}; see that no other run writes there, and run again"
            )

    def release(self) -> None:
        """Deletes the lock if it still is this run's."""
        self._stop.set()
        self._thread.join(timeout=30)
        if self._lost:
            return
        try:
            self._remove(self._version)
        except Refused:
            pass
        except Exception:
            log.warning("%s: the lock could not be removed and lapses in %.0f s", self._uri, STALE)


def _machine() -> str:
    """This machine: boot and container. "" off Linux, where locks lapse, but are not taken over at once."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int | None) -> str:
    """When a process started, in clock ticks since boot (field 22 of /proc/PID/stat; proc(5)); "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _on_this_machine(holder: Holder) -> bool:
    here = _machine()
    return bool(here) and holder.machine == here and holder.pid is not None


def _lives_here(holder: Holder) -> bool:
    return _on_this_machine(holder) and _started(holder.pid) == holder.started


def _died_here(holder: Holder) -> bool:
    """True if the holder was a process of this machine and is not alive."""
    return _on_this_machine(holder) and _started(holder.pid) != holder.started
