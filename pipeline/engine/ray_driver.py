"""The process that talks to Ray, so that no other process of a run loads it; the only file that imports ray.

A process in which Ray has run cannot fork safely any more: its children may end in a segmentation fault. A program that
carries out a run and then reads the tokens with forked workers must stay free of it. `pipeline.engine.ray_start` starts this
process and sends it calls; both sides speak through one connection, in the messages below.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from queue import Empty, Queue
from threading import Thread
from typing import Any, TypedDict

LOST_WORKER_RETRIES = 3
LOOK_SECONDS = 2.0  # between looks at the nodes

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # the run waits for its workers: they are what is to be done here
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_task_oom_retries": f"{LOST_WORKER_RETRIES}",  # Ray would try a task that memory ran out for again for ever
}
NODE_LABEL = "ray.io/node-id"
NODE = "headrace_node"  # attribute of an error: the id of the node that it was raised on
OWN_RAY = {"RAY_AUTH_MODE": "disabled"}  # a cluster that was there before says itself whether it asks for a token


@dataclass(frozen=True)
class Start:
    """To this process: start Ray, or connect to the one at `address`."""

    address: str | None
    workers: int | None
    temporary: str | None  # folder for the own Ray's sockets and logs


@dataclass(frozen=True)
class Call:
    """To this process: call `function` ("module:name") on a worker; reserve so much memory for it, if any, and so many cores.

    arguments: pickled, so that this process need not import what they are made of. name: on Ray's dashboard.
    avoid: the id of a node that it goes to only where no other has room. spread: to the node that has least to do.
    """

    number: int
    function: str
    arguments: bytes
    memory: int = 0
    cores: int = 1
    name: str = ""
    avoid: str | None = None
    spread: bool = False


@dataclass(frozen=True)
class Cancel:
    """To this process: stop all calls; nothing more is told of them."""


@dataclass(frozen=True)
class CancelOne:
    """To this process: stop a call, which is told as Cancelled once it has ended. force: end its worker."""

    number: int
    force: bool


@dataclass(frozen=True)
class Started:
    """From this process: Ray runs; its CPUs in all, the bytes of memory of each node that has any, and the most of one node."""

    cpus: int
    memory: list[int]
    most_cores: int
    dashboard: str = ""  # its address, where there is one


@dataclass(frozen=True)
class Changed(Started):
    """From this process: the cluster has other nodes now."""


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
    """From this process: a call raised this, on the node of this id (None: not told)."""

    number: int
    error: Exception
    node: str | None = None


@dataclass(frozen=True)
class Lost:
    """From this process: the call's worker died each time that it was tried; node: or its node did, or Ray lost it else."""

    number: int
    reason: str
    node: bool = False


@dataclass(frozen=True)
class Cancelled:
    """From this process: a call that was to be stopped has ended, and left no result."""

    number: int


@dataclass(frozen=True)
class NotImported:
    """From this process: a worker has no Headrace to import."""

    number: int


@dataclass(frozen=True)
class _Ended:
    """Within this process: a call has ended."""

    number: int
    future: Future[bytes]


def call(function: str, arguments: bytes) -> bytes:
    """What runs on a worker: a function by its name. Arguments and result are pickled."""
    module, _, name = function.partition(":")
    try:
        return pickle.dumps(getattr(import_module(module), name)(*pickle.loads(arguments)))
    except KeyboardInterrupt:  # it was cancelled, and what it left is removed: what else was cut short, nobody knows
        os._exit(1)
    except Exception as error:
        import ray

        vars(error)[NODE] = ray.get_runtime_context().get_node_id()
        raise


def serve(descriptor: int) -> None:
    """Start Ray as the first message says, and carry out calls until the other end closes the connection."""
    # The run itself is stopped, and then closes the connection. Not SIG_IGN, which workers would inherit: Ray could not
    # interrupt them where a task is cancelled.
    signal.signal(signal.SIGINT, lambda *_: None)
    end = socket.socket(fileno=descriptor)
    connection = Connection(os.dup(descriptor))
    start: Start = connection.recv()
    for name, value in (RAY_ENVIRONMENT if start.address else RAY_ENVIRONMENT | OWN_RAY).items():
        os.environ.setdefault(name, value)
    try:
        ray, dashboard = _init(start)
    except Exception as error:
        connection.send(NotStarted(" ".join(f"{error}".split()) or type(error).__name__))
        return
    try:
        connection.send(Started(*_offered(ray), dashboard))
        _Calls(ray, connection).serve()
    except (BrokenPipeError, ConnectionResetError):  # the run has died
        pass
    finally:
        with suppress(OSError):  # the other end is to know at once; that Ray stops may take a while
            end.shutdown(socket.SHUT_RDWR)
        ray.shutdown()


def _init(start: Start) -> tuple[Any, str]:
    """Ray, and the address of its dashboard."""
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
    context = ray.init(**options)
    return ray, getattr(context, "dashboard_url", None) or ""


def _offered(ray: Any) -> tuple[int, list[int], int]:
    """The CPUs of all nodes that are up, the memory of each that has any CPU, and the most CPUs of one."""
    nodes = [node["Resources"] for node in _nodes(ray) if node["Resources"].get("CPU", 0) >= 1]
    cpus = [int(node["CPU"]) for node in nodes]
    return sum(cpus), [int(node.get("memory", 0)) for node in nodes], max(cpus, default=0)


class _Node(TypedDict):
    """What is read of Ray's list of nodes. Resources: CPU in cores, memory in bytes, and what else users name."""

    Alive: bool
    Resources: dict[str, float]


def _nodes(ray: Any) -> list[_Node]:
    return [node for node in ray.nodes() if node["Alive"]]


class _Calls:
    """Takes commands and tells results until the other end is closed, or Ray has no node left.

    Ray itself says when a call has ended (a future's callback): to ask for it of tens of thousands takes longer than they do.
    """

    def __init__(self, ray: Any, connection: Connection) -> None:
        from pipeline.engine.ray_driver import call as function  # by its module's name, not as part of `__main__`

        self.ray, self.connection = ray, connection
        self.remote = ray.remote(max_retries=LOST_WORKER_RETRIES)(function)
        self.events: Queue[Call | Cancel | CancelOne | _Ended | None] = Queue()
        self.running: dict[int, Any] = {}
        self.stopped: set[int] = set()  # of those that run: calls that are to end
        self.offered = _offered(ray)
        self.looked = time.monotonic()

    def serve(self) -> None:
        Thread(target=_receive, args=(self.connection, self.events), daemon=True).start()
        try:
            while self._nodes_are_left():
                with suppress(Empty):
                    event = self.events.get(timeout=LOOK_SECONDS)
                    if event is None:
                        return
                    self._take(event)
        finally:
            self._cancel()

    def _take(self, event: Call | Cancel | CancelOne | _Ended) -> None:
        match event:
            case Call():
                self._start(event)
            case Cancel():
                self._cancel()
            case CancelOne():
                if reference := self.running.get(event.number):
                    self.stopped.add(event.number)
                    self.ray.cancel(reference, force=event.force)
            case _Ended():
                if self.running.pop(event.number, None) is not None:  # else of a call that was given up
                    self.connection.send(self._outcome(event))

    def _start(self, one: Call) -> None:
        options: dict[str, Any] = {"name": one.name or one.function, "num_cpus": one.cores}
        if one.memory:
            options["memory"] = one.memory
        if one.spread:
            options["scheduling_strategy"] = "SPREAD"
        if one.avoid:
            options["label_selector"] = {NODE_LABEL: f"!{one.avoid}"}
            options["fallback_strategy"] = [{"label_selector": {NODE_LABEL: one.avoid}}]
        self.running[one.number] = reference = self.remote.options(**options).remote(one.function, one.arguments)
        reference.future().add_done_callback(lambda future: self.events.put(_Ended(one.number, future)))

    def _outcome(self, ended: _Ended) -> Result | Raised | Lost | NotImported | Cancelled:
        number, known = ended.number, self.ray.exceptions
        stopped = number in self.stopped
        self.stopped.discard(number)
        error = ended.future.exception()
        if error is None:
            return Result(number, ended.future.result())
        if stopped or isinstance(error, known.TaskCancelledError):
            return Cancelled(number)
        if isinstance(error, known.RayTaskError):
            if "failed to import on the worker" in str(error):
                return NotImported(number)
            cause = getattr(error, "cause", None)
            cause = cause if isinstance(cause, Exception) else RuntimeError(str(error))
            return Raised(number, cause, vars(cause).pop(NODE, None))
        words = " ".join(str(error).split())
        if isinstance(error, known.RayError):
            return Lost(number, words, node=not isinstance(error, known.WorkerCrashedError | known.OutOfMemoryError))
        return Raised(number, RuntimeError(f"{type(error).__name__}: {words}"))

    def _cancel(self) -> None:
        for reference in self.running.values():
            self.ray.cancel(reference, force=True)
        self.running.clear()
        self.stopped.clear()

    def _nodes_are_left(self) -> bool:
        """Look at the nodes now and then, and tell where they are others. False where none is left: Ray would wait for ever."""
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return True
        offered = _offered(self.ray)
        self.looked = time.monotonic()
        if offered != self.offered:
            self.offered = offered
            self.connection.send(Changed(*offered))
        return bool(_nodes(self.ray))


def _receive(connection: Connection, events: Queue[Any]) -> None:
    """Commands are always taken at once: where both ends wrote and none read, both would wait for ever."""
    with suppress(EOFError, OSError):
        while True:
            events.put(connection.recv())
    events.put(None)
