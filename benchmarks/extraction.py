"""Extraction, one core: the `extract` step as a run does it, against a bare loop of FastWARC and Resiliparse.

    python -m benchmarks extraction [--scale N] [--limit PAGES] [--repeats 5] [--json FILE]

The bare loop reads each response, decodes it and extracts its text, and keeps nothing. Ours reads the same files
through the WARC reader (positions, checks, decoded bodies, Arrow batches) and hands the pages to the parsing process,
from which they come back as a batch with measures. Both are pinned to one core; processes are started before the clock
is. Rounds alternate, and medians are compared; CPU seconds include the parsing process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.crawl import make_crawl
from benchmarks.settings import RESILIPARSE
from benchmarks.tables import show_table, verdict

GOAL = 1.15  # times the bare loop
BATCH_BYTES = 8 << 20  # run.batch_bytes


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks extraction", description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=1, help="how many times the real pages")
    parser.add_argument("--limit", type=int, help="only so many pages of each WARC file")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench", help="scratch folder"
    )
    parser.add_argument("--core", type=int, help="number of the core to use")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    facts = measure.machine("Resiliparse", "FastWARC", "pyarrow")
    print(measure.show_machine(facts))
    crawl = make_crawl(args.work, args.scale, args.limit)
    print(crawl.describe())
    request = args.work / "extraction.json"
    request.write_text(json.dumps({"files": crawl.files, "repeats": args.repeats}))
    usage = measure.run(["-m", "benchmarks.extraction", "--inside", str(request)], measure.one_core(args.core))
    found: dict[str, Any] = json.loads(usage.output)
    found |= {"machine": facts, "html_bytes": crawl.html_bytes, "pages": crawl.pages, "peak": usage.peak}
    found["ratio"] = found["extract"]["seconds"] / found["bare"]["seconds"]
    found["ratio_by_cpu"] = found["extract"]["cpu_seconds"] / found["bare"]["cpu_seconds"]
    rows = [
        [
            label,
            f"{found[name]['seconds']:.2f} s",
            f"{crawl.html_bytes / found[name]['seconds'] / 1e6:.1f} MB/s",
            f"{found[name]['cpu_seconds']:.2f} s",
            f"{crawl.html_bytes / found[name]['cpu_seconds'] / 1e6:.1f} MB/s",
            f"{found[name]['text_bytes'] / 1e6:.2f} MB",
        ]
        for name, label in (("bare", "bare loop"), ("extract", "read and extract"))
    ]
    show_table("extraction, one core, medians", ["", "seconds", "HTML", "CPU", "HTML", "text"], rows)
    ratio, by_cpu = found["ratio"], found["ratio_by_cpu"]
    print(
        f"extraction takes {ratio:.2f} of the bare loop's time, {verdict(ratio, GOAL, at_most=True)}; by CPU time {by_cpu:.2f}"
    )
    if found["bare"]["text_bytes"] != found["extract"]["text_bytes"]:
        print("the texts differ in size: some pages are decoded otherwise")
    measure.write_json(args.json, found)


def inside(request: dict[str, Any]) -> dict[str, Any]:
    """The measurement itself, in a process that is pinned already."""
    from stages.extract.extract import Extract

    step = Extract()
    step.prepare()
    found: dict[str, Any] = {"bare": {}, "extract": {}}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    runs: dict[str, Callable[[], int]] = {
        "bare": lambda: bare(request["files"]),
        "extract": lambda: through_step(request["files"], step),
    }
    for _ in range(request["repeats"]):
        for name, call in runs.items():
            clock, cpu = time.perf_counter(), _cpu()
            found[name]["text_bytes"] = call()
            taken[name].append((time.perf_counter() - clock, _cpu() - cpu))
    for name, times in taken.items():
        found[name]["seconds"] = measure.middle([seconds for seconds, _ in times])
        found[name]["cpu_seconds"] = measure.middle([cpu for _, cpu in times])
        found[name]["all_seconds"] = [seconds for seconds, _ in times]
    return found


def bare(files: list[str]) -> int:
    """FastWARC and Resiliparse, with nothing around them; returns the bytes of text."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    size = 0
    for path in files:
        with Path(path).open("rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                html = record.reader.read()
                try:
                    page = html.decode()
                except UnicodeDecodeError:
                    page = bytes_to_str(html, detect_encoding(html))
                size += len(extract_plain_text(page, **RESILIPARSE).encode("utf-8", "replace"))
    return size


def through_step(files: list[str], step: Any) -> int:
    """The WARC reader and the step `extract`, batch by batch; returns the bytes of text."""
    from stages.document import column_bytes
    from stages.read import ReadSpec, read_batches

    size = 0
    for path in files:
        with Path(path).open("rb") as file:
            for batch in read_batches(file, path, ReadSpec(), batch_bytes=BATCH_BYTES, on_event=_refuse, part=None):
                size += column_bytes(step.edit(batch)[0].column("text"))
    return size


def _refuse(event: Any) -> None:
    if type(event).__name__ == "Problem":
        raise SystemExit(f"a page could not be read: {event}")


def _cpu() -> float:
    """CPU seconds of this process and of its children that run now."""
    total = time.process_time()
    ticks = os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        print(json.dumps(inside(json.loads(Path(sys.argv[2]).read_text()))))
    else:
        main()
