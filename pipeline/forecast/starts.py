"""What a process spends once, in its first task of a stage, told apart from what tasks take for their text.

The first task of a stage in a process loads kernels, models and libraries. In a run of minutes that is a good part of all
core time, in one of hours nothing: it goes with the number of processes, not with the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pipeline.ledger import Entry
from pipeline.plan.node import Report

ENOUGH = 0.2  # of a stage's text that tasks have to hold which are not the first, for their speed to stand for all


class Start(msgspec.Struct, frozen=True):
    """Core seconds that the first tasks of a stage took beyond what their text takes, and how many these were."""

    seconds: float
    tasks: int


def told_apart(entries: Sequence[Entry], earlier: Sequence[Entry] = (), share: float = 1.0) -> tuple[list[Entry], Start]:
    """The entries of one stage with what their text takes of a process that has begun, and the core time that beginning took.

    All core time is given to the tasks that were not the first, so that what they took of it for each of their steps stands for
    the others. earlier: of the same stage in an earlier run of this process, over this share of the text: it may have the first,
    and memory is counted from what the process held then.
    """
    first = [(entry, share) for entry in earlier if entry.first] or [(entry, 1.0) for entry in entries if entry.first]
    if earlier:
        entries = [_without_growth(entry, earlier) for entry in entries]
        if len(entries) > 1:  # a model that each of the runs trains is loaded anew
            entries[0] = msgspec.structs.replace(entries[0], first=True)
    later = [entry for entry in entries if not entry.first]
    whole, warm = sum(map(_weight, entries)), sum(map(_weight, later))
    if warm < ENOUGH * whole:
        return list(entries), Start(0.0, len(first))
    speed = sum(entry.cpu_seconds for entry in later) / warm
    beyond = sum(max(0.0, entry.cpu_seconds - speed * _weight(entry, unknown)) for entry, unknown in first)
    factor = {False: whole / warm, True: 0.0}
    alone = [msgspec.structs.replace(one, cpu_seconds=one.cpu_seconds * factor[one.first]) for one in entries]
    return alone, Start(beyond, len(first))


def _without_growth(entry: Entry, earlier: Sequence[Entry]) -> Entry:
    """The entry with the memory that it would have taken in the run before it: a process keeps what runs have taken."""
    growth = max(0, entry.held - max(one.held for one in earlier))
    peak = max(entry.peak_memory - growth, *(one.peak_memory for one in earlier))
    return msgspec.structs.replace(entry, held=entry.held - growth, peak_memory=peak)


def _weight(entry: Entry, unknown: float = 1.0) -> float:
    """The text that a task read; of tasks that do not count theirs, each is as large as another."""
    books = entry.report_as(Report).books
    return books[0].into.bytes + 1 if books else unknown
