"""What a training holds in memory, worked out without a GPU: against sums by hand, torch's own tracker, and a GPU's figure."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from trainer import account, processes
from trainer.__main__ import main
from trainer.config import load
from trainer.errors import TrainerError
from trainer.model import Olmoe, parameter_counts
from trainer.processes import Processes, gradients_shared, spread

GB = 10**9


def olmoe(*settings: str):
    return load(Path("olmoe_1b_7b"), settings)


@pytest.fixture
def small(make_config):
    """Few layers, so that each counts."""
    return make_config(
        model={"vocab_size": 61, "n_layers": 3},
        train={"precision": "bfloat16", "parallel": "fsdp", "micro_batch": 2, "batch_tokens": 16 * 32},
    )


def test_storages_are_counted_until_nothing_refers_to_them():
    with account.Live() as live:
        a = torch.empty(1024, device="meta")
        b = a.view(32, 32)  # the same storage
        c = a + 1
        assert live.now == 2 * 4096
        del a
        gc.collect()
        assert live.now == 2 * 4096  # b holds it
        del b, c
        assert live.now == 0 and live.most == 2 * 4096


def test_what_is_kept_for_the_backward_pass_is_counted():
    weight = torch.nn.Parameter(torch.empty(256, 256, device="meta"))
    x = torch.empty(512, 256, device="meta")
    with account.Live(weight, x) as live:
        y = torch.relu(x @ weight)  # the product is freed, relu's result is kept
        assert live.now == 512 * 256 * 4
        y.sum().backward()
    assert live.most >= 2 * 512 * 256 * 4


def test_the_shipped_configuration_fits_eight_gpus_of_80_gb():
    config = olmoe()
    assert config.train.micro_batch >= 4
    found = account.memory(config, 8)
    total, _ = parameter_counts(config.model)
    # 1/8 of weights and moments, and of gradients too, because they are reduced after each micro-batch.
    for size, factor in ((found.weights, 4), (found.gradients, 4), (found.moments, 8)):
        assert size == pytest.approx(factor * total / 8, rel=5e-3)  # routers are whole
    assert found.fits(80 * GB)
    whole = account.memory(olmoe("train.reduce=batch"), 8)
    assert whole.gradients == 4 * total and not whole.fits(80 * GB)


def test_one_gpu_holds_what_was_measured_on_one():
    """All 16 layers, one instance a step, on one H200: 111 GB by torch.cuda.max_memory_allocated."""
    config = olmoe("train.micro_batch=1", "train.batch_tokens=4096")
    assert account.memory(config, 1).total == pytest.approx(111 * GB, rel=0.02)
    # With accumulation gradients and activations are there at once: micro-batch 4 did not fit into 141 GB.
    accumulated = olmoe("train.micro_batch=4", "train.batch_tokens=65536")
    assert not account.memory(accumulated, 1).fits(141 * GB)
    assert account.memory(olmoe("train.micro_batch=4", "train.recompute=activations"), 1).fits(141 * GB)


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({"n_experts": 0}, {}),
        ({"routing": "expert_choice"}, {}),
        ({"tie_embeddings": True, "n_kv_heads": 2, "n_shared_experts": 1}, {}),
        ({}, {"precision": "float32"}),
    ],
)
def test_every_kind_of_model_can_be_accounted_for(small, model, train):
    changed = small.model_copy(
        update={"model": small.model.model_copy(update=model), "train": small.train.model_copy(update=train)}
    )
    for gpus in (1, 2):
        found = account.memory(changed, gpus)
        assert found.activations > 0 and found.total > found.weights * 3


def test_recomputing_keeps_less(small):
    kept = []
    for kind in ("none", "activations", "layers"):
        train = small.train.model_copy(update={"recompute": kind})
        kept.append(account.memory(small.model_copy(update={"train": train}), 2).activations)
    assert kept[0] > kept[1] > kept[2]


def test_ways_to_share_the_model(small):
    def found(gpus: int, **train):
        return account.memory(small.model_copy(update={"train": small.train.model_copy(update=train)}), gpus)

    total = parameter_counts(small.model)[0]
    assert found(1).weights == found(4, parallel="ddp").weights == 4 * total
    assert found(4).weights == found(8, shard_over=4).weights < found(2).weights
    assert found(4, reduce="batch").gradients == 4 * total
    assert found(8, reduce="batch").gradients == found(8).gradients  # a batch of one micro-batch a GPU
    with pytest.raises(TrainerError, match="does not divide among 3 GPUs"):
        found(3)
    with pytest.raises(TrainerError, match="shard_over 3 does not divide 8"):
        found(8, shard_over=3)


def test_torchs_own_tracker_finds_the_same(make_config, monkeypatch):
    """A dense model under real FSDP2, in a group that only pretends, on fake tensors, by torch's FSDPMemTracker. (Grouped
    products on fake tensors of a CPU are a loop over values that are not there.)"""
    tracker = pytest.importorskip("torch.distributed._tools.fsdp2_mem_tracker")
    stores = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    from torch._subclasses.fake_tensor import FakeTensorMode

    count, cpu = 4, torch.device("cpu")
    config = make_config(
        model={"vocab_size": 64, "n_layers": 4, "n_experts": 0, "d_model": 256, "expert_width": 512},
        train={"precision": "bfloat16", "parallel": "fsdp", "micro_batch": 2, "batch_tokens": 16 * 32},
    )
    torch.use_deterministic_algorithms(False)
    torch.distributed.init_process_group("fake", store=stores.FakeStore(), rank=0, world_size=count)
    try:
        mesh = processes._mesh(config, Processes(0, count, cpu))  # made of values that are there
        monkeypatch.setattr(processes, "_mesh", lambda *_: mesh)
        with FakeTensorMode():
            model = Olmoe(config.model, config.train.loss_chunk_mib)
            model.dtype = torch.bfloat16
            spread(model, config, Processes(0, count, cpu))
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
            tokens = torch.zeros(2, 32, dtype=torch.int64)
            with tracker.FSDPMemTracker(model, optimizer) as track:
                for _ in range(2):
                    for last in (False, True):
                        with gradients_shared(model, last, each=True):
                            model(tokens, tokens).loss_sum.backward()
                        track.reset_mod_stats()
                    optimizer.step()
                    optimizer.zero_grad()
            peak = {kind.name: size for kind, size in track.get_tracker_snapshot("peak")[cpu].items() if hasattr(kind, "name")}
            total = track.get_tracker_snapshot("peak")[cpu]["Total"]
    finally:
        torch.distributed.destroy_process_group()
    found = account.memory(config, count)
    assert found.weights == peak["SHARDED_PARAM"] and found.gradients == peak["SHARDED_GRAD"]
    assert found.moments == pytest.approx(peak["OPT"], abs=1000)  # it counts the steps of each parameter too
    assert total <= found.total <= 1.15 * total


def test_the_command_prints_memory_time_and_money(capsys):
    command = ["plan", "olmoe_1b_7b", "--gpus", "8", "--memory", "80GB", "--tokens", "1T", "--mfu", "0.5", "--price", "2"]
    assert main(command) == 0
    told = capsys.readouterr().out
    for part in ("6,919,161,856 parameters", "activations", "moments", "buffers", "fits into 80 GB", "recompute: none"):
        assert part in told
    # 0.5 * 989e12 * 8 / (6 * (1,282,017,280 - 50,304 * 2,048) + 6 * 16 * 2,048 * 4,096) tokens a second
    rate = 0.5 * 989e12 * 8 / (6 * (1_282_017_280 - 50_304 * 2_048) + 6 * 16 * 2_048 * 4_096)
    hours = 1e12 / rate / 3600 * 8
    assert f"{rate:,.0f} tokens/s" in told and f"{hours:,.0f} GPU-hours" in told and f"{2 * hours:,.0f} at 2 an hour" in told
    assert main([*command[:4], "--memory", "24GB"]) == 0
    assert "DOES NOT FIT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["olmoe_tiny"], "model.vocab_size"),
        (["olmoe_1b_7b", "--gpu", "Abacus"], "its peak is not known"),
        (["olmoe_1b_7b", "--gpus", "0"], "at least one GPU"),
        (["olmoe_1b_7b", "--gpus", "7"], "does not divide among 7 GPUs"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(capsys, more, told):
    assert main(["plan", *more]) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: ") and found.count("\n") == 1 and told in found
