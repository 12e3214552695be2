"""What a task costs the driver of a run: many tasks that do nothing, through the engine, on Ray.

    python -m benchmarks engine [--tasks 100000] [--workers 2] [--work DIR] [--json FILE]

The driver is two processes: that of the run, and the one that speaks with Ray. Their processor time is counted from their
start, imports included, and their peak memory is added up. What Ray's own processes and the workers take is told beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from benchmarks import measure
from benchmarks.tables import show_table, verdict
from pipeline.engine.engine import Engine
from pipeline.engine.place import Placement
from pipeline.jobs.context import Context
from pipeline.ledger import Ledger, Ref
from pipeline.plan.node import Job, Node, Report, Stage
from pipeline.progress import Progress
from stages.marks import InFile

MILLISECONDS, MEGABYTES = 2.0, 1000.0
GOALS_FOR = 100_000  # tasks
DRIVER = ("python -m benchmarks.engine", "python", "python3")


@dataclass(frozen=True)
class Nothing(Job):
    """Does nothing, and is told from the others by its number."""

    number: InFile[int]  # as what tells tasks of a run from one another is what they read

    def modules(self) -> tuple[str, ...]:
        return ("pipeline.jobs.context",)

    def run(self, context: Context) -> Report:
        return Report()


def main(arguments: list[str] | None = None) -> None:
    """Run the tasks, and print what they cost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks engine", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=5_000, help=f"how many; the goals are for {GOALS_FOR}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench", help="scratch folder")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    parser.add_argument("--child", metavar="RUN", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        # By the module's name: workers could not import what belongs to `__main__`.
        print(json.dumps(import_module("benchmarks.engine").carry_out(Path(args.child), args.tasks, args.workers)))
        return
    facts = measure.machine("ray", "msgspec")
    print(measure.show_machine(facts))
    run = args.work.absolute() / "engine"
    shutil.rmtree(run, ignore_errors=True)
    environment = {"PYTHONPATH": str(measure.ROOT)}
    counts = ["--tasks", str(args.tasks), "--workers", str(args.workers)]
    usage = measure.run(["-m", "benchmarks.engine", "--child", str(run), *counts], None, environment)
    figures = json.loads(usage.output.splitlines()[-1])
    driver = [process for process in usage.processes if process.name in DRIVER]
    figures["milliseconds"] = 1000 * sum(process.cpu_seconds for process in driver) / args.tasks
    figures["megabytes"] = sum(process.peak for process in driver) / 1e6
    groups: dict[str, list[measure.Process]] = {}
    for process in usage.processes:
        groups.setdefault("driver" if process in driver else process.name, []).append(process)
    rows = [
        [
            name,
            str(len(group)),
            f"{sum(process.cpu_seconds for process in group):.1f}",
            f"{1000 * sum(process.cpu_seconds for process in group) / args.tasks:.2f}",
            f"{sum(process.peak for process in group) / 1e6:,.0f}",
        ]
        for name, group in sorted(groups.items(), key=lambda item: -sum(process.cpu_seconds for process in item[1]))
    ]
    headings = ["", "processes", "CPU s", "CPU ms a task", "MB at most"]
    show_table(f"{args.tasks:,} tasks that do nothing, {args.workers} workers", headings, rows[:8])
    print(f"wall time: {figures['seconds']:.0f} s, {1000 * figures['seconds'] / args.tasks:.2f} ms a task")
    print(f"driver: {figures['milliseconds']:.2f} CPU ms a task: {verdict(figures['milliseconds'], MILLISECONDS, at_most=True)}")
    print(f"driver: {figures['megabytes']:.0f} MB: {verdict(figures['megabytes'], MEGABYTES, at_most=True)}")
    if args.tasks != GOALS_FOR:
        print(f"(the goals are for {GOALS_FOR:,} tasks)")
    measure.write_json(args.json, {"machine": facts, "tasks": args.tasks, **figures, **usage.to_json()})


def carry_out(run: Path, tasks: int, workers: int) -> dict[str, float]:
    """Seconds that a stage of so many tasks takes, without the start of Ray."""
    nodes = [Node(Ref("nothing", "", "0", number), Nothing(number)) for number in range(tasks)]
    with Ledger(str(run), writable=True) as ledger:
        with Engine(str(run), ledger, Placement(workers=workers, progress=Progress(quiet=True))) as engine:
            engine.workplace.prepare()
            began = time.perf_counter()
            engine.run(Stage("nothing", nodes))
            seconds = time.perf_counter() - began
        assert engine.executed == tasks == ledger.count()
    return {"seconds": seconds, "pid": os.getpid()}


if __name__ == "__main__":
    main()
