"""How far a run is: what its ledger holds (`status`)."""

from __future__ import annotations

from typing import Any

from rich.console import Console, JustifyMethod

from pipeline import storage
from pipeline.engine import MANIFEST
from pipeline.ledger import Ledger
from pipeline.plan.graph import CONCLUSIONS
from pipeline.plan.node import Report
from pipeline.summary import plain_table
from stages.errors import UserError
from stages.units import show_bytes, show_seconds

COUNTED = ("documents", "tokenize", "import")  # kinds of tasks whose documents are counted


def status(run: str) -> dict[str, Any]:
    """How far a run is: for each stage the tasks done, their documents, time and memory; and whether it is whole."""
    holder = storage.lock_holder(run)
    phases: dict[str, dict[str, Any]] = {}
    with Ledger(run) as ledger:
        if not ledger.count() and holder is None:
            raise UserError(f"{run}: there is no run here; start one with: python -m pipeline run RECIPE --out {run}")
        for entry in ledger.entries():
            ref = entry.ref
            if ref.kind in CONCLUSIONS:
                continue
            name = f"{ref.kind}/{ref.source}" + (f"/{ref.stage}" if ref.kind == "documents" else "")
            phase = phases.setdefault(
                name, {"tasks": 0, "documents_in": 0, "documents_out": 0, "cpu_seconds": 0.0, "peak_memory": 0}
            )
            phase["tasks"] += 1
            phase["cpu_seconds"] += entry.cpu_seconds
            phase["peak_memory"] = max(phase["peak_memory"], entry.peak_memory)
            if ref.kind in COUNTED and (books := entry.report_as(Report).books):
                phase["documents_in"] += books[0].into.docs
                phase["documents_out"] += books[-1].out.docs
    prefix = run.rstrip("/") + "/"
    files = {entry.uri.removeprefix(prefix): entry.size for entry in storage.list_files(run)}
    return {
        "run": run,
        "finished": MANIFEST in files,
        "holder": holder,
        "tasks": sum(phase["tasks"] for phase in phases.values()),
        "bytes": sum(files.values()),
        "phases": dict(sorted(phases.items())),
    }


def show_status(found: dict[str, Any], console: Console) -> None:
    """Print what `status` found."""
    table = plain_table(found["run"])
    columns: tuple[tuple[str, JustifyMethod], ...] = (
        ("work", "left"),
        ("tasks done", "right"),
        ("documents in", "right"),
        ("out", "right"),
        ("core time", "right"),
        ("memory", "right"),
    )
    for heading, justify in columns:
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
