"""Where tasks run: on Ray, or in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.engine.attempts import InTurn, Tasks
from pipeline.engine.execute import Surroundings, execute
from pipeline.engine.flight import Flight
from pipeline.engine.ray_start import Ray, start_ray
from pipeline.plan.node import Node
from pipeline.progress import Progress
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
    tasks: Tasks = field(default_factory=Tasks)


class Workplace:
    """Carries out tasks for one run. Ray is started with the first of them, and stopped by `close`."""

    def __init__(self, run: str, placement: Placement, token: str | None) -> None:
        self.placement, self.progress = placement, placement.progress
        self.around = Surroundings(run, str(Path.cwd()), placement.cache_bytes, token)
        self._ray: Ray | None = None

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

    def carry_out(self, nodes: list[Node]) -> InTurn | Flight:
        """Run tasks: `results()` tells of each, `stop()` begins no more. Raises UserError where one has no room anywhere."""
        tasks, task_memory = self.placement.tasks, self.placement.task_memory
        if self.placement.inline:
            self._check_memory(nodes, [machine_memory()], "this machine has")
            around = replace(self.around, cores=os.cpu_count() or 1)
            return InTurn(nodes, lambda node: execute(node, node.key, around), tasks)
        ray = self._start_ray()
        if not ray.address:  # a cluster may get larger nodes yet
            self._check_memory(nodes, ray.memory, "the largest Ray node offers")
        return Flight(ray, nodes, self.around, tasks, task_memory, self.progress)

    def close(self) -> None:
        """Stop Ray where it was started here."""
        if self._ray is not None:
            self._ray.close()
            self._ray = None

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

