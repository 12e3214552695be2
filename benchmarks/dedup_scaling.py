"""How dedup scales: memory as the input grows tenfold, and two workers beside one.

Each measurement is a process of its own (`python -m benchmarks.dedup_scaling ...`) over parts that lie on disk, as they
lie in a run; `benchmarks.dedup` starts them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.tables import show_table, verdict

FLAT = 1.15  # peaks differ by so much between equal runs; more than that is growth
WORKERS_GOAL = 1.7
SMALL = 8 << 20  # bytes: settings that the smaller input fills as well, or nothing could be said of growth
# bff's filter grows with what is in it: ten times the input is ten times the shards, as in DCLM.
MEMORY = [
    {"method": "exact", "memory": SMALL, "partition_bytes": SMALL},
    {"method": "minhash", "memory": SMALL, "partition_bytes": SMALL},
    {"method": "bff", "witness_memory": SMALL},
]
WORKERS = [{"method": "exact"}, {"method": "minhash"}, {"method": "bff", "shards": 8}]


def bench_memory(parts: list[dict[str, Any]], folder: Path, scale: int = 10) -> dict[str, list[int]]:
    """Peak memory of a process that deduplicates a tenth of the parts' text, and of one that takes all."""
    total = sum(part["bytes"] for part in parts)
    few: list[dict[str, Any]] = []
    while not few or sum(part["bytes"] for part in few) < total / scale:
        few.append(parts[len(few)])
    sizes = [sum(part["bytes"] for part in some) for some in (few, parts)]
    found: dict[str, list[int]] = {}
    for spec in MEMORY:
        peaks = []
        for some, shards in ((few, 1), (parts, round(sizes[1] / sizes[0]))):
            settings = spec | ({"shards": shards} if spec["method"] == "bff" else {})
            peaks.append(_child(["memory"], settings, some, folder).peak)
        found[spec["method"]] = peaks
    rows = [[name, *(f"{p / 1e6:,.0f} MB" for p in peaks), f"x{peaks[1] / peaks[0]:.2f}"] for name, peaks in found.items()]
    headings = ["peak memory of the process", *(f"{size / 1e6:,.0f} MB" for size in sizes), f"x{sizes[1] / sizes[0]:.1f}"]
    show_table("memory, every task in one process, one after another", headings, rows)
    growth = max(peaks[1] / peaks[0] for peaks in found.values())
    print(f"growth x{growth:.2f}, {verdict(growth, FLAT, at_most=True)}\n")
    return found


def bench_workers(parts: list[dict[str, Any]], folder: Path) -> dict[str, list[float]]:
    """Seconds of whole dedups on Ray, from parts to removals, with one worker and with two; Ray runs before it is timed.

    By the clock this is only as good as the machine is idle. `at once` says how many tasks ran at a time, on average
    over all phases, waits between them included: that holds on a busy machine too.
    """
    size = sum(part["bytes"] for part in parts)
    found: dict[str, list[float]] = {}
    rows = []
    for spec in WORKERS:
        one, two = (json.loads(_child(["workers", str(n)], spec, parts, folder).output) for n in (1, 2))
        found[spec["method"]] = [one["seconds"], two["seconds"]]
        times = [f"{r['seconds']:.1f} s" for r in (one, two)]
        at_once = [f"{r['task_seconds'] / r['seconds']:.2f}" for r in (one, two)]
        cpu = [f"{r['cpu_seconds']:.1f} s" for r in (one, two)]
        faster = f"x{one['seconds'] / two['seconds']:.2f}"
        rows.append([spec["method"], *times, faster, *cpu, *at_once])
    headings = ["", "1 worker", "2 workers", "faster", "CPU, 1", "CPU, 2", "at once, 1", "at once, 2"]
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    show_table(f"{size / 1e6:,.0f} MB with one worker and with two, on Ray; load of the machine {load}", headings, rows)
    least = min(times[0] / times[1] for times in found.values())
    print(f"two workers are at least x{least:.2f} as fast, {verdict(least, WORKERS_GOAL)}\n")
    return found


def _child(arguments: list[str], spec: dict[str, Any], parts: list[dict[str, Any]], folder: Path) -> measure.Usage:
    work = folder / "child"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "parts.json").write_text(json.dumps(parts))
    return measure.run(["-m", "benchmarks.dedup_scaling", *arguments, json.dumps(spec), str(work)], None)


def _memory(spec: dict[str, Any], parts: list[dict[str, Any]], folder: Path) -> None:
    from stages.dedup.phases import group_parts, phases, run_inline

    run_inline(phases(spec, group_parts(parts, 1 << 24), str(folder)))


def _workers(count: int, spec: dict[str, Any], parts: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    from pipeline import storage
    from pipeline.engine.engine import Engine
    from pipeline.engine.place import Placement
    from pipeline.ledger import Ledger
    from pipeline.plan.dedup import Over, deduplicate
    from pipeline.plan.graph import side_by_side
    from pipeline.plan.node import Stored
    from pipeline.plan.parts import Part
    from pipeline.progress import Progress
    from stages.dedup.spec import read_spec

    run = folder / "run"
    (run / "parts").mkdir(parents=True)
    found = []
    for number, part in enumerate(parts):
        path = f"parts/{Path(part['path']).name}"
        (run / path).symlink_to(part["path"])
        file = Stored(path, storage.digest_of(part["path"]))
        found.append(Part("a", file, part["documents"], part["bytes"], f"{number:032x}", files=tuple(part["files"])))
    settings = read_spec(spec)
    placement = Placement(workers=count, progress=Progress(quiet=True))
    with Ledger(str(run), writable=True) as ledger, Engine(str(run), ledger, placement) as engine:
        # On a few parts first: the workers start, import and load kernels once a run, and not each time.
        few = {i: deduplicate(Over("a", f"first{i}", settings, (found[i],))) for i in range(2 * count)}
        engine.walk(side_by_side(few))
        before = {entry.key for entry in ledger.entries()}
        began = time.perf_counter()
        engine.walk(deduplicate(Over("a", "all", settings, tuple(found))))
        seconds = time.perf_counter() - began
        tasks = [entry for entry in ledger.entries() if entry.key not in before]
        return {
            "seconds": seconds,
            "cpu_seconds": sum(task.cpu_seconds for task in tasks),
            "task_seconds": sum(task.seconds for task in tasks),
        }


def main() -> None:
    """What the children do."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("memory")
    commands.add_parser("workers").add_argument("count", type=int)
    for command in commands.choices.values():
        command.add_argument("spec", type=json.loads)
        command.add_argument("folder", type=Path)
    args = parser.parse_args()
    parts = json.loads((args.folder / "parts.json").read_text())
    if args.what == "memory":
        _memory(args.spec, parts, args.folder)
    else:
        print(json.dumps(_workers(args.count, args.spec, parts, args.folder)))


if __name__ == "__main__":
    main()
