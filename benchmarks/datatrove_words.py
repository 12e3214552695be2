"""Decisions of datatrove's filters with their own tokenizer (spaCy), beside those of the steps of the same names.

    python -m benchmarks datatrove_words [--documents N] [--json FILE]

For each kind of text of ../shared/data the share of documents on which a step and datatrove's block decide alike, with the
words of spaCy's rules (`splitter: english`) and with Unicode's (`splitter: unicode`). Speed: CPU time of one thread.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import measure
from benchmarks.crawl import SHARED
from benchmarks.decontamination import TEXTS, read_texts
from benchmarks.tables import show_table, verdict
from stages.filters.english_rules import Splitter
from stages.filters.fineweb_quality import FineWebQuality
from stages.filters.gopher_quality_datatrove import GopherQualityDatatrove
from stages.filters.repetition_datatrove import RepetitionDatatrove
from stages.step import Step

GOAL = 0.99
STEPS = {"gopher": GopherQualityDatatrove, "repetition": RepetitionDatatrove, "fineweb": FineWebQuality}
SPLITTERS: tuple[Splitter, ...] = ("english", "unicode")


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks datatrove_words", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=120, help="of each kind of text (120)")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    if not SHARED.exists():
        print("needs texts: ../shared/data is not here")
        return
    facts = measure.machine("datatrove", "spacy", "numba")
    print(measure.show_machine(facts))
    blocks = _blocks()
    rows, found = [], {}
    for name in TEXTS:
        texts = read_texts(SHARED / f"{name}.jsonl.zst")[: args.documents]
        theirs = {kind: np.array([_keeps(block, text) for text in texts]) for kind, block in blocks.items()}
        found[name] = agreement(texts, theirs)
        cells = [f"{found[name][splitter][kind]:.3f}" for splitter in SPLITTERS for kind in STEPS]
        rows.append([name, f"{len(texts):,}", *cells])
        print(f"{name}: {len(texts):,} documents", flush=True)
    headings = [f"{kind}, {splitter}" for splitter in SPLITTERS for kind in STEPS]
    show_table("share of documents decided as datatrove does", ["text", "documents", *headings], rows)
    worst = min(found[name]["english"][kind] for name in found for kind in STEPS)
    print(f"english: {worst:.3f} at the least, {verdict(worst, GOAL)}")
    measure.write_json(args.json, {"machine": facts, "agreement": found})


def _blocks() -> dict[str, Any]:
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    return {"gopher": GopherQualityFilter(), "repetition": GopherRepetitionFilter(), "fineweb": FineWebQualityFilter()}


def _keeps(block: Any, text: str) -> bool:
    from datatrove.data import Document

    verdict = block.filter(Document(text=text, id="0"))
    return verdict is True


def agreement(texts: list[str], theirs: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """By splitter and filter, the share of texts that the step keeps or drops as the block does."""
    docs = pa.record_batch({"text": pa.array(texts, pa.large_string())})
    found: dict[str, dict[str, float]] = {}
    for splitter in SPLITTERS:
        steps: dict[str, Step] = {kind: step(splitter=splitter) for kind, step in STEPS.items()}
        begun = time.process_time()
        kept = {kind: step.decide(step.measure(docs)) < 0 for kind, step in steps.items()}
        speed = docs.column("text").nbytes / max(time.process_time() - begun, 1e-9) / 1e6
        found[splitter] = {kind: float((kept[kind] == theirs[kind]).mean()) for kind in STEPS} | {"mb_per_s": speed}
    return found


if __name__ == "__main__":
    main()
