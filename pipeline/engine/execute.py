"""Runs one task to its end, in whatever process this is."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import storage
from pipeline.engine.memory import cpu_time, held, peak, release, reset_peak
from pipeline.engine.room import room
from pipeline.engine.said import listening
from pipeline.jobs.context import Context
from pipeline.ledger import Entry, Output
from pipeline.plan.node import Node, Report, key_of
from pipeline.storage.errors import PASSING, TransientError, no_space
from stages.errors import UserError
from stages.kernels.warm import ensure_warm

# Errors of a file system that are nobody's bug: one sentence will do.
OF_THE_SYSTEM = {errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE}
MOST_HELD = 384 << 20  # bytes that a process may have between two tasks of a stage
_stage: tuple[str, str, str] | None = None  # of this process's last task
_begun: set[tuple[str, str, str]] = set()  # stages of which this process has begun a task


class WrongCode(UserError):
    """This machine has other code or libraries than the one that started the run."""


@dataclass(frozen=True)
class Surroundings:
    """What a task is told besides its node: the run's folder, where relative paths begin, the cache's size, the lock's token.

    cores: how many of its machine's are for this task.
    """

    run: str
    folder: str
    cache_bytes: int
    token: str | None = None
    cores: int = 1


@dataclass(frozen=True)
class Finished:
    """What a task left, what it took, and what it printed meanwhile. first, held: as `Entry` says."""

    report: Report
    outputs: Sequence[Output]
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    host: str = ""
    at: str = ""
    first: bool = False
    held: int = 0
    said: str = ""

    @classmethod
    def concluded(cls, report: Report) -> Finished:
        """A conclusion of the driver's own."""
        return cls(report, (), host=socket.gethostname(), at=_now())

    @classmethod
    def of_entry(cls, entry: Entry, report: Report) -> Finished:
        """What an entry of the ledger says."""
        took = (entry.seconds, entry.cpu_seconds, entry.peak_memory, entry.host, entry.finished, entry.first, entry.held)
        return cls(report, entry.outputs, *took)


def execute(node: Node, key: str, around: Surroundings) -> Finished:
    """Run one task. Raises UserError where this node's code is not the driver's, and whatever the task raises."""
    with listening() as said:
        try:
            return replace(_execute(node, key, around), said=said.text)
        except Exception as error:
            if said.text:
                error.add_note(f"it printed:\n{said.text}")
            raise


def _execute(node: Node, key: str, around: Surroundings) -> Finished:
    with suppress(OSError):  # a cluster's workers begin where it was started; relative paths are meant from here
        os.chdir(around.folder)
    ensure_warm(None)
    began, cpu = time.perf_counter(), cpu_time()
    first, before = _let_go(node), held()
    reset_peak()
    scratch_root = storage.scratch_folder(around.run)
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-", dir=scratch_root) as scratch:
            cache = storage.Cache(storage.cache_folder(), around.cache_bytes)
            context = Context(around.run, Path(scratch), cache, node.ref, key, around.token, around.cores)
            node.job.prepare()
            _check_code(node, key)
            with room(context.scratch, node.scratch, f"{node.ref}"):
                report = node.job.run(context)
                context.still_wanted()
        return Finished(
            report,
            context.outputs,
            round(time.perf_counter() - began, 3),
            round(cpu_time() - cpu, 3),
            peak(),
            socket.gethostname(),
            _now(),
            first,
            before,
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(error.filename or scratch_root, 0) from None
        if error.errno in PASSING:
            raise TransientError(f"task {node.ref}: {error.filename or scratch_root}: {os.strerror(error.errno or 0)}") from None
        if error.errno in OF_THE_SYSTEM:
            what = error.filename or f"a file under {scratch_root}"
            raise UserError(f"task {node.ref}: {what}: {os.strerror(error.errno or 0)}; mend it and run again") from None
        raise
    except UserError:
        raise
    except Exception as error:
        error = _portable(error)
        error.add_note(f"in task {node.ref}:\n{traceback.format_exc()}")
        raise error from None


def _let_go(node: Node) -> bool:
    """Give back what earlier tasks of this process freed, if it is much, or they were of another stage; whether it is the first
    task of its stage here.

    Tasks of one stage take about the same, and to take it from the system anew costs more than all else around a small task.
    """
    global _stage
    stage = (node.ref.kind, node.ref.source, node.ref.stage)
    if stage != _stage or held() > MOST_HELD:
        release()
    _stage = stage
    first = stage not in _begun
    _begun.add(stage)
    return first


def _check_code(node: Node, key: str) -> None:
    """Raise WrongCode where the key comes out otherwise here: this machine has other code, or other libraries."""
    here = key_of(node.job, passing=True)
    if here.key != key:
        raise WrongCode(
            f"task {node.ref}: {socket.gethostname()} has another version of Headrace, of a library or of your own functions "
            "than the machine that started the run; install the same versions on every node"
        )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _portable(error: Exception) -> Exception:
    """The error, or its words in a RuntimeError where another process could not take it apart and put it together."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
