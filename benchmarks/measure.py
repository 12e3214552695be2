"""Run a command on one core and measure it from outside: seconds, CPU seconds, and the memory of each process."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


@dataclass
class Process:
    """One process of a command: its peak resident memory in bytes, and its CPU seconds."""

    name: str
    peak: int
    cpu_seconds: float


@dataclass
class Usage:
    """What a command took. cpu_seconds and processes cover all processes that it started."""

    seconds: float
    cpu_seconds: float
    processes: list[Process] = field(default_factory=list)
    output: str = ""

    @property
    def peak(self) -> int:
        """Peak memory of the largest process, bytes."""
        return max((p.peak for p in self.processes), default=0)

    def to_json(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "peak": self.peak} | {
            "processes": [asdict(p) for p in self.processes]
        }


def run(command: Sequence[str], cores: set[int] | None, environment: dict[str, str] | None = None) -> Usage:
    """Run a command of this repository's Python to its end on the given cores. Raises SystemExit where it fails.

    Peaks are the kernel's own high-water marks, read ten times a second: what a process takes in its last tenth of a
    second may be missed. The environment is this one's, with threads of libraries limited to one.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)  # orphans of the command stay below this process, and are counted
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false", **(environment or {})},
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
        found: dict[tuple[int, str], Process] = {}
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(child.pid, found, stop))
        watcher.start()
        try:
            _, status, used = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - began
            child.returncode = os.waitstatus_to_exitcode(status)
        finally:
            stop.set()
            watcher.join()
            _reap()
        output.seek(0)
        errors.seek(0)
        text, wrong = output.read().decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}:\n{wrong[-4000:]}")
    processes = sorted(found.values(), key=lambda p: -p.peak)
    cpu = max(used.ru_utime + used.ru_stime, sum(p.cpu_seconds for p in processes))
    return Usage(seconds, cpu, processes, text)


def _watch(root: int, found: dict[tuple[int, str], Process], stop: threading.Event) -> None:
    while not stop.wait(0.1):
        for pid in _below(root):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                line = Path(f"/proc/{pid}/stat").read_text()
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            peak = next((int(row.split()[1]) * 1024 for row in status.splitlines() if row.startswith("VmHWM")), 0)
            fields = line.rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            began = (pid, fields[19])  # a process number may come again; its start time tells
            name = _name(arguments)
            if began not in found or peak >= found[began].peak:
                found[began] = Process(name, peak, cpu)
            else:
                found[began].cpu_seconds = cpu


def _below(root: int) -> list[int]:
    """The process and all its descendants; what lost its parent hangs below this process and counts too."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    me = os.getpid()
    inside = {root}
    grew = True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in inside or parent == me} - inside
        grew = bool(more)
        inside |= more
    return [pid for pid in inside if pid in parents]


def _name(arguments: list[bytes]) -> str:
    """A process by what it runs: the module or program, without paths and settings."""
    words = [a.decode("utf-8", "replace") for a in arguments if a]
    if not words:
        return "?"
    if words[0].startswith("ray::"):
        return words[0]
    if "-m" in words[:4]:
        return f"python -m {words[words.index('-m') + 1]}"
    scripts = [Path(w).name for w in words[1:4] if w.endswith(".py")]
    return scripts[0] if scripts else Path(words[0].split()[0]).name


def _reap() -> None:
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def peak_memory() -> int:
    """The most resident memory that this process has had, in bytes: the kernel's high-water mark.

    Not getrusage's, which begins at that of the process that this one was forked from.
    """
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM"))


def one_core(number: int | None = None) -> set[int]:
    """The core that measured commands are pinned to: the last of those that this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    return {allowed[-1] if number is None else number}


def middle(values: Sequence[float]) -> float:
    """The median; of an even number the lower one of the two in the middle, so that it is a value that was measured."""
    return sorted(values)[(len(values) - 1) // 2]


def machine(*packages: str) -> dict[str, Any]:
    """The machine and the versions that the figures hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions,
    }


def show_machine(facts: dict[str, Any]) -> str:
    """One line for `machine()`."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']} when it began; Python {facts['python']}, {versions}"


def write_json(path: str | None, data: dict[str, Any]) -> None:
    """Write a benchmark's figures where they were asked for; `-` is standard output."""
    if path == "-":
        print(json.dumps(data, indent=1))
    elif path:
        Path(path).write_text(json.dumps(data, indent=1) + "\n")
