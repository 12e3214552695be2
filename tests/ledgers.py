"""What a run's ledger holds, for tests."""

from __future__ import annotations

from pathlib import Path

from pipeline.ledger import Entry, Ledger
from pipeline.plan.graph import CONCLUSIONS


def entries(run: Path | str) -> list[Entry]:
    """The entries of all tasks that ran."""
    with Ledger(str(run)) as ledger:
        return [entry for entry in ledger.entries() if entry.ref.kind not in CONCLUSIONS]


def names(run: Path | str) -> set[str]:
    """Display names of the tasks: kind/source/stage/ordinal."""
    return {str(entry.ref) for entry in entries(run)}
