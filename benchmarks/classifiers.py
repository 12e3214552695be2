"""Language id and the quality classifier in MB/s of text, one core, beside fastText's own library on the same texts.

    python -m benchmarks classifiers [--limit PAGES] [--repeats 3] [--json FILE]

The quality model is trained here first, with DCLM's settings (2,000,000 buckets). Library and kernel take turns, times
are of the processor. `cold` is the first pass, when no word has been met yet; a task that goes on is `warm`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks import measure
from benchmarks.chains import extracted_text, read_texts
from benchmarks.crawl import make_crawl
from benchmarks.kernels import as_batch
from benchmarks.tables import show_table, verdict
from stages.document import rebatch
from stages.quality.classifier import Quality
from stages.quality.language import Language, packaged_model
from stages.quality.settings import TrainSettings
from stages.quality.train import train_classifier
from stages.step import Step

GOAL = 8.0


def main(arguments: list[str] | None = None) -> None:
    """Measure both steps and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks classifiers", description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=int, default=None, help="only so many pages of each WARC file")
    parser.add_argument("--repeats", type=int, default=3, help="warm rounds; medians are shown")
    parser.add_argument("--core", type=int, default=None, help="number of the core to use")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    facts = measure.machine("fasttext-community", "numba", "pyarrow")
    print(measure.show_machine(facts))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        texts = read_texts(extracted_text(make_crawl(work, 1, args.limit), work))
        size = sum(len(text.encode()) for text in texts)
        print(f"{len(texts):,} texts of real pages, {size / 1e6:.1f} MB")
        batches = list(rebatch([as_batch(texts)], 8 << 20))
        train_classifier(texts[::2], texts[1::2], work / "quality.bin", TrainSettings())
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, measure.one_core(args.core))
        found: dict[str, Any] = {"machine": facts, "bytes": size, "steps": {}}
        rows = []
        for step, model, clean in (
            (Language(), packaged_model(), lambda text: text.replace("\n", "")),
            (Quality(model=str(work / "quality.bin")), work / "quality.bin", lambda t: " ".join(t.strip().splitlines())),
        ):
            facts_of = compare(step, str(model), [clean(text) for text in texts], batches, size, args.repeats)
            found["steps"][step.step] = facts_of
            row = [f"{facts_of[name]:,.1f} MB/s" for name in ("library", "cold", "warm")]
            rows.append([step.step, *row, f"x{facts_of['ratio']:.1f}", verdict(facts_of["ratio"], GOAL)])
        os.sched_setaffinity(0, allowed)
    show_table("classifiers, one core", ["step", "fasttext", "headrace, cold", "headrace, warm", "ratio, warm", "goal x8"], rows)
    measure.write_json(args.json, found)


def compare(
    step: Step, model: str, texts: list[str], batches: list[pa.RecordBatch], size: int, repeats: int
) -> dict[str, float]:
    """MB/s of the library and of the step, round by round in turn."""
    import fasttext

    library = fasttext.load_model(model)
    step.prepare()
    step.edit(as_batch(["a few words that load the kernels"]))
    cold = _cpu(lambda: [step.edit(batch) for batch in batches])
    theirs, ours = [], []
    for _ in range(repeats):
        theirs.append(_cpu(lambda: [library.predict(text) for text in texts]))
        ours.append(_cpu(lambda: [step.edit(batch) for batch in batches]))
    rates = {"library": measure.middle(theirs), "warm": measure.middle(ours), "cold": cold}
    found = {name: size / 1e6 / seconds for name, seconds in rates.items()}
    return found | {"ratio": found["warm"] / found["library"]}


def _cpu(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    main()
