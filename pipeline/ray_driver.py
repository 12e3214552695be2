"""The process that talks to Ray, so that no other process of a run loads it; the only file that imports ray.

A process in which Ray has run cannot fork safely any more: its children may end in a segmentation fault. A program that
carries out a run and then reads the tokens with forked workers must stay free of it. `pipeline.ray_start` starts this
process and sends it calls; both sides speak through one connection, in the messages below.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from queue import Queue
from threading import Thread
from typing import Any

LOST_WORKER_RETRIES = 3
WAIT_SECONDS = 0.2  # for results, before commands are looked for again
LOOK_SECONDS = 2.0  # between looks at the nodes, while no result comes

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # the run waits for its workers: they are what is to be done here
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
OWN_RAY = {"RAY_AUTH_MODE": "disabled"}  # a cluster that was there before says itself whether it asks for a token


@dataclass(frozen=True)
class Start:
    """To this process: start Ray, or connect to the one at `address`."""

    address: str | None
    workers: int | None
    temporary: str | None  # folder for the own Ray's sockets and logs


@dataclass(frozen=True)
class Call:
    """To this process: call `function` ("module:name") on a worker; reserve so much memory for it, if any.

    arguments: pickled, so that this process need not import what they are made of.
    """

    number: int
    function: str
    arguments: bytes
    memory: int


@dataclass(frozen=True)
class Cancel:
    """To this process: stop all calls; nothing more is told of them."""


@dataclass(frozen=True)
class Started:
    """From this process: Ray runs; its CPUs in all, and the bytes of memory that each node offers."""

    cpus: int
    memory: list[int]


@dataclass(frozen=True)
class NotStarted:
    """From this process: Ray does not run, and why."""

    reason: str


@dataclass(frozen=True)
class Result:
    """From this process: what a call returned (pickled, on the way)."""

    number: int
    value: Any


@dataclass(frozen=True)
class Raised:
    """From this process: a call raised this."""

    number: int
    error: Exception


@dataclass(frozen=True)
class Lost:
    """From this process: the call's worker or node died each time that it was tried."""

    number: int
    reason: str


@dataclass(frozen=True)
class NotImported:
    """From this process: a worker has no Headrace to import."""

    number: int


def call(function: str, arguments: bytes) -> bytes:
    """What runs on a worker: a function by its name. Arguments and result are pickled."""
    module, _, name = function.partition(":")
    return pickle.dumps(getattr(import_module(module), name)(*pickle.loads(arguments)))


def serve(descriptor: int) -> None:
    """Start Ray as the first message says, and carry out calls until the other end closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run itself is stopped, and then closes the connection
    end = socket.socket(fileno=descriptor)
    connection = Connection(os.dup(descriptor))
    start: Start = connection.recv()
    for name, value in (RAY_ENVIRONMENT if start.address else RAY_ENVIRONMENT | OWN_RAY).items():
        os.environ.setdefault(name, value)
    try:
        ray = _init(start)
    except Exception as error:
        connection.send(NotStarted(" ".join(f"{error}".split()) or type(error).__name__))
        return
    try:
        connection.send(Started(int(ray.cluster_resources().get("CPU", 1)), _memory(ray)))
        _carry_out(ray, connection)
    except (BrokenPipeError, ConnectionResetError):  # the run has died
        pass
    finally:
        with suppress(OSError):  # the other end is to know at once; that Ray stops may take a while
            end.shutdown(socket.SHUT_RDWR)
        ray.shutdown()


def _init(start: Start) -> Any:
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if start.address:
        options |= {"address": start.address}
    else:
        options |= {
            "address": "local",  # a Ray of its own, also where another runs on this machine
            "num_cpus": start.workers,
            "include_dashboard": False,
            "object_store_memory": 100 * 2**20,  # reports only: documents never pass through it
            "_temp_dir": start.temporary,
        }
    ray.init(**options)
    return ray


def _memory(ray: Any) -> list[int]:
    return [int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]]


def _carry_out(ray: Any, connection: Connection) -> None:
    """Take commands and tell results until the other end is closed, or Ray has no node left."""
    from pipeline.ray_driver import call as function  # by its module's name, not as part of `__main__`

    remote = ray.remote(max_retries=LOST_WORKER_RETRIES, num_cpus=1)(function)
    commands: Queue[Call | Cancel | None] = Queue()
    Thread(target=_receive, args=(connection, commands), daemon=True).start()
    running: dict[Any, int] = {}
    looked = time.monotonic()
    try:
        while True:
            while not running or not commands.empty():
                command = commands.get()
                if command is None:
                    return
                if isinstance(command, Cancel):
                    _cancel(ray, running)
                else:
                    chosen = remote.options(memory=command.memory) if command.memory else remote
                    running[chosen.remote(command.function, command.arguments)] = command.number
            ready, _ = ray.wait(list(running), num_returns=1, timeout=WAIT_SECONDS)
            if not ready and time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                if not _memory(ray):
                    return  # no node is left, and Ray would wait for another one for ever
            for reference in ready:
                connection.send(_outcome(ray, reference, running.pop(reference)))
    finally:
        _cancel(ray, running)


def _receive(connection: Connection, commands: Queue[Call | Cancel | None]) -> None:
    """Commands are always taken at once: where both ends wrote and none read, both would wait for ever."""
    with suppress(EOFError, OSError):
        while True:
            commands.put(connection.recv())
    commands.put(None)


def _cancel(ray: Any, running: dict[Any, int]) -> None:
    for reference in running:
        ray.cancel(reference, force=True)
    running.clear()


def _outcome(ray: Any, reference: Any, number: int) -> Result | Raised | Lost | NotImported:
    known = ray.exceptions
    try:
        return Result(number, ray.get(reference))
    except known.RayTaskError as error:
        if "failed to import on the worker" in str(error):
            return NotImported(number)
        return Raised(number, error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error)))
    except (known.WorkerCrashedError, known.OutOfMemoryError, known.NodeDiedError, known.LocalRayletDiedError) as error:
        return Lost(number, " ".join(str(error).split()))
