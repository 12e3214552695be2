"""A few steps of training against the same steps written out: targets, masks, normalisation, clip, schedule, AdamW."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from trainer import checkpoint, metrics
from trainer.evaluate import evaluate
from trainer.loader.data import open_data
from trainer.model import Olmoe, rope_tables, rotate
from trainer.moe import Router
from trainer.processes import Processes
from trainer.train import train

STEPS, BATCH, LENGTH = 4, 4, 32
WAYS = {
    # An instance with a token, or a few, twice in a row gives no cross-entropy.
    "repeats": {"losses": {"repeated_ngrams": 2}},
    # Documents by themselves; padding gives no loss. Its routing counts, so the router's losses are left to "repeats".
    "packed": {
        "model": {"document_masking": True},
        "data": {"packing": "best_fit"},
        "losses": {"load_balancing": 0.0, "router_z": 0.0},
    },
}


def repeats(tokens: list[int]) -> bool:
    return any(
        tokens[start : start + n] == tokens[start + n : start + 2 * n]
        for n in range(1, 14)
        for start in range(len(tokens) - 2 * n + 1)
    )


def by_hand(config, run) -> tuple[list[float], list[float], Olmoe, int]:
    """Losses, norms of the gradient, the model after the last step, and how many targets were left out."""
    data = open_data(run, LENGTH, None, config.train.tokens, config.data.packing)
    model = Olmoe(config.model.model_copy(update={"vocab_size": data.vocab_size}))
    model.init_weights(config.train.seed)
    asked = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=asked.betas, eps=asked.eps, weight_decay=asked.weight_decay, foreach=False
    )
    losses, norms, left_out = [], [], 0
    for step in range(STEPS):
        batch = data.train.read(step * BATCH, BATCH, documents=True)
        nats, router, count = torch.zeros(()), torch.zeros(()), 0
        for tokens, numbers in zip(torch.from_numpy(batch.tokens).long(), batch.documents, strict=True):
            kept = torch.from_numpy(numbers[1:] >= 0)
            if config.model.document_masking:
                lengths = [len(list(group)) for _, group in itertools.groupby(numbers.tolist())]
                logits = torch.cat([model(part[None])[0] for part in tokens.split(lengths)])
            else:
                logits, output = model(tokens[None])[0], model(tokens[None], tokens[None])
                router = router + 0.01 * output.load_balancing_L.mean() + 0.001 * output.router_z_L.mean()
                kept &= not repeats(tokens.tolist())
            nats = nats + F.cross_entropy(logits[:-1][kept], tokens[1:][kept], reduction="sum")
            count, left_out = count + int(kept.sum()), left_out + int((~kept).sum())
        losses.append(nats.item() / count)
        (nats / count + router / BATCH).backward()
        norms.append(math.sqrt(sum(p.grad.double().square().sum().item() for p in model.parameters())))
        for parameter in model.parameters():
            parameter.grad *= min(1.0, asked.clip / norms[-1])
        tokens, warm, end, peak = (step + 1) * 128, 256, STEPS * 128, config.schedule.peak
        cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * (tokens - warm) / (end - warm))) / 2
        optimizer.param_groups[0]["lr"] = peak * (tokens / warm if tokens < warm else cosine)
        optimizer.step()
        optimizer.zero_grad()
    return losses, norms, model, left_out


@pytest.mark.parametrize("way", WAYS)
def test_steps_equal_those_written_out(tmp_path, small_run, make_config, way):
    config = make_config(**WAYS[way], train={"tokens": STEPS * 128}, optimizer={"eps": 1e-4, "clip": 0.5})
    losses, norms, model, left_out = by_hand(config, small_run)
    assert left_out and min(norms) > 0.5  # there is something to mask, and something to clip
    assert train(config, small_run, tmp_path, device="cpu") == 0
    steps = [line for line in metrics.read(tmp_path / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["loss"] for line in steps] == pytest.approx(losses, abs=1e-4)
    assert [line["grad_norm"] for line in steps] == pytest.approx(norms, rel=1e-3)
    read = checkpoint.reader(checkpoint.latest(tmp_path / "checkpoints"))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(read(name), parameter.detach(), atol=1e-4, rtol=1e-4)


def test_held_out_loss_of_a_masked_model_is_that_of_its_documents(small_run, make_config):
    data = open_data(small_run, LENGTH)
    model = Olmoe(make_config(model={"vocab_size": data.vocab_size, "document_masking": True}).model)
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # so that what is attended to matters
    alone = Processes(0, 1, torch.device("cpu"))
    masked, whole = (evaluate(model, data, alone, 2, 5, masking)["web"] for masking in (True, False))
    nats, count = 0.0, 0
    for tokens in torch.from_numpy(data.held_out["web"].batch(0, 5)):
        ends = [*((tokens == data.eos_id).nonzero().flatten() + 1).tolist(), LENGTH]
        lengths = [end - start for start, end in zip([0, *ends], ends, strict=False) if end > start]
        with torch.no_grad():
            logits = torch.cat([model(part[None])[0] for part in tokens.split(lengths)])
        nats += F.cross_entropy(logits[:-1], tokens[1:], reduction="sum").item()
        count += LENGTH - 1
    assert masked.tokens == count
    assert masked.loss == pytest.approx(nats / count, abs=1e-4)
    assert abs(masked.loss - whole.loss) > 1e-3


def test_router_losses_push_the_router_as_their_equations_do(make_config):
    config = make_config(model={"vocab_size": 61}).model
    router, x = Router(config), torch.randn(24, config.d_model)
    with torch.no_grad():
        router.weight_ED.normal_(0, 0.3)
    _, stats = router(x, 24)
    weight = router.weight_ED.detach().clone().requires_grad_()
    logits = x @ weight.T
    probs = logits.exp() / logits.exp().sum(1, keepdim=True)
    share = torch.bincount(probs.topk(config.top_k).indices.flatten(), minlength=8) / (24 * config.top_k)
    for ours, by_hand in (
        (stats.load_balancing, 8 * (share * probs.mean(0)).sum()),
        (stats.router_z, logits.exp().sum(1).log().square().mean()),
    ):
        torch.testing.assert_close(ours, by_hand)
        (found,) = torch.autograd.grad(ours, router.weight_ED, retain_graph=True)
        (expected,) = torch.autograd.grad(by_hand, weight, retain_graph=True)
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_router_and_rope_are_in_fp32_where_activations_are_not(make_config):
    config = make_config(model={"vocab_size": 61}).model
    router, x = Router(config), torch.randn(24, config.d_model).bfloat16()
    with torch.no_grad():
        router.weight_ED.normal_(0, 0.3)
        low, wide = router(x, 24)[0], router(x.float(), 24)[0]
    assert low.weight_of_slot.dtype == torch.float32
    assert torch.equal(low.weight_of_slot, wide.weight_of_slot) and torch.equal(low.counts, wide.counts)
    q, rope = torch.randn(1, 4, 500, 8).bfloat16(), rope_tables(config, 0, 500, torch.device("cpu"))
    assert all(table.dtype == torch.float32 for table in rope)
    assert torch.equal(rotate(q, *rope), rotate(q.float(), *rope).bfloat16())


def test_bits_per_byte_go_by_the_bytes_of_the_text(small_run, make_config):
    data = open_data(small_run, LENGTH)
    data.held_out["web"].text_bytes *= 3
    model = Olmoe(make_config(model={"vocab_size": data.vocab_size}).model)
    model.init_weights(0)
    found = evaluate(model, data, Processes(0, 1, torch.device("cpu")), 2, 3)
    for source, bytes_per_token in (("web", 12), ("code", 4)):
        assert found[source].bits_per_byte == pytest.approx(found[source].loss / math.log(2) / bytes_per_token)
