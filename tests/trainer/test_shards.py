"""The PyTorch datasets: the same instances by any rank, batch, worker and after any stop; flat memory; no other corpus."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from stages.tokens import shard_format as sf
from stages.tokens.manifest import build_manifest, shard_names, source_entry
from trainer import shards
from trainer.loader.data import open_data
from trainer.loader.files import DataError

LENGTH = 32


@pytest.fixture(scope="module")
def expected(small_run):
    train = open_data(small_run, LENGTH).train
    return torch.from_numpy(train.tokens(0, len(train)).astype(np.int64))


def joined(batches) -> torch.Tensor:
    return torch.cat([batch.long() for batch in batches])


def test_it_is_a_map_style_dataset(small_run, expected):
    data = shards.open(small_run, LENGTH)
    assert len(data) == len(expected) and data[0].dtype == torch.uint16
    assert torch.equal(data[5].long(), expected[5]) and torch.equal(data[-1].long(), expected[-1])
    for beyond in (len(data), -len(data) - 1):
        with pytest.raises(IndexError, match=str(beyond)):
            data[beyond]
    some = [7, 3, -1, 3, 0]
    assert torch.equal(torch.stack(data.__getitems__(some)).long(), expected[some]) and data.__getitems__([]) == []
    loaded = joined(DataLoader(data, batch_size=7))
    assert torch.equal(loaded, expected)
    sampler = DistributedSampler(data, num_replicas=2, rank=1, shuffle=False, drop_last=True)
    assert torch.equal(joined(DataLoader(data, batch_size=4, sampler=sampler)), expected[1::2][: len(data) // 2])


@pytest.mark.parametrize(("batch", "ranks"), [(8, 1), (8, 4), (6, 3), (1, 1)])
def test_ranks_read_each_batch_once(small_run, expected, batch, ranks):
    data = shards.open(small_run, LENGTH)
    parts = [list(data.batches(batch, rank, ranks)) for rank in range(ranks)]
    assert all(tokens.shape == (batch // ranks, LENGTH) for part in parts for tokens in part)
    read = joined(tokens for step in zip(*parts, strict=True) for tokens in step)
    assert torch.equal(read, expected[: len(expected) // batch * batch])


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_stop_after_any_step_goes_on_with_other_ranks_and_batches(small_run, expected, workers):
    before = shards.open(small_run, LENGTH).batches(6, ahead=3)
    loader = iter(DataLoader(before, batch_size=None, num_workers=workers))
    read = [next(loader) for _ in range(4)]
    state = before.state_dict(None if workers == 0 else 4)
    assert state == {"position": 24, "fingerprint": shards.open(small_run, LENGTH).fingerprint}
    del loader
    parts = []
    for rank in range(2):
        after = shards.open(small_run, LENGTH).batches(4, rank, 2)
        after.load_state_dict(state)
        assert len(after) == (len(expected) - 24) // 4
        parts.append(list(DataLoader(after, batch_size=None, num_workers=workers)))
    read += [tokens for step in zip(*parts, strict=True) for tokens in step]
    assert torch.equal(joined(read), expected[: 24 + (len(expected) - 24) // 4 * 4])


def test_iterating_again_goes_on(small_run, expected):
    batches = shards.open(small_run, LENGTH).batches(4)
    first = [next(iter(batches)), next(iter(batches))]
    assert torch.equal(joined(first), expected[:8])
    assert torch.equal(joined(batches), expected[8 : len(expected) // 4 * 4]) and list(batches) == []


def test_a_batch_that_is_held_stays_as_it_is(small_run, expected, monkeypatch):
    monkeypatch.setattr(shards, "READ_BYTES", 2 * 4 * LENGTH * 2)  # two batches of uint16 are read together
    taken, size, empty = [], shards.READ_BYTES, np.empty
    monkeypatch.setattr(np, "empty", lambda shape, *a, **k: (taken.append(shape), empty(shape, *a, **k))[1])
    batches = iter(shards.open(small_run, LENGTH).batches(4))
    held = [next(batches)[1:].numpy(), next(batches)[0]]  # a view of the first, a row of the second
    groups = sum(1 for _ in batches) // 2
    assert 0 < taken.count(size) <= shards.KEPT < groups  # what is not held is used again
    assert np.array_equal(held[0], expected[1:4].numpy()) and torch.equal(held[1].long(), expected[4])


def test_documents_come_with_the_batch(small_run):
    data = shards.open(small_run, LENGTH, packing="best_fit")
    wanted = open_data(small_run, LENGTH, packing="best_fit").train.read(0, 8, documents=True)
    found = next(iter(DataLoader(data.batches(8, documents=True), batch_size=None)))
    assert np.array_equal(found.tokens.numpy(), wanted.tokens)
    assert np.array_equal(found.documents.numpy(), wanted.documents) and (found.documents < 0).any()


def test_another_corpus_is_refused(small_run, make_run, tmp_path):
    state = shards.open(small_run, LENGTH).batches(4).state_dict()
    others = [
        shards.open(make_run(tmp_path / "other", seed=9), LENGTH),
        shards.open(small_run, LENGTH // 2),
        shards.open(small_run, LENGTH, packing="best_fit"),
        shards.open(small_run, LENGTH, seed=77),
    ]
    for other in others:
        with pytest.raises(DataError, match="other data"):
            other.batches(4).load_state_dict(state)
    batches = shards.open(small_run, LENGTH).batches(4)
    with pytest.raises(DataError, match="not in the data"):
        batches.load_state_dict(state | {"position": 10**6})
    with pytest.raises(DataError, match="does not divide among 3"):
        shards.open(small_run, LENGTH).batches(4, 0, 3)


def resident() -> int:
    """Bytes of this process in memory, mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_flat_over_an_epoch(tmp_path):
    written = []
    for number in range(8):
        tokens = np.random.default_rng(number).integers(0, 50_000, 5_000_000).astype("<u2")
        count, digest = sf.write_tokens(tmp_path / shard_names("web", number)[0], [tokens], tokens.dtype)
        written.append({"tokens": count, "documents": 1, "text_bytes": count, "sha256": digest})
    manifest = build_manifest(
        name="flat",
        profile="sample",
        recipe_hash="",
        seed=0,
        tokenizer_sha256="",
        vocab_size=50_280,
        eos_id=0,
        pad_id=1,
        sources={"web": source_entry("web", written, [], 40_000_000, 1.0)},
        mixture_tokens=40_000_000,
        mixture_seed=0,
    )
    sf.write_bytes(tmp_path / sf.MANIFEST, sf.manifest_bytes(manifest))
    del tokens
    batches = iter(shards.open(tmp_path, 1024).batches(64))
    for _ in range(100):
        next(batches)
    early, total = resident(), 0
    for tokens in batches:
        total += tokens.numel()
    assert total > 30_000_000  # 60 MB
    assert resident() - early < 6e6
