"""Dedup, one core: the kernels and whole methods in MB/s of text, beside datatrove's MinHash where it is installed.

    python -m benchmarks dedup [--size 200] [--copies 0.3] [--datatrove 20] [--folder DIR]

The corpus is made of the real documents of ../shared/data. To be larger than they are, each further round through them
exchanges their words for one another by its own random permutation, each within its file and script, so that its
documents are new ones of the same shape and language; then a share of documents (`--copies`) is planted a second time,
a third of these with a few words changed. All phases run in this process. Times are of the processor, not of the clock,
so that other work beside does not count.
datatrove takes the first `--datatrove` MB of the same documents (at 0.4 MB/s, all 200 take nine minutes). Then, in
processes of their own: peak memory as the input grows tenfold, and two workers on Ray beside one, by the clock.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

from benchmarks import measure
from benchmarks.dedup_scaling import bench_memory, bench_workers
from benchmarks.tables import verdict
from stages.dedup import bff, scatter
from stages.dedup.bloom import make_filter
from stages.dedup.footprint import footprint, suffix_memory
from stages.dedup.normalize import normalize
from stages.dedup.phases import group_parts, phases, run_inline
from stages.dedup.spec import Filtering, read_filtering, read_spec
from stages.document import DOCUMENT, text_buffers
from stages.kernels.hashing import hash_texts
from stages.kernels.minhash import minhash_signatures, row_constants
from stages.parts import PartWriter

SHARED = Path(os.environ.get("HEADRACE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FILES = ("c4", "books", "code", "wikipedia", "wiki-en", "wiki-fr", "wiki-es", "golden/dclm-web", "golden/dclm-text")
PART_BYTES = 16_000_000
SIGNATURES_GOAL, PHASES_GOAL = 150, 30  # times datatrove's speed
BFF_GOAL = 40  # MB/s
PARAGRAPHS_GOAL = 96  # MB/s: Dolma's deduper
LONG_WORD = re.compile(r"[^\W\d_]{4,}")


def real_texts() -> dict[str, str]:
    """Text -> the file that it is from."""
    texts: dict[str, str] = {}
    for name in FILES:
        with (SHARED / f"{name}.jsonl.zst").open("rb") as file:
            for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8"):
                texts.setdefault(json.loads(line)["text"], name)
    return texts


def corpus(size: int, copies: float) -> list[str]:
    """About `size` bytes of documents, `copies` of them planted a second time."""
    rng = random.Random(0)
    base = real_texts()
    words = {(file, ascii): set[str]() for file in FILES for ascii in (True, False)}
    for text, file in base.items():
        for word in LONG_WORD.findall(text):
            words[file, word.isascii()].add(word)
    texts: list[str] = []
    done = 0
    exchange: dict[str, dict[str, str]] = {}
    while done < size:
        for text, file in base.items():
            if exchange:
                text = LONG_WORD.sub(lambda m: exchange[file][m.group()], text)  # noqa: B023
            texts.append(text)
            done += len(text)
            if rng.random() < copies:
                texts.append(text if rng.random() < 2 / 3 else altered(rng, text))
                done += len(text)
            if done >= size:
                break
        exchange = {file: {} for file in FILES}
        for (file, _), some in sorted(words.items()):
            exchange[file] |= zip(sorted(some), rng.sample(sorted(some), len(some)), strict=True)
    rng.shuffle(texts)
    return texts


def altered(rng: random.Random, text: str) -> str:
    words = text.split(" ")
    for _ in range(1 + len(words) // 200):
        words[rng.randrange(len(words))] = rng.choice(words)
    return " ".join(words)


def write_parts(texts: list[str], folder: Path) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    begin = 0
    while begin < len(texts):
        end, size = begin, 0
        while end < len(texts) and size < PART_BYTES:
            size += len(texts[end].encode())
            end += 1
        n = end - begin
        file = f"{len(parts):05d}"
        nulls = [None] * n
        columns = [[f"d{i}" for i in range(begin, end)], texts[begin:end], nulls, [file] * n, list(range(n)), nulls, nulls]
        path = folder / f"{file}.parquet"
        batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, DOCUMENT, strict=True)], DOCUMENT)
        with PartWriter(path, DOCUMENT) as writer:
            writer.write(batch)
        about = {"ordinal": len(parts), "path": str(path), "source": "a", "documents": n, "bytes": size, "files": [file]}
        parts.append(about)
        begin = end
    return parts


def timed(name: str, size: int, call: Any, rounds: int = 3) -> float:
    """MB/s of the best of some rounds, by processor time."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
    rate = size / best / 1e6
    print(f"{name:44s} {rate:9.2f} MB/s")
    return rate


def bench_kernels(texts: list[str]) -> float:
    """The kernels on a few megabytes; returns MB/s of signatures, normalization included."""
    column = pa.array(texts, pa.large_string())
    data, offsets = text_buffers(column)
    size = int(offsets[-1])
    spec = read_spec({"method": "minhash"})
    simple = normalize(data, offsets, "simple")
    out, counts = np.empty((len(texts), 112), np.uint64), np.empty(len(texts), np.int64)
    constants = row_constants(112, 1)
    hashes = np.empty((len(texts), 2), np.uint64)
    timed("normalize (simple)", size, lambda: normalize(data, offsets, "simple"))
    timed("MinHash of normalized text, 112 rows", size, lambda: minhash_signatures(*simple, 5, *constants, out, counts))
    rate = timed("MinHash signatures, both", size, lambda: scatter.signatures(column, spec))
    timed("128-bit hash of plain text", size, lambda: hash_texts(data, offsets, 0, hashes))
    timed("128-bit hash, white space normalized", size, lambda: scatter.hashed_texts(column, "whitespace"))
    bloom = read_spec({"method": "bff"})
    timed("n-grams of Unicode tokens (bff)", size, lambda: bff.hash_texts(column, bloom))
    docs = np.arange(len(texts))
    for capacity in (10**6, 850_000_000):
        filter = make_filter(capacity, 0.01, 13, 0, 1 << 31, "bench")
        filter.bits[:] = 0
        name = f"bff, filter of {filter.size / 2**20:,.0f} MiB"
        timed(name, size, lambda: bff._pass(column, docs, bloom, filter))  # noqa: B023
    for exact in (False, True):
        spec = read_filtering({"method": "paragraphs", "exact": exact})
        items = bff.most_items(column, spec)

        def whole(spec: Filtering = spec, items: int = items) -> None:
            empty = make_filter(items, 0.01, 0, 0, 1 << 31, "bench", exactly=spec.exactly)
            bff._pass(column, docs, spec, empty)

        timed(f"paragraphs, {'exact' if exact else 'Bloom'}", size, whole)
    return rate


def bench_method(spec: dict[str, Any], parts: list[dict[str, Any]], folder: Path, name: str = "") -> float:
    folder.mkdir()
    size = sum(part["bytes"] for part in parts)
    marks = [("", time.process_time())]
    began = time.process_time()
    summary = run_inline(
        phases(spec, group_parts(parts, 1 << 26), str(folder)),
        on_phase=lambda phase: marks.append((phase.name, time.process_time())),
    )
    seconds = time.process_time() - began
    ends = [t for _, t in marks[2:]] + [time.process_time()]
    steps = ", ".join(f"{name} {end - start:.2f}" for (name, start), end in zip(marks[1:], ends, strict=True))
    print(f"{name or spec['method'] + ', all phases':44s} {size / seconds / 1e6:9.2f} MB/s")
    print(f"    {summary['removed']:,} of {summary['documents']:,} documents removed; seconds: {steps}")
    return size / seconds / 1e6


def substring_alone(parts: list[dict[str, Any]], folder: Path) -> None:
    """Substring dedup in a process of its own: what it says that it holds, and what the process came to."""
    settings = {"method": "substring", "memory": 1 << 40}
    size, documents = sum(part["bytes"] for part in parts), sum(part["documents"] for part in parts)
    bench_method(settings, parts, folder)
    spec = read_spec(settings)
    held = suffix_memory(spec.unit, size, documents)
    stated = max(need.memory for need in footprint(spec, documents, size, 1))
    peak = measure.peak_memory()
    print(
        f"    {held / size:.1f} bytes a byte of {spec.unit} held; peak of the process {peak / 2**20:,.0f} MiB, "
        f"{peak / size:.1f} bytes a byte of text (stated: at most {stated / 2**20:,.0f} MiB)"
    )


def bench_datatrove(texts: list[str], folder: Path) -> tuple[float, float]:
    """MB/s of datatrove's signatures, and of its four steps, on the given texts."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from loguru import logger

    logger.remove()  # it says several things about each bucket
    config = MinhashConfig()
    size = sum(len(text.encode()) for text in texts)
    documents = [Document(text=text, id=str(i)) for i, text in enumerate(texts)]
    signature = MinhashDedupSignature(str(folder / "sig"), config)
    signature.get_signature(signature.get_shingles("load the word tokenizer first, please"))
    began = time.process_time()
    signature.run(iter(documents), 0, 1)
    first = time.process_time() - began
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(str(folder / "sig"), str(folder / "buckets"), config=config).run(
            None, bucket, config.num_buckets
        )
    MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=config).run(None, 0, 1)
    left = sum(1 for _ in MinhashDedupFilter(str(folder / "remove")).run(iter(documents), 0, 1))
    whole = time.process_time() - began
    print(f"{'datatrove: MinHash signatures':44s} {size / first / 1e6:9.2f} MB/s")
    print(f"{'datatrove: all four steps':44s} {size / whole / 1e6:9.2f} MB/s")
    print(f"    {len(texts) - left:,} of {len(texts):,} documents removed")
    return size / first / 1e6, size / whole / 1e6


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=200, help="MB of text for the whole methods")
    parser.add_argument("--copies", type=float, default=0.3, help="share of documents planted a second time")
    parser.add_argument("--datatrove", type=float, default=20, help="MB of text for datatrove; 0: leave it out")
    parser.add_argument("--no-scaling", action="store_true", help="leave out memory and workers")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    args = parser.parse_args(arguments)
    if not SHARED.is_dir():
        print(f"no texts to measure with: {SHARED} is not there (set HEADRACE_SHARED_DATA)")
        return
    texts = corpus(int(args.size * 1e6), args.copies)
    few = texts[: max(1, int(len(texts) * min(1, 12 / args.size)))]
    signatures = bench_kernels(few)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        parts = write_parts(texts, folder)
        bench_method({"method": "exact"}, parts, folder / "exact")
        whole = bench_method({"method": "minhash"}, parts, folder / "minhash")
        unnamed = {"method": "bff", "name_holders": False}
        as_dclm = bench_method(unnamed, parts, folder / "bff-unnamed", "bff as DCLM's, without naming holders")
        named = bench_method({"method": "bff"}, parts, folder / "bff")
        print(f"bff {verdict(min(as_dclm, named), BFF_GOAL)} MB/s; without naming holders {verdict(as_dclm, BFF_GOAL)}")
        for exact in (False, True):
            settings = {"method": "paragraphs", "exact": exact, "name_holders": False}
            name = f"paragraphs, {'exact' if exact else 'Bloom'}, all phases"
            rate = bench_method(settings, parts, folder / f"paragraphs-{exact}", name)
            print(f"{name}: {verdict(rate, PARAGRAPHS_GOAL)} MB/s")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            alone.submit(substring_alone, parts, folder / "substring").result()
        print(f"peak memory {measure.peak_memory() / 2**20:,.0f} MiB (texts included)")
        if args.datatrove:
            some = texts[: max(1, int(len(texts) * args.datatrove / args.size))]
            theirs, theirs_whole = bench_datatrove(some, folder)
            ratios = signatures / theirs, whole / theirs_whole
            print(f"signatures {ratios[0]:.0f} times as fast, {verdict(ratios[0], SIGNATURES_GOAL)}")
            print(f"all phases {ratios[1]:.0f} times as fast, {verdict(ratios[1], PHASES_GOAL)}\n")
        if not args.no_scaling:
            texts.clear()
            bench_memory(parts, folder)
            bench_workers(parts, folder)


if __name__ == "__main__":
    main()
