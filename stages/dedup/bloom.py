"""Bloom filters: how large one must be, what it takes, and how it is kept in a file."""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stages.errors import InputError, UserError

BLOCK_BITS = 512
MAGIC = b"HRBLOOM2"  # its number rises where n-grams are hashed otherwise
HEADER_BYTES = 4096  # JSON, padded with spaces: the bits behind it lie on a page of their own


def false_positive_rate(load: float, k: int) -> float:
    """The expected rate of a blocked filter whose blocks hold `load` n-grams on average (Poisson-distributed).

    Putze, Sanders, Singler 2007, section 3; within a block the k bits of an n-gram may coincide.
    """
    if load <= 0:
        return 0.0
    spread = 12 * math.sqrt(load) + 30
    rate = 0.0
    for count in range(max(0, int(load - spread)), int(load + spread) + 1):
        weight = math.exp(count * math.log(load) - load - math.lgamma(count + 1))
        rate += weight * (1 - (1 - 1 / BLOCK_BITS) ** (k * count)) ** k
    return rate


@lru_cache(maxsize=64)
def design(ngrams: int, fp_rate: float) -> tuple[int, int]:
    """(blocks, k) of the smallest filter whose rate of false positives is at most `fp_rate` once it holds `ngrams`.

    k is the original's, -ln(fp_rate) / ln 2 rounded up, at most 32. The load is a multiple of 1/64, so that all
    machines, whatever the last digit of their logarithms, make the same filter.
    """
    k = min(32, max(1, math.ceil(-math.log(fp_rate) / math.log(2))))
    low, high = 0, BLOCK_BITS * 64
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if false_positive_rate(middle / 64, k) <= fp_rate else (low, middle)
    if low == 0:
        raise UserError(f"fp_rate: no Bloom filter of {BLOCK_BITS // 8}-byte blocks reaches {fp_rate:g}")
    return -(-ngrams * 64 // low), k


@dataclass
class Filter:
    """A filter and what it was made for. `inserted`: n-grams that set new bits, about the distinct ones it holds."""

    bits: np.ndarray  # uint64, 8 for each block; pairs of hashes where k is 0
    k: int
    ngram: int  # 0: of whole paragraphs
    seed: int
    capacity: int  # n-grams for which it keeps its rate of false positives
    fp_rate: float
    inserted: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return self.bits.nbytes

    @property
    def items(self) -> str:
        """What it holds, for messages."""
        return "n-grams" if self.ngram else "paragraphs"

    @property
    def expects(self) -> str:
        """The key of the recipe that sizes it."""
        return "expected_ngrams" if self.ngram else "expected_paragraphs"

    def check(self, name: str) -> None:
        """Raise UserError where more was inserted than the filter is made for."""
        if self.inserted > self.capacity:
            raise UserError(
                f"{name}: the Bloom filter is made for {self.capacity:,} {self.items} and took {self.inserted:,}; its "
                f"false-positive rate is no longer {self.fp_rate:g}: raise {self.expects}, or leave it out to have "
                "them counted"
            )


def filter_bytes(items: int, fp_rate: float, *, exactly: bool = False) -> int:
    """Bytes that a filter for so many n-grams or paragraphs takes; with `exactly`, a table of their hashes."""
    if exactly:
        return 16 * (max(items, 1) * 3 // 2 + 1)
    return design(max(items, 1), fp_rate)[0] * BLOCK_BITS // 8


def check_memory(items: int, fp_rate: float, memory: int, name: str, *, exactly: bool = False) -> int:
    """Bytes that the filter takes. Raises UserError where that is more than `memory`."""
    size = filter_bytes(items, fp_rate, exactly=exactly)
    if size > memory:
        kind = (
            f"a table of {items:,} paragraphs"
            if exactly
            else (f"a Bloom filter for {items:,} n-grams at a false-positive rate of {fp_rate:g}")
        )
        raise UserError(
            f"{name}: {kind} takes {size / 2**30:,.2f} GiB, more than the memory given, {memory / 2**30:,.2f} GiB: "
            "raise memory or shards"
        )
    return size


def make_filter(
    items: int, fp_rate: float, ngram: int, seed: int, memory: int, name: str, *, exactly: bool = False
) -> Filter:
    """An empty filter for `items` n-grams or paragraphs. Raises UserError where it would take more than `memory` bytes."""
    size = check_memory(items, fp_rate, memory, name, exactly=exactly)
    k = 0 if exactly else design(max(items, 1), fp_rate)[1]
    return Filter(_allocate(size), k, ngram, seed, max(items, 1), fp_rate)


def _allocate(size: int) -> np.ndarray:
    """Zeroed uint64 memory that begins on a page, in huge pages where the system has them: fewer misses of the TLB."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint64)


def save_filter(filter: Filter, path: str | Path) -> None:
    """Write a filter: magic, settings as JSON, and the bits (little-endian uint64) from byte 4096 on."""
    about = {name: getattr(filter, name) for name in Filter.__dataclass_fields__ if name != "bits"}
    about["blocks"] = len(filter.bits) // 8
    header = MAGIC + json.dumps(about, sort_keys=True).encode()
    with Path(path).open("wb") as file:
        file.write(header.ljust(HEADER_BYTES))
        file.write(memoryview(filter.bits))


def filter_kind(file: BinaryIO, name: str) -> tuple[int, int]:
    """Words of an n-gram (0: whole paragraphs) and seed of a saved filter. Raises InputError for another kind of file."""
    about, _ = _header(file, name)
    return about["ngram"], about["seed"]


def _header(file: BinaryIO, name: str) -> tuple[dict[str, Any], int]:
    """What a saved filter says of itself, by the fields of `Filter`, and the bytes of its bits, which come next."""
    header = file.read(HEADER_BYTES)
    try:
        if not header.startswith(MAGIC):
            raise ValueError
        about = json.loads(header[len(MAGIC) :])
        return about, about.pop("blocks") * BLOCK_BITS // 8
    except (ValueError, KeyError, TypeError):
        raise InputError(name, "not a saved Bloom filter") from None


def load_filter(file: BinaryIO, name: str, memory: int) -> Filter:
    """Read a filter that `save_filter` wrote. Raises InputError for another kind of file, UserError past `memory`."""
    about, size = _header(file, name)
    if size > memory:
        raise UserError(f"{name}: this Bloom filter takes {size / 2**30:,.2f} GiB, more than the memory given")
    bits = _allocate(size)
    view = memoryview(bits).cast("B")
    filled = 0
    while filled < size:
        chunk = file.read(min(1 << 24, size - filled))
        if not chunk:
            raise InputError(name, "this Bloom filter is cut short", offset=HEADER_BYTES + filled)
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return Filter(bits, **about)
