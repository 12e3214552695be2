"""Materialized data: what stood at a position stands there still, in shards that are read from front to back."""

import json

import numpy as np
import pytest

from stages.tokens import shard_format as sf
from trainer.__main__ import main
from trainer.errors import TrainerError
from trainer.loader import materialize as module
from trainer.loader.data import DataError, open_data
from trainer.loader.materialize import materialize
from trainer.train import train

LENGTH = 32


def whole(run, packing, **options):
    train = open_data(run, LENGTH, packing=packing, **options).train
    return train.read(0, len(train), documents=True), train.source_of(0, len(train))


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_every_position_holds_what_it_held(small_run, tmp_path, packing):
    out, said = tmp_path / "out", []
    count = materialize(small_run, out, LENGTH, packing, shard_bytes=40 * LENGTH * 2, say=said.append)
    data, before = open_data(out, LENGTH, packing=packing), open_data(small_run, LENGTH, packing=packing)
    assert count == len(data.train) == len(before.train) and len(said) == -(-count // 40) > 3
    assert data.fingerprint == before.fingerprint and data.sources == before.sources
    assert data.padding == before.padding
    (batch, source), (wanted, wanted_source) = whole(out, packing), whole(small_run, packing)
    assert np.array_equal(batch.tokens, wanted.tokens) and np.array_equal(batch.documents, wanted.documents)
    assert np.array_equal(source, wanted_source)
    assert np.array_equal(data.train.tokens(35, 12), wanted.tokens[35:47])  # over the border of two shards
    for name in data.held_out:
        assert np.array_equal(data.held_out[name].batch(0, 3), before.held_out[name].batch(0, 3))
    # Read in a row: the shards one after another are the instances one after another.
    shards = sf.load_manifest(out)["materialized"]["shards"]
    read = np.concatenate([np.fromfile(out / shard["path"], "<u2") for shard in shards])
    assert np.array_equal(read, wanted.tokens[wanted.documents >= 0])
    assert all(sf.sha256_file(out / shard["path"]) == shard["sha256"] for shard in shards)


def test_it_goes_on_after_a_stop_and_mends_a_cut_shard(small_run, tmp_path, monkeypatch):
    calls, write = [], module.write_tokens

    def stopping(path, *rest):
        calls.append(path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(path, *rest)

    monkeypatch.setattr(module, "write_tokens", stopping)
    with pytest.raises(KeyboardInterrupt):
        materialize(small_run, tmp_path / "a", LENGTH, shard_bytes=40 * LENGTH * 2, say=str)
    with pytest.raises(DataError, match="has not finished: start the same `python -m trainer materialize`"):
        open_data(tmp_path / "a", LENGTH)
    cut = tmp_path / "a" / "ordered" / "00001.npy"
    cut.write_bytes(cut.read_bytes()[:-2])
    calls.clear()
    monkeypatch.setattr(module, "write_tokens", lambda path, *rest: (calls.append(path.name), write(path, *rest))[1])
    materialize(small_run, tmp_path / "a", LENGTH, shard_bytes=40 * LENGTH * 2, say=str)
    assert "00000.npy" not in calls and calls[0] == "00001.npy"
    materialize(small_run, tmp_path / "b", LENGTH, shard_bytes=40 * LENGTH * 2, say=str)
    assert (tmp_path / "a" / sf.MANIFEST).read_bytes() == (tmp_path / "b" / sf.MANIFEST).read_bytes()
    calls.clear()
    materialize(small_run, tmp_path / "a", LENGTH, shard_bytes=40 * LENGTH * 2, say=str)
    assert calls == []


def test_a_part_of_training_and_what_is_refused(small_run, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["materialize", "--data", str(small_run), "--sequence-length", str(LENGTH), "--max-tokens", "1000"]
    assert main([*flags, "--out", str(out)]) == 0
    assert "31 instances of 32 tokens in training order" in capsys.readouterr().out
    wanted = whole(small_run, "concatenate")[0].tokens
    assert len(open_data(out, LENGTH).train) == 31
    assert np.array_equal(open_data(out, LENGTH, max_tokens=640).train.tokens(0, 20), wanted[:20])
    for options, why in (
        ({"max_tokens": 4000}, r"992 tokens were materialized, 4,000 are asked for"),
        ({"packing": "best_fit"}, "with packing concatenate, best_fit is asked for"),
        ({"seed": 5}, "with seed 0, 5 is asked for"),
        ({"sequence_length": 16}, "with sequence_length 32, 16 is asked for"),
    ):
        with pytest.raises(DataError, match=why):
            open_data(out, **{"sequence_length": LENGTH, **options})
    with pytest.raises(TrainerError, match="is materialized already"):
        materialize(out, tmp_path / "again", LENGTH, max_tokens=992)
    with pytest.raises(TrainerError, match="other data or another shard size"):
        materialize(small_run, out, LENGTH, "best_fit")
    with pytest.raises(TrainerError, match="holds a run"):
        materialize(small_run, small_run, LENGTH)


def test_training_changes_over_to_it(small_run, tmp_path, make_config):
    materialize(small_run, tmp_path / "data", LENGTH, say=str)

    def config(tokens):
        return make_config(schedule={"tokens": 4 * 128}, train={"tokens": tokens})

    def losses(out):
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        return {line["step"]: line["loss"] for line in lines if line["kind"] == "step"}

    assert train(config(4 * 128), small_run, tmp_path / "a", device="cpu") == 0
    assert train(config(2 * 128), small_run, tmp_path / "b", device="cpu") == 0
    assert train(config(4 * 128), tmp_path / "data", tmp_path / "b", resume=True, device="cpu") == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
