"""Tokens, from text to batches: the tokenizer against its reference, the order, and the loader; one core each.

    python -m benchmarks tokens [--tokenizer tokenizer.json] [--text FILE.jsonl.zst ...] [--length 4096]

Each text is encoded once, so what is measured is text that the engine has not seen. `cold` is a new engine's first
part, `warm` the rest, when its cache knows the common words, as in a task after the first few megabytes. Without
arguments the texts and OLMoE's tokenizer are taken from ../shared/data.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import tokenizers
import zstandard

from benchmarks.loader import bench_loader, bench_order
from stages.tokens.tokenizer import EncodeRules, load_tokenizer

SHARED = Path(os.environ.get("HEADRACE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
COLD_BYTES = 2_000_000
REFERENCE_BYTES = 6_000_000


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


def encode(
    run: Callable[[list[str]], object], texts: list[str], size: int | None = None
) -> tuple[int, float, list[object]]:
    """Encode texts in batches of 64 up to `size` bytes: how many texts that was, MB/s of one core, the results."""
    done, seconds, results, position = 0, 0.0, [], 0
    while position < len(texts) and (size is None or done < size):
        some = texts[position : position + 64]
        began = time.process_time()
        results.append(run(some))
        seconds += time.process_time() - began
        done += sum(len(text.encode()) for text in some)
        position += len(some)
    return position, done / seconds / 1e6, results


def bench_tokenizer(path: Path, texts: list[str]) -> None:
    plain = tokenizers.Tokenizer.from_file(str(path))
    fast = load_tokenizer(path, rules=EncodeRules(strip=False, append_eos=False))
    fast.encode(pa.array(["the kernels are compiled here"], pa.large_string()))
    compared, slow, want = encode(
        lambda some: [found.ids for found in plain.encode_batch_fast(some, add_special_tokens=False)],
        texts,
        REFERENCE_BYTES,
    )
    print(f"tokenizers, as a user calls it {slow:7.1f} MB/s")
    first, rate, cold = encode(lambda some: fast.encode(pa.array(some, pa.large_string()))[0], texts, COLD_BYTES)
    print(f"{fast.engine.name}, cold  {rate:23.1f} MB/s   x{rate / slow:.0f}")
    _, rate, warm = encode(lambda some: fast.encode(pa.array(some, pa.large_string()))[0], texts[first:])
    print(f"{fast.engine.name}, warm  {rate:23.1f} MB/s   x{rate / slow:.0f}")
    reference = np.concatenate([ids for batch in want for ids in batch])
    same = np.array_equal(np.concatenate(cold + warm)[: len(reference)], reference)
    print(f"tokens of the first {compared} documents {'are identical' if same else 'DIFFER'}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "tokenizers" / "gpt-neox-olmo-dolma-v1_5.json")
    parser.add_argument("--text", type=Path, nargs="*", default=sorted((SHARED / "golden").glob("*.jsonl.zst")))
    parser.add_argument("--length", type=int, default=4096)
    args = parser.parse_args(arguments)
    bench_order()
    with tempfile.TemporaryDirectory() as folder:
        bench_loader(Path(folder), args.length)
    if args.tokenizer.exists() and args.text:
        bench_tokenizer(args.tokenizer, read_texts(args.text))
    else:
        print("no tokenizer or text to measure with; name them with --tokenizer and --text")


if __name__ == "__main__":
    main()
