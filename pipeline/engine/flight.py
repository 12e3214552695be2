"""The tasks of a stage on Ray: as many in flight as the cluster has room for, while machines fail, come and go.

Workers and nodes that die are Ray's business (`max_retries`), as are nodes that it adds where tasks wait for them. What is
done here: a task is tried again, elsewhere if it can be, after what may pass; the last tasks of a stage run twice where
cores are free; and a task that no node has room for is waited for, though not for ever.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from pipeline.engine.attempts import Failed, Tasks, may_pass, wait_before
from pipeline.engine.execute import Finished, Surroundings, execute
from pipeline.engine.ray_driver import LOST_WORKER_RETRIES, Cancelled, Lost, NotImported, Raised, Result
from pipeline.engine.ray_start import Outcome, Ray
from pipeline.plan.node import Node
from pipeline.progress import Progress
from pipeline.storage import TransientError
from stages.errors import UserError
from stages.units import show_bytes, show_seconds

GROWTH = 256  # tasks that wait on a cluster besides two a core, so that its autoscaler sees that more nodes would help
LONG = 2.0  # a task runs twice once it has taken so many times as long as those of its size
END_SECONDS = 10.0  # for a copy that is not needed any more to end by itself
LOOK_SECONDS = 1.0  # between looks at what takes long
LEAVE_SECONDS = 120.0  # and until it is not waited for any more


_NUMBERS = count(1)  # of calls: told of once, whatever stage they belong to


@dataclass(eq=False)
class _Task:
    """A task of the stage. calls: numbers of those in flight, with the times when they were sent.

    cores: that were asked for. fewer: it is called back, to be sent with fewer.
    """

    node: Node
    attempts: int = 0
    calls: dict[int, float] = field(default_factory=dict)
    avoid: str | None = None
    cores: int = 1
    fewer: bool = False
    settled: bool = False
    due: float = 0.0
    failed: Failed | None = None  # the last attempt


class Flight:
    """Tasks of one stage, side by side on Ray."""

    def __init__(
        self, ray: Ray, nodes: Sequence[Node], around: Surroundings, tasks: Tasks, task_memory: int, progress: Progress
    ) -> None:
        self.ray, self.around, self.tasks, self.task_memory, self.progress = ray, around, tasks, task_memory, progress
        self._queue = deque(_Task(node) for node in nodes)
        self._later: list[_Task] = []  # to be tried again when they are due
        self._calls: dict[int, _Task] = {}
        self._ending: dict[int, float] = {}  # calls that are not needed any more, and since when
        self._took: list[tuple[float, int]] = []  # seconds and weight of tasks that are done
        self._blocked_since: float | None = None
        self._looked = 0.0

    def results(self) -> Generator[tuple[Node, Finished | Failed]]:
        """Each task with what it left or why it failed, in the order in which they end.

        Raises UserError where Ray is gone, or a worker cannot import Headrace.
        """
        try:
            while self._queue or self._later or self._calls:
                self._send_what_there_is_room_for()
                if time.monotonic() - self._looked > LOOK_SECONDS:
                    self._looked = time.monotonic()
                    self._send_copies()
                    self._call_back_what_asks_for_too_many_cores()
                    self._end_what_is_not_needed()
                    yield from self._give_up_waiting()
                found = self.ray.outcomes(self._patience())
                self.progress.tick()
                for outcome in found:
                    task = self._calls.pop(outcome.number, None)
                    if task is not None:  # else of a call that was given up
                        yield from self._take(task, outcome)
        finally:
            if self._calls:
                self.ray.cancel()

    def stop(self) -> None:
        """Begin no further task: those that run end, and are told."""
        self._queue.clear()
        self._later.clear()
        for number in sorted(self._calls)[max(self.ray.cpus, 1) :]:  # Ray begins them in their order: these still wait
            if number not in self._ending:
                self._end(number)

    def _send_what_there_is_room_for(self) -> None:
        room = max(2, 2 * self.ray.cpus) + (GROWTH if self.ray.address else 0)
        now = time.monotonic()
        for task in [task for task in self._later if task.due <= now]:
            self._later.remove(task)
            self._send(task)
        while len(self._calls) < room and self._queue:
            self._send(self._queue.popleft())

    def _send(self, task: _Task, copy: bool = False) -> None:
        if not copy:
            task.attempts += 1
        number, node = next(_NUMBERS), task.node
        task.calls[number] = time.monotonic()
        self._calls[number] = task
        name = f"{node.ref}" + (f" (attempt {task.attempts})" if task.attempts > 1 else "") + (" (copy)" if copy else "")
        function = f"{execute.__module__}:{execute.__name__}"
        task.cores = max(1, min(node.cores, self.ray.most_cores))
        arguments = (node, node.key, replace(self.around, cores=task.cores))
        self.ray.call(number, function, arguments, self._needs(node), task.cores, name, avoid=task.avoid, spread=copy)

    def _needs(self, node: Node) -> int:
        """The memory that is reserved for a task; 0 for one that takes no more than any may."""
        return node.memory if node.memory > self.task_memory else 0

    def _send_copies(self) -> None:
        """Let the last tasks of the stage that take long run a second time; the first to end counts."""
        if self._queue or self._later or not self._took:
            return
        now = time.monotonic()
        usual = statistics.median(seconds for seconds, _ in self._took)
        weight = max(1.0, statistics.median(weight for _, weight in self._took))
        running = [task for task in {*self._calls.values()} if not task.settled and len(task.calls) == 1]
        running.sort(key=lambda task: min(task.calls.values()))
        for task in running[: max(0, self.ray.cpus - len(self._calls))]:
            expected = usual * max(1.0, task.node.weight / weight)
            if now - min(task.calls.values()) > max(self.tasks.copy_seconds, LONG * expected):
                self._send(task, copy=True)

    def _take(self, task: _Task, outcome: Outcome) -> Generator[tuple[Node, Finished | Failed]]:
        """What a call came to."""
        task.calls.pop(outcome.number)
        self._ending.pop(outcome.number, None)
        if task.settled:
            return
        if isinstance(outcome, Cancelled):
            self._send_again(task)
            return
        if isinstance(outcome, Result):
            task.settled = True
            for number in task.calls:
                self._end(number)
            self._took.append((outcome.value.seconds, task.node.weight))
            yield task.node, outcome.value
        elif not task.calls:  # else the other copy may still end well
            yield from self._failed(task, outcome)

    def _failed(self, task: _Task, outcome: Raised | Lost | NotImported) -> Generator[tuple[Node, Failed]]:
        error = _error(outcome, task.node)
        again = may_pass(error) and task.attempts < self.tasks.attempts
        task.avoid = outcome.node if isinstance(outcome, Raised) else None
        task.failed = Failed(error, task.attempts, again)
        if again:
            task.due = time.monotonic() + wait_before(task.attempts + 1, error, self.tasks)
            self._later.append(task)
        yield task.node, task.failed

    def _call_back_what_asks_for_too_many_cores(self) -> None:
        """The node that had so many cores has gone, and no other has: they are sent again, to what is there."""
        for task in {*self._calls.values()}:
            if not task.settled and not task.fewer and self.ray.cpus >= 1 and task.cores > max(1, self.ray.most_cores):
                task.fewer = True
                for number in task.calls:
                    self._end(number)

    def _send_again(self, task: _Task) -> None:
        """Queue a task that was called back, once none of its calls is left."""
        if task.fewer and not task.calls and not task.settled:
            task.fewer = False
            task.attempts -= 1
            self._queue.append(task)

    def _end(self, number: int) -> None:
        """Let a call end whose result is not needed. It is told once it has: until then it may still write."""
        self._ending[number] = time.monotonic()
        self.ray.cancel_one(number)

    def _end_what_is_not_needed(self) -> None:
        now = time.monotonic()
        for number, since in list(self._ending.items()):
            if now - since > LEAVE_SECONDS:
                task = self._calls.pop(number)
                task.calls.pop(number)
                del self._ending[number]
                self._send_again(task)
            elif now - since > END_SECONDS:
                self.ray.cancel_one(number, force=True)

    def _give_up_waiting(self) -> Generator[tuple[Node, Failed]]:
        """Tell once that tasks wait for a node that is not there; after `node_seconds` they have failed."""
        waiting = {task.node.key: task for task in self._calls.values() if self._has_no_room(task)}
        if not waiting:
            if self._blocked_since is not None:
                self.progress.line("the cluster has a node for them now")
            self._blocked_since = None
            return
        one = max(waiting.values(), key=lambda task: task.node.memory)
        offered = show_bytes(max(self.ray.memory, default=0))
        lacks = "the cluster has no node with a free core"
        if self._needs(one.node):
            lacks = f"task {one.node.ref} needs {show_bytes(one.node.memory)} of memory, and the largest node offers {offered}"
        if self._blocked_since is None:
            self._blocked_since = time.monotonic()
            limit = show_seconds(self.tasks.node_seconds)
            self.progress.line(f"{lacks}: waiting for another node, at most {limit} (run.tasks.node_seconds)")
        elif time.monotonic() - self._blocked_since > self.tasks.node_seconds:
            error = UserError(
                f"{lacks}, and no other came within {show_seconds(self.tasks.node_seconds)}: let the cluster have larger nodes, "
                "or cut the work smaller (bff, substring: more shards; others: less memory, more partitions)"
            )
            for task in waiting.values():
                task.settled = True
                for number in task.calls:
                    self._end(number)
                yield task.node, Failed(error, task.attempts)

    def _has_no_room(self, task: _Task) -> bool:
        """True for a task that no node of the cluster could begin, however long it waits."""
        return not task.settled and (self.ray.cpus < 1 or self._needs(task.node) > max(self.ray.memory, default=0))

    def _patience(self) -> float:
        """Seconds to wait for outcomes: until a task is to be tried again, a second at most."""
        if not self._calls and self._later:
            return 0.05
        return min([1.0, *(max(0.0, task.due - time.monotonic()) for task in self._later)])


def _error(outcome: Raised | Lost | NotImported, node: Node) -> Exception:
    """What a call failed with. Raises UserError for what no further task would be spared."""
    if isinstance(outcome, Raised):
        return outcome.error
    if isinstance(outcome, NotImported):
        raise UserError(
            f"task {node.ref}: a Ray worker cannot import Headrace: install the same version of it, in the Python that Ray "
            "runs in, on every node"
        )
    if outcome.node:
        return TransientError(f"task {node.ref}: its node was lost, or what Ray sends between nodes: {outcome.reason}")
    return UserError(
        f"task {node.ref}: its worker was lost {LOST_WORKER_RETRIES + 1} times, the last time with: {outcome.reason}; "
        "if memory ran out, lower run.batch_bytes or run.split_bytes"
    )
