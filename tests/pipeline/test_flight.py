"""How many cores tasks ask a cluster for, whose nodes come and go; the cluster is made up."""

from __future__ import annotations

import pickle
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.attempts import Tasks
from pipeline.engine.execute import Finished, Surroundings
from pipeline.engine.flight import Flight
from pipeline.engine.ray_driver import Cancelled, Result
from pipeline.ledger import Ref
from pipeline.plan.node import Job, Node, Report
from pipeline.progress import Progress
from stages.marks import InFile


@dataclass(frozen=True)
class Nothing(Job):
    number: InFile[int]


@dataclass
class FakeRay:
    """A cluster whose largest node has `most_cores`. asked: cores of each call, and the cores that its task is told of."""

    most_cores: int
    cpus: int = 16
    address: str = ""
    memory: list[int] = field(default_factory=lambda: [1 << 40])
    asked: dict[int, tuple[int, int]] = field(default_factory=dict)
    told: deque[Any] = field(default_factory=deque)
    shrinks_to: int = 0

    def call(self, number: int, function: str, arguments: Any, memory: int, cores: int, name: str, **_: Any) -> None:
        self.asked[number] = (cores, pickle.loads(pickle.dumps(arguments))[2].cores)
        if not self.shrinks_to or cores <= self.shrinks_to:
            self.told.append(Result(number, Finished(Report(), ())))

    def outcomes(self, seconds: float) -> list[Any]:
        if self.shrinks_to:
            self.most_cores = self.shrinks_to  # the node goes before it has begun
        found = list(self.told)
        self.told.clear()
        return found

    def cancel_one(self, number: int, force: bool = False) -> None:
        self.told.append(Cancelled(number))

    def cancel(self) -> None:
        raise AssertionError("all tasks end")


def flown(ray: FakeRay, *cores: int, **memory: int) -> list[tuple[int, int]]:
    nodes = [Node(Ref("work", "", "0", i), Nothing(i), cores=count, **memory) for i, count in enumerate(cores)]
    flight = Flight(ray, nodes, Surroundings("", "", 0), Tasks(node_seconds=0), 1 << 30, Progress(quiet=True))  # type: ignore[arg-type]
    done = [node.ref.ordinal for node, found in flight.results() if isinstance(found, Finished)]
    assert sorted(done) == list(range(len(cores)))
    return list(ray.asked.values())


def test_a_task_asks_for_the_cores_that_it_can_use_and_a_node_has() -> None:
    assert flown(FakeRay(16), 1, 8) == [(1, 1), (8, 8)]
    assert flown(FakeRay(4), 1, 8) == [(1, 1), (4, 4)]
    assert flown(FakeRay(0), 8) == [(1, 1)]


def test_a_task_whose_large_node_has_gone_is_sent_with_fewer_cores(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.engine.flight.LOOK_SECONDS", 0.0)
    assert flown(FakeRay(8, shrinks_to=2), 8) == [(8, 8), (2, 2)]
