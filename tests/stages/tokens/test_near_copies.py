"""n-grams of tokens by low hash, held to plain references."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.tokens import near_copies
from stages.tokens.near_copies import LIMIT, HeldOutNgrams, lowest, sampled, token_batches

MASK = (1 << 64) - 1
BASE = 0xC2B2AE3D27D4EB4F


def mixed(x: int) -> int:
    """MurmurHash3's finalizer."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = ((x ^ (x >> 33)) * factor) & MASK
    return x ^ (x >> 33)


def hashes_of(document: list[int], ngram: int) -> list[int]:
    """The hash of each n-gram, from its tokens alone."""
    found = []
    for start in range(len(document) - ngram + 1):
        value = 0
        for token in document[start : start + ngram]:
            value = (value * BASE + token + 1) & MASK
        found.append(mixed(value))
    return found


def flat(documents: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum([0, *map(len, documents)]).astype(np.int64)
    return np.array([token for one in documents for token in one], np.uint32), ends


@pytest.mark.parametrize("limit", [1, LIMIT, 1 << 63])
@pytest.mark.parametrize("ngram", [1, 3, 13])
def test_hashes_are_those_of_each_ngram_by_itself(ngram: int, limit: int) -> None:
    rng = np.random.default_rng(ngram)
    documents = [rng.integers(0, 2**32, size).tolist() for size in (0, 1, ngram - 1, ngram, ngram + 1, 200)]
    found, offsets = sampled(*flat(documents), ngram, limit)
    expected = [[value for value in hashes_of(one, ngram) if value < limit] for one in documents]
    assert [found[a:b].tolist() for a, b in itertools.pairwise(offsets)] == expected


@pytest.mark.parametrize("most", [1, 7, 100, 5000])
def test_the_lowest_are_the_same_in_every_cut_and_order(most: int) -> None:
    values = np.random.default_rng(0).integers(0, 3000, 4000).astype(np.uint64)
    expected = np.unique(values)[:most]
    for pieces in (1, 3, 400):
        batches = np.array_split(values, pieces)
        assert np.array_equal(lowest(batches, most), expected)
        assert np.array_equal(lowest(batches[::-1], most), expected)
    assert len(lowest([], most)) == 0


@pytest.mark.parametrize("most", [50, 400, 10**6])  # most of the n-grams cut off, some, none
def test_near_copies_share_half_of_what_is_compared(most: int) -> None:
    rng = np.random.default_rng(1)
    held = [rng.integers(0, 1000, 400).tolist() for _ in range(8)]
    known = lowest([sampled(*flat(held), 13, LIMIT)[0]], most)
    others = [rng.integers(0, 1000, 400).tolist() for _ in range(8)]
    mixed_up = [one[:300] + other[:100] for one, other in zip(held, others, strict=True)]
    quotes = [one[:60] + other[:340] for one, other in zip(held, others, strict=True)]
    documents = [*held, *others, *mixed_up, *quotes, held[0][:12], []]
    judged = HeldOutNgrams.of(known, most)
    limit, there = (int(known[-1]) + 1 if len(known) == most else LIMIT), set(known.tolist())
    compared = [[value for value in hashes_of(one, 13) if value < limit] for one in documents]
    expected = [len(one) >= 2 and sum(v in there for v in one) * 2 >= len(one) for one in compared]
    assert judged.near(*flat(documents), 13).tolist() == expected
    if most == 10**6:
        assert expected == [*[True] * 8, *[False] * 8, *[True] * 8, *[False] * 8, False, False]


def test_without_held_out_documents_nothing_is_near() -> None:
    documents = [list(range(100)), []]
    assert not HeldOutNgrams.of(np.zeros(0, np.uint64), 10).near(*flat(documents), 13).any()


def test_batches_hold_whole_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_copies, "BATCH_TOKENS", 10)
    monkeypatch.setattr(near_copies, "BATCH_ROWS", 4)
    sizes = [3, 3, 3, 3, 25, 1, 10, 9, 2]
    ends = np.cumsum(sizes)
    index = io.BytesIO()
    pq.write_table(pa.table({"start": ends - sizes, "end": ends, "id": [str(size) for size in sizes]}), index)
    tokens = io.BytesIO(np.arange(ends[-1], dtype="<u2").tobytes())
    found = []
    for batch, offsets, rows in token_batches(tokens, index, np.dtype("<u2")):
        assert batch.dtype == np.uint32 and offsets[-1] == len(batch)
        assert len(batch) <= 10 or rows.num_rows == 1
        found += [
            (batch[a:b].tolist(), name)
            for a, b, name in zip(offsets, offsets[1:], rows["id"].to_pylist(), strict=False)
        ]
    assert [tokens for tokens, _ in found] == [
        list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)
    ]
    assert [name for _, name in found] == [str(size) for size in sizes]
