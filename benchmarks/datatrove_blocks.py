"""Headrace's steps as blocks of a datatrove pipeline beside datatrove's own filters in the same pipeline.

    python -m benchmarks datatrove_blocks [--documents 300] [--json FILE]

Both pipelines are a JsonlReader, the filters and a JsonlWriter under a LocalPipelineExecutor with one task, each in a new
process on one core; the text is real prose, every copy with other words. Also the blocks alone, on documents in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import show_table

SIDES = ("datatrove", "headrace")
FILTERS: dict[str, tuple[tuple[str, dict[str, Any]], Any]] = {
    "Gopher repetition": (("GopherRepetitionFilter", {}), "repetition_datatrove"),
    "Gopher quality": (("GopherQualityFilter", {}), "gopher_quality_datatrove"),
    "C4": (("C4QualityFilter", {"filter_no_terminal_punct": False}), {"c4_quality": {"terminal_punctuation": False}}),
    "FineWeb": (("FineWebQualityFilter", {}), "fineweb_quality"),
}


def main(arguments: list[str]) -> None:
    """Measure both sides and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks datatrove_blocks", description=__doc__)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--json", metavar="FILE", help="keep the figures")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.side:
        print(json.dumps(_one_side(args.side, args.work)))
        return
    with tempfile.TemporaryDirectory() as work:
        size = _write(Path(work), args.documents)
        found = {side: _in_process(side, Path(work)) for side in SIDES}
    rows = []
    for name in found["datatrove"]["seconds"]:
        theirs, ours = (found[side]["seconds"][name] for side in SIDES)
        rows.append([name, f"{size / theirs / 1e6:,.2f}", f"{size / ours / 1e6:,.2f}", f"{theirs / ours:,.1f}"])
    kept = " and ".join(f"{found[side]['kept']:,} ({side})" for side in SIDES)
    title = f"{args.documents:,} documents, {size / 1e6:,.1f} MB of text, by CPU time on one core; kept: {kept}"
    show_table(title, ["blocks", "datatrove MB/s", "headrace MB/s", "times as fast"], rows)
    if args.json:
        Path(args.json).write_text(json.dumps(found | {"bytes": size}, indent=2))


def _write(work: Path, documents: int) -> int:
    """JSON lines of prose: paragraphs of Python's documentation in an order of their own for each document."""
    from pydoc_data.topics import topics

    paragraphs = [p for _, text in sorted(topics.items()) for p in text.split("\n\n") if len(p) > 200]
    rng, size = np.random.default_rng(0), 0
    (work / "in").mkdir()
    with (work / "in/docs.jsonl").open("w") as out:
        for i in range(documents):
            text = "\n\n".join(paragraphs[j] for j in rng.integers(0, len(paragraphs), 8))
            size += len(text.encode())
            out.write(json.dumps({"id": str(i), "text": text}) + "\n")
    return size


def _in_process(side: str, work: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", "datatrove_blocks", "--side", side, "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _one_side(side: str, work: Path) -> dict[str, Any]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    seconds = {}
    for name in [*FILTERS, "all four"]:
        blocks = _blocks(side, list(FILTERS) if name == "all four" else [name])
        seconds[name] = min(_pass_through(blocks, work) for _ in range(2))  # the first loads words and kernels
    blocks = _blocks(side, list(FILTERS))
    out = work / f"out-{side}"
    pipeline = [JsonlReader(str(work / "in")), *blocks, JsonlWriter(str(out), compression=None)]
    began = time.process_time()
    LocalPipelineExecutor(pipeline, tasks=1, logging_dir=str(work / f"logs-{side}")).run()
    seconds["pipeline, reader and writer included"] = time.process_time() - began
    kept = sum(len(path.read_text().splitlines()) for path in out.rglob("*.jsonl"))
    return {"seconds": seconds, "kept": kept}


def _blocks(side: str, names: list[str]) -> list[Any]:
    from datatrove.pipeline import filters

    from pipeline.datatrove_blocks import HeadraceSteps

    if side == "headrace":
        return [HeadraceSteps([FILTERS[name][1] for name in names])]
    return [getattr(filters, block)(**args) for block, args in (FILTERS[name][0] for name in names)]


def _pass_through(blocks: list[Any], work: Path) -> float:
    """CPU seconds of the blocks on documents that are in memory already."""
    from datatrove.pipeline.readers import JsonlReader

    documents: Any = list(JsonlReader(str(work / "in")).run())
    began = time.process_time()
    for block in blocks:
        documents = block.run(documents)
    for _ in documents:
        pass
    return time.process_time() - began
