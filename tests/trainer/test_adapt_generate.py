"""Answers in batches: equal to one at a time, drawn by the seed alone, and ended where they should be."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pair_runs
import pytest
import token_runs
import torch

from trainer.__main__ import main
from trainer.adapt.generate import Sampling, Writer, draw, generate
from trainer.errors import TrainerError
from trainer.inference import open_trained
from trainer.model import Cache
from trainer.sample import generate as one_at_a_time


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return token_runs.train(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    return pair_runs.write_checkpoint(tmp_path_factory.mktemp("base"), tokenizer, init_std=0.3, init_cut=3.0)


@pytest.fixture(scope="module")
def trained(base):
    return open_trained(base, "cpu")


PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17, 18], [300, 301, 302, 303, 304]]


def test_padded_prompts_have_the_logits_of_prompts_alone(trained) -> None:
    model, width = trained.model, max(map(len, PROMPTS))
    padding = [width - len(prompt) for prompt in PROMPTS]
    cache = Cache(model.config, len(PROMPTS), width + 1, torch.device("cpu"), model.dtype)
    cache.padding_B = torch.tensor(padding)
    with torch.no_grad():
        model(torch.tensor([[0] * pad + prompt for pad, prompt in zip(padding, PROMPTS, strict=True)]), cache=cache)
        after = model(torch.tensor([[20]] * len(PROMPTS)), cache=cache)[:, -1]
        for row, prompt in enumerate(PROMPTS):
            alone = model(torch.tensor([[*prompt, 20]]))[0, -1]
            assert torch.allclose(after[row], alone, atol=1e-4), row


def test_a_batch_writes_what_single_prompts_are_answered(trained) -> None:
    writer = Writer.of(trained)
    found = list(generate(writer, PROMPTS, Sampling(12, temperature=0.0)))
    assert [sample.prompt for sample in found] == [0, 1, 2, 3]
    for prompt, sample in zip(PROMPTS, found, strict=True):
        assert sample.tokens == list(one_at_a_time(trained, prompt, 12, temperature=0.0))


def test_samples_follow_from_the_seed_whatever_the_batch(trained) -> None:
    writer = Writer.of(trained)

    def drawn(batch, seed=3):
        return [s.tokens for s in generate(writer, PROMPTS, Sampling(9, 1.0, 0.9, samples=3, seed=seed, batch=batch))]

    one = drawn(1)
    assert len(one) == 12
    assert drawn(5) == one
    assert drawn(12) == one
    assert drawn(5, seed=4) != one
    assert one[0] != one[1]


def test_answers_end_at_the_end_token_at_a_text_and_at_the_length(trained) -> None:
    writer = replace(Writer.of(trained), eos_id=-1)  # a token that is never drawn
    whole = next(generate(writer, [PROMPTS[0]], Sampling(30, 0.0)))
    assert (whole.ended, len(whole.tokens)) == ("length", 30)
    text = writer.tokenizer.decode(whole.tokens[:12])
    stop = writer.tokenizer.decode(whole.tokens[10:12])
    stopped = next(generate(writer, [PROMPTS[0]], Sampling(30, 0.0, stop=(stop, "never this"))))
    assert stopped.ended == "stop"
    assert stopped.text == text[: text.find(stop)]
    ends = replace(writer, eos_id=whole.tokens[5])
    ended = next(generate(ends, [PROMPTS[0]], Sampling(30, 0.0)))
    assert ended.ended == "end"
    assert ended.tokens == whole.tokens[: whole.tokens.index(whole.tokens[5])]


def test_entropy_and_log_probability_are_the_models_own(trained) -> None:
    sample = next(generate(Writer.of(trained), [PROMPTS[2]], Sampling(6, 0.5, seed=1)))
    tokens = torch.tensor([[*PROMPTS[2], *sample.tokens]])
    with torch.no_grad():
        log_probs = trained.model(tokens)[0, len(PROMPTS[2]) - 1 : -1, : trained.data["vocab_size"]].log_softmax(-1)
    assert sample.log_probability == pytest.approx(
        log_probs.gather(1, tokens[0, len(PROMPTS[2]) :, None]).sum().item(), abs=1e-3
    )
    assert sample.entropy == pytest.approx(-(log_probs.exp() * log_probs).sum(-1).mean().item(), abs=1e-3)


def test_draws_have_the_distributions_shares() -> None:
    logits = torch.tensor([0.5, 0.2, 0.2, 0.1]).log()
    uniform = torch.from_numpy((np.arange(10_000) + 0.5) / 10_000)

    def shares(temperature, top_p):
        tokens = draw(logits.expand(len(uniform), -1), uniform, temperature, top_p)
        return (torch.bincount(tokens, minlength=4) / len(uniform)).tolist()

    assert shares(1.0, 1.0) == pytest.approx([0.5, 0.2, 0.2, 0.1], abs=1e-3)
    assert shares(1.0, 0.7) == pytest.approx([5 / 7, 2 / 7, 0, 0], abs=1e-3)
    assert shares(0.5, 1.0) == pytest.approx([25 / 34, 4 / 34, 4 / 34, 1 / 34], abs=1e-3)
    assert shares(0.0, 1.0) == [1, 0, 0, 0]
    assert shares(1e-4, 1.0) == shares(1e-4, 0.5) == [1, 0, 0, 0]


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_draw_at_either_end_has_a_probability(top_p) -> None:
    logits = torch.tensor([-1e4, 0.3, -1e4, 0.1, -1e4])
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(logits.expand(2, -1), ends, 1.0, top_p).tolist() == [1, 3]


def test_prompts_that_cannot_be_answered_are_named(trained) -> None:
    writer = Writer.of(trained)
    with pytest.raises(TrainerError, match="prompt 2 is empty"):
        next(generate(writer, [[1], []], Sampling()))
    with pytest.raises(TrainerError, match="leaves nothing of the context of 160"):
        next(generate(writer, [[1] * 160], Sampling()))
    assert len(next(generate(writer, [[1] * 154], Sampling(50))).tokens) <= 6


def test_generate_writes_lines_and_wants_one_kind_of_prompt(base, tokenizer, tmp_path, capsys) -> None:
    pairs = pair_runs.write_pairs(tmp_path / "pairs", pair_runs.copying(30), tokenizer)
    out = tmp_path / "answers" / "a.jsonl"
    command = ["generate", str(base), "--tokens", "5", "--device", "cpu"]
    assert main([*command, "--pairs", str(pairs), "--samples", "2", "--limit", "3", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["id"], line["sample"]) for line in lines] == [
        (lines[2 * i]["id"], j) for i in range(3) for j in (0, 1)
    ]
    assert main([*command, "--prompt", "The mill", "--prompt", "The wheel"]) == 0
    assert capsys.readouterr().out.count("-->") == 2
    assert main([*command, "--prompt", "a\x1b[31m\u202eb\nc"]) == 0
    assert "a\\x1b[31m\\x202eb\nc\n-->" in capsys.readouterr().out
    assert main(command) == 2
    assert "generate needs --prompt" in capsys.readouterr().err
    assert main([*command, "--prompt", "x", "--chat"]) == 2
    assert "has no chat template" in capsys.readouterr().err
    for limit in ("0", "-3"):
        assert main([*command, "--pairs", str(pairs), "--limit", limit]) == 2
        assert f"--limit {limit}: at least 1" in capsys.readouterr().err
    rewards = ["rewards", str(base), "--pairs", str(pairs), "--device", "cpu"]
    assert main([*rewards, "--limit", "0"]) == 2
    assert "--limit 0: at least 1" in capsys.readouterr().err
    assert main([*rewards, "--gamma", "2"]) == 2
    assert "--gamma 2: a discount is from 0 to 1" in capsys.readouterr().err
