"""Where tasks run: on Ray, or in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.execute import Finished, Surroundings, execute
from pipeline.plan.node import Node
from pipeline.progress import Progress
from pipeline.ray_driver import LOST_WORKER_RETRIES, NotImported, Raised, Result
from pipeline.ray_start import Outcome, Ray, start_ray
from pipeline.size import machine_memory
from stages.errors import UserError
from stages.kernels.stored import kernel_root
from stages.kernels.warm import ensure_warm
from stages.units import show_bytes


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
        self._ray: Ray | None = None
        self._calls = 0

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

    def carry_out(self, nodes: list[Node]) -> Generator[tuple[Node, Finished]]:
        """Run tasks; each with what it left, in the order in which they end."""
        if self.placement.inline:
            self._check_memory(nodes, [machine_memory()], "this machine has")
            return ((node, execute(node, node.key, self.around)) for node in nodes)
        return self._on_ray(nodes)

    def close(self) -> None:
        """Stop Ray where it was started here."""
        if self._ray is not None:
            self._ray.close()
            self._ray = None

    def _on_ray(self, nodes: list[Node]) -> Generator[tuple[Node, Finished]]:
        ray = self._start_ray()
        self._check_memory(nodes, ray.memory, "the largest Ray node offers")
        in_flight = max(2, 2 * ray.cpus)
        queue = iter(nodes)
        running: dict[int, Node] = {}
        try:
            while True:
                while len(running) < in_flight and (node := next(queue, None)) is not None:
                    self._calls += 1
                    running[self._calls] = node
                    needs = node.memory if node.memory > self.placement.task_memory else 0
                    ray.call(self._calls, f"{execute.__module__}:execute", (node, node.key, self.around), needs)
                if not running:
                    return
                found = ray.outcomes(1.0)
                self.progress.tick()
                for outcome in found:
                    node = running.pop(outcome.number, None)
                    if node is not None:  # else of a call that was given up
                        yield node, _result(outcome, node)
        finally:
            if running:
                ray.cancel()

    def _check_memory(self, nodes: list[Node], offered: Sequence[float], whose: str) -> None:
        """Raise UserError where a task of the stage needs more memory than there is anywhere."""
        most = max(nodes, key=lambda node: node.memory)
        if most.memory > max(self.placement.task_memory, *offered):
            raise UserError(
                f"task {most.ref} needs {show_bytes(most.memory)} of memory, and {whose} {show_bytes(max(offered))}: "
                "cut the work smaller (bff, substring: more shards; others: less memory, more partitions), or use larger machines"
            )

    def _start_ray(self) -> Ray:
        if self._ray is None:
            self._ray = start_ray(self.placement.address, self.placement.workers, self.progress)
        return self._ray


def _result(outcome: Outcome, node: Node) -> Finished:
    """What a task on Ray left. Raises what it raised, and UserError where its worker was lost time and again."""
    if isinstance(outcome, Result):
        return outcome.value
    if isinstance(outcome, Raised):
        raise outcome.error
    if isinstance(outcome, NotImported):
        raise UserError(
            f"task {node.ref}: a Ray worker cannot import Headrace: install the same version of it, in the Python that Ray "
            "runs in, on every node"
        )
    raise UserError(
        f"task {node.ref}: its worker or node was lost {LOST_WORKER_RETRIES + 1} times, the last time with: {outcome.reason}; "
        "if memory ran out, lower run.batch_bytes or run.split_bytes"
    )
