"""Where tasks run: on Ray, or in this process. The only file of the pipeline that imports ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.execute import Finished, Surroundings, execute
from pipeline.plan.node import Node
from pipeline.progress import Progress
from pipeline.size import machine_memory
from stages.errors import UserError
from stages.kernels.stored import kernel_root
from stages.kernels.warm import ensure_warm
from stages.units import show_bytes

LOST_WORKER_RETRIES = 3
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",  # the driver waits for its workers: they are what is to be done here
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
OWN_RAY = {"RAY_AUTH_MODE": "disabled"}  # a cluster that was there before says itself whether it asks for a token


@dataclass(kw_only=True)
class Placement:
    """Where tasks run, and what is shown of them: nothing here changes a byte of a result.

    task_memory: bytes that any task may take; one that needs more has it reserved.
    """

    workers: int | None = None
    address: str | None = None
    inline: bool = False
    progress: Progress = field(default_factory=Progress)
    task_memory: int = 1536 * 2**20
    cache_bytes: int = 20 * 2**30


class Workplace:
    """Carries out tasks for one run. Ray is started with the first of them, and stopped by `close`."""

    def __init__(self, run: str, placement: Placement, token: str | None) -> None:
        self.placement, self.progress = placement, placement.progress
        self.around = Surroundings(run, str(Path.cwd()), placement.cache_bytes, token)
        self._ray_started = False

    def prepare(self) -> None:
        """What must be there before tasks run: compiled kernels, and Ray."""
        try:
            ensure_warm(self.progress.compiling)
        except OSError as error:
            raise UserError(
                f"kernels cannot be compiled to {kernel_root()}: {error.strerror or error}; set HEADRACE_CACHE to a folder "
                "that can be written to"
            ) from None
        if not self.placement.inline:
            self._start_ray()

    def carry_out(self, nodes: list[Node]) -> Iterator[tuple[Node, Finished]]:
        """Run tasks; each with what it left, in the order in which they end."""
        if self.placement.inline:
            self._check_memory(nodes, [machine_memory()], "this machine has")
            return ((node, execute(node, node.key, self.around)) for node in nodes)
        return self._on_ray(nodes)

    def close(self) -> None:
        """Stop Ray where it was started here."""
        if self._ray_started:
            import ray

            ray.shutdown()
            self._ray_started = False

    def _on_ray(self, nodes: list[Node]) -> Iterator[tuple[Node, Finished]]:
        ray = self._start_ray()
        offered = [node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]]
        self._check_memory(nodes, offered, "the largest Ray node offers")
        remote = ray.remote(max_retries=LOST_WORKER_RETRIES, num_cpus=1)(execute)
        in_flight = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        queue = iter(nodes)
        running: dict[Any, Node] = {}
        try:
            while True:
                while len(running) < in_flight and (node := next(queue, None)) is not None:
                    needs = node.memory if node.memory > self.placement.task_memory else None
                    call = remote.options(memory=needs) if needs else remote
                    running[call.remote(node, node.key, self.around)] = node
                if not running:
                    return
                ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                self.progress.tick()
                for reference in ready:
                    node = running.pop(reference)
                    yield node, _result(ray, reference, node)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _check_memory(self, nodes: list[Node], offered: list[float], whose: str) -> None:
        """Raise UserError where a task of the stage needs more memory than there is anywhere."""
        most = max(nodes, key=lambda node: node.memory)
        if most.memory > max(self.placement.task_memory, *offered):
            raise UserError(
                f"task {most.ref} needs {show_bytes(most.memory)} of memory, and {whose} {show_bytes(max(offered))}: "
                "cut the work smaller (bff, substring: more shards; others: less memory, more partitions), or use larger machines"
            )

    def _start_ray(self) -> Any:
        address = self.placement.address
        for name, value in (RAY_ENVIRONMENT if address else RAY_ENVIRONMENT | OWN_RAY).items():
            os.environ.setdefault(name, value)
        import ray

        if not self._ray_started:
            self.progress.note("starting Ray" + (f" at {address}" if address else ""))
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
            if address:
                options |= {"address": address}
            else:
                options |= {
                    "address": "local",  # a Ray of its own, also where RAY_ADDRESS is set or another runs on this machine
                    "num_cpus": self.placement.workers,
                    "include_dashboard": False,
                    "object_store_memory": 100 * 2**20,  # reports only: documents never pass through it
                }
            try:
                ray.init(**options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                hint = "; is it up? one that asks for a token needs RAY_AUTH_MODE=token" if address else ""
                at = f" at {address}" if address else ""
                raise UserError(f"Ray could not be started{at}: {error}{hint}") from None
            self._ray_started = True
        return ray


def _result(ray: Any, reference: Any, node: Node) -> Finished:
    """What a task on Ray left. Raises what it raised, and UserError where its worker was lost time and again."""
    known = ray.exceptions
    try:
        return ray.get(reference)
    except known.RayTaskError as error:
        if "failed to import on the worker" in str(error):
            raise UserError(
                f"task {node.ref}: a Ray worker cannot import Headrace: install the same version of it, in the Python that Ray "
                "runs in, on every node"
            ) from None
        raise error.cause if isinstance(error.cause, Exception) else error from None
    except (known.WorkerCrashedError, known.OutOfMemoryError, known.NodeDiedError, known.LocalRayletDiedError) as error:
        raise UserError(
            f"task {node.ref}: its worker or node was lost {LOST_WORKER_RETRIES + 1} times, the last time with: "
            f"{' '.join(str(error).split())}; if memory ran out, lower run.batch_bytes or run.split_bytes"
        ) from None
