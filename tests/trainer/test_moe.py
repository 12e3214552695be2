"""Routing and experts against loops over tokens, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import moe
from trainer.config import ModelConfig
from trainer.moe import MoE, Router


def layer(**changes) -> MoE:
    values = {"d_model": 16, "n_heads": 2, "n_experts": 6, "top_k": 2, "expert_width": 8, "vocab_size": 10, **changes}
    built = MoE(ModelConfig(**values))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(0, 0.4)
    return built


def plain_forward(built: MoE, x: torch.Tensor) -> torch.Tensor:
    """Token by token, with autograd's own gradients."""
    probs = F.linear(x, built.router.weight_ED).softmax(-1)
    rows = []
    for token, prob in zip(x, probs, strict=True):
        row = torch.zeros_like(token)
        for expert in prob.topk(built.config.top_k).indices:
            gate, up = (built.gate_up_EGD[expert] @ token).chunk(2)
            row = row + prob[expert] * (built.down_EDF[expert] @ (F.silu(gate) * up))
        rows.append(row)
    return torch.stack(rows)


def gradients(built: MoE, out: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    weight = torch.linspace(-1, 1, out.numel()).view_as(out)
    return torch.autograd.grad((out * weight).sum(), [x, *built.parameters()])


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 20), top_k=st.integers(1, 6), seed=st.integers(0, 1000))
def test_values_and_gradients_equal_a_loop(tokens, top_k, seed):
    torch.manual_seed(seed)
    built = layer(top_k=top_k)
    x = torch.randn(tokens, 16, requires_grad=True)
    out, stats = built(x, tokens)
    expected = plain_forward(built, x)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    assert int(stats.counts.sum()) == tokens * top_k
    for ours, theirs in zip(gradients(built, out, x), gradients(built, expected, x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_grouped_path_equals_the_per_expert_path(monkeypatch):
    built, x = layer(), torch.randn(24, 16, requires_grad=True)
    out, _ = built(x, 24)
    ours = gradients(built, out, x)
    monkeypatch.setattr(moe, "grouped_products", lambda device, dtype: True)
    grouped, _ = built(x, 24)
    torch.testing.assert_close(grouped, out, atol=1e-5, rtol=1e-4)
    for a, b in zip(gradients(built, grouped, x), ours, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("slots", [1, 5, 17])
def test_groups_of_experts_change_no_bit(monkeypatch, slots):
    built, x = layer(), torch.rand(24, 16, requires_grad=True)
    with torch.no_grad():
        built.router.weight_ED[[0, 3]] = -10.0  # never chosen
    out, stats = built(x, 24)
    ours = gradients(built, out, x)
    monkeypatch.setattr(moe, "_group_slots", lambda d_model: slots)
    grouped, _ = built(x, 24)
    assert torch.equal(grouped, out)
    assert all(torch.equal(a, b) for a, b in zip(gradients(built, grouped, x), ours, strict=True))
    assert stats.counts[[0, 3]].tolist() == [0, 0]
    by_name = dict(zip(("x", *(name for name, _ in built.named_parameters())), ours, strict=True))
    assert not by_name["gate_up_EGD"][[0, 3]].any() and not by_name["down_EDF"][[0, 3]].any()


@pytest.mark.parametrize("multiple", [1, 4, 32])
def test_rounding_slots_up_changes_nothing(monkeypatch, multiple):
    built, x = layer(), torch.randn(24, 16, requires_grad=True)
    out, _ = built(x, 24)
    ours, apply = gradients(built, out, x), moe._PerExpert.apply

    def rounded(x_ND, weight_S, gate_up_EGD, down_EDF, *routing):
        weight_S, *routing = moe._rounded_up(weight_S, *routing, multiple)
        assert all(count % multiple == 0 for count in routing[2].tolist())
        return apply(x_ND, weight_S, gate_up_EGD, down_EDF, *routing)

    monkeypatch.setattr(moe, "_one_by_one", rounded)
    again, stats = built(x, 24)
    assert int(stats.counts.sum()) == 48
    torch.testing.assert_close(again, out, atol=1e-6, rtol=1e-5)
    for a, b in zip(gradients(built, again, x), ours, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_bfloat16_is_near_float32():
    built, x = layer(), torch.randn(50, 16)
    exact, _ = built(x, 50)
    rounded, _ = built(x.bfloat16(), 50)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu():
    built, x = layer(d_model=64, expert_width=32), torch.randn(48, 64)
    expected, _ = built(x, 48)
    out, stats = built.cuda()(x.cuda().bfloat16(), 48)
    assert moe.grouped_products(x.cuda().device, torch.bfloat16)
    assert (out.float().cpu() - expected).abs().mean() < 0.05 * expected.abs().mean()
    assert int(stats.counts.sum()) == 96


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_path_does_not_wait_for_the_host():
    built, x = layer(d_model=64, expert_width=32).cuda(), torch.randn(48, 64, device="cuda").bfloat16()
    built(x, 48)[0].sum().backward()  # the first call tries what the device can do
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out, stats = built(x, 48)
        (out.sum() + stats.load_balancing + stats.router_z).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_weights_are_not_renormalised_and_slots_are_sorted():
    router = Router(ModelConfig(d_model=16, n_heads=2, n_experts=6, top_k=2, vocab_size=10))
    torch.nn.init.normal_(router.weight_ED)
    x = torch.randn(9, 16)
    routing, _ = router(x, 9)
    probs = F.linear(x, router.weight_ED).softmax(-1)
    top = probs.topk(2)
    per_token = routing.weight_of_slot[routing.slot_of_choice]
    torch.testing.assert_close(per_token, top.values)
    assert (per_token.sum(1) < 1).all()
    expert_of_slot = torch.repeat_interleave(torch.arange(6), routing.counts)
    assert torch.equal(expert_of_slot[routing.slot_of_choice], top.indices)
    assert torch.equal(routing.token_of_slot[routing.slot_of_choice], torch.arange(9)[:, None].expand(9, 2))


def test_losses_follow_the_equations():
    router = Router(ModelConfig(d_model=16, n_heads=2, n_experts=6, top_k=2, vocab_size=10))
    torch.nn.init.normal_(router.weight_ED)
    x = torch.randn(10, 16)
    for groups in (1, 2):
        _, stats = router(x, 10 // groups)
        balance = []
        for part in x.chunk(groups):
            logits = F.linear(part, router.weight_ED)
            probs = logits.softmax(-1)
            f = F.one_hot(probs.topk(2).indices, 6).sum((0, 1)) / (len(part) * 2)
            balance.append(6 * (f * probs.mean(0)).sum())
        torch.testing.assert_close(stats.load_balancing, torch.stack(balance).mean())
        logits = F.linear(x, router.weight_ED)
        torch.testing.assert_close(stats.router_z, logits.exp().sum(-1).log().square().mean())
        probs = logits.softmax(-1)
        torch.testing.assert_close(stats.entropy, -(probs * probs.log()).sum(-1).mean())


def test_balanced_routing_gives_one():
    router = Router(ModelConfig(d_model=8, n_heads=2, n_experts=8, top_k=1, vocab_size=10))
    with torch.no_grad():
        router.weight_ED.copy_(torch.eye(8) * 50)
    _, stats = router(torch.eye(8).repeat(4, 1), 32)
    assert stats.load_balancing.item() == pytest.approx(1.0, abs=1e-5)
    assert stats.counts.tolist() == [4] * 8


def test_expert_choice_fills_every_expert_to_its_capacity():
    built = layer(routing="expert_choice", top_k=2)
    x = torch.randn(24, 16, requires_grad=True)
    out, stats = built(x, 12)
    assert stats.counts.tolist() == [8] * 6  # 2 groups x 12 tokens x 2 / 6 experts
    probs = F.linear(x, built.router.weight_ED).softmax(-1)
    expected = torch.zeros_like(x)
    for start in (0, 12):
        for expert in range(6):
            for token in probs[start : start + 12, expert].topk(4).indices + start:
                gate, up = (built.gate_up_EGD[expert] @ x[token]).chunk(2)
                row = probs[token, expert] * (built.down_EDF[expert] @ (F.silu(gate) * up))
                expected = expected.index_add(0, token[None], row[None])
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(gradients(built, out, x), gradients(built, expected, x), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_expert_without_tokens_gets_a_zero_gradient():
    built = layer(top_k=1)
    with torch.no_grad():
        built.router.weight_ED.zero_()
        built.router.weight_ED[2] = 1.0
    x = torch.ones(5, 16, requires_grad=True)
    out, stats = built(x, 5)
    out.sum().backward()
    assert stats.counts.tolist() == [0, 0, 5, 0, 0, 0]
    used = built.down_EDF.grad.flatten(1).abs().sum(1)
    assert used[2] > 0
    assert used[[0, 1, 3, 4, 5]].eq(0).all()
