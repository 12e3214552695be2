"""Processes as `python` or `torchrun` start them, forked from one that has loaded already what they import.

Loading PyTorch takes 3 s of a core, and torchrun loads it once more beside its processes; what a run imports takes 1 s. What
torchrun itself does (passing on signals, ending all when one fails) is tested with it, in tests/trainer/test_change.py.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRAINER = ("torch.distributed.fsdp", "torch.nn.parallel", "torch.optim", "trainer.adapt.run", "trainer.train")
PIPELINE = ("boto3", "pipeline.carry_out", "pipeline.commands.run", "pipeline.jobs.documents", "pipeline.jobs.dedup_call")


@dataclass(frozen=True)
class Started:
    """Processes that run. pids: in the order of their ranks. folder: what each prints is in folder/out.RANK and err.RANK."""

    pids: tuple[int, ...]
    folder: Path
    server: Any

    def printed(self, stream: str) -> str:
        """What the processes have printed so far on `out` or `err`, one process behind another."""
        return "".join((self.folder / f"{stream}.{rank}").read_text() for rank in range(len(self.pids)))

    def kill(self) -> None:
        """End all of them at once."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self) -> list[int]:
        """The exit statuses, by rank, once all have ended; minus the signal for what a signal ended."""
        return json.loads(self.server.stdout.readline())


@contextlib.contextmanager
def started(
    folder: Path,
    *command: str,
    count: int = 1,
    loaded: tuple[str, ...] = TRAINER,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Started]:
    """Run `python COMMAND`, which is `-m MODULE ...` or `SCRIPT ...`, in so many processes of one group, one thread each.

    loaded: what the process has imported from which they are forked. As with torchrun, the others are ended where one fails.
    environment: in place of this process's. All are killed at the end of the context; `wait` before it. One such group at a time.
    """
    store, group = _store(count) if count > 1 else (None, {})
    variables = {**(environment or os.environ), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **group}
    folder.mkdir(parents=True, exist_ok=True)
    server = _server(loaded)
    server.stdin.write(json.dumps([count, command, variables, str(folder)]) + "\n")
    server.stdin.flush()
    processes = Started(tuple(json.loads(server.stdout.readline())), folder, server)
    try:
        yield processes
    finally:
        processes.kill()
        server.stdin.write("\n")  # next
        server.stdin.flush()
        while server.stdout.readline() != "next\n":
            pass
        del store


def _store(count: int) -> tuple[Any, dict[str, str]]:
    """Where a group of processes meets, in this process as it is in torchrun: no port is looked for that another may take.
    And what torchrun tells processes of it."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return store, group | {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}


def run(folder: Path, *command: str, count: int = 1) -> str:
    """Run a command of the trainer as `started` does, to its end. Returns what it printed on stdout; raises AssertionError, with
    what it printed on both streams, where it fails."""
    with started(folder, *command, count=count) as processes:
        statuses = processes.wait()
        out, err = processes.printed("out"), processes.printed("err")
    assert statuses == [0] * count, f"exit statuses {statuses}\n{out[-2000:]}\n{err[-5000:]}"
    return out


def call(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m pipeline ARGUMENTS` to its end, in a process that has imported it; folder: for what it prints."""
    command = ["-m", "pipeline", *arguments]
    with started(folder, *command, loaded=PIPELINE, environment=environment) as process:
        (status,) = process.wait()
        return subprocess.CompletedProcess(command, status, process.printed("out"), process.printed("err"))


@functools.cache
def _server(loaded: tuple[str, ...]) -> Any:
    """The process that forks; it ends with this one, whose end of the pipe is closed then."""
    command = [sys.executable, str(Path(__file__).resolve()), *loaded]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _serve() -> None:
    sys.path[:0] = [str(ROOT)]
    for module in sys.argv[1:]:
        __import__(module)
    while line := sys.stdin.readline():
        count, command, environment, folder = json.loads(line)
        pids: list[int] = []
        for rank in range(count):
            pids.append(os.fork())
            if pids[-1] == 0:
                ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
                _become(command, environment | ranks, Path(folder), rank)
        print(json.dumps(pids), flush=True)
        print(json.dumps(_statuses(pids)), flush=True)
        sys.stdin.readline()
        print("next", flush=True)


def _become(command: list[str], environment: dict[str, str], folder: Path, rank: int) -> None:
    """Run a command in this process, and end it."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may be another
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    status = 0
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # to take all modules apart takes a second


def _statuses(pids: list[int]) -> list[int]:
    """Wait for processes; where one fails, end the others."""
    found: dict[int, int] = {}
    while len(found) < len(pids):
        pid, status = os.wait()
        found[pid] = os.waitstatus_to_exitcode(status)
        if found[pid]:
            for other in set(pids) - found.keys():
                os.kill(other, signal.SIGTERM)
    return [found[pid] for pid in pids]


if __name__ == "__main__":
    _serve()
