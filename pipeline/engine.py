"""Runs phases of tasks, on Ray or in this process; the only file that imports ray.

The driver holds task specs and reports, never documents: tasks read and write files. Ray starts with the first task
that really has to run, so a run that is done already needs no cluster.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.ledger import Ledger, write_entry
from pipeline.memory import peak, release, reset_peak
from pipeline.progress import Progress
from pipeline.size import machine_memory
from pipeline.storage.errors import no_space
from pipeline.task import Context, Phase, Task
from stages.books import StepBooks, imbalances
from stages.errors import UserError
from stages.kernels.compile import cache_folder as kernel_folder
from stages.kernels.compile import ensure_warm
from stages.units import show_bytes

LOST_WORKER_RETRIES = 3
# Errors of a file system that are nobody's bug: one sentence will do.
OF_THE_SYSTEM = {errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ESTALE}
ENOUGH_TO_JUDGE = 0.1  # share of a phase from which on it is told how many documents it will have in all
MANIFEST = "manifest.json"


class BooksError(Exception):
    """The books of a task do not balance: documents were lost, and that is never the user's fault."""


class TooManyFailures(UserError):
    """More documents or files failed than the recipe allows."""


@dataclass
class Failures:
    """What failed in a phase so far, and the first causes."""

    seen: int = 0
    documents: int = 0
    files: int = 0
    cause: str = "no cause on record"
    file_cause: str = "no cause on record"

    def add(self, report: dict[str, Any]) -> None:
        """Count a finished task's report in."""
        first = report.get("first_failure")
        if first and not self.documents:
            self.cause = first
        if first and not self.files and report.get("failed_files"):
            self.file_cause = first
        self.documents += report.get("failed_documents", 0)
        self.files += report.get("failed_files", 0)
        self.seen += report["books"][0]["in"][0] if report.get("books") else 0


class InputsGone(Exception):
    """A task needs parts that were let go after their use: their tasks (`keys`) must run again."""

    def __init__(self, keys: set[str]) -> None:
        super().__init__(f"{len(keys)} tasks must run again for their parts")
        self.keys = keys


@dataclass(kw_only=True)
class Placement:
    """Where an engine's tasks run, and what is shown of them: nothing here changes a byte of a result."""

    workers: int | None = None
    address: str | None = None
    inline: bool = False
    progress: Progress = field(default_factory=Progress)


class Engine:
    """Carries out phases against one run's folder, which `lock` holds, and its ledger. Closed at the end of a `with`."""

    def __init__(
        self,
        run: str,
        ledger: Ledger,
        placement: Placement,
        *,
        task_memory: int = 1536 * 2**20,
        cache_bytes: int = 20 * 2**30,
        max_failed_documents: float = 0.0,
        max_failed_files: int = 0,
        lock: storage.RunLock | None = None,
    ) -> None:
        self.run_uri, self.ledger = run, ledger
        self.workers, self.address, self.inline = placement.workers, placement.address, placement.inline
        self.progress = placement.progress
        self.task_memory = task_memory  # what any task may take; one that needs more has it reserved
        self.cache_bytes = cache_bytes
        self.max_failed_documents, self.max_failed_files = max_failed_documents, max_failed_files
        self.token = None if lock is None else lock.token
        self.still_ours: Callable[[], None] = (lambda: None) if lock is None else lock.check  # raises where it was lost
        self.used: set[str] = set()
        self.executed = 0
        self.notes: dict[str, Any] = {}  # what phases found out, for the summary
        self._ray_started = False

    def run(self, phase: Phase) -> list[dict[str, Any]]:
        """Do what is not done yet; returns every task's ledger entry, in the order of the tasks.

        Raises UserError for what the user can mend, TooManyFailures, BooksError, or the task's own exception.
        """
        tasks = {task.key: task for task in phase.tasks}  # of parts that hold the same (say, nothing), one does for all
        entries = {key: entry for key in tasks if (entry := self.ledger.find(key))}
        waiting = [task for key, task in tasks.items() if key not in entries]
        failures = Failures()
        for entry in entries.values():
            failures.add(entry["report"])
        self.used.update(tasks)
        if waiting:
            self._compile()
            if not self.inline:
                self._start_ray()
        self.progress.begin(phase.name, len(tasks), len(entries), sum(t.weight for t in waiting))
        if waiting:
            self.still_ours()
            self._check_inputs(waiting)
            self.ledger.make_room([path for task in waiting for path in task.spec.get("writes", [])])
            # Closed before an error goes on: its tasks are to be stopped while Ray still runs.
            with closing(self._inline(waiting) if self.inline else self._on_ray(waiting)) as results:
                for task, entry in results:
                    self._accept(task, entry)
                    entries[task.key] = entry
                    failures.add(entry["report"])
                    self.progress.done(task.weight, entry)
                    self._check_failures(phase, failures, len(entries), len(tasks))
        self._check_failures(phase, failures, len(tasks), len(tasks))
        self.progress.end(phase.name)
        return [entries[task.key] for task in phase.tasks]

    def _compile(self) -> None:
        try:
            ensure_warm(self.progress.compiling)
        except OSError as error:
            raise UserError(
                f"kernels cannot be compiled to {kernel_folder()}: {error.strerror or error}; set HEADRACE_CACHE to a folder "
                "that can be written to"
            ) from None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop Ray where this engine started it."""
        if self._ray_started:
            import ray

            ray.shutdown()
            self._ray_started = False

    def before_replacing(self, paths: list[str], keys: set[str]) -> None:
        """Called when final files may be written over: the manifest that vouches for the old ones goes first."""
        done = {key for key in keys if self.ledger.find(key)}
        if done != keys and any(path in self.ledger.sizes for path in paths):
            storage.delete(storage.join(self.run_uri, MANIFEST))

    def check_present(self, paths: list[str]) -> None:
        """Raise InputsGone where a part that the planner itself reads was let go."""
        gone = {owner for path in paths if (owner := self.ledger.released(path))}
        if gone:
            raise InputsGone(gone)

    def _check_inputs(self, tasks: list[Task]) -> None:
        self.check_present([path for task in tasks for path in task.spec.get("reads", [])])

    def _accept(self, task: Task, entry: dict[str, Any]) -> None:
        self.ledger.add(entry)
        books = [StepBooks.from_json(b) for b in entry["report"].get("books", [])]
        if wrong := imbalances(books):
            self.ledger.forget([task.key])
            raise BooksError(f"the books of {task.name} do not balance: {'; '.join(wrong)}")
        self.executed += 1

    def _check_failures(self, phase: Phase, failures: Failures, done: int, total: int) -> None:
        """At the end of a phase, and on the way once so much failed that the end cannot be better."""
        if failures.files > self.max_failed_files:
            raise TooManyFailures(
                f"{failures.files} source files could not be read to their end (allowed: {self.max_failed_files}, "
                f"run.failures.files); the first: {failures.file_cause}"
            )
        expected = failures.seen * total / max(done, 1)  # documents of the whole phase, by those seen
        if done >= ENOUGH_TO_JUDGE * total and failures.documents > self.max_failed_documents * expected:
            raise TooManyFailures(
                f"{phase.name}: {failures.documents} of {failures.seen} documents failed, over the share of "
                f"{self.max_failed_documents:g} that run.failures.documents allows; the first: {failures.cause}"
            )

    def _inline(self, tasks: list[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        self._check_memory(tasks, [machine_memory()], "this machine has")
        for task in tasks:
            yield task, execute(self.run_uri, _plain(task), self.cache_bytes, self.token)

    def _on_ray(self, tasks: list[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        ray = self._start_ray()
        nodes = [node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]]
        self._check_memory(tasks, nodes, "the largest Ray node offers")
        remote = ray.remote(max_retries=LOST_WORKER_RETRIES, num_cpus=1)(execute)
        in_flight = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        known = ray.exceptions
        lost = (known.WorkerCrashedError, known.OutOfMemoryError, known.NodeDiedError, known.LocalRayletDiedError)
        queue = iter(tasks)
        running: dict[Any, Task] = {}
        try:
            while True:
                while len(running) < in_flight and (task := next(queue, None)) is not None:
                    call = remote.options(memory=task.memory) if task.memory > self.task_memory else remote
                    running[call.remote(self.run_uri, _plain(task), self.cache_bytes, self.token)] = task
                if not running:
                    return
                ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                self.progress.tick()
                for reference in ready:
                    task = running.pop(reference)
                    try:
                        yield task, ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        if "failed to import on the worker" in str(error):
                            raise UserError(
                                f"task {task.name}: a Ray worker cannot import Headrace: install the same version of it, in "
                                "the Python that Ray runs in, on every node"
                            ) from None
                        raise error.cause if isinstance(error.cause, Exception) else error from None
                    except lost as error:
                        raise UserError(
                            f"task {task.name}: its worker or node was lost {LOST_WORKER_RETRIES + 1} times, the last time with: "
                            f"{' '.join(str(error).split())}; if memory ran out, lower run.batch_bytes or run.split_bytes"
                        ) from None
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _check_memory(self, tasks: list[Task], offered: list[float], whose: str) -> None:
        """Raise UserError where a task of the phase needs more memory than there is anywhere."""
        most = max(tasks, key=lambda task: task.memory)
        if most.memory > max(self.task_memory, *offered):
            raise UserError(
                f"task {most.name} needs {show_bytes(most.memory)} of memory, and {whose} {show_bytes(max(offered))}: "
                "cut the work smaller (bff, substring: more shards; others: less memory, more partitions), or use larger machines"
            )

    def _start_ray(self) -> Any:
        for name, value in (RAY_ENVIRONMENT if self.address else RAY_ENVIRONMENT | OWN_RAY).items():
            os.environ.setdefault(name, value)
        import ray

        if not self._ray_started:
            self.progress.note("starting Ray" + (f" at {self.address}" if self.address else ""))
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
            if self.address:
                options |= {"address": self.address}
            else:
                options |= {
                    "address": "local",  # a Ray of its own, also where RAY_ADDRESS is set or another runs on this machine
                    "num_cpus": self.workers,
                    "include_dashboard": False,
                    "object_store_memory": 100 * 2**20,  # reports only: documents never pass through it
                }
            try:
                ray.init(**options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                hint = "; is it up? one that asks for a token needs RAY_AUTH_MODE=token" if self.address else ""
                raise UserError(
                    f"Ray could not be started{f' at {self.address}' if self.address else ''}: {error}{hint}"
                ) from None
            self._ray_started = True
        return ray


RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # the driver waits for its workers: they are what is to be done here
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
OWN_RAY = {"RAY_AUTH_MODE": "disabled"}  # a cluster that was there before says itself whether it asks for a token


def _plain(task: Task) -> dict[str, Any]:
    facts = {"key": task.key, "name": task.name, "function": task.function, "similar": task.similar}
    return facts | {"spec": task.spec, "folder": str(Path.cwd())}


def execute(run: str, task: dict[str, Any], cache_bytes: int, token: str | None = None) -> dict[str, Any]:
    """Run one task to its end, in whatever process this is, and enter it into the ledger. Returns the entry."""
    with suppress(OSError):  # a cluster's workers begin where it was started; relative paths are meant from here
        os.chdir(task["folder"])
    ensure_warm(None)
    module, _, name = task["function"].partition(":")
    function: Callable[[dict, Context], dict] = getattr(import_module(module), name)
    began, cpu = time.perf_counter(), time.process_time()
    release()
    reset_peak()
    scratch_root = storage.scratch_folder(run)
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-", dir=scratch_root) as scratch:
            context = Context(run, Path(scratch), storage.Cache(storage.cache_folder(), cache_bytes), token)
            report = function(task["spec"], context)
        entry = {
            "key": task["key"],
            "name": task["name"],
            "function": task["function"],
            "similar": task["similar"],
            "outputs": context.outputs,
            "report": report,
            "seconds": round(time.perf_counter() - began, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "peak_memory": peak(),
            "host": socket.gethostname(),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        context.still_wanted()
        write_entry(run, entry)
        return entry
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(error.filename or scratch_root, 0) from None
        if error.errno in OF_THE_SYSTEM:
            what = error.filename or f"a file under {scratch_root}"
            raise UserError(f"task {task['name']}: {what}: {os.strerror(error.errno)}; mend it and run again") from None
        raise
    except UserError:
        raise
    except Exception as error:
        error = _portable(error)
        error.add_note(f"in task {task['name']}:\n{traceback.format_exc()}")
        raise error from None


def _portable(error: Exception) -> Exception:
    """The error, or its words in a RuntimeError where another process could not take it apart and put it together."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
