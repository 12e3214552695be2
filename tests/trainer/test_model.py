"""The model against an obvious one that follows the paper's equations token by token."""

import math
from pathlib import Path

import pytest
import torch

from trainer.config import ModelConfig, load
from trainer.masking import documents
from trainer.model import Cache, Olmoe, document_numbers, flops_per_token, parameter_counts

CONFIGS = Path(__file__).parents[2] / "configs" / "trainer"


def build(seed: int = 1, scale: float = 8.0, **changes) -> Olmoe:
    values = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_experts": 8, "top_k": 3, "expert_width": 16, **changes}
    model = Olmoe(ModelConfig(vocab_size=61, vocab_multiple=8, **values))
    model.init_weights(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Away from the small initial values, where every layer is nearly the identity and hides mistakes.
            parameter.mul_(scale) if "norm" not in name else parameter.uniform_(0.5, 1.5)
    return model


def reference(model: Olmoe, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of one instance, in float64, one token and one expert at a time."""
    c = model.config
    p = {name: value.detach().double() for name, value in model.named_parameters()}
    width = c.d_model // c.n_heads

    def norm(x, name):
        return x / torch.sqrt((x * x).mean() + c.norm_eps) * p[name]

    def turn(head, position):
        out = head.clone()
        for i in range(width // 2):
            angle = position * c.rope_theta ** (-2 * i / width)
            a, b = head[i], head[i + width // 2]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + width // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    xs = [p["embedding_VD"][token] for token in tokens]
    for layer in range(c.n_layers):
        at = f"layers.{layer}."
        q, k, v = p[at + "attention.qkv.weight"].split(c.d_model)
        normed = [norm(x, at + "attention_norm.weight_D") for x in xs]
        qs = [norm(q @ x, at + "attention.q_norm.weight_D") for x in normed]
        ks = [norm(k @ x, at + "attention.k_norm.weight_D") for x in normed]
        vs = [v @ x for x in normed]
        after = []
        for t in range(len(xs)):
            heads = []
            for h in range(c.n_heads):
                part = slice(h * width, (h + 1) * width)
                query = turn(qs[t][part], t)
                scores = torch.stack([query @ turn(ks[s][part], s) for s in range(t + 1)]) / math.sqrt(width)
                heads.append(sum(w * vs[s][part] for s, w in enumerate(scores.softmax(0))))
            after.append(xs[t] + p[at + "attention.out.weight"] @ torch.cat(heads))
        xs = []
        for x in after:
            h = norm(x, at + "mlp_norm.weight_D")
            probs = (p[at + "mlp.router.weight_ED"] @ h).softmax(0)
            for expert in probs.argsort(descending=True)[: c.top_k]:
                gate, up = (p[at + "mlp.gate_up_EGD"][expert] @ h).chunk(2)
                x = x + probs[expert] * (p[at + "mlp.down_EDF"][expert] @ (gate * gate.sigmoid() * up))
            xs.append(x)
    return torch.stack([p["head_VD"] @ norm(x, "final_norm.weight_D") for x in xs])


def test_logits_equal_the_equations():
    model = build()
    tokens = torch.randint(0, 61, (2, 12))
    logits = model(tokens)
    assert logits.shape == (2, 12, 64)
    for row in range(2):
        torch.testing.assert_close(logits[row].double(), reference(model, tokens[row]), atol=1e-4, rtol=1e-4)


def test_olmoe_1b_7b_has_the_published_number_of_parameters():
    config = load(CONFIGS / "olmoe_1b_7b.yaml").model
    assert config.padded_vocab == 50_304
    assert parameter_counts(config) == (6_919_161_856, 1_282_017_280)
    # 6 x (1.28B - 0.1B embedding) + attention 6 x 16 x 2048 x 4096
    assert flops_per_token(config, 4096) == 6 * (1_282_017_280 - 50_304 * 2048) + 6 * 16 * 2048 * 4096


def test_olmoe_tiny_is_about_ten_million():
    config = load(CONFIGS / "olmoe_tiny.yaml").model.model_copy(update={"vocab_size": 8192})
    assert 8_000_000 < parameter_counts(config)[0] < 12_000_000


def test_initial_values_are_a_truncated_normal_without_depth_scaling():
    model = Olmoe(ModelConfig(d_model=128, n_layers=3, n_heads=4, n_experts=8, expert_width=64, vocab_size=1000))
    model.init_weights(0)
    stds = []
    for name, values in model.named_parameters():
        if "norm" in name:
            assert (values == 1).all()
            continue
        assert values.abs().max() <= 0.06
        assert abs(values.mean()) < 2e-3
        stds.append(values.std().item())
    # A normal cut at 3 standard deviations keeps 0.98658 of its standard deviation.
    assert all(abs(std - 0.02 * 0.98658) < 1e-3 for std in stds)
    again = Olmoe(model.config)
    again.init_weights(0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_normal_init_is_not_cut():
    model = Olmoe(ModelConfig(d_model=128, n_layers=1, n_heads=4, vocab_size=5000, init="normal"))
    model.init_weights(0)
    assert model.embedding_VD.abs().max() > 0.07


def test_the_future_changes_nothing():
    model = build()
    tokens = torch.randint(0, 61, (1, 12))
    other = tokens.clone()
    other[0, 8:] = (other[0, 8:] + 5) % 61
    torch.testing.assert_close(model(tokens)[:, :8], model(other)[:, :8])
    assert not torch.allclose(model(tokens)[:, 8:], model(other)[:, 8:])


def test_document_masking_hides_other_documents():
    model = build(document_masking=True)
    tokens = torch.randint(1, 61, (1, 12))
    tokens[0, 4] = 0
    numbers = document_numbers(tokens, 0)
    assert numbers[0].tolist() == [0] * 5 + [1] * 7
    other = tokens.clone()
    other[0, :4] = (other[0, :4] + 5) % 60 + 1
    own = documents(numbers, tokens.device)
    masked, changed = model(tokens, documents=own), model(other, documents=own)
    torch.testing.assert_close(masked[:, 5:], changed[:, 5:])
    assert not torch.allclose(model(tokens)[:, 5:], model(other)[:, 5:])
    torch.testing.assert_close(masked[:, :5], model(tokens)[:, :5])


@pytest.mark.parametrize("pieces", [[1] * 12, [5, 7], [5, 1, 1, 4, 1]])
def test_cache_gives_the_same_logits(pieces):
    model = build()
    tokens = torch.randint(0, 61, (2, 12))
    cache = Cache(model.config, 2, 12, tokens.device, torch.float32)
    parts = [model(piece, cache=cache) for piece in tokens.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=1e-5, rtol=1e-5)


def test_per_token_losses_add_up_to_the_loss():
    model = build()
    tokens = torch.randint(0, 61, (2, 12))
    targets = torch.randint(0, 61, (2, 12))
    targets[0, 3] = -100
    output = model(tokens, targets)
    each = model(tokens, targets, per_token=True)
    assert each[0, 3] == 0
    torch.testing.assert_close(output.loss_sum, each.sum())
    assert output.counts_LE.sum(1).tolist() == [24 * 3] * 2


def test_norm_is_computed_in_fp32_and_cast_before_the_weight():
    model = build()
    norm, x = model.final_norm, torch.randn(5, 32).bfloat16()
    wide = x.float()
    expected = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).bfloat16() * norm.weight_D.bfloat16()
    assert torch.equal(norm(x), expected)


def test_bfloat16_is_near_float32():
    model = build(scale=2.0)
    tokens = torch.randint(0, 61, (2, 12))
    exact = model(tokens)
    model.dtype = torch.bfloat16
    rounded = model(tokens)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().mean() < 0.05 * exact.std()


def test_dense_nonparametric_and_shared_variants_have_the_parameters_they_should():
    dense = build(n_experts=0)
    assert not any("router" in name for name, _ in dense.named_parameters())
    output = dense(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64))
    assert output.counts_LE.numel() == 0
    bare = build(norm="layer_nonparametric")
    assert not any("norm" in name for name, _ in bare.named_parameters())
    unnormed = build(qk_norm=False)
    assert not any("q_norm" in name for name, _ in unnormed.named_parameters())
    shared = build(n_shared_experts=1)
    extra = sum(p.numel() for n, p in shared.named_parameters() if ".shared." in n)
    assert extra == 2 * 3 * 32 * 16
    total, active = parameter_counts(shared.config)
    assert total - active == 2 * 5 * 3 * 32 * 16
