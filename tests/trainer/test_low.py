"""Copies of the weights in bf16 change nothing but how often weights are cast."""

from __future__ import annotations

import pytest
import torch

from trainer import checkpoint, low, metrics, moe
from trainer.model import Olmoe
from trainer.train import train


def model_of(make_config, **changes) -> Olmoe:
    model = Olmoe(make_config(model={"vocab_size": 61, **changes}).model)
    model.init_weights(0)
    model.dtype = torch.bfloat16
    return model


@pytest.mark.parametrize("changes", [{}, {"n_experts": 0}, {"n_shared_experts": 1}, {"tie_embeddings": True}])
def test_losses_and_gradients_are_those_of_a_cast(make_config, changes):
    tokens = torch.arange(64).view(2, 32) % 61
    found = []
    for kept in (False, True):
        model = model_of(make_config, **changes)
        if kept:
            low.keep(model, torch.bfloat16)
            low.refresh(model)
        loss = model(tokens, tokens).loss_sum
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(grad.dtype == torch.float32 for grad in found[1][1:])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_copies_are_what_products_take_and_are_brought_up_to_date(make_config):
    model = model_of(make_config)
    low.keep(model, torch.bfloat16)
    matrices = sum(p.numel() for n, p in model.named_parameters() if not n.endswith(("norm.weight_D", "router.weight_ED")))
    assert sum(copy.numel() for copy in model.buffers()) == matrices - model.embedding_VD.numel()
    assert not model.state_dict().keys() - dict(model.named_parameters()).keys()  # no part of the model's state
    low.refresh(model)
    tokens = torch.arange(32).view(1, 32)
    before = model(tokens, tokens).loss_sum.item()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    low.refresh(model)
    other = model_of(make_config)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3)
    assert before != model(tokens, tokens).loss_sum.item() == other(tokens, tokens).loss_sum.item()


def test_a_training_with_them_is_one_without_to_the_bit(tmp_path, small_run, make_config, monkeypatch):
    config = make_config(train={"tokens": 6 * 128, "precision": "bfloat16", "micro_batch": 1})
    kept = []
    real = low.keep
    monkeypatch.setattr(low, "keep", lambda *arguments: kept.append(real(*arguments)))
    assert train(config, small_run, tmp_path / "with", device="cpu") == 0
    assert len(kept) == 1
    monkeypatch.setattr(low, "keep", lambda *_: None)
    assert train(config, small_run, tmp_path / "without", device="cpu") == 0
    lines = [metrics.read(tmp_path / name / "metrics.jsonl") for name in ("with", "without")]
    losses = [[line["loss"] for line in one if line["kind"] in ("step", "eval")] for one in lines]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    sums = [checkpoint.read_state(checkpoint.latest(tmp_path / name / "checkpoints"))["files"] for name in ("with", "without")]
    assert sums[0] == sums[1]


def test_a_compiled_layer_with_copies_is_one_graph(make_config, monkeypatch):
    monkeypatch.setattr(moe, "_try_grouped_products", lambda *_: True)
    torch._dynamo.reset()
    model = model_of(make_config, n_layers=1)
    low.keep(model, torch.bfloat16)
    low.refresh(model)
    tokens = torch.arange(64).view(2, 32) % 61
    plain = model(tokens, tokens).loss_sum.item()
    torch.use_deterministic_algorithms(False)
    model.layers[0].compile(fullgraph=True, backend="aot_eager")
    output = model(tokens, tokens)
    output.loss_sum.backward()
    assert output.loss_sum.item() == pytest.approx(plain, rel=1e-2)
    assert all(parameter.grad is not None for parameter in model.parameters())
