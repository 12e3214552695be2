"""The order and the loader: lookups a second, and batches a second from the page cache, with both packings.

What a loader can reach is bounded by copying: `preadv alone` reads the same places, with as many threads, into memory
that is used again, and does nothing else.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks import measure
from stages.tokens import shard_format
from stages.tokens.manifest import build_manifest, shard_names, source_entry
from trainer import shards
from trainer.host import reuse_memory
from trainer.loader.files import THREADS
from trainer.loader.materialize import materialize
from trainer.loader.order import Order

OLMOE = [3860, 101, 57.2, 21.1, 12.7, 12.6, 3.69]  # tokens of its sources, in 1e9
PASSES = 3  # the best is told: the machine may have other work


def bench_order(total: int = 1_250_000_000, lookups: int = 2_000_000) -> None:
    """Random lookups in an order of OLMoE's size."""
    asked = [int(total * tokens / sum(OLMOE)) for tokens in OLMOE]
    order = Order([int(count / 1.26) for count in asked], asked, seed=0)
    positions = np.random.default_rng(0).integers(0, order.total, lookups)
    began = time.process_time()
    order.instances(positions)
    rate = lookups / (time.process_time() - began) / 1e6
    peak = measure.peak_memory() / 1e6
    print(f"order of {order.total:,} instances: {rate:.1f} M random lookups/s, {peak:.0f} MB peak of the whole process")


def write_run(folder: Path, count: int, tokens: int) -> int:
    """A run of `count` shards with web-like document lengths; returns its tokens."""
    written = []
    for number in range(count):
        rng = np.random.default_rng(number)
        path, index = (folder / name for name in shard_names("web", number))
        lengths = np.clip(rng.lognormal(6.3, 1.1, tokens // 400).astype(np.int64), 2, None)
        ends = np.cumsum(lengths)
        ends = np.append(ends[: np.searchsorted(ends, tokens)], tokens).tolist()
        drawn = rng.integers(0, 50_000, tokens).astype(np.uint16)
        drawn[np.array(ends) - 1] = 50_279
        held, digest = shard_format.write_tokens(path, [drawn], drawn.dtype)
        rows = zip([0, *ends], ends, strict=False)
        shard_format.write_index(index, ((start, end, "", "", 1) for start, end in rows))
        written.append({"tokens": held, "documents": len(ends), "text_bytes": held, "sha256": digest})
    manifest = build_manifest(
        name="bench",
        profile="bench",
        recipe_hash="",
        seed=0,
        tokenizer_sha256="",
        vocab_size=50_280,
        eos_id=50_279,
        pad_id=1,
        sources={"web": source_entry("web", written, [], count * tokens, 1.0)},
        mixture_tokens=count * tokens,
        mixture_seed=0,
    )
    shard_format.write_bytes(folder / shard_format.MANIFEST, shard_format.manifest_bytes(manifest))
    return count * tokens


def bench_loader(folder: Path, length: int, count: int = 8, tokens: int = 40_000_000) -> None:
    """Batches from shards in the page cache: of about two million tokens (half of one of OLMoE's), and of a sixteenth of
    that, as one of several ranks reads them."""
    total = write_run(folder, count, tokens)
    reuse_memory()  # as training does
    batch = max(1, (1 << 21) // length)
    _warm(folder)
    limit = max(_preadv_alone(folder, length, count * (tokens // length)) for _ in range(PASSES))
    print(f"preadv alone, {length} tokens, {THREADS} threads: {limit:.1f} GB/s of tokens, random places")
    most = 0
    for name, packing, documents, instances in (
        ("concatenate", "concatenate", False, batch),
        ("concatenate", "concatenate", False, max(1, batch // 16)),
        ("concatenate, with documents", "concatenate", True, batch),
        ("best_fit", "best_fit", False, batch),
        ("best_fit, with documents", "best_fit", True, batch),
        ("materialized", "concatenate", False, batch),
        ("materialized", "concatenate", False, max(1, batch // 16)),
    ):
        if name == "materialized" and not (folder / name).exists():
            materialize(folder, folder / name, length, say=lambda text: None)
        began = time.process_time()
        data = shards.open(folder / name if name == "materialized" else folder, length, packing=packing)
        opened = time.process_time() - began
        if packing == "best_fit" and not documents:
            print(f"packed {total / opened / 1e6:.0f} M tokens/s, padding {data.data.padding:.3%}")
        _warm(folder)
        rates = []
        for _ in range(PASSES):
            *rate, grown = _epoch(data.batches(instances, documents=documents))
            rates.append(rate)
            most = max(most, grown)
        wall, cpu = max(rates)
        told = f"{wall:4.1f} GB/s of tokens, {cpu:.1f} a second of one core's time"
        print(f"loader, {instances:3} x {length} tokens, {name:27}: {told}")
    print(
        f"resident memory, maps included, grew by {most / 1e6:.0f} MB at most within an epoch of {total * 2 / 1e6:.0f} MB"
    )


def _epoch(batches: shards.Batches) -> tuple[float, float, int]:
    """GB of tokens a second over an epoch, the same for each second of processor time, and by how many bytes resident
    memory grew after the first tenth of it."""
    wall, cpu, done, early = time.perf_counter(), time.process_time(), 0, 0
    tenth = len(batches) // 10
    for number, found in enumerate(batches):
        tokens = found.tokens if isinstance(found, shards.Documented) else found
        done += tokens.nbytes
        if number == tenth:
            early = _resident()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return done / wall / 1e9, done / cpu / 1e9, _resident() - early


def _preadv_alone(folder: Path, length: int, reads: int) -> float:
    paths = sorted((folder / "tokens" / "web").glob("*.npy"))
    descriptors = [os.open(path, os.O_RDONLY) for path in paths]
    size, each = length * 2, paths[0].stat().st_size // (length * 2)
    rng = np.random.default_rng(0)
    files, offsets = rng.integers(0, len(paths), reads).tolist(), (rng.integers(0, each, reads) * size).tolist()

    def some(thread: int) -> None:
        buffer = memoryview(bytearray(size * 64))
        rows = [buffer[row * size : (row + 1) * size] for row in range(64)]
        for number in range(thread, reads, THREADS):
            os.preadv(descriptors[files[number]], [rows[number % 64]], offsets[number])

    with ThreadPoolExecutor(THREADS) as pool:
        began = time.perf_counter()
        list(pool.map(some, range(THREADS)))
        seconds = time.perf_counter() - began
    for descriptor in descriptors:
        os.close(descriptor)
    return reads * size / seconds / 1e9


def _warm(folder: Path) -> None:
    """Read every file once, so that what is measured comes from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
