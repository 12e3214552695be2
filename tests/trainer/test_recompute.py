"""Working activations out again changes no gradient, and keeps fewer tensors; compiled layers are one graph."""

from __future__ import annotations

import pytest
import torch

from trainer import moe, processes
from trainer.masking import documents
from trainer.model import Olmoe
from trainer.pretrain import router_losses
from trainer.processes import Processes, spread
from trainer.recompute import _policy


def gradients(config, recompute: str, masked: bool) -> tuple[float, list[torch.Tensor], int]:
    model = Olmoe(config.model, recompute=recompute)
    model.init_weights(0)
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    tokens = torch.arange(64).view(2, 32) % 61
    found = documents(torch.arange(64).view(2, 32) // 11, torch.device("cpu")) if masked else None
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(tokens, tokens, documents=found)
        (output.loss_sum + router_losses(output, config)).backward()
    return output.loss_sum.item(), [parameter.grad for parameter in model.parameters()], sum(kept)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_the_same_to_the_bit(make_config, masked):
    config = make_config(model={"vocab_size": 61})
    loss, expected, kept = gradients(config, "none", masked)
    for kind in ("activations", "layers"):
        again, found, fewer = gradients(config, kind, masked)
        assert again == loss and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert fewer < kept / 2


def test_products_and_attention_are_kept():
    def says(operation, *arguments):
        return _policy(32, None, operation, *arguments).name

    wide, narrow = torch.empty(4, 32, device="meta"), torch.empty(4, 16, device="meta")
    assert says(torch.ops.aten.mm.default, wide, wide) == "MUST_SAVE"
    assert says(torch.ops.aten._grouped_mm.default, wide) == "MUST_SAVE"
    assert says(torch.ops.aten._grouped_mm.default, narrow) == "PREFER_RECOMPUTE"
    assert says(torch.ops.aten.silu.default, wide) == "PREFER_RECOMPUTE"


def one_layer(make_config, **train):
    return make_config(model={"vocab_size": 61, "n_layers": 1}, train={"precision": "bfloat16", "parallel": "fsdp", **train})


@pytest.mark.parametrize("recompute", ["none", "activations"])
@pytest.mark.parametrize("split", [False, True])
def test_a_compiled_layer_is_one_graph(make_config, monkeypatch, recompute, split):
    """Traced as for a GPU with grouped products, forward and backward; `fullgraph` refuses a second graph. Under FSDP2 the
    hooks of the layer's own group are passed over, and no other group is inside."""
    monkeypatch.setattr(moe, "_try_grouped_products", lambda *_: True)
    torch._dynamo.reset()
    config = one_layer(make_config, recompute=recompute)
    model = Olmoe(config.model, recompute=recompute)
    model.init_weights(0)
    model.dtype = torch.bfloat16
    tokens = torch.arange(64).view(2, 32) % 61
    plain = model(tokens, tokens).loss_sum.item()
    torch.use_deterministic_algorithms(False)
    try:
        if split:
            stores = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
            torch.distributed.init_process_group("fake", store=stores.FakeStore(), rank=0, world_size=2)
            spread(model, config, Processes(0, 2, torch.device("cpu")))
        model.layers[0].compile(fullgraph=True, backend="aot_eager")
        output = model(tokens, tokens)
        output.loss_sum.backward()
        assert all(parameter.grad is not None for parameter in model.layers.parameters())
        if not split:  # what a group that only pretends gathers has no values
            assert output.loss_sum.item() == pytest.approx(plain, rel=1e-2)
    finally:
        if split:
            torch.distributed.destroy_process_group()


def test_routers_are_replicated_and_in_no_group(make_config):
    stores = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    config = one_layer(make_config)
    torch.distributed.init_process_group("fake", store=stores.FakeStore(), rank=0, world_size=2)
    try:
        model = Olmoe(config.model)
        spread(model, config, Processes(0, 2, torch.device("cpu")))
        split = {name for name, parameter in model.named_parameters() if hasattr(parameter, "device_mesh")}
        assert {name for name, _ in model.named_parameters()} - split == {"layers.0.mlp.router.weight_ED"}
        assert len(processes.replicated(model)) == 1
    finally:
        torch.distributed.destroy_process_group()
