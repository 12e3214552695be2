"""Tokens, from text to batches: the tokenizer against its reference, the order, and the loader; one core each.

    python -m benchmarks tokens [--tokenizer tokenizer.json] [--text FILE.jsonl.zst ...] [--length 4096]
    python -m benchmarks tokens --memory-gb 10     # only the tokenizer's memory, over so much text of new words

`cold` is a new engine's first part, `new text` the rest, when its cache knows the common words, and `text that it knows`
is all of it once more: what a long task nears as its cache fills. Without
arguments the texts and OLMoE's tokenizer are taken from ../shared/data.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tempfile
from pathlib import Path

import zstandard

from benchmarks.loader import bench_loader, bench_order
from benchmarks.tokenizing import bench_memory, bench_tokenizer

SHARED = Path(os.environ.get("HEADRACE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
PROSE = ("c4", "wiki-en", "books", "arxiv")  # English, as a mixture for training has it; the golden pages are of all kinds


def read_texts(paths: list[Path]) -> list[str]:
    """The texts of some JSON lines files, each text once, in a fixed random order."""
    texts: dict[str, None] = {}
    for path in paths:
        with path.open("rb") as file:
            for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8"):
                texts[json.loads(line)["text"]] = None
    found = sorted(texts)
    random.Random(0).shuffle(found)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers" / "gpt-neox-olmo-dolma-v1_5.json")
    parser.add_argument("--text", type=Path, nargs="*", default=sorted((SHARED / "golden").glob("*.jsonl.zst")))
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument(
        "--memory-gb", type=float, help="encode so many GB of altered text in one process, and tell its memory"
    )
    args = parser.parse_args(arguments)
    there = args.tokenizer.exists() and args.text
    if args.memory_gb is not None:
        if not there:
            raise SystemExit("no tokenizer or text to measure with; name them with --tokenizer and --text")
        return bench_memory(args.tokenizer, read_texts(args.text), args.memory_gb)
    bench_order()
    with tempfile.TemporaryDirectory() as folder:
        bench_loader(Path(folder), args.length)
    if there:
        bench_tokenizer(args.tokenizer, read_texts(args.text))
        prose = [path for name in PROSE if (path := SHARED / f"{name}.jsonl.zst").exists()]
        if prose and args.text == parser.get_default("text"):
            print(f"the same on {', '.join(PROSE)}")
            bench_tokenizer(args.tokenizer, read_texts(prose))
    else:
        print("no tokenizer or text to measure with; name them with --tokenizer and --text")


if __name__ == "__main__":
    main()
