"""Masks for personal information: how many kinds of text are judged right, and how fast, by both sets of patterns.

    python -m benchmarks pii [--cases FILE] [--json FILE]

Cases are texts with the masks that belong in them (../shared/cases/pii.json). Speed: CPU time of one thread over the texts of
../shared/data, the best of three.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Literal

import orjson
import pyarrow as pa

from benchmarks import measure
from benchmarks.crawl import SHARED
from benchmarks.decontamination import TEXTS, read_texts
from benchmarks.tables import show_table, verdict
from stages.filters.mask_pii import MaskPii

GOAL_RIGHT, GOAL_SPEED = 60 / 65, 200.0
MASK = re.compile(r"\|\|\|(\w+)\|\|\|")
PATTERNS: tuple[Literal["olmo", "strict"], ...] = ("olmo", "strict")


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pii", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=Path, default=SHARED.parent / "cases" / "pii.json", help="texts with their masks")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    if not args.cases.exists() or not SHARED.exists():
        print("needs cases and texts: ../shared is not here, and no cases were named")
        return
    facts = measure.machine("numba")
    print(measure.show_machine(facts))
    cases = orjson.loads(args.cases.read_bytes())
    texts = _batch([text for name in TEXTS for text in read_texts(SHARED / f"{name}.jsonl.zst")])
    steps = {name: MaskPii(patterns=name) for name in PATTERNS}
    figures = {name: {"right": _right(step, cases), **_speed(step, texts)} for name, step in steps.items()}
    rows = [
        [name, f"{found['right']} of {len(cases)}", f"{found['mb_per_s']:.0f} MB/s", f"{found['items']:,}"]
        for name, found in figures.items()
    ]
    show_table("masks", ["patterns", "judged right", "text", "masks in real texts"], rows)
    strict = figures["strict"]
    print(f"strict: {strict['right']} of {len(cases)} cases, {verdict(strict['right'] / len(cases), GOAL_RIGHT, form='.3f')}")
    print(f"strict: {strict['mb_per_s']:.0f} MB/s, {verdict(strict['mb_per_s'], GOAL_SPEED)}")
    measure.write_json(args.json, {"machine": facts, "cases": len(cases), "patterns": figures})


def _batch(texts: list[str]) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def _right(step: MaskPii, cases: list[dict]) -> int:
    edited = step.edit(_batch([case["text"] for case in cases]))[0].column("text").to_pylist()
    return sum(MASK.findall(text) == case["masks"] for text, case in zip(edited, cases, strict=True))


def _speed(step: MaskPii, docs: pa.RecordBatch) -> dict[str, float]:
    best, items = float("inf"), 0
    for _ in range(3):
        begun = time.process_time()
        _, measures = step.edit(docs)
        best = min(best, time.process_time() - begun)
        items = int(pa.array(measures["items"]).to_numpy().sum())
    return {"mb_per_s": docs.column("text").nbytes / best / 1e6, "items": items}


if __name__ == "__main__":
    main()
