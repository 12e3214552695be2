import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer import losses
from trainer.losses import IGNORED, cross_entropy_sum, next_tokens, repeats_ngram, token_losses


@pytest.mark.parametrize(("rows", "tile"), [(1, 1), (7, 3), (64, 64), (1000, 9)])
def test_chunks_change_neither_value_nor_gradient(monkeypatch, rows, tile):
    monkeypatch.setattr(losses, "rows_of_chunk", lambda head, mib: rows)
    monkeypatch.setattr(losses, "_tile", lambda head: tile)
    hidden, head = torch.randn(50, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
    targets = torch.randint(0, 40, (50,))
    targets[[3, 20]] = IGNORED
    ours = cross_entropy_sum(hidden, head, targets, 1)
    theirs = F.cross_entropy(hidden @ head.T, targets, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours * 0.3, [hidden, head]), torch.autograd.grad(theirs * 0.3, [hidden, head]), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    each = F.cross_entropy(hidden @ head.T, targets, ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(token_losses(hidden, head, targets, 1), each.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_target_of_no_probability_has_its_loss_and_gradient(dtype):
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=dtype, requires_grad=True)
    head = torch.tensor([[300.0, -300.0], [-300.0, -300.0], [0.0, 300.0]], dtype=dtype, requires_grad=True)
    targets = torch.tensor([1, 2])  # 600 nats below the largest, and all there is
    loss = cross_entropy_sum(hidden, head, targets, 1)
    assert loss.item() == 600.0 and loss.dtype == torch.float32
    grad_hidden, grad_head = torch.autograd.grad(loss, [hidden, head])
    assert grad_hidden.tolist() == [[600.0, 0.0], [0.0, 0.0]]
    assert grad_head.tolist() == [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        result = operation(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_grows_with_vocabulary_times_tokens():
    vocabulary, chunk = 4000, 1 << 20  # elements of logits: 4 MiB of fp32
    head = torch.randn(vocabulary, 8, requires_grad=True)
    for tokens in (1000, 4000):
        hidden, targets = torch.randn(tokens, 8, requires_grad=True), torch.randint(0, vocabulary, (tokens,))
        with Largest() as largest:
            cross_entropy_sum(hidden, head, targets, 4).backward()
        assert 0.8 * chunk < largest.elements <= chunk < tokens * vocabulary
        with Largest() as largest:
            token_losses(hidden.detach(), head.detach(), targets, 4)
        assert largest.elements <= chunk


def test_bfloat16_chunks_are_added_up_in_float32(monkeypatch):
    hidden, head = torch.randn(4096, 8).bfloat16(), torch.randn(4, 8).bfloat16().requires_grad_()
    targets, expected = torch.zeros(4096, dtype=torch.int64), None
    for rows in (4096, 1):  # thousands of small terms would be lost beside a sum in bf16
        monkeypatch.setattr(losses, "rows_of_chunk", lambda head, mib, rows=rows: rows)
        (found,) = torch.autograd.grad(cross_entropy_sum(hidden, head, targets, 1), [head])
        expected = found if expected is None else expected
        assert (found.float() - expected.float()).norm() < 0.01 * expected.float().norm()


def test_bfloat16_gradients_are_near():
    hidden = torch.randn(50, 16).bfloat16().requires_grad_()
    head = torch.randn(40, 16).bfloat16().requires_grad_()
    targets = torch.randint(0, 40, (50,))
    ours = torch.autograd.grad(cross_entropy_sum(hidden, head, targets, 1), [hidden, head])
    theirs = torch.autograd.grad(
        F.cross_entropy((hidden.float() @ head.float().T), targets, reduction="sum"), [hidden, head]
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.float() - b.float()).abs().mean() < 0.02 * b.float().abs().mean()


def test_targets_are_the_next_tokens():
    assert next_tokens(torch.tensor([[5, 6, 7]])).tolist() == [[6, 7, IGNORED]]


def repeats_slowly(tokens: list[int], times: int, longest: int) -> bool:
    for n in range(1, longest + 1):
        for start in range(len(tokens) - n * times + 1):
            gram = tokens[start : start + n]
            if all(tokens[start + i * n : start + (i + 1) * n] == gram for i in range(times)):
                return True
    return False


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=30), times=st.integers(2, 6), longest=st.integers(1, 5))
def test_repeated_ngrams_equal_a_slow_search(tokens, times, longest):
    assert repeats_ngram(torch.tensor([tokens]), times, longest=longest).tolist() == [
        repeats_slowly(tokens, times, longest)
    ]


def test_repeats_at_the_limit():
    tokens = torch.randperm(400)[None].repeat(3, 1)
    tokens[1, 5 : 5 + 13 * 32] = torch.arange(13).repeat(31)[:395]
    tokens[2, : 32 * 3] = torch.tensor([400, 401, 402]).repeat(32)
    assert repeats_ngram(tokens, 32).tolist() == [False, False, True]
    tokens[2, 32 * 3 - 1] = 7
    assert not repeats_ngram(tokens, 32)[2]


def test_padding_is_no_repetition():
    tokens = torch.randperm(400).repeat(2, 1)
    tokens[:, 300:] = 1
    tokens[1, :64] = torch.tensor([7, 8]).repeat(32)
    held = torch.arange(400).repeat(2, 1) < 300
    assert repeats_ngram(tokens, 32).tolist() == [True, True]
    assert repeats_ngram(tokens, 32, held).tolist() == [False, True]
