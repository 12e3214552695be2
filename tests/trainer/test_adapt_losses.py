"""Losses over answers against autograd over whole logits, and against the authors' published code."""

from __future__ import annotations

import ast
import importlib.util
import math
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from trainer.adapt.preference import Preference, dpo_losses, kl_estimate, kto_losses
from trainer.adapt.rules import EntropyBonus, InverseQ, rewards, token_values
from trainer.losses import IGNORED, cross_entropy_sum

TOKENS, WIDTH, VOCAB = 203, 16, 4099  # four chunks: an answer lies across each of their borders
ANSWERS = [(0, 3), (5, 70), (71, 131), (140, 141), (150, 203)]


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator)
    head = torch.randn(VOCAB, WIDTH, generator=generator) * 0.5
    targets = torch.full((TOKENS,), IGNORED)
    for start, end in ANSWERS:
        targets[start:end] = torch.randint(VOCAB, (end - start,), generator=generator)
    return hidden, head, targets


def with_gradients(hidden, head, targets, rule):
    hidden, head = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    loss = cross_entropy_sum(hidden, head, targets, 1, rule)
    return loss.detach(), *torch.autograd.grad(loss, (hidden, head))


def whole(hidden, head, targets, loss_of):
    """The same by autograd over all logits at once, in double precision, answer by answer."""
    hidden, head = hidden.double().requires_grad_(), head.double().requires_grad_()
    logits = hidden @ head.t()
    total = sum(loss_of(logits[start:end], targets[start:end], slice(start, end)) for start, end in ANSWERS)
    return total.detach(), *torch.autograd.grad(total, (hidden, head))


def close(found, expected, tolerance=1e-6):
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


def q_and_v(logits, targets):
    v = logits.logsumexp(-1)
    return logits.gather(1, targets[:, None])[:, 0], v, torch.cat([v[1:], v.new_zeros(1)])


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_inverse_q_has_autograds_gradient(case, gamma) -> None:
    def loss(logits, targets, _where):
        q, v, v_next = q_and_v(logits, targets)
        log_pi = q - v
        return (0.05 * (v + log_pi - gamma * v_next) ** 2 - log_pi).sum()

    close(with_gradients(*case, InverseQ(0.05, gamma)), whole(*case, loss))


def test_inverse_q_with_own_samples_has_autograds_gradient(case) -> None:
    shown = torch.full((TOKENS,), 1.6)
    shown[71:141] = 0.0  # two answers of the model's own

    def loss(logits, targets, where):
        q, v, v_next = q_and_v(logits, targets)
        return (0.05 * (q - 0.95 * v_next) ** 2 - shown[where] * (q - 0.95 * v_next) + (v - 0.95 * v_next)).sum()

    close(with_gradients(*case, InverseQ(0.05, 0.95, shown)), whole(*case, loss))


def test_inverse_q_without_its_regulariser_is_cross_entropy_to_the_last_bit(case) -> None:
    for one, other in zip(with_gradients(*case, InverseQ(0.0)), with_gradients(*case, None), strict=True):
        assert torch.equal(one, other)
    halves = case[0].bfloat16(), case[1].bfloat16(), case[2]
    for one, other in zip(with_gradients(*halves, InverseQ(0.0)), with_gradients(*halves, None), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(with_gradients(*case, InverseQ(0.01))[1], with_gradients(*case, None)[1])


def test_the_gradient_by_the_closed_form_of_the_paper() -> None:
    """dJ/dlogits = pi (1 - 2 lambda gamma d before) + onehot (2 lambda d - 1), worked out by hand."""
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(3))  # an answer of two tokens
    q = [logits[0, 2].item(), logits[1, 0].item()]
    v = [math.log(sum(math.exp(x) for x in row)) for row in logits.tolist()]
    d = [q[0] - v[1], q[1] - 0.0]
    pi = logits.softmax(-1)
    expected = torch.stack([pi[0], pi[1] * (1 - 2 * 0.3 * d[0])])
    expected[0, 2] += 2 * 0.3 * d[0] - 1
    expected[1, 0] += 2 * 0.3 * d[1] - 1
    # With the identity as the output matrix, hidden states are logits.
    loss, grad, _ = with_gradients(logits, torch.eye(3), torch.tensor([2, 0]), InverseQ(0.3))
    assert torch.allclose(grad, expected, atol=1e-6)
    assert loss.item() == pytest.approx(sum(0.3 * d[t] ** 2 + v[t] - q[t] for t in (0, 1)), abs=1e-5)


def test_the_entropy_bonus_has_autograds_gradient(case) -> None:
    def loss(logits, targets, _where):
        log_pi = logits.log_softmax(-1)
        return -log_pi.gather(1, targets[:, None]).sum() + 0.1 * (log_pi.exp() * log_pi).sum()

    close(with_gradients(*case, EntropyBonus(0.1)), whole(*case, loss))


def test_rewards_are_q_less_the_next_value(case) -> None:
    hidden, head, targets = case
    found = rewards(token_values(hidden, head, targets, 1), targets, 0.9)
    expected = torch.zeros(TOKENS, dtype=torch.float64)
    for start, end in ANSWERS:
        q, _, v_next = q_and_v(hidden[start:end].double() @ head.double().t(), targets[start:end])
        expected[start:end] = q - 0.9 * v_next
    close([found], [expected])
    # Without discount the rewards of an answer telescope: their sum is V of its first state and the log-probability.
    values = token_values(hidden, head, targets, 1)
    plain = rewards(values, targets)
    assert plain[5:70].sum().item() == pytest.approx((values.v_N[5] + values.log_probs_N[5:70].sum()).item(), rel=1e-5)


def test_only_chunks_of_logits_exist(case) -> None:
    seen = []

    class Watched(InverseQ):
        def losses(self, logits, *rest):
            seen.append(len(logits))
            return super().losses(logits, *rest)

    with_gradients(*case, Watched(0.05))
    assert sum(seen) == TOKENS
    assert max(seen) <= 64


def sequences():
    number = torch.zeros(TOKENS, dtype=torch.int64)
    for index, (start, end) in enumerate(ANSWERS):
        number[start:end] = index
    return number


def test_a_preference_has_autograds_gradient(case) -> None:
    reference = torch.tensor([-20.0, -500.0, -480.0, -9.0, -400.0])

    def of(log_probs):
        ratio = log_probs - reference.to(log_probs.dtype)
        kl = kl_estimate(ratio[4:])
        kto = kto_losses(ratio[2:4], torch.tensor([True, False]), kl, 0.1, 1.0, 1.3)
        return dpo_losses(ratio[0:1], ratio[1:2], 0.1).sum() + kto.sum()

    hidden, head, targets = case
    leaves = hidden.double().requires_grad_(), head.double().requires_grad_()
    log_pi = (leaves[0] @ leaves[1].t()).log_softmax(-1)
    sums = torch.stack([log_pi[s:e].gather(1, targets[s:e, None]).sum() for s, e in ANSWERS])
    expected = of(sums)
    rule = Preference(sequences(), len(ANSWERS), of)
    close(with_gradients(*case, rule), [expected.detach(), *torch.autograd.grad(expected, leaves)], 1e-5)
    close([rule.log_probs_S.detach()], [sums.detach()])


LOGPS = torch.tensor([[-12.5, -30.0, -7.25], [-14.0, -29.0, -9.5], [-13.0, -31.5, -7.0], [-13.5, -28.0, -9.75]])
KL = torch.tensor([0.5, -0.2, 0.3])
# What TRL 0.19.1's DPOTrainer.dpo_loss and KTOTrainer.kto_loss answer on these numbers (beta 0.1; 1.0 and 1.3).
TRL_DPO = [0.644396663, 0.575939417, 0.718459666]
TRL_KTO = [0.492500544, 0.467545688, 0.511248112, 0.627259195, 0.611046731, 0.651625037]


def test_dpo_and_kto_on_the_numbers_of_the_published_code() -> None:
    chosen, rejected, ref_chosen, ref_rejected = LOGPS
    found = dpo_losses(chosen - ref_chosen, rejected - ref_rejected, 0.1)
    assert found.tolist() == pytest.approx(TRL_DPO, rel=1e-6)
    ratios = torch.cat([chosen - ref_chosen, rejected - ref_rejected])
    wanted = torch.tensor([True] * 3 + [False] * 3)
    assert kto_losses(ratios, wanted, kl_estimate(KL), 0.1, 1.0, 1.3).tolist() == pytest.approx(TRL_KTO, rel=1e-6)


def test_dpo_and_kto_against_the_published_code_itself() -> None:
    spec = importlib.util.find_spec("trl")
    if spec is None or spec.origin is None:
        pytest.skip("trl is not installed; its answers on fixed numbers are compared above")
    dpo, kto = published(Path(spec.origin).parent / "trainer")
    generator = torch.Generator().manual_seed(5)
    logps = -40 * torch.rand(4, 50, generator=generator)
    chosen, rejected, ref_chosen, ref_rejected = logps
    assert torch.allclose(dpo_losses(chosen - ref_chosen, rejected - ref_rejected, 0.1), dpo(*logps))
    kl = torch.randn(50, generator=generator)
    ratios = torch.cat([chosen - ref_chosen, rejected - ref_rejected])
    wanted = torch.arange(100) < 50
    expected = kto(chosen, rejected, kl, ref_chosen, ref_rejected, torch.zeros(50))
    assert torch.allclose(kto_losses(ratios, wanted, kl_estimate(kl), 0.1, 1.0, 1.3), expected)


def published(folder: Path):
    """TRL's two loss methods, taken out of their classes: the package itself needs much that is not installed."""
    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x)
    shared = {"accelerator": accelerator, "beta": 0.1, "label_smoothing": 0.0, "reference_free": False}
    trainers = {
        "dpo": SimpleNamespace(**shared, loss_type="sigmoid", f_divergence_type="reverse_kl"),
        "kto": SimpleNamespace(
            **shared, loss_type="kto", calculate_KL=True, desirable_weight=1.0, undesirable_weight=1.3
        ),
    }
    divergences = SimpleNamespace(
        ALPHA_DIVERGENCE=SimpleNamespace(value="alpha_divergence"), JS_DIVERGENCE=SimpleNamespace(value="js_divergence")
    )
    found = []
    for name, trainer in trainers.items():
        text = (folder / f"{name}_trainer.py").read_text()
        (method,) = [
            n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == f"{name}_loss"
        ]
        scope = {"torch": torch, "F": F, "FDivergenceType": divergences}
        exec(textwrap.dedent(ast.get_source_segment(text, method, padded=True)), scope)
        found.append(lambda *args, f=scope[f"{name}_loss"], t=trainer: f(t, *args)[0])
    return found
