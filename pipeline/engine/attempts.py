"""How often a task is tried, for what, and how long is waited before it is tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from pydantic import Field

from pipeline.engine.execute import Finished
from pipeline.plan.node import Node
from pipeline.storage import TransientError
from stages.marks import HowMuch
from stages.step import Settings

T = TypeVar("T")
LONGEST_WAIT = 120.0  # seconds before an attempt, unless a server asks for more


class Tasks(Settings):
    """How tasks get along with machines and servers that fail, and with a cluster that changes size."""

    attempts: HowMuch[int] = Field(default=5, ge=1)
    """Attempts at a task, where what failed may pass."""
    wait_seconds: HowMuch[float] = Field(default=5.0, ge=0)
    """Seconds before the second attempt; three times as long before each further one."""
    node_seconds: HowMuch[float] = Field(default=900.0, ge=0)
    """Seconds that tasks wait for a node of a cluster that has room for them."""
    copy_seconds: HowMuch[float] = Field(default=60.0, ge=0)
    """Seconds after which a phase's last tasks run twice, where cores are free."""


@dataclass(frozen=True)
class Failed:
    """A task that came to nothing, after so many attempts. again: it is tried once more."""

    error: Exception
    attempts: int
    again: bool = False


def may_pass(error: Exception) -> bool:
    """True for what another attempt may not meet again: a busy server, a connection that broke, a node that died."""
    return isinstance(error, TransientError)


def wait_before(attempt: int, error: Exception, tasks: Tasks) -> float:
    """Seconds to wait before attempt number `attempt` (2, 3, ...): exponential, with jitter, at least what was asked for."""
    waited = min(tasks.wait_seconds * 3.0 ** (attempt - 2), LONGEST_WAIT) * random.uniform(0.5, 1.5)
    return max(waited, error.asked if isinstance(error, TransientError) else 0.0)


def patiently(call: Callable[[], T], tasks: Tasks) -> T:
    """What a call of the driver's own returns, tried as often as a task is, where what it meets may pass."""
    for attempt in count(1):
        try:
            return call()
        except TransientError as error:
            if attempt >= tasks.attempts:
                raise
            time.sleep(wait_before(attempt + 1, error, tasks))
    raise AssertionError("not reached")


class InTurn:
    """Tasks one after the other, in this process."""

    def __init__(self, nodes: Sequence[Node], work: Callable[[Node], Finished], tasks: Tasks) -> None:
        self.nodes, self.work, self.tasks = nodes, work, tasks
        self._stopped = False

    def results(self) -> Generator[tuple[Node, Finished | Failed]]:
        """Each task with what it left, or why it failed."""
        for node in self.nodes:
            if self._stopped:
                return
            for attempt in range(1, self.tasks.attempts + 1):
                try:
                    finished = self.work(node)
                except Exception as error:
                    again = may_pass(error) and attempt < self.tasks.attempts
                    yield node, Failed(error, attempt, again)
                    if not again:
                        break
                    time.sleep(wait_before(attempt + 1, error, self.tasks))
                else:
                    yield node, finished
                    break

    def stop(self) -> None:
        """Begin no further task."""
        self._stopped = True
