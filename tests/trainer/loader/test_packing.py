"""Best-fit packing: as a slow one packs, with every token once and only long documents cut; kept, and refused if wrong."""

import bisect
import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.tokens import shard_format as sf
from trainer.loader.packing import PIECE, cut, instances_of, open_pack, pack, pack_shard, packing_folder


def slow(lengths, capacity):
    """Best-fit decreasing as it is written: the room left in each instance, sorted."""
    rooms: list[int] = []
    for size in sorted(lengths, reverse=True):
        place = bisect.bisect_left(rooms, size)
        room = rooms.pop(place) if place < len(rooms) else capacity
        bisect.insort(rooms, room - size)
    return rooms


@given(st.integers(1, 60).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=120))))
@settings(max_examples=300, deadline=None)
def test_packs_as_best_fit_decreasing_does(case):
    capacity, lengths = case
    found = pack(np.array(lengths, np.int64), capacity)
    held = np.bincount(found, weights=lengths) if lengths else np.zeros(0)
    assert sorted((capacity - held).astype(int).tolist()) == slow(lengths, capacity)


def test_lengths_of_web_documents_leave_little_padding():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(6.3, 1.1, 200_000).astype(np.int64), 1, 4096)
    found = pack(lengths, 4096)
    held = np.bincount(found, weights=lengths)
    assert held.max() <= 4096 and held.min() > 0
    assert 1 - lengths.sum() / (4096 * len(held)) < 1e-3
    assert np.array_equal(pack(lengths, 4096), found)
    with pytest.raises(ValueError, match="1 to 10"):
        pack(np.array([11]), 10)


documents = st.lists(st.integers(0, 70), min_size=1, max_size=60)


@given(documents, st.integers(1, 25), st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_no_token_is_lost_none_comes_twice_and_only_long_documents_are_cut(tmp_path_factory, lengths, length, block):
    folder = tmp_path_factory.mktemp("pack")
    ends = np.cumsum(lengths)
    index, tokens = folder / "a.csv.gz", int(ends[-1])
    sf.write_index(index, [(int(e - n), int(e), "x", "f", 1) for e, n in zip(ends, lengths, strict=True)])
    shard = {"sha256": "ab" * 32, "tokens": tokens}
    made = pack_shard(index, shard, length, folder, block)
    data = made.path.read_bytes()
    pieces = np.frombuffer(data[: made.bounds_at], PIECE)
    bounds = np.frombuffer(data[made.bounds_at : made.bounds_at + 8 * (made.instances + 1)], "<i8")
    assert made.tokens == tokens and bounds[-1] == len(pieces) and (np.diff(bounds) > 0).all()
    seen = np.zeros(tokens, int)
    whole = {(int(e - n), n) for e, n in zip(ends, lengths, strict=True)}
    cuts = {int(e - n) + part for e, n in zip(ends, lengths, strict=True) if n > length for part in range(0, n, length)}
    for first, stop in itertools.pairwise(bounds):
        inside = pieces[first:stop]
        assert inside["length"].sum() <= length and (np.diff(inside["start"]) > 0).all()
        for start, size in inside.tolist():
            seen[start : start + size] += 1
            assert (start, size) in whole or start in cuts
    assert (seen == 1).all()


def test_one_block_packs_as_well_as_the_slow_one():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 200, 500)
    ends = np.cumsum(sizes)
    pieces = cut(ends - sizes, ends, 64)
    assert len(pieces) == sum(-(-int(size) // 64) for size in sizes)
    _, bounds = instances_of(pieces, 64)
    assert len(bounds) - 1 == len(slow(pieces["length"].tolist(), 64))


def write(folder, rows):
    path = folder / "a.csv.gz"
    sf.write_index(path, rows)
    return path


def test_an_index_that_does_not_describe_its_shard_is_refused(tmp_path):
    shard = {"sha256": "0" * 64, "tokens": 30}
    for rows, why in (
        ([(0, 10, "a", "f", 1), (12, 30, "b", "f", 2)], "tokens 12 to 30 stands where token 10 is next"),
        ([(0, 10, "a", "f", 1), (8, 30, "b", "f", 2)], "tokens 8 to 30 stands where token 10"),
        ([(0, 10, "a", "f", 1)], "describes 10 tokens, the shard holds 30"),
    ):
        with pytest.raises(sf.ShardError, match=why):
            pack_shard(write(tmp_path, rows), shard, 8, tmp_path / "packing")
    assert not list((tmp_path / "packing").iterdir())  # nothing half-made stays


def test_a_packing_is_kept_and_another_is_refused(tmp_path, monkeypatch):
    index = write(tmp_path, [(0, 10, "a", "f", 1), (10, 30, "b", "f", 2)])
    shard = {"sha256": "0" * 64, "tokens": 30}
    made = pack_shard(index, shard, 8, tmp_path)
    index.unlink()
    assert pack_shard(index, shard, 8, tmp_path) == made
    with pytest.raises(sf.ShardError, match="index is missing"):
        pack_shard(index, shard, 9, tmp_path)
    with pytest.raises(sf.ShardError, match="damaged"):
        open_pack(made.path, "1" * 64, 8)
    made.path.write_bytes(made.path.read_bytes()[:-1])
    with pytest.raises(sf.ShardError, match="remove it, and it is made again"):
        pack_shard(index, shard, 8, tmp_path)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    assert packing_folder(tmp_path) == tmp_path / "packing"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert packing_folder(tmp_path) == tmp_path / "cache" / "packing"
