"""Attention within documents: every way gives what a mask gives, and that is what each document gives alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import masking, metrics
from trainer.loader.data import open_data
from trainer.masking import Blocks, Varlen, attend, dense_mask, documents, mask_for, varlen_works
from trainer.model import Olmoe
from trainer.train import train

CPU = torch.device("cpu")


def draw(numbers: torch.Tensor, device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(4, numbers.shape[0], 2, numbers.shape[1], 16, generator=generator)
    return list(made.to(device, dtype))


def with_gradients(parts: list[torch.Tensor], mask: masking.Mask) -> list[torch.Tensor]:
    q, k, v = (part.clone().requires_grad_() for part in parts[:3])
    y = attend(q, k, v, mask)
    return [y.detach(), *torch.autograd.grad(y, (q, k, v), parts[3])]


@given(st.integers(1, 3), st.integers(1, 24), st.data())
@settings(max_examples=40, deadline=None)
def test_blocks_give_what_a_mask_gives(batch, length, data):
    steps = data.draw(
        st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=batch, max_size=batch)
    )
    numbers = torch.tensor(steps).cumsum(1)
    found = documents(numbers, CPU)
    mask = mask_for(found, 2, 16, torch.float32)
    assert isinstance(mask, Blocks) and sum(mask.lengths) == batch * length == int(found.ends_S[-1])
    parts = draw(numbers)
    for one, other in zip(with_gradients(parts, mask), with_gradients(parts, dense_mask(numbers)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_documents_end_with_their_instance():
    found = documents(torch.tensor([[0, 0, 1], [1, 1, -1]]), CPU)
    assert found.ends_S.tolist() == [0, 2, 3, 5, 6] and found.lengths.lengths == [2, 1, 2, 1]


def test_a_document_gives_in_company_what_it_gives_alone(make_config):
    model = Olmoe(make_config(model={"vocab_size": 61}).model)
    model.init_weights(3)
    tokens = torch.randint(0, 61, (2, 24))
    numbers = torch.tensor([[0] * 9 + [1] * 1 + [2] * 14, [0] * 20 + [-1] * 4])
    together = model(tokens, documents=documents(numbers, CPU))
    for row in range(2):
        for number in numbers[row].unique():
            where = numbers[row] == number
            torch.testing.assert_close(together[row, where], model(tokens[row, where][None])[0], atol=1e-5, rtol=1e-5)


def test_without_the_kernel_it_is_not_used():
    assert not varlen_works(2, 16, torch.bfloat16, CPU)  # flash attention exists on GPUs only


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu(dtype):
    torch.use_deterministic_algorithms(False)
    device = torch.device("cuda")
    numbers = torch.randint(0, 2, (3, 200), generator=torch.Generator().manual_seed(1)).cumsum(1) // 40
    found = documents(numbers, device)
    mask = mask_for(found, 2, 16, dtype)
    assert isinstance(mask, Varlen if dtype == torch.bfloat16 else torch.Tensor)
    got = with_gradients(draw(numbers, device, dtype), mask)
    want = with_gradients(draw(numbers), dense_mask(numbers))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one.float().cpu(), other, atol=4e-2 if dtype == torch.bfloat16 else 1e-4, rtol=1e-2)


def lines(out) -> dict[int, dict]:
    return {line["step"]: line for line in metrics.read(out / "metrics.jsonl") if line["kind"] == "step"}


def test_training_on_packed_documents_ignores_padding_and_resumes(tmp_path, small_run, make_config):
    def config(tokens, masked=True):
        return make_config(
            model={"document_masking": masked},
            data={"packing": "best_fit"},
            losses={"load_balancing": 0.0, "router_z": 0.0},
            schedule={"tokens": 6 * 128},
            train={"tokens": tokens},
        )

    assert train(config(6 * 128), small_run, tmp_path / "a", device="cpu") == 0
    assert train(config(3 * 128), small_run, tmp_path / "b", device="cpu") == 0
    assert train(config(6 * 128), small_run, tmp_path / "b", resume=True, device="cpu") == 0
    whole, resumed = lines(tmp_path / "a"), lines(tmp_path / "b")
    assert [whole[step]["loss"] for step in range(1, 7)] == [resumed[step]["loss"] for step in range(1, 7)]

    # The first loss, from what the paper says: the mean over tokens that follow a token of the instance.
    batch = open_data(small_run, 32, packing="best_fit").train.read(0, 4, documents=True)
    assert (batch.documents < 0).any()
    model = Olmoe(config(128).model.model_copy(update={"vocab_size": 61}))
    model.init_weights(6198)
    tokens, numbers = torch.from_numpy(batch.tokens.astype(np.int64)), torch.from_numpy(batch.documents)
    logits = model(tokens, documents=documents(numbers, CPU)).log_softmax(-1)
    losses = -logits[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    assert whole[1]["loss"] == pytest.approx(losses[numbers[:, 1:] >= 0].mean().item(), abs=1e-5)
