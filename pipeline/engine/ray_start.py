"""Starts Ray in a process of its own (`pipeline.engine.ray_driver`) and speaks with it: the engine's one way to workers."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.engine.ray_driver import (
    Call,
    Cancel,
    Cancelled,
    CancelOne,
    Changed,
    Lost,
    NotImported,
    NotStarted,
    Raised,
    Result,
    Start,
    Started,
)
from pipeline.progress import Progress
from stages.errors import UserError

OWN_SECONDS = 120.0  # for an own Ray to start
ADDRESS_SECONDS = 20.0  # for a cluster to take us in; HEADRACE_RAY_SECONDS says otherwise, of both
REACH_SECONDS = 10.0  # for the cluster's port to be open
CLOSE_SECONDS = 20.0
# Ray's sockets lie at FOLDER/session_DATE_PID/sockets/plasma_store, and a socket's path has 107 bytes at most.
LONGEST_FOLDER = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")

Outcome = Result | Raised | Lost | NotImported | Cancelled


class Ray:
    """Ray, running: calls are sent to its workers, and come back in any order. Made by `start_ray`."""

    def __init__(self, address: str | None, workers: int | None, temporary: str | None) -> None:
        self.address = address
        ours, theirs = socket.socketpair()
        code = f"from pipeline.engine.ray_driver import serve; serve({theirs.fileno()})"
        root = str(Path(__file__).resolve().parents[2])
        path = [root, *(entry for entry in sys.path if entry != root)]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  Ray's own lines, which nobody is to read unasked
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {code}"],
                pass_fds=[theirs.fileno()],
                cwd=root,  # Ray looks for modules in this folder first, and the user's may hold a pipeline.py
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        self._connection = Connection(ours.detach())
        self._send(Start(address, workers, temporary and str(Path(temporary).absolute())))
        self.cpus = 1  # of all nodes that are up, as they were last looked at
        self.memory: list[int] = []  # bytes that each of them offers
        self.most_cores = 1  # of one of them
        self.dashboard = ""  # address of Ray's, where there is one

    def wait_until_started(self, seconds: float) -> None:
        """Raises UserError where Ray does not run within this time."""
        where = f" at {self.address}" if self.address else ""
        hint = "; is it up? one that asks for a token needs RAY_AUTH_MODE=token" if self.address else ""
        if not self._connection.poll(seconds):
            raise UserError(
                f"Ray could not be started{where}: no answer within {seconds:.0f} s{hint} (HEADRACE_RAY_SECONDS=... waits longer)"
            )
        try:
            answer: Started | NotStarted = self._connection.recv()
        except (EOFError, OSError):
            raise UserError(f"Ray could not be started{where}: its process ended{hint}") from None
        if isinstance(answer, NotStarted):
            raise UserError(f"Ray could not be started{where}: {answer.reason[:400]}{hint}")
        self.cpus, self.memory, self.most_cores, self.dashboard = answer.cpus, answer.memory, answer.most_cores, answer.dashboard

    def call(
        self,
        number: int,
        function: str,
        arguments: tuple[Any, ...],
        memory: int = 0,
        cores: int = 1,
        name: str = "",
        avoid: str | None = None,
        spread: bool = False,
    ) -> None:
        """Call a function ("module:name") on a worker; its outcome carries the number (`Call` tells of the rest).

        Raises UserError where Ray is gone.
        """
        self._send(Call(number, function, pickle.dumps(arguments), memory, cores, name, avoid, spread))

    def outcomes(self, seconds: float) -> list[Outcome]:
        """What has come back, waiting so long for the first. Raises UserError where Ray is gone."""
        found: list[Outcome] = []
        try:
            while self._connection.poll(0 if found else seconds):
                message = self._connection.recv()
                if isinstance(message, Changed):
                    self.cpus, self.memory, self.most_cores = message.cpus, message.memory, message.most_cores
                else:
                    found.append(message)
        except (EOFError, OSError):
            if not found:
                raise self._gone() from None
        return [Result(one.number, pickle.loads(one.value)) if isinstance(one, Result) else one for one in found]

    def cancel_one(self, number: int, force: bool = False) -> None:
        """Let a call end; it is told as Cancelled, or as what it came to before. force: end its worker too."""
        with suppress(UserError):
            self._send(CancelOne(number, force))

    def cancel(self) -> None:
        """Stop what runs; its outcomes are not told."""
        with suppress(UserError):
            self._send(Cancel())

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop Ray where it was started here, and let go of a cluster; what has not ended by then is killed."""
        self._connection.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _send(self, message: Start | Call | Cancel | CancelOne) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise self._gone() from None

    def _gone(self) -> UserError:
        where = f"the connection to Ray at {self.address} was lost" if self.address else "Ray on this machine has died"
        return UserError(f"{where}; what is done stays done: run again")


def start_ray(address: str | None, workers: int | None, progress: Progress) -> Ray:
    """Start Ray on this machine with so many workers, or connect to the cluster at `address`, else at RAY_ADDRESS.

    Raises UserError where it cannot be started or reached, a dead address within 30 seconds.
    """
    began = time.monotonic()
    chosen = ray_address(address, workers)
    progress.note(
        "starting Ray" if chosen is None else f"connecting to Ray at {chosen}{'' if address else ' (RAY_ADDRESS)'}"
    )
    if chosen is None and os.environ.get("RAY_ADDRESS") and workers is not None:
        progress.note(f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} is not taken: workers of this machine were asked for")
    if chosen is not None:
        _reach(chosen)
    temporary = None if chosen else _temporary_folder(progress)
    allowed = _seconds() or (ADDRESS_SECONDS if chosen else OWN_SECONDS)
    ray = Ray(chosen, workers, temporary)
    try:
        ray.wait_until_started(max(1.0, allowed - (time.monotonic() - began)))
    except BaseException:
        ray.close(seconds=0)
        raise
    if chosen is not None:
        without = 'the cluster has no dashboard: pip install "headrace[cluster]" on its first node brings one'
        progress.note(f"Ray's dashboard: http://{ray.dashboard}" if ray.dashboard else without)
    return ray


def _seconds() -> float | None:
    """HEADRACE_RAY_SECONDS: how long to wait for Ray to start, or to take us in."""
    text = os.environ.get("HEADRACE_RAY_SECONDS")
    try:
        return float(text) if text else None
    except ValueError:
        raise UserError(f"HEADRACE_RAY_SECONDS={text}: a number of seconds is needed") from None


def ray_address(address: str | None, workers: int | None = None) -> str | None:
    """The cluster that a run goes to; None: this machine.

    That is `address`; without one RAY_ADDRESS, which `ray job submit` and KubeRay set, unless a number of workers of this
    machine was asked for. `local` means this machine.
    """
    chosen = address or (os.environ.get("RAY_ADDRESS") if workers is None else None)
    return None if chosen in (None, "", "local") else chosen


def _reach(address: str) -> None:
    """Raises UserError where nothing listens at HOST:PORT; Ray itself would try for a minute or more."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, and whatever else Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"Ray could not be started at {address}: nothing answers there ({reason}); is it up?") from None


def _temporary_folder(progress: Progress) -> str:
    """Where an own Ray keeps sockets and logs: RAY_TMPDIR, or the temporary folder, or /tmp where that will not do.

    Raises UserError where RAY_TMPDIR will not do, or nothing else.
    """
    named = os.environ.get("RAY_TMPDIR")
    if named:
        if wrong := _unfit(f"{named}/ray"):
            raise UserError(f"RAY_TMPDIR={named}: {wrong}; name another folder, or unset it")
        return f"{named}/ray"
    folders = [
        f"{os.environ.get('TMPDIR') or '/tmp'}/ray",
        "/tmp/ray",
        f"/tmp/ray-{os.getuid()}",
        f"/dev/shm/ray-{os.getuid()}",
    ]
    faults = [_unfit(folder) for folder in folders]
    if None not in faults:
        raise UserError(
            f"Ray could not be started: {folders[0]}: {faults[0]}; set RAY_TMPDIR to a folder for its files"
        )
    chosen = folders[faults.index(None)]
    if chosen != folders[0]:
        progress.note(f"Ray's files go to {chosen}: {folders[0]}: {faults[0]}")
    return chosen


def _unfit(folder: str) -> str | None:
    """Why Ray could not use a folder; None where it can."""
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        return f"its path is too long for sockets ({len(os.fsencode(folder))} bytes, {LONGEST_FOLDER} at most)"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"it cannot be written to ({error.strerror})"
    return None
