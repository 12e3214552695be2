"""Decontamination: how much of planted evaluation items is found, and how much is found where nothing was planted.

    python -m benchmarks decontamination [--items N] [--json FILE]

Items of the sets of ../shared/data/eval are planted between two real texts: what each asks followed by its answer, as it is
and with one word in twelve changed (items of 25 words or more); and what it asks alone, where that has 8 words or more.
False positives are counted in all texts of ../shared/data. Both ways of matching are measured in the same run.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import zstandard

from benchmarks import measure
from benchmarks.crawl import SHARED
from benchmarks.tables import show_table, verdict
from stages.filters.decontaminate import Decontaminate
from stages.filters.evaluation_items import Item, read_items

GOAL_VERBATIM, GOAL_CHANGED, GOAL_FALSE = 0.90, 0.80, 2 / 13_783
CHANGED_FROM, EVERY = 25, 12  # words of an item that is changed, of which one in EVERY is
OTHER_WORDS = ("and", "zebra", "house", "walk", "of", "bright", "seven", "under")
SURROUNDINGS = ("c4", "books", "wikipedia")
TEXTS = ("arxiv", "books", "c4", "code", "latex", "quality-labels", "wiki-en", "wiki-es", "wiki-fr", "wikipedia",
         "golden/dclm-text", "golden/dclm-web")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks decontamination", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=200, help="of each set, planted (200)")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    files = sorted(str(path) for path in SHARED.glob("eval/*/*/requests.jsonl.gz"))
    if not files:
        print("needs evaluation sets: ../shared/data is not here")
        return
    facts = measure.machine("numba")
    print(measure.show_machine(facts))
    steps = {match: Decontaminate(files=tuple(files), match=match) for match in ("items", "ngrams")}
    found = {match: planted(step, args.items) for match, step in steps.items()}
    rows = []
    for name, mine in found["items"].items():
        rates = [f"{mine[kind]:.3f}" if kind in mine else "" for kind in ("verbatim", "asked", "changed")]
        rows.append([name, *rates, f"{found['ngrams'][name]['verbatim']:.3f}"])
    headings = ["set", "asked and answer", "asked, 8 words", "one in 12 changed", "by 13-grams"]
    show_table("share of planted items found", headings, rows)
    texts = [text for name in TEXTS for text in read_texts(SHARED / f"{name}.jsonl.zst")]
    clean = {match: unplanted(step, texts) for match, step in steps.items()}
    report(found["items"], clean, len(texts))
    measure.write_json(args.json, {"machine": facts, "planted": found, "texts": len(texts), "unplanted": clean})


def planted(step: Decontaminate, count: int) -> dict[str, dict[str, float]]:
    """For each set the share of plants that is found, by kind: verbatim, asked, changed; kinds without plants are left out."""
    rng = random.Random(1)
    texts = [text[:1500] for name in SURROUNDINGS for text in read_texts(SHARED / f"{name}.jsonl.zst")]
    files = [step.files] if isinstance(step.files, str) else step.files
    kinds: dict[str, tuple[Callable[[Item], str], int]] = {
        "verbatim": (_whole, 0),
        "asked": (lambda item: item.question, 8),
        "changed": (lambda item: _changed(_whole(item), rng), CHANGED_FROM),
    }
    rates: dict[str, dict[str, float]] = {}
    for name, file in zip(step.names, files, strict=True):
        items = read_items(file)
        chosen = rng.sample(items, min(count, len(items)))
        rates[name] = {}
        for kind, (text_of, least) in kinds.items():
            plants = [(item, text) for item in chosen if len((text := text_of(item)).split()) >= least]
            documents = [f"{rng.choice(texts)}\n\n{text}\n\n{rng.choice(texts)}" for _, text in plants]
            if plants:
                rates[name][kind] = float(np.mean(_found(step, name, [item for item, _ in plants], documents)))
    return rates


def _found(step: Decontaminate, name: str, items: Sequence[Item], documents: list[str]) -> list[bool]:
    """Whether each item was found in its document; of n-grams, which name no more than one row, whether anything was."""
    measures = step.measure(pa.record_batch({"text": pa.array(documents, pa.large_string())}))
    if step.match == "ngrams":
        return (np.nan_to_num(np.asarray(measures["overlap"])) > 0).tolist()
    hits = [orjson.loads(one or "[]") for one in pa.array(measures["hits"]).to_pylist()]
    return [f"{name}:{item.record}" in {hit[0] for hit in mine} for item, mine in zip(items, hits, strict=True)]


def _whole(item: Item) -> str:
    return f"{item.question}\n{item.answers[0].strip() if item.answers else ''}".strip()


def _changed(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    for place in range(rng.randrange(EVERY), len(words), EVERY):
        words[place] = rng.choice(OTHER_WORDS)
    return " ".join(words)


def read_texts(path: Path) -> list[str]:
    """The texts of a compressed file of JSON lines."""
    with path.open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()
    return [orjson.loads(line)["text"] for line in lines]


def unplanted(step: Decontaminate, texts: list[str]) -> dict[str, Any]:
    """Documents in which something is found, and the speed, CPU time of one thread."""
    docs = pa.record_batch({"text": pa.array(texts, pa.large_string())})
    begun = time.process_time()
    overlap = np.asarray(step.measure(docs)["overlap"])
    seconds = time.process_time() - begun
    size = docs.column("text").nbytes
    return {"found": int((np.nan_to_num(overlap) > 0).sum()), "mb_per_s": size / seconds / 1e6}


def report(rates: dict[str, dict[str, float]], clean: dict[str, Any], texts: int) -> None:
    """Print the goals."""
    for kind, goal in (("verbatim", GOAL_VERBATIM), ("changed", GOAL_CHANGED)):
        found = {name: mine[kind] for name, mine in rates.items() if kind in mine}
        worst = min(found, key=lambda name: found[name])
        print(f"{kind}: {found[worst]:.3f} of {worst}, the least of {len(found)} sets, {verdict(found[worst], goal)}")
    wrong = clean["items"]["found"]
    print(f"false positives: {wrong} in {texts:,} documents, {verdict(wrong / texts, GOAL_FALSE, at_most=True, form='.6f')}")
    for match, figures in clean.items():
        print(f"{match}: {figures['mb_per_s']:.0f} MB/s of text")


if __name__ == "__main__":
    main()
