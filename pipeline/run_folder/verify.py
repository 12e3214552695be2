"""Comparing a run's files with the digests that they were written with (`run --verify`)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pipeline import storage
from pipeline.ledger import Entry, Ledger, Output

READERS = 8
AHEAD = 64  # files that are under way at once


def damaged_files(run: str, ledger: Ledger) -> Iterator[tuple[str, str]]:
    """(key of the entry, path) of each file that is there and does not hold what its task wrote.

    Files that are missing, or have another size, are found by every run. All files are read once, a few at a time.
    """
    with ThreadPoolExecutor(READERS) as pool:
        batch: list[tuple[Entry, Output]] = []
        for entry in ledger.entries():
            batch += [(entry, output) for output in entry.outputs if output.path not in entry.released]
            if len(batch) >= AHEAD:
                yield from _damaged(run, ledger, batch, pool)
                batch = []
        yield from _damaged(run, ledger, batch, pool)


def _damaged(
    run: str, ledger: Ledger, batch: list[tuple[Entry, Output]], pool: ThreadPoolExecutor
) -> Iterator[tuple[str, str]]:
    there = [(entry, output) for entry, output in batch if ledger.size_of(output.path) == output.bytes]
    digests = pool.map(lambda item: storage.digest_of(storage.join(run, item[1].path)), there)
    for (entry, output), digest in zip(there, digests, strict=True):
        if digest != output.digest:
            yield entry.key, output.path

