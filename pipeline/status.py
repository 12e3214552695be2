"""How far a run is: what its ledger holds (`status`)."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from pipeline import storage
from pipeline.engine import MANIFEST
from pipeline.ledger import Ledger
from pipeline.summary import plain_table
from stages.errors import UserError
from stages.units import show_bytes, show_seconds


def status(run: str) -> dict[str, Any]:
    """How far a run is: for each phase the tasks done, their documents, time and memory; and whether it is whole."""
    ledger = Ledger(run)
    if not ledger.entries and storage.lock_holder(run) is None:
        raise UserError(f"{run}: there is no run here; start one with: python -m pipeline run RECIPE --out {run}")
    phases: dict[str, dict[str, Any]] = {}
    for entry in ledger.entries.values():
        name = "/".join(entry["name"].split("/")[:2])
        phase = phases.setdefault(
            name, {"tasks": 0, "documents_in": 0, "documents_out": 0, "cpu_seconds": 0.0, "peak_memory": 0}
        )
        phase["tasks"] += 1
        phase["cpu_seconds"] += entry["cpu_seconds"]
        phase["peak_memory"] = max(phase["peak_memory"], entry["peak_memory"])
        if books := entry["report"].get("books"):
            phase["documents_in"] += books[0]["in"][0]
            phase["documents_out"] += books[-1]["out"][0]
    return {
        "run": run,
        "finished": MANIFEST in ledger.sizes,
        "holder": storage.lock_holder(run),
        "tasks": len(ledger.entries),
        "bytes": sum(ledger.sizes.values()),
        "phases": dict(sorted(phases.items())),
    }


def show_status(found: dict[str, Any], console: Console) -> None:
    """Print what `status` found."""
    table = plain_table(found["run"])
    for heading, justify in (
        ("work", "left"),
        ("tasks done", "right"),
        ("documents in", "right"),
        ("out", "right"),
        ("core time", "right"),
        ("memory", "right"),
    ):
        table.add_column(heading, justify=justify)
    for name, p in found["phases"].items():
        table.add_row(
            name,
            f"{p['tasks']:,}",
            f"{p['documents_in']:,}" if p["documents_in"] else "",
            f"{p['documents_out']:,}" if p["documents_in"] else "",
            show_seconds(p["cpu_seconds"]),
            show_bytes(p["peak_memory"]),
        )
    console.print(table)
    state = "finished" if found["finished"] else "not finished: the run command goes on from here"
    if found["holder"]:
        state = f"being written by {found['holder']}"
    console.print(f"{state}; {show_bytes(found['bytes'])} in the folder")
