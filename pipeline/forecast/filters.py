"""How much slower a Bloom filter is at its real size: tried out here, as that of a small run lies in the processor's caches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline import storage
from pipeline.forecast.rates import Rates
from pipeline.plan.corpus import MIXTURE
from pipeline.plan.sources import list_files
from pipeline.recipe.recipe import Recipe
from stages.dedup.bff import most_items, seconds_of_filter
from stages.dedup.bloom import filter_bytes
from stages.dedup.footprint import NGRAM_BYTES
from stages.dedup.spec import Bff
from stages.read import ReadSpec, read_batches
from stages.units import show_bytes

MOST_BYTES = 4 << 30  # of a filter that is tried: beyond, no cache holds more of it
SHARE = 8  # of the memory that is free here, a filter that is tried takes an eighth at most


def price_large_filters(recipe: Recipe, rates: Rates, paths: Sequence[str], grown: Mapping[str, float]) -> None:
    """Add to the rate of each BFF's filter phase what its n-grams wait for memory.

    paths: of sample text that is tried. grown: as many times as much each source has as was measured of it; infinite where that
    is not known.
    """
    texts: list[pa.Array] = []
    for where, name, spec in _filters(recipe):
        work = rates.work.get(("dedup:bff", f"{where}/{name}", "filter"))
        if work is None or not work.bytes_in:
            continue
        texts = texts or sample_batches(paths)
        ngrams = sum(most_items(text, spec) for text in texts)
        least = filter_bytes(ngrams, spec.fp_rate)
        sizes = least, max(least, min(spec.memory, MOST_BYTES, _room(), _filter_of(spec, work.bytes_in * grown[where])))
        small, large = (seconds_of_filter(spec, texts, size) for size in sizes)
        work.seconds += max(0.0, large - small) / sum(text.nbytes for text in texts) * work.bytes_in
        rates.notes.append(
            f"{where}.{name}: a filter of {show_bytes(sizes[1])} was tried; one of {show_bytes(sizes[0])} takes "
            f"{small / large:.0%} of its time"
        )


def _filter_of(spec: Bff, text_bytes: float) -> int:
    """Bytes of one filter of a dedup over so much text, at most."""
    return MOST_BYTES if math.isinf(text_bytes) else filter_bytes(int(text_bytes / NGRAM_BYTES / spec.shards) + 1, spec.fp_rate)


def _filters(recipe: Recipe) -> Iterator[tuple[str, str, Bff]]:
    for where, items in [*((name, source.steps) for name, source in recipe.sources.items()), (MIXTURE, recipe.dedup)]:
        for name, item in items:
            if isinstance(item, Bff):
                yield where, name, item


def sample_batches(paths: Sequence[str]) -> list[pa.Array]:
    """The texts of sample files, in batches."""
    found: list[pa.Array] = []
    read = ReadSpec(id_field=None, url_field=None)
    for file in list_files("sample", paths):
        with storage.open_stream(file.uri) as stream:
            found += [batch.column("text") for batch in read_batches(stream, file.name, read, on_event=lambda event: None)]
    return found


def _room() -> int:
    """Bytes of a filter that this machine can try."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 // SHARE
    return 1 << 30
