"""The lock of a run on S3: an object that only conditional writes change, kept alive by a heartbeat.

The object is created with If-None-Match: * and written again every HEARTBEAT seconds with If-Match. One that has not
been written for STALE seconds, both times by the server's clock, belongs to a run that is gone; it is taken over with
If-Match, so that of several only one can. The lock of a process of this very machine that is not alive any more is
taken over at once.

Servers that ignore the conditions are recognised when a lock is taken (a second creation succeeds). There the lock is
only advisory: it is written, and after SETTLE seconds must still be there; a warning says so. Two runs that start
within SETTLE seconds of each other are still told apart, but a stalled network can let two in.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.storage.errors import StorageError
from pipeline.storage.lock import describe_holder, parse_holder, taken
from pipeline.storage.s3_client import client
from pipeline.storage.s3_errors import error_code, from_boto_error, status_of
from pipeline.storage.s3_objects import split_file

HEARTBEAT = 10.0
STALE = 60.0
SETTLE = 2.0
"""Seconds."""

_log = logging.getLogger(__name__)


class S3Lock:
    """A held lock. `check` tells whether it still is."""

    def __init__(self, run: str, uri: str) -> None:
        self._run, self._uri = run, uri
        self._bucket, self._key = split_file(uri)
        self._s3 = client(uri, soon=True)  # one request that hangs must not cost the lock
        self._holder = {**describe_holder(), **_process(), "beat": 0}
        self.token: str = self._holder["token"]
        self._lost = ""
        self._guard = threading.Lock()
        self._stop = threading.Event()
        try:
            self._etag = self._take()
            self._conditional = self._conditions_hold()
            if not self._conditional:
                self._settle()
        except (ClientError, BotoCoreError) as error:
            raise from_boto_error(error, uri, "write", self._s3) from None
        self._written = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def _put(self, **condition: str) -> str:
        """Writes the lock; the new ETag. ClientError where the condition does not hold."""
        self._holder["beat"] += 1  # other bytes each time, and so another ETag
        body = json.dumps(self._holder).encode()
        answer = self._s3.put_object(Bucket=self._bucket, Key=self._key, Body=body, **condition)
        return answer["ETag"]

    def _take(self) -> str:
        for _ in range(5):
            try:
                return self._put(IfNoneMatch="*")
            except ClientError as error:
                if _unsupported(error):
                    found = self._read()
                    if found is not None:
                        self._refuse_if_alive(*found[1:])
                    return self._put()
                if not _condition_failed(error):
                    raise
            found = self._read()
            if found is None:  # let go in between
                continue
            etag, holder, age = found
            if holder.get("token") == self._holder["token"]:
                return etag  # the answer to our write was lost, and the write was not
            self._refuse_if_alive(holder, age)
            try:
                return self._put(IfMatch=etag)
            except ClientError as error:
                if not (_condition_failed(error) or error_code(error) == "NoSuchKey"):
                    raise
        raise taken(self._run, {})

    def _read(self) -> tuple[str, dict[str, Any], float] | None:
        """ETag, holder and age in seconds of the lock that is there."""
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=self._key)
        except ClientError as error:
            if error_code(error) in ("NoSuchKey", "404"):
                return None
            raise
        with answer["Body"] as body:
            holder = parse_holder(body.read())
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return answer["ETag"], holder, (now - answer["LastModified"]).total_seconds()

    def _refuse_if_alive(self, holder: dict[str, Any], age: float) -> None:
        if age < STALE and not _died_here(holder):
            remark = (
                "" if _lives_here(holder) else f" (if it was killed, its lock lapses in {max(1, round(STALE - age))} s)"
            )
            raise taken(self._run, holder, remark)
        _log.warning("%s: taking over the lock of a run that is gone (pid %s)", self._run, holder.get("pid"))

    def _conditions_hold(self) -> bool:
        """True if the server honours conditions: creating what exists must fail."""
        try:
            self._etag = self._put(IfNoneMatch="*")
        except ClientError as error:
            if _condition_failed(error):
                return True
            if not _unsupported(error):
                raise
        return False

    def _settle(self) -> None:
        where = self._s3.meta.endpoint_url
        _log.warning("%s: %s has no conditional writes, so the run's lock is only advisory", self._run, where)
        time.sleep(SETTLE)
        found = self._read()
        if found is None or found[1].get("token") != self._holder["token"]:
            raise taken(self._run, found[1] if found else {})

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                with self._guard:
                    if self._conditional:
                        self._etag = self._put(IfMatch=self._etag)
                    else:
                        found = self._read()
                        if found is not None and found[1].get("token") != self._holder["token"]:
                            self._lost = "another run has taken it over"
                            return
                        self._etag = self._put()
                    self._written = time.monotonic()
            except ClientError as error:
                if _condition_failed(error) and not self._wrote_that():
                    self._lost = "another run has taken it over"
                    return
            except Exception:
                # No network for a moment is no loss; silence for STALE seconds is, and `check` sees that.
                _log.debug("heartbeat of %s failed", self._uri, exc_info=True)

    def _wrote_that(self) -> bool:
        """True if the lock is ours after all: the answer to our last write may have been lost, and the write not."""
        try:
            found = self._read()
        except Exception:
            return True  # not known yet: the next beat tells
        if found is None or found[1].get("token") != self._holder["token"]:
            return False
        self._etag = found[0]
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
        condition = {"IfMatch": self._etag} if self._conditional else {}
        if self._lost:
            return
        try:
            self._s3.delete_object(Bucket=self._bucket, Key=self._key, **condition)
        except ClientError as error:
            if not (_condition_failed(error) or _unsupported(error)):
                _log.warning("%s: the lock could not be removed and lapses in %.0f s", self._uri, STALE)
            elif _unsupported(error):
                self._s3.delete_object(Bucket=self._bucket, Key=self._key)
        except BotoCoreError:
            _log.warning("%s: the lock could not be removed and lapses in %.0f s", self._uri, STALE)


def _condition_failed(error: ClientError) -> bool:
    return error_code(error) in ("PreconditionFailed", "ConditionalRequestConflict") or status_of(error) in (409, 412)


def _unsupported(error: ClientError) -> bool:
    return error_code(error) == "NotImplemented" or status_of(error) == 501


def _process() -> dict[str, Any]:
    """What tells this process from all others: the machine (boot and container), and when it started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"machine": f"{boot} {Path('/proc/self/ns/pid').readlink()}", "started": _started(os.getpid())}
    except OSError:  # not Linux: its locks lapse, but are not taken over at once
        return {"machine": "", "started": ""}


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot (field 22 of /proc/PID/stat; proc(5)); "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _on_this_machine(holder: dict[str, Any]) -> bool:
    here = _process()["machine"]
    return bool(here) and holder.get("machine") == here and isinstance(holder.get("pid"), int)


def _lives_here(holder: dict[str, Any]) -> bool:
    return _on_this_machine(holder) and _started(holder["pid"]) == holder.get("started")


def _died_here(holder: dict[str, Any]) -> bool:
    """True if the holder was a process of this machine and is not alive."""
    return _on_this_machine(holder) and _started(holder["pid"]) != holder.get("started")
