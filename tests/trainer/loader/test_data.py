"""Training data: the shards' own tokens, in the mixture's order, however they are read; damage is refused."""

import math
from pathlib import Path

import numpy as np
import pytest

from stages.tokens import shard_format as sf
from stages.tokens.manifest import build_manifest, shard_names, source_entry
from trainer.loader import data as module
from trainer.loader.data import DataError, open_data
from trainer.loader.entropy import unigram_entropy

LENGTH = 16


def make_run(folder: Path, sources, budgets, dtype="uint16", vocab_size=60_000, reshuffle=0):
    """A finished run: `sources` is name -> (token arrays of the train shards, of the held-out shards)."""
    entries = {}
    for name, splits in sources.items():
        written = []
        for split, arrays in zip(("train", "held_out"), splits, strict=True):
            written.append([])
            for number, tokens in enumerate(arrays):
                path, index = shard_names(name, number, split)
                count, digest = sf.write_tokens(folder / path, [tokens.astype(dtype)], np.dtype(dtype))
                sf.write_index(folder / index, [(0, count, f"{name}-{number}", "x", 1)])
                written[-1].append({"tokens": count, "documents": 1, "text_bytes": 4 * count, "sha256": digest})
        entries[name] = source_entry(name, *written, budgets[name], 4.0)
    manifest = build_manifest(
        name="mix",
        profile="sample",
        recipe_hash="0",
        seed=0,
        tokenizer_sha256="0",
        vocab_size=vocab_size,
        eos_id=0,
        pad_id=1,
        sources=entries,
        mixture_tokens=sum(budgets.values()),
        mixture_seed=5,
        reshuffle_last_tokens=reshuffle,
    )
    sf.write_bytes(folder / sf.MANIFEST, sf.manifest_bytes(manifest))
    return folder


def numbered(first, count):
    """Tokens from which an instance can be told: the first of each LENGTH is its number, the rest follow from it."""
    return (np.arange(count) // LENGTH + first) * 7 % 60_000 + np.arange(count) % LENGTH


SOURCES = {
    "zeta": ([numbered(0, 100 * LENGTH + 5), numbered(100, 50 * LENGTH)], [numbered(900, 9 * LENGTH)]),
    "alpha": ([numbered(1000, 20 * LENGTH + 15)], [numbered(950, LENGTH - 1)]),
}
BUDGETS = {"zeta": 100 * LENGTH, "alpha": 50 * LENGTH}


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", SOURCES, BUDGETS)


def test_instances_are_chunks_of_shards_and_remainders_are_dropped(run):
    data = open_data(run, LENGTH)
    assert data.sources == ["zeta", "alpha"]  # the mixture's order, not the alphabet's
    assert (data.vocab_size, data.eos_id, data.pad_id) == (60_000, 0, 1)
    batch, source = data.train.batch(0, len(data.train)), data.train.source_of(0, len(data.train))
    assert batch.dtype == np.int64 and batch.shape == (len(data.train), LENGTH) and batch.flags.writeable
    whole = [tokens[: len(tokens) // LENGTH * LENGTH] for tokens in SOURCES["zeta"][0]]
    zeta = np.concatenate(whole).reshape(-1, LENGTH)
    alpha = SOURCES["alpha"][0][0][: 20 * LENGTH].reshape(-1, LENGTH)
    for number, rows in enumerate((zeta, alpha)):
        known = {tuple(row) for row in rows.tolist()}
        found = [tuple(row) for row in batch[source == number].tolist()]
        assert set(found) <= known
        assert len(set(found)) == min(len(found), len(known))  # nothing comes again before all has come
    # The tokens of 100 instances are asked of zeta, which has 150, and of 50 of alpha, which has 20.
    assert (source == 0).sum() == 100 and (source == 1).sum() == 50


def test_a_budget_of_so_many_instances_gives_as_many(tmp_path):
    """Whatever its shards leave over, and however many sources divide it."""
    data = open_data(make_run(tmp_path / "one", {"zeta": SOURCES["zeta"]}, {"zeta": 256 * LENGTH}), LENGTH)
    assert len(data.train) == 256
    thirds = {"zeta": 1_365, "alpha": 1_365, "beta": 1_366}  # of 256 instances; each has a rest of 5 or 6 tokens
    sources = {**SOURCES, "beta": ([numbered(2000, 700 * LENGTH)], [])}
    data = open_data(make_run(tmp_path / "three", sources, thirds), LENGTH)
    assert len(data.train) == 256
    counts = np.bincount(data.train.source_of(0, 256)).tolist()
    assert sorted(counts) == [85, 85, 86]


def test_another_count_of_instances_is_another_order(tmp_path):
    """The order follows from how many instances are asked for, which a checkpoint's fingerprint therefore holds."""
    data = open_data(make_run(tmp_path, SOURCES, BUDGETS), LENGTH)
    other = data.plan._replace(asked=[99, 47])
    assert module.Data(sf.load_manifest(tmp_path), data.corpus, other, data.train, {}).fingerprint != data.fingerprint


def test_whole_epochs_stay_whole(tmp_path):
    budgets = {"zeta": 2 * (150 * LENGTH + 5), "alpha": 20 * LENGTH + 15}
    data = open_data(make_run(tmp_path, SOURCES, budgets), LENGTH)
    source = data.train.source_of(0, len(data.train))
    assert (source == 0).sum() == 300 and (source == 1).sum() == 20


def test_any_batch_size_reads_the_same(run):
    train = open_data(run, LENGTH).train
    whole = train.batch(0, len(train))
    for size in (1, 3, 50):
        pieces = [train.batch(first, min(size, len(train) - first)) for first in range(0, len(train), size)]
        assert np.array_equal(np.concatenate(pieces), whole)
    read = list(train.batches(4, 10))
    assert len(read) == (len(train) - 4) // 10
    assert np.array_equal(np.concatenate(read), whole[4 : 4 + 10 * len(read)])
    assert np.array_equal(train.tokens(3, 4), whole[3:7]) and train.tokens(3, 4).dtype == np.uint16


def test_prefetching_stops_with_its_reader_and_hands_errors_on(run):
    train = open_data(run, LENGTH).train
    reader = train.batches(0, 2)
    next(reader)
    reader.close()

    def broken(first, count):
        raise DataError("gone")

    train.batch = broken
    with pytest.raises(DataError, match="gone"):
        next(train.batches(0, 2))


def test_max_tokens_is_a_prefix(run):
    whole, part = open_data(run, LENGTH), open_data(run, LENGTH, max_tokens=30 * LENGTH + 3)
    assert len(part.train) == 30 and part.fingerprint == whole.fingerprint
    assert np.array_equal(part.train.batch(0, 30), whole.train.batch(0, 30))
    assert len(open_data(run, LENGTH, max_tokens=10**9).train) == len(whole.train)


def test_fingerprint_refuses_other_data(run, tmp_path):
    data = open_data(run, LENGTH)
    data.check(open_data(run, LENGTH, seed=5).fingerprint)  # 5 is the mixture's own seed
    others = [
        open_data(run, LENGTH, seed=6),
        open_data(run, LENGTH // 2),
        open_data(make_run(tmp_path / "b", SOURCES, BUDGETS | {"zeta": 800}), LENGTH),
    ]
    for other in others:
        with pytest.raises(DataError, match="other data"):
            data.check(other.fingerprint)
    assert not np.array_equal(others[0].train.batch(0, 50), data.train.batch(0, 50))


def test_held_out(run):
    data = open_data(run, LENGTH)
    assert list(data.held_out) == ["zeta"]  # alpha's held-out tokens make no whole instance
    held = data.held_out["zeta"]
    assert len(held) == 9 and held.tokens == 9 * LENGTH and held.text_bytes == 36 * LENGTH
    rows = SOURCES["zeta"][1][0].reshape(-1, LENGTH).tolist()
    batch = held.batch(0, 9)
    assert batch.dtype == np.int64 and sorted(batch.tolist()) == sorted(rows)
    assert np.array_equal(held.batch(4, 3), batch[4:7])
    with pytest.raises(DataError, match="there are 9"):
        held.batch(8, 2)


def test_ranges_are_checked(run):
    train = open_data(run, LENGTH).train
    for first, count in ((-1, 2), (0, 0), (len(train), 1), (len(train) - 1, 2)):
        with pytest.raises(DataError, match="were asked for"):
            train.batch(first, count)


def test_entropy(tmp_path):
    tokens = np.repeat([3, 4, 5, 5], LENGTH)
    data = open_data(make_run(tmp_path / "a", {"a": ([tokens], [])}, {"a": len(tokens)}), LENGTH)
    assert unigram_entropy(data) == pytest.approx(1.5 * math.log(2))
    even = np.random.default_rng(0).integers(0, 64, 64_000)
    data = open_data(make_run(tmp_path / "b", {"a": ([even], [])}, {"a": len(even)}, vocab_size=64), LENGTH)
    assert unigram_entropy(data) == pytest.approx(math.log(64), abs=1e-3)
    assert unigram_entropy(data, max_tokens=LENGTH) <= math.log(LENGTH)


def test_large_vocabularies_and_many_small_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(module.Reader.__init__, "__defaults__", (3,))  # of 60 shards, three stay open
    shards = [numbered(number, LENGTH) + 70_000 for number in range(60)]
    run = make_run(tmp_path, {"a": (shards, [])}, {"a": 60 * LENGTH}, "uint32", 200_000)
    data = open_data(run, LENGTH)
    found = data.train.batch(0, 60)
    assert sorted(found.tolist()) == sorted(np.stack(shards).tolist())


def test_reshuffle_comes_from_the_manifest(tmp_path):
    plain = open_data(make_run(tmp_path / "a", SOURCES, BUDGETS), LENGTH).train
    turned = open_data(make_run(tmp_path / "b", SOURCES, BUDGETS, reshuffle=40 * LENGTH), LENGTH).train
    turn = len(plain) - 40
    assert np.array_equal(plain.batch(0, turn), turned.batch(0, turn))
    assert not np.array_equal(plain.batch(turn, 40), turned.batch(turn, 40))


def test_damage_and_misuse_are_refused(run, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_data(tmp_path / "none", LENGTH)
    with pytest.raises(DataError, match="source zeta: none of its shards"):
        open_data(run, 5000)
    with pytest.raises(DataError, match="two tokens"):
        open_data(run, 1)
    with pytest.raises(DataError, match="nothing to train on"):
        open_data(run, LENGTH, max_tokens=3)
    small = make_run(tmp_path / "small", SOURCES, BUDGETS, vocab_size=5000)
    with pytest.raises(DataError, match=r"beyond the vocabulary of 5000.*tokens/alpha/00000.npy"):
        open_data(small, LENGTH).train.batch(0, 60)
    shard = run / "tokens" / "zeta" / "00001.npy"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"00001.npy: holds 799 uint16 tokens, 800 were expected"):
        open_data(run, LENGTH)
    shard.unlink()
    with pytest.raises(DataError, match=r"00001.npy: the token file is missing"):
        open_data(run, LENGTH)
