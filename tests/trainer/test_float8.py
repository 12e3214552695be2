"""Products in float8: what is rounded and what is not, and that a training with them learns as one without."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trainer import account, checkpoint, float8, metrics, moe, processes
from trainer.config import ModelConfig
from trainer.errors import TrainerError
from trainer.model import Olmoe
from trainer.moe import Router, apply_experts
from trainer.processes import Processes, spread
from trainer.train import train

CPU = torch.device("cpu")


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.float() - expected.float()).norm() / expected.float().norm()).item()


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Each row over the smallest power of two that leaves it within 448, its values cut to four significant bits."""
    rows = []
    for row in x.double().reshape(-1, x.shape[-1]):
        scale = 1.0
        while row.abs().max() / scale > 448:
            scale *= 2
        while row.abs().max() > 0 and row.abs().max() / (scale / 2) <= 448:
            scale /= 2
        step = torch.exp2(torch.floor(torch.log2((row / scale).abs().clamp(min=2.0**-6))) - 3)
        rows.append(torch.round(row / scale / step) * step * scale)
    return torch.stack(rows).view_as(x)


def test_rows_are_rounded_to_four_bits_and_scaled_by_powers_of_two():
    rows = torch.randn(20, 32) * torch.logspace(-6, 6, 20)[:, None]
    rows[3] = 0
    rows[4, 0] = 448 * 2.0**5
    values, factor = float8.scaled(rows)
    assert values.dtype == torch.float8_e4m3fn and factor.shape == (20, 1)
    assert torch.equal(torch.frexp(factor).mantissa, torch.full_like(factor, 0.5))
    assert torch.equal((values.double() * factor.double()), rounded(rows))


def test_a_product_is_one_of_rounded_rows_and_its_weight_has_the_gradient_of_bf16():
    x, weight = torch.randn(3, 7, 32).bfloat16().requires_grad_(), torch.randn(48, 32).bfloat16().requires_grad_()
    slope = torch.randn(3, 7, 48).bfloat16()
    out = float8.linear(x, weight)
    assert torch.equal(out, (rounded(x) @ rounded(weight).t()).float().bfloat16())
    grad_x, grad_weight = torch.autograd.grad(out, [x, weight], slope)
    assert torch.equal(grad_x, (rounded(slope) @ rounded(weight.t()).t()).float().bfloat16())
    plain = torch.autograd.grad(F.linear(x, weight), [x, weight], slope)
    assert torch.equal(grad_weight, plain[1])
    assert 0.01 < off(out, F.linear(x, weight)) < 0.05 and 0.01 < off(grad_x, plain[0]) < 0.05


def test_experts_are_near_those_in_bf16():
    config = ModelConfig(d_model=32, n_heads=2, n_experts=6, top_k=2, expert_width=16, vocab_size=10)
    router = Router(config)
    torch.nn.init.normal_(router.weight_ED)
    with torch.no_grad():
        router.weight_ED[3] = -10.0  # hardly ever chosen
        x = torch.rand(40, 32)
        routing, _ = router(x, 40)
    assert routing.counts[3] == 0
    inputs = [x.bfloat16(), torch.randn(6, 32, 32).bfloat16(), torch.randn(6, 32, 16).bfloat16()]
    inputs = [one.requires_grad_() for one in inputs]
    found = []
    for experts in (apply_experts, float8.experts):
        out = experts(inputs[0], routing, *inputs[1:])
        found.append([out.detach(), *torch.autograd.grad(out.float().square().sum(), inputs)])
    assert all(0.01 < off(b, a) < 0.12 for a, b in zip(*found, strict=True))
    assert not found[1][2][3].any() and not found[1][3][3].any()


@torch.no_grad()
def test_attention_and_experts_take_them_and_nothing_else_does(make_config, monkeypatch):
    taken = []
    for name in ("_product", "_grouped_product"):
        real = getattr(float8, name)
        monkeypatch.setattr(float8, name, lambda *values, name=name, real=real: taken.append(name) or real(*values))
    model = Olmoe(make_config(model={"vocab_size": 61, "n_layers": 1, "n_shared_experts": 1}).model)
    model.init_weights(0)
    model.dtype = torch.bfloat16
    float8.use(model, CPU)
    model(torch.arange(32).view(1, 32))
    dense, grouped = ["_product"] * 2, ["_grouped_product"] * 2
    assert taken == [*dense, *grouped, *dense]  # attention's, the routed experts', the shared one's


def test_a_gpu_takes_scaled_products_which_are_kept_where_activations_are_recomputed(make_config):
    """What a GPU would run, on tensors without values: torch checks types, shapes and strides there too."""
    totals = {}
    for precision in ({}, {"float8": True}):
        for kind in ("none", "activations"):
            config = make_config(
                model={"vocab_size": 61, "d_model": 256, "expert_width": 128, "n_layers": 8},
                train={"precision": "bfloat16", "recompute": kind, **precision},
            )
            totals[kind, bool(precision)] = account.activations(config, 64, split=True)
    for kind in ("none", "activations"):
        assert totals[kind, True] == pytest.approx(totals[kind, False], rel=0.12)
    assert totals["activations", True] < 0.8 * totals["none", True]


def trained(tmp_path, small_run, make_config, name: str, steps: int = 12, **changes) -> tuple[list[float], dict]:
    config = make_config(train={"tokens": steps * 128, "precision": "bfloat16", **changes})
    assert train(config, small_run, tmp_path / name, device="cpu") == 0
    lines = metrics.read(tmp_path / name / "metrics.jsonl")
    files = checkpoint.read_state(checkpoint.latest(tmp_path / name / "checkpoints"))["files"]
    return [line["loss"] for line in lines if line["kind"] == "step"], files


def test_a_training_learns_as_one_in_bf16_and_is_the_same_recomputed(tmp_path, small_run, make_config, capsys):
    plain, _ = trained(tmp_path, small_run, make_config, "plain")
    assert "in float8" not in capsys.readouterr().out
    losses, files = trained(tmp_path, small_run, make_config, "float8", float8=True)
    assert "products of attention and experts in float8, emulated on this device" in capsys.readouterr().out
    assert losses != plain and losses[-1] < losses[0] - 0.3
    assert max(abs(a - b) for a, b in zip(losses, plain, strict=True)) < 0.1
    again, others = trained(tmp_path, small_run, make_config, "again", float8=True, recompute="activations")
    assert again == losses and others == files


@pytest.mark.parametrize("split", [False, True])
def test_a_compiled_layer_is_one_graph(make_config, monkeypatch, split):
    monkeypatch.setattr(moe, "_try_grouped_products", lambda *_: True)
    torch._dynamo.reset()
    config = make_config(model={"vocab_size": 61, "n_layers": 1}, train={"precision": "bfloat16", "parallel": "fsdp"})
    model = Olmoe(config.model)
    model.init_weights(0)
    model.dtype = torch.bfloat16
    float8.use(model, CPU)
    tokens = torch.arange(64).view(2, 32) % 61
    plain = model(tokens, tokens).loss_sum.item()
    torch.use_deterministic_algorithms(False)
    try:
        if split:
            stores = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
            torch.distributed.init_process_group("fake", store=stores.FakeStore(), rank=0, world_size=2)
            spread(model, config, Processes(0, 2, CPU))
        model.layers[0].compile(fullgraph=True, backend="aot_eager")
        output = model(tokens, tokens)
        output.loss_sum.backward()
        assert all(parameter.grad is not None for parameter in model.layers.parameters())
        if not split:  # what a group that only pretends gathers has no values
            assert output.loss_sum.item() == pytest.approx(plain, rel=1e-3)
    finally:
        if split:
            torch.distributed.destroy_process_group()
    assert len(processes.replicated(model)) == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": {"float8": True}}, "train.float8 needs train.precision bfloat16, not float32"),
        (
            {"train": {"float8": True, "precision": "bfloat16"}, "model": {"expert_width": 24}},
            "train.float8 needs model.expert_width to be a multiple of 16, not 24",
        ),
        (
            {"train": {"float8": True, "precision": "bfloat16", "expert_kernel": "scattermoe"}},
            "train.float8 needs train.expert_kernel own, not scattermoe",
        ),
    ],
)
def test_what_float8_cannot_have_is_refused(make_config, changes, told):
    with pytest.raises(TrainerError, match=told):
        make_config(**changes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_products_are_the_emulated_ones():
    device = torch.device("cuda")
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a GPU with scaled products by rows")
    float8.require(device)
    x, weight = torch.randn(40, 64).bfloat16(), torch.randn(48, 64).bfloat16()
    assert off(float8.linear(x.cuda(), weight.cuda()).cpu(), float8.linear(x, weight)) < 0.01
    ends, weights = torch.tensor([0, 13, 40], dtype=torch.int32), torch.randn(3, 48, 64).bfloat16()
    found = float8.grouped(x.cuda(), weights.cuda(), ends.cuda()).cpu()
    assert off(found, float8.grouped(x, weights, ends)) < 0.01
