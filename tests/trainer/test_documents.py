"""Documents of instances, and best-fit instances from a run: every token of every document, epoch for epoch."""

from collections import Counter

import numpy as np
import pytest

from stages.tokens import shard_format as sf
from trainer.loader.data import DataError, open_data
from trainer.loader.entropy import unigram_entropy

LENGTH, EOS, PAD = 32, 0, 1


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_run):
    return make_run(tmp_path_factory.mktemp("documents"), seed=3)


def documents_of(run, source):
    """The documents of a source's training shards, as tuples of tokens."""
    entry = sf.load_manifest(run)["sources"][source]
    for shard in entry["shards"]:
        tokens = np.fromfile(run / shard["path"], "<u2")
        for row in sf.read_index(run / shard["index"]):
            yield tuple(tokens[row.start : row.end].tolist())


def pieces_of(batch):
    """Each instance as its documents' tokens; padding must be what fills the end, and nothing else."""
    for tokens, numbers in zip(*batch, strict=True):
        used = int((numbers >= 0).sum())
        assert (numbers[:used] >= 0).all() and (tokens[used:] == PAD).all()
        assert np.array_equal(np.unique(numbers[:used]), np.arange(numbers[:used].max() + 1))
        for number in range(int(numbers.max()) + 1):
            yield tuple(tokens[numbers == number].tolist())


def test_best_fit_reads_every_document_whole_once_an_epoch(run):
    data = open_data(run, LENGTH, packing="best_fit")
    train, source_of = data.train, data.train.source_of(0, len(data.train))
    for number, source in enumerate(data.sources):
        expected = Counter()
        for document in documents_of(run, source):
            expected.update(document[at : at + LENGTH] for at in range(0, len(document), LENGTH))
        epoch = data.plan.available[number]
        assert epoch * 3 // 2 - 4 <= data.plan.asked[number] <= epoch * 3 // 2 + 1  # the budget is of whole batches
        first = np.flatnonzero(source_of == number)[:epoch]
        found = Counter(piece for at in first for piece in pieces_of(train.read(int(at), 1, documents=True)))
        assert found == expected


def test_padding_is_reported_and_takes_no_part_in_the_entropy(run):
    data = open_data(run, LENGTH, packing="best_fit")
    batch = data.train.read(0, len(data.train), documents=True)
    assert data.padding == pytest.approx((batch.documents < 0).mean(), abs=0.01)
    assert 0 < data.padding < 0.2 and open_data(run, LENGTH).padding == 0.0
    counts = np.bincount(batch.tokens[batch.documents >= 0])
    shares = counts[counts > 0] / counts.sum()
    assert unigram_entropy(data) == pytest.approx(-(shares * np.log(shares)).sum())
    assert data.fingerprint != open_data(run, LENGTH).fingerprint
    with pytest.raises(DataError, match="the packing"):
        data.check(open_data(run, LENGTH).fingerprint)


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_any_batch_size_reads_the_same(run, packing):
    train = open_data(run, LENGTH, packing=packing).train
    whole = train.read(0, len(train), documents=True)
    for size in (1, 7):
        parts = [train.read(at, min(size, len(train) - at), documents=True) for at in range(0, len(train), size)]
        for got, want in zip(zip(*parts, strict=True), whole, strict=True):
            assert np.array_equal(np.concatenate(got), want)
    out = np.empty((5, LENGTH), np.uint16)
    assert train.read(3, 5, out=out).tokens is out and np.array_equal(out, whole.tokens[3:8])
    with pytest.raises(ValueError, match="contiguous"):
        train.read(3, 5, out=np.empty((5, LENGTH), np.int64))


def test_documents_of_concatenated_instances_end_with_their_end_token(run):
    batch = open_data(run, LENGTH).train.read(0, 60, documents=True)
    assert batch.documents.dtype == np.int32 and (batch.documents[:, 0] == 0).all()
    for tokens, numbers in zip(*batch, strict=True):
        assert np.array_equal(np.diff(numbers), (tokens[:-1] == EOS).astype(int))


def test_documents_shorter_than_an_instance_do_not_stop_best_fit(run, tmp_path):
    data = open_data(run, 5000, packing="best_fit")
    assert data.plan.available == [1, 1] and data.padding > 0.3
    tokens = data.train.read(0, 1, documents=True)
    assert Counter(pieces_of(tokens)) == Counter(documents_of(run, data.sources[0])) or Counter(
        pieces_of(tokens)
    ) == Counter(documents_of(run, data.sources[1]))


def test_a_damaged_packing_is_refused(make_run, tmp_path):
    run = make_run(tmp_path / "run", seed=4)
    open_data(run, LENGTH, packing="best_fit")
    path = sorted((run / "packing").iterdir())[0]
    good = path.read_bytes()
    path.write_bytes(b"\xff" * 12 + good[12:])
    with pytest.raises(DataError, match="is damaged; remove it"):
        data = open_data(run, LENGTH, packing="best_fit")
        data.train.read(0, len(data.train))
    path.unlink()
    assert len(open_data(run, LENGTH, packing="best_fit").train)
    assert path.read_bytes() == good
