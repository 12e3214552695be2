"""A plan: stages of nodes in their order, as a generator that whoever walks it drives.

A plan yields what is to be done next and is sent the result. It touches no file: all that it knows it was given or sent, so
the same plan is carried out by the engine, priced by the forecast, and printed (`walk` and its kin say how). It yields

    Stage       nodes that need nothing of one another           -> list[Done], in their order
    Recall      is this conclusion on record?                    -> Done, or None
    Earlier     what was concluded last in this node's place?    -> its report, or None
    Conclude    a fact found from earlier results, to be kept     -> Done
    Release     files that no later node reads                    -> None
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.plan.node import Conclusion, Done, Node, Stage

CONCLUSIONS = ("cut size", "dedup layout", "dedup result")  # kinds of Refs for which no task runs

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True)
class Recall:
    """Asks for what was concluded under a node's key."""

    node: Node


@dataclass(frozen=True)
class Earlier:
    """Asks for what was concluded last under a node's Ref, of whatever inputs."""

    node: Node


@dataclass(frozen=True)
class Conclude:
    """A conclusion: a report under a node's key, drawn from the results of other nodes.

    No task runs for it, and none runs again while it is on record: it is what lets settings that decide no byte change.
    """

    node: Node
    report: Conclusion


@dataclass(frozen=True)
class Release:
    """Interim files that no later node reads, each behind the key of the entry that tells of it."""

    files: Sequence[tuple[str, str]] = ()


Request = Stage | Recall | Earlier | Conclude | Release
Plan = Generator[Request, Any, T]


def side_by_side(plans: Mapping[K, Plan[T]]) -> Plan[dict[K, T]]:
    """Plans that need nothing of one another, walked together: their next stages are one stage."""
    results: dict[K, T] = {}
    answers: dict[K, Any] = dict.fromkeys(plans)
    while len(results) < len(plans):
        stages: dict[K, Stage] = {}
        for name, plan in plans.items():
            if name in results:
                continue
            try:
                request = plan.send(answers[name])
                while not isinstance(request, Stage):
                    request = plan.send((yield request))
                stages[name] = request
            except StopIteration as end:
                results[name] = end.value
        if stages:
            titles = dict.fromkeys(stage.title for stage in stages.values())
            nodes = [node for stage in stages.values() for node in stage.nodes]
            notes = [note for stage in stages.values() for note in stage.notes]
            done = iter((yield Stage(", ".join(titles), nodes, notes)))
            answers = {name: [next(done) for _ in stage.nodes] for name, stage in stages.items()}
    return {name: results[name] for name in plans}


def concluded(node: Node, plan: Plan[Conclude]) -> Plan[Done[Any]]:
    """What was concluded under a node's key before; else what `plan` concludes, which is then on record."""
    known = yield Recall(node)
    if known is not None:
        plan.close()
        return known
    conclusion = yield from plan
    return (yield conclusion)


@dataclass
class Outline:
    """A plan as it was walked: the titles of its stages, and how many nodes each has by kind, source and stage of their Refs.

    core_seconds: what each stage takes, where the walk prices it.
    """

    stages: list[tuple[str, Counter[tuple[str, str, str]]]] = field(default_factory=list)
    core_seconds: list[float] = field(default_factory=list)

    def add(self, stage: Stage) -> None:
        """A stage comes next."""
        self.stages.append((stage.title, Counter((n.ref.kind, n.ref.source, n.ref.stage) for n in stage.nodes)))

    def tasks(self) -> Counter[tuple[str, str, str]]:
        """Nodes of all stages by kind, source and stage; of those that make equal files one runs for all."""
        return sum((counts for _, counts in self.stages), Counter())

    def told(self) -> list[tuple[str, dict[str, int]]]:
        """Each stage's title, and its tasks by kind and source as people name them."""
        found = []
        for title, counts in self.stages:
            named: Counter[str] = Counter()
            for (kind, source, _), count in counts.items():
                named[f"{kind} {source}".strip()] += count
            found.append((title, dict(named)))
        return found
