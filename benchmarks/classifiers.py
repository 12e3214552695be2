"""Language id and the quality classifier in MB/s of text, one core, beside fastText's own library on the same texts.

    python -m benchmarks classifiers [--limit PAGES] [--repeats 3] [--json FILE]

The quality model is trained here first, with DCLM's settings (2,000,000 buckets). Library and kernel take turns, times
are of the processor. `new` is what a long task does, and what is claimed: text not met before, after as much other text has
filled the table of words. `cold` is the first pass, when no word has been met yet; `again` is text that was met before.

Then a classifier learns from the labels of ../shared/data by the defaults of `train-classifier`, in five folds: area under ROC.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import zstandard

from benchmarks import measure
from benchmarks.chains import extracted_text, read_texts
from benchmarks.crawl import SHARED, make_crawl
from benchmarks.decontamination import read_texts as shared_texts
from benchmarks.kernels import as_batch
from benchmarks.tables import show_table, verdict
from pipeline.models.train_classifier import train
from stages.document import rebatch
from stages.quality.classifier import Quality, good_probability
from stages.quality.fasttext_model import load_model
from stages.quality.language import Language, packaged_model
from stages.quality.scores import roc_auc
from stages.quality.settings import TrainSettings
from stages.quality.train import train_classifier
from stages.step import Step

GOAL, GOAL_AUC = 8.0, 0.93
FOLDS = 5
MORE = ("books", "c4", "quality-labels", "wiki-en", "wiki-es", "wiki-fr", "wikipedia")  # beside pages of the crawl


def main(arguments: list[str] | None = None) -> None:
    """Measure both steps and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks classifiers", description=(__doc__ or "").split("\n")[0])
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
        texts += [text for name in MORE for text in shared_texts(SHARED / f"{name}.jsonl.zst")[: args.limit]]
        random.Random(1).shuffle(texts)
        size = sum(len(text.encode()) for text in texts)
        print(f"{len(texts):,} real texts, {size / 1e6:.1f} MB, half of them to fill the tables")
        train_classifier(texts[::2], texts[1::2], work / "quality.bin", TrainSettings())
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, measure.one_core(args.core))
        found: dict[str, Any] = {"machine": facts, "bytes": size, "steps": {}}
        rows = []
        for step, model, clean in (
            (Language(), packaged_model(), lambda text: text.replace("\n", "")),
            (Quality(model=str(work / "quality.bin")), work / "quality.bin", lambda t: " ".join(t.strip().splitlines())),
        ):
            facts_of = compare(step, str(model), texts, clean, args.repeats)
            found["steps"][step.step] = facts_of
            row = [f"{facts_of[name]:,.1f} MB/s" for name in ("library", "cold", "new", "again")]
            rows.append([step.step, *row, f"x{facts_of['ratio']:.1f}", verdict(facts_of["ratio"], GOAL)])
        os.sched_setaffinity(0, allowed)
    headings = ["step", "fasttext", "headrace, cold", "headrace, new", "headrace, again", "ratio, new", "goal x8"]
    show_table("classifiers, one core", headings, rows)
    found["labels_roc_auc"] = auc = cross_validated()
    print(f"people's labels, learned by defaults: area under ROC {auc:.3f}, {verdict(auc, GOAL_AUC)}")
    measure.write_json(args.json, found)


def compare(step: Step, model: str, texts: list[str], clean: Callable[[str], str], repeats: int) -> dict[str, float]:
    """MB/s of the library and of the step, round by round in turn; each round begins with an empty table of words."""
    import fasttext

    library = fasttext.load_model(model)
    first, second = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    before, new = (list(rebatch([as_batch(half)], 8 << 20)) for half in (first, second))
    given = [clean(text) for text in second]
    seconds: dict[str, list[float]] = {"library": [], "cold": [], "new": [], "again": []}
    for _ in range(repeats):
        fresh = type(step)(**step.model_dump(exclude_unset=True))
        fresh.prepare()
        fresh.edit(as_batch(["a few words that load the kernels"]))
        seconds["library"].append(_cpu(lambda: [library.predict(text) for text in given]))
        for name, batches in (("cold", before), ("new", new), ("again", new)):
            seconds[name].append(_cpu(lambda fresh=fresh, batches=batches: [fresh.edit(batch) for batch in batches]))
    sizes = [sum(len(text.encode()) for text in half) / 1e6 for half in (first, second)]
    found = {name: sizes[name != "cold"] / measure.middle(times) for name, times in seconds.items()}
    return found | {"ratio": found["new"] / found["library"]}


def cross_validated() -> float:
    """Area under ROC of the shared labels, each scored by a model that the command made of the other folds."""
    with zstandard.open(SHARED / "quality-labels.jsonl.zst", "rt") as file:
        rows = [orjson.loads(line) for line in file]
    random.Random(1).shuffle(rows)
    scores, good = [], []
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(FOLDS):
            learned, model = Path(folder) / f"{fold}.jsonl", str(Path(folder) / f"{fold}.bin")
            learned.write_bytes(b"\n".join(orjson.dumps(row) for i, row in enumerate(rows) if i % FOLDS != fold))
            train([], [], model, labelled=[str(learned)])
            texts = pa.array([row["text"] for row in rows[fold::FOLDS]], pa.large_string())
            scores.append(good_probability(load_model(model), texts, "hq"))
            good += [row["label"] == 1 for row in rows[fold::FOLDS]]
    return roc_auc(np.concatenate(scores), np.array(good))


def _cpu(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    main()
