"""The tokenizer against its reference: speed cold and warm, every token compared, and memory over gigabytes of new words."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import tokenizers

from benchmarks.alter import alter, vocabulary
from benchmarks.tables import verdict
from stages.tokens.tokenizer import EncodeRules, Tokenizer, load_tokenizer

COLD_BYTES = 2_000_000
BATCH = 64  # texts
RATIO = 30  # times the reference's speed
FLAT = 0.10  # what memory may grow by, from the first gigabyte on
PART_BYTES = 1_000_000_000


def encode(
    run: Callable[[list[str]], object], texts: list[str], size: int | None = None
) -> tuple[int, float, list[object]]:
    """Encode texts in batches up to `size` bytes: how many texts that was, MB/s of one core, the results."""
    done, seconds, results, position = 0, 0.0, [], 0
    while position < len(texts) and (size is None or done < size):
        some = texts[position : position + BATCH]
        began = time.process_time()
        results.append(run(some))
        seconds += time.process_time() - began
        done += sum(len(text.encode()) for text in some)
        position += len(some)
    return position, done / seconds / 1e6, results


def bench_tokenizer(path: Path, texts: list[str], cold_bytes: int = COLD_BYTES) -> None:
    """Speed beside `tokenizers` as a user calls it, and whether each of the documents has the same tokens."""
    plain = tokenizers.Tokenizer.from_file(str(path))
    fast = load_tokenizer(path, rules=EncodeRules(strip=False, append_eos=False))
    fast.encode(pa.array(["the kernels are compiled here"], pa.large_string()))

    def reference(some: list[str]) -> list[np.ndarray]:
        return [np.array(one.ids, np.uint32) for one in plain.encode_batch_fast(some, add_special_tokens=False)]

    def ours(some: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return fast.encode(pa.array(some, pa.large_string()))

    _, slow, want = encode(reference, texts)
    print(f"{'tokenizers, as a user calls it':29} {slow:8.1f} MB/s of one core")
    first, cold, begun = encode(ours, texts, cold_bytes)
    _, warm, rest = encode(ours, texts[first:])
    _, again, _ = encode(ours, texts)
    for name, rate in (("cold", cold), ("new text", warm), ("text that it knows", again)):
        times = rate / slow
        print(f"{f'{fast.engine.name}, {name}':29} {rate:9.1f} MB/s   x{times:.1f}: {verdict(times, RATIO)}")
    size = sum(len(text.encode()) for text in texts)
    whole = size / (cold_bytes / cold + (size - cold_bytes) / warm)
    print(f"{f'{fast.engine.name}, all {size / 1e6:.1f} MB':29} {whole:9.1f} MB/s   x{whole / slow:.1f}")
    found = (tokens[a:b] for tokens, ends in begun + rest for a, b in pairwise(ends))
    same = [np.array_equal(a, b) for a, b in zip(found, (ids for some in want for ids in some), strict=True)]
    told = "all tokens are identical" if all(same) else f"{same.count(False)} DIFFER, the first is {same.index(False)}"
    print(f"{len(texts):,} documents: {told}")


def new_text(texts: list[str], size: int) -> Iterator[list[str]]:
    """Batches of text, `size` bytes in all: the documents again and again, each time with other words, some of them new."""
    words = vocabulary(text.encode() for text in texts)
    made = turn = 0
    while made < size:
        for start in range(0, len(texts), BATCH):
            some = [
                alter(text.encode(), words, f"{turn}/{start + n}")
                for n, text in enumerate(texts[start : start + BATCH])
            ]
            made += sum(len(text) for text in some)
            yield [text.decode() for text in some]
            if made >= size:
                return
        turn += 1


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bench_memory(path: Path, texts: list[str], gigabytes: float) -> None:
    """Encode so much new text in one process: memory and speed at each gigabyte (at each tenth where it is less than two)."""
    fast: Tokenizer = load_tokenizer(path)
    part = PART_BYTES if gigabytes >= 2 else PART_BYTES // 10
    done, seconds, tokens, told = 0, 0.0, 0, [resident()]
    since, before = 0.0, 0
    print(f"{fast.engine.name} in one process: {told[0] / 1e6:.0f} MB to begin with")
    for some in new_text(texts, int(gigabytes * 1e9)):
        column = pa.array(some, pa.large_string())
        began = time.process_time()
        tokens += len(fast.encode(column)[0])
        seconds += time.process_time() - began
        done += column.nbytes
        if done >= part * len(told):
            told.append(resident())
            rate = (done - before) / (seconds - since) / 1e6
            print(
                f"after {done / 1e9:6.3f} GB, {tokens / 1e6:,.0f}M tokens: {told[-1] / 1e6:,.0f} MB, {rate:.0f} MB/s",
                flush=True,
            )
            since, before = seconds, done
    if len(told) > 2:
        grown = max(told[2:]) / told[1] - 1
        print(f"memory from the first of these on: {grown:+.1%}, {verdict(grown, FLAT, at_most=True, form='+.0%')}")
