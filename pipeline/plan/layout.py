"""Which parts of a dedup's input are signed together: it decides no byte, and stays where parts are added.

So the signatures of those that were there, which are most of a dedup's work, need not be made again.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from itertools import pairwise

from pipeline.jobs.dedup import DedupLayout, LayoutReport, SignedParts
from pipeline.ledger import Ref
from pipeline.plan.graph import Conclude, Earlier, Plan
from pipeline.plan.node import Node
from stages.dedup.tasks import MAX_GROUPS, Groups, PartGiven, Signed, group_parts

MOST_PIECEMEAL = 4  # times as many groups as the parts need, of parts that came one after another
MORE_PARTITIONS = 4  # times as many or as few of them as are needed: files of other counts are read too


def signed_together(
    source: str, name: str, parts: Sequence[PartGiven], digests: Sequence[str], fresh: Groups, partitions: int, fixed: bool
) -> Plan[tuple[list[Signed], str]]:
    """The groups that a dedup's first phase takes, and the key under which they are on record.

    digests: of the parts as they are read. fresh: the groups of a corpus that nothing is known of. partitions: as many as are
    needed; fixed: whether the recipe says so. A group stays where all of its parts are there, in their order.
    """
    node = Node(Ref("dedup layout", source, name, 0), DedupLayout(f"{source}/{name}", tuple(digests)))
    earlier: LayoutReport | None = yield Earlier(node)
    known = [] if fixed or earlier is None else [one for one in earlier.groups if _fits(one, partitions)]
    kept = _still_there(known, digests)
    kept_parts = {ordinal for one in kept for ordinal in one.ordinals}
    size = max((sum(part["bytes"] for part in group) for group in fresh), default=0)
    rest = [group for run in _runs(parts, kept_parts) for group in group_parts(run, max(size, 1))]
    if len(kept) + len(rest) > min(MAX_GROUPS, MOST_PIECEMEAL * len(fresh) + 64):
        kept, rest = [], [list(group) for group in fresh]
    number = max((one.number + len(one.ordinals) for one in kept), default=0)
    for group in rest:
        kept.append(Signed(number, partitions, [part["ordinal"] for part in group]))
        number += len(group)
    groups = [SignedParts(one.number, one.partitions, [digests[ordinal] for ordinal in one.ordinals]) for one in kept]
    yield Conclude(node, LayoutReport(groups=groups))
    return kept, node.key


def _fits(one: SignedParts, partitions: int) -> bool:
    return one.partitions <= MORE_PARTITIONS * partitions and partitions <= MORE_PARTITIONS * one.partitions


def _still_there(groups: Sequence[SignedParts], digests: Sequence[str]) -> list[Signed]:
    """The groups of which every part is there, in their order; parts of one digest are taken one after another."""
    places: defaultdict[str, deque[int]] = defaultdict(deque)
    for ordinal, digest in enumerate(digests):
        places[digest].append(ordinal)
    found = []
    for one in groups:
        taken = [places[digest].popleft() if places.get(digest) else -1 for digest in one.digests]
        if min(taken, default=-1) >= 0 and all(a < b for a, b in pairwise(taken)):
            found.append(Signed(one.number, one.partitions, taken))
    return found


def _runs(parts: Sequence[PartGiven], taken: set[int]) -> list[list[PartGiven]]:
    """The other parts, those that follow one another together."""
    runs: list[list[PartGiven]] = []
    last = -2
    for part in parts:
        if part["ordinal"] in taken:
            continue
        if part["ordinal"] != last + 1:
            runs.append([])
        runs[-1].append(part)
        last = part["ordinal"]
    return runs
