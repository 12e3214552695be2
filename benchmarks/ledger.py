"""The ledger of a large run: opening it, asking it for every task, reading all its entries, and `status`; locally or on S3.

    python -m benchmarks ledger [--entries 300000] [--s3 s3://BUCKET/PREFIX] [--work DIR] [--json FILE]

Entries are as those of a run that filters many sources: reports of about 2.5 kB, three or four outputs, one in five of which
was let go as `run.keep: none` does. The outputs are there, as files of the sizes that the entries name, so that what is
measured holds the listing of them: on S3 one request for 1,000 files, which nothing can better. Each measurement is a
process of its own. With --s3, AWS_ENDPOINT_URL and the other usual settings say where; what is there is kept, and used
again by the next measurement of the same size.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.tables import show_table, verdict
from pipeline import storage
from pipeline.cli import main as main_of_pipeline
from pipeline.ledger import Entry, Ledger, Output, Ref, report_of
from stages.books import Amount, StepBooks

LOCAL_GOAL = {"cpu_seconds": 5.0, "megabytes": 300.0}
REMOTE_GOAL = {"cpu_seconds": 60.0, "requests": 1000.0}
GOALS_FOR = 300_000  # entries
SOURCES = tuple(f"source{i:02d}" for i in range(13))
STEPS = ("extract", "language", "gopher_quality", "gopher_repetition", "c4", "fineweb", "pii", "dedup")
KINDS = ("kept", "dropped", "failed", "index")


def main(arguments: list[str] | None = None) -> None:
    """Make a ledger, and measure it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ledger", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, default=30_000, help="how many; the goals are for 300000")
    parser.add_argument("--s3", help="a prefix of a bucket, in place of a local folder")
    parser.add_argument(
        "--no-files", action="store_true", help="all outputs were let go: the ledger alone, without listing them"
    )
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench", help="scratch folder"
    )
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "RUN", "ENTRIES"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        what, run, entries = args.child
        print(json.dumps(CHILDREN[what](run, int(entries))))
        return
    facts = measure.machine("msgspec", "numpy", "boto3")
    print(measure.show_machine(facts))
    run = f"{args.s3 or args.work.absolute()}/ledger-{args.entries}{'-alone' * args.no_files}"
    made = make_run(run, args.entries, args.no_files)
    found: dict[str, Any] = {"machine": facts, "entries": args.entries, "files": made}
    rows = []
    for what in ("find", "entries", "status", "write"):
        usage = measure.run(["-m", "benchmarks.ledger", "--child", what, run, str(args.entries)], None)
        figures = json.loads(usage.output)
        figures |= {"cpu_seconds": usage.cpu_seconds, "seconds": usage.seconds}
        found[what] = figures
        rows.append(
            [
                TITLES[what],
                f"{usage.cpu_seconds:.2f}",
                f"{usage.seconds:.2f}",
                f"{figures['megabytes']:.0f}",
                str(figures["requests"]) if args.s3 else "",
                ", ".join(f"{name} {value:.2f}" for name, value in figures["parts"].items()),
            ]
        )
    headings = ["", "CPU s", "s", "MB", "requests", "CPU s of parts"]
    where = "on S3" if args.s3 else "on a local disk"
    show_table(f"{args.entries:,} entries, {made:,} files, {where}; start of Python included", headings, rows)
    for what in ("find", "status"):
        for name, goal in (REMOTE_GOAL if args.s3 else LOCAL_GOAL).items():
            print(f"{TITLES[what]}: {name} {found[what][name]:.1f}: {verdict(found[what][name], goal, at_most=True)}")
    if args.entries != GOALS_FOR:
        print(f"(the goals are for {GOALS_FOR:,} entries)")
    measure.write_json(args.json, found)


TITLES = {
    "find": "open, and find all",
    "entries": "open, and read all entries",
    "status": "python -m pipeline status",
    "write": "add a tenth as many, and close",
}


def key_of(number: int) -> str:
    """Keys as random as hashes, the same every time."""
    return hashlib.blake2b(number.to_bytes(8), digest_size=16).hexdigest()


def entry_of(number: int, report: dict[str, Any]) -> Entry:
    """An entry as a task of a filtering stage leaves it."""
    source, stage, key = SOURCES[number % len(SOURCES)], str(number // len(SOURCES) % 3), key_of(number)
    ordinal = number // (3 * len(SOURCES))
    outputs = [
        Output(f"parts/{source}/{stage}/{ordinal:05d}-{key}.{kind}.parquet", number % 97 + position, key)
        for position, kind in enumerate(KINDS[: 3 + number % 2])
    ]
    released = [output.path for position, output in enumerate(outputs) if (number + position) % 5 == 0]
    ref = Ref("documents", source, stage, ordinal)
    return Entry(
        key, ref, f"{number % 20:032x}", key[::-1], key[8:] + key[:8], outputs, released,
        12.345, 11.5, 600_000_000, "node-17.example", "2026-11-28T03:17:19Z", report=report_of(report | {"docs": number}),
    )  # fmt: skip


def make_report() -> dict[str, Any]:
    """About 2.5 kB: books and reasons of eight steps."""
    rng = random.Random(0)
    count = rng.randrange
    amount = lambda: Amount(count(10**6), count(10**10))  # noqa: E731
    books = [
        StepBooks(
            step,
            amount(),
            amount(),
            dropped={f"{step}.measure{i}.{end}": amount() for i in range(2) for end in ("min", "max")},
            seconds=rng.random(),
        )
        for step in STEPS
    ]
    return {"part": "", "dropped": "", "docs": 0, "bytes": 0, "books": books}


def make_run(run: str, entries: int, no_files: bool) -> int:
    """Write a run's ledger and outputs, unless they are there; returns how many outputs there are."""
    report = make_report()
    mark = storage.join(run, "made.json")
    if storage.exists(mark):
        return json.loads(storage.read_bytes(mark))["files"]
    began = time.perf_counter()
    with Ledger(run, writable=True) as ledger:
        for number in range(entries):
            entry = entry_of(number, report)
            if no_files:
                entry.released = [output.path for output in entry.outputs]
            ledger.add(entry)
    print(f"wrote the ledger in {time.perf_counter() - began:.0f} s")
    files = (
        (output.path, output.bytes)
        for number in range(entries)
        for entry in [entry_of(number, {})]
        for output in entry.outputs
        if not no_files and output.path not in entry.released
    )
    made = (_make_local if storage.is_local(run) else _make_remote)(run, files)
    storage.write_bytes(mark, json.dumps({"files": made}).encode())
    print(f"and {made:,} outputs in {time.perf_counter() - began:.0f} s")
    return made


def _make_local(run: str, files: Iterator[tuple[str, int]]) -> int:
    folders: dict[str, int] = {}
    made = 0
    for path, size in files:
        folder, _, name = path.rpartition("/")
        if folder not in folders:
            (Path(run) / folder).mkdir(parents=True, exist_ok=True)
            folders[folder] = os.open(Path(run) / folder, os.O_RDONLY)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folders[folder])
        os.truncate(descriptor, size)
        os.close(descriptor)
        made += 1
    for descriptor in folders.values():
        os.close(descriptor)
    return made


def _make_remote(run: str, files: Iterator[tuple[str, int]]) -> int:
    from pipeline.storage.s3_client import client

    bucket, _, prefix = run.removeprefix("s3://").partition("/")
    s3 = client(run)
    with ThreadPoolExecutor(16) as pool:
        put = pool.map(lambda f: s3.put_object(Bucket=bucket, Key=f"{prefix}/{f[0]}", Body=b"x" * f[1]), files)
        return sum(1 for _ in put)


def count_requests(run: str) -> Callable[[], int]:
    """What asks how many requests were sent to S3 since."""
    if storage.is_local(run):
        return lambda: 0
    from pipeline.storage.s3_client import client

    sent: list[str] = []
    client(run).meta.events.register("before-send.s3", lambda request, **_: sent.append(request.method))
    return lambda: len(sent)


class Clock:
    """CPU seconds between calls of `lap`."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {"start": time.process_time()}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        """What has passed since the last call is called so."""
        now = time.process_time()
        self.parts[name], self._last = now - self._last, now

    def figures(self, requests: int) -> dict[str, Any]:
        """With the process's peak memory."""
        megabytes = measure.peak_memory() / 1e6
        return {"parts": self.parts, "megabytes": megabytes, "requests": requests}


def find_all(run: str, entries: int) -> dict[str, Any]:
    """Open the ledger and ask for every task."""
    requests, clock = count_requests(run), Clock()
    keys = [key_of(number) for number in range(entries)]
    clock.lap("keys, not counted")
    with Ledger(run) as ledger:
        clock.lap("open")
        first = [ledger.find(keys[number]) for number in range(3 * len(SOURCES))]
        clock.lap("list")
        found = sum(ledger.find(key) is not None for key in keys)
        clock.lap("find")
        assert found == entries and None not in first
    return clock.figures(requests())


def read_all(run: str, entries: int) -> dict[str, Any]:
    """Open the ledger and read all entries, as `status` and `report` do."""
    requests, clock = count_requests(run), Clock()
    with Ledger(run) as ledger:
        clock.lap("open")
        assert sum(entry.seconds > 0 for entry in ledger.entries()) == entries
        clock.lap("read")
    return clock.figures(requests())


def ask_status(run: str, entries: int) -> dict[str, Any]:
    """The command, as users call it."""
    requests, clock, said = count_requests(run), Clock(), io.StringIO()
    with redirect_stdout(said):
        assert main_of_pipeline(["status", run, "--json"]) == 0
    clock.lap("status")
    assert json.loads(said.getvalue())["tasks"] == entries
    return clock.figures(requests())


def write_tenth(run: str, entries: int) -> dict[str, Any]:
    """Open the ledger for writing, add a tenth of its entries again as a driver does, and close it."""
    report, requests, clock = make_report(), count_requests(run), Clock()
    with Ledger(run, writable=True) as ledger:
        clock.lap("open")
        for number in range(entries // 10):
            ledger.add(entry_of(number, report))
        clock.lap("add")
    clock.lap("close")
    return clock.figures(requests())


CHILDREN = {"find": find_all, "entries": read_all, "status": ask_status, "write": write_tenth}

if __name__ == "__main__":
    main()
