"""Shuffle files: what is written comes back, sorted, whether it fitted into memory or not."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.dedup.shuffle import ShuffleWriter, read_partition, sort_order
from stages.errors import InputError

SCHEMA = pa.schema([pa.field("key", pa.uint64()), pa.field("doc", pa.int64()), pa.field("name", pa.large_string())])
ROW = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(-5, 5))


def _write(path: Path, batches: list[list[tuple[int, int, int]]], memory: int) -> int:
    writer = ShuffleWriter(path, 5, SCHEMA, ("key", "doc"), memory)
    for rows in batches:
        columns = {
            "key": np.array([r[1] for r in rows], np.uint64),
            "doc": np.array([r[2] for r in rows], np.int64),
            "name": pa.array([str(r) for r in rows], pa.large_string()),
        }
        writer.add(np.array([r[0] for r in rows], np.int32), columns)
    return writer.finish()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(ROW, max_size=20), max_size=6), st.sampled_from([1, 300, 1 << 20]))
def test_rows_come_back_by_partition_and_sorted(tmp_path_factory, batches, memory) -> None:
    folder = tmp_path_factory.mktemp("shuffle")
    rows = [row for batch in batches for row in batch]
    assert _write(folder / "a", batches, memory) == len(rows)
    assert _write(folder / "b", batches[:1], 1 << 20) == sum(map(len, batches[:1]))
    for partition in range(5):
        files = [str(folder / "a"), str(folder / "b")]
        found = read_partition(files, partition, SCHEMA, ("key", "doc"))
        expected = sorted(r for r in [*rows, *(r for b in batches[:1] for r in b)] if r[0] == partition)
        assert list(zip(found["key"].to_pylist(), found["doc"].to_pylist(), strict=True)) == [r[1:] for r in expected]
        assert found["name"].to_pylist() == [str(r) for r in expected]
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_sort_order_is_stable(rows) -> None:
    columns = [np.array([r[i] for r in rows], np.int64) for i in range(2)]
    order = sort_order(columns)
    order = np.arange(len(rows)) if order is None else order
    assert order.tolist() == sorted(range(len(rows)), key=lambda i: rows[i])


def test_partitions_are_compressed(tmp_path) -> None:
    writer = ShuffleWriter(tmp_path / "file", 3, SCHEMA.remove(2), ("key", "doc"), 1 << 16)
    for begin in range(0, 100_000, 10_000):  # more than the memory: merged from what was set aside
        doc = np.arange(begin, begin + 10_000)
        writer.add((doc % 3).astype(np.int32), {"key": (doc // 50).astype(np.uint64), "doc": doc})
    assert writer.finish() == 100_000
    assert (tmp_path / "file").stat().st_size < 0.5 * 16 * 100_000


def test_damage_is_named(tmp_path) -> None:
    path = tmp_path / "file"
    _write(path, [[(p, 1, 1) for p in range(5)]], 1 << 20)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[1:] + b"x", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="shuffle file"):
            read_partition([str(path)], 0, SCHEMA, ("key", "doc"))
    path.write_bytes(whole)
    with pytest.raises(InputError, match="partition 5"):
        read_partition([str(path)], 5, SCHEMA, ("key", "doc"))


def test_every_flipped_bit_is_noticed(tmp_path) -> None:
    """By the readers of the partitions that it concerns: those of the others read what they read before."""
    path = tmp_path / "file"
    _write(path, [[(p, k, k) for p in (0, 1, 1, 1, 3) for k in range(40)]], 1 << 20)  # partitions 2 and 4 are empty
    whole = path.read_bytes()

    def read() -> list[object]:
        found: list[object] = []
        for partition in range(5):
            try:
                found.append(read_partition([str(path)], partition, SCHEMA, ("key", "doc")).to_pydict())
            except InputError as error:
                assert str(path) in str(error)
                found.append(None)
        return found

    right = read()
    assert None not in right
    for bit in random.Random(0).sample(range(8 * len(whole)), 300):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = read()
        assert None in found and all(one is None or one == other for one, other in zip(found, right, strict=True))
