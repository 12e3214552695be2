"""Answers written in batches over the KV cache.

Prompts of a batch are padded on the left; padding is attended to by nothing. Each drawn token is a function of the
seed, the prompt's number, the sample's and the token's place, so batches change nothing but rounding.

Shapes: B rows of a batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from trainer.errors import TrainerError
from trainer.inference import Trained
from trainer.loader.order import key, mix
from trainer.model import Cache, Olmoe

WINDOW = 16  # batches of prompts that are sorted by length together


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    tokens: int = 256  # at most
    temperature: float = 1.0  # 0: the most probable token
    top_p: float = 1.0
    samples: int = 1  # of each prompt
    seed: int = 0
    stop: tuple[str, ...] = ()  # an answer ends before one of these
    batch: int = 16  # answers written at once

    def check(self) -> None:
        """Raise TrainerError for values that make no sense."""
        if not self.temperature >= 0 or not 0 < self.top_p <= 1:
            raise TrainerError(f"temperature is {self.temperature} (0 or more), top_p {self.top_p} (above 0, up to 1)")
        for name in ("tokens", "samples", "batch"):
            if getattr(self, name) < 1:
                raise TrainerError(f"{name} is {getattr(self, name)}: at least 1")
        if "" in self.stop:
            raise TrainerError("a text to stop at is empty")


@dataclass(frozen=True)
class Sample:
    """One answer."""

    prompt: int  # its number
    sample: int
    tokens: list[int]  # the end token not included
    text: str
    ended: Literal["end", "stop", "length"]
    entropy: float  # nats a token, mean of the model's own distributions (temperature 1) along the answer
    log_probability: float  # of all tokens, by the model's own distributions


@dataclass(frozen=True)
class Writer:
    """A model with what it takes to write with it."""

    model: Olmoe
    tokenizer: Tokenizer
    vocab_size: int
    eos_id: int
    context: int  # tokens of prompt and answer together

    @staticmethod
    def of(trained: Trained) -> Writer:
        """The writer of a checkpoint. Raises TrainerError if it has no tokenizer or is not causal."""
        trained.require_causal()
        data = trained.data
        return Writer(trained.model, trained.tokenizer(), data["vocab_size"], data["eos_id"], trained.context)


def generate(writer: Writer, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Sample]:
    """The answers to each prompt, in order, `sampling.samples` of each.

    A prompt that leaves less than `sampling.tokens` of the context gets a shorter answer. Raises TrainerError for an
    empty prompt and one that fills the context.
    """
    sampling.check()
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise TrainerError(f"prompt {number + 1} is empty")
        if len(prompt) >= writer.context:
            raise TrainerError(
                f"prompt {number + 1} has {len(prompt)} tokens, which leaves nothing of the context of {writer.context}"
            )
    jobs = [(number, sample) for number in range(len(prompts)) for sample in range(sampling.samples)]
    size = sampling.batch * WINDOW
    for start in range(0, len(jobs), size):
        window = jobs[start : start + size]
        by_length = sorted(window, key=lambda job: len(prompts[job[0]]))
        done: dict[tuple[int, int], Sample] = {}
        for first in range(0, len(by_length), sampling.batch):
            rows = by_length[first : first + sampling.batch]
            for sample in _Batch(writer, [list(prompts[number]) for number, _ in rows], rows, sampling).write():
                done[sample.prompt, sample.sample] = sample
        yield from (done[job] for job in window)


class _Batch:
    """Rows that are written together; those that have ended leave once they are more than half."""

    def __init__(
        self, writer: Writer, prompts: list[list[int]], jobs: list[tuple[int, int]], sampling: Sampling
    ) -> None:
        self.writer, self.jobs, self.sampling = writer, jobs, sampling
        self.device = writer.model.embedding_VD.device
        width = max(map(len, prompts))
        self.room = [min(sampling.tokens, writer.context - len(prompt)) for prompt in prompts]
        self.cache = Cache(writer.model.config, len(prompts), width + max(self.room), self.device, writer.model.dtype)
        padding = [width - len(prompt) for prompt in prompts]
        if any(padding):
            self.cache.padding_B = torch.tensor(padding, device=self.device)
        rows = [[writer.eos_id] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)]
        self.given = torch.tensor(rows, device=self.device)
        self.keys = np.array([key(sampling.seed, *job) for job in jobs], np.uint64)
        self.rows = list(range(len(jobs)))  # of the cache: which job each is of
        self.written: list[list[int]] = [[] for _ in jobs]
        self.entropy, self.log_probability = np.zeros(len(jobs)), np.zeros(len(jobs))

    def write(self) -> Iterator[Sample]:
        """The samples, as they end."""
        ended: set[int] = set()
        place = 0
        while len(ended) < len(self.jobs):
            tokens_B, log_probs_B, entropies_B = self._step(place)
            place += 1
            for row, job in enumerate(self.rows):
                if job in ended:
                    continue
                self.entropy[job] += entropies_B[row]
                self.log_probability[job] += log_probs_B[row]
                sample = self._take(job, tokens_B[row])
                if sample is not None:
                    ended.add(job)
                    yield sample
            self.given = torch.tensor(tokens_B, device=self.device)[:, None]
            self._compact(ended)

    @torch.no_grad()
    def _step(self, place: int) -> tuple[list[int], list[float], list[float]]:
        """The next token of each row, its log-probability and the distribution's entropy (nats)."""
        logits_BV = self.writer.model(self.given, cache=self.cache)[:, -1, : self.writer.vocab_size].float()
        if not logits_BV.isfinite().all():
            raise TrainerError("the model's output is not finite; take an earlier checkpoint")
        log_probs_BV = logits_BV.log_softmax(-1)
        entropies_B = -(log_probs_BV.exp() * log_probs_BV).sum(-1)
        step = np.uint64((place + 1) * 0x9E3779B97F4A7C15 % 2**64)
        hashes_B = mix(self.keys[self.rows] + step)
        uniform_B = torch.from_numpy((hashes_B >> np.uint64(11)).astype(np.float64) * 2.0**-53).to(self.device)
        tokens_B = draw(logits_BV, uniform_B, self.sampling.temperature, self.sampling.top_p)
        chosen_B = log_probs_BV.gather(1, tokens_B[:, None])[:, 0]
        return tokens_B.tolist(), chosen_B.tolist(), entropies_B.tolist()

    def _take(self, job: int, token: int) -> Sample | None:
        """Add a token to an answer; the sample if it has ended."""
        written, tokenizer = self.written[job], self.writer.tokenizer
        if token == self.writer.eos_id:
            return self._sample(job, tokenizer.decode(written), "end")
        written.append(token)
        if self.sampling.stop:
            longest = max(map(len, self.sampling.stop))
            if any(stop in tokenizer.decode(written[-longest - 8 :]) for stop in self.sampling.stop):
                text = tokenizer.decode(written)
                return self._sample(job, text[: min(p for s in self.sampling.stop if (p := text.find(s)) >= 0)], "stop")
        if len(written) == self.room[job]:
            return self._sample(job, tokenizer.decode(written), "length")
        return None

    def _sample(self, job: int, text: str, ended: Literal["end", "stop", "length"]) -> Sample:
        written = self.written[job]
        steps = len(written) + (ended == "end")
        return Sample(*self.jobs[job], written, text, ended, self.entropy[job] / steps, self.log_probability[job])

    def _compact(self, ended: set[int]) -> None:
        going = [row for row, job in enumerate(self.rows) if job not in ended]
        if not going or 2 * len(going) > len(self.rows):
            return
        keep = torch.tensor(going, device=self.device)
        self.cache.kv = self.cache.kv[:, :, keep]
        if self.cache.padding_B is not None:
            self.cache.padding_B = self.cache.padding_B[keep]
        self.given, self.rows = self.given[keep], [self.rows[row] for row in going]


def draw(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> Tensor:
    """A token id of each row, int64 [B], by a number from 0 to 1 (fp64): probabilities are laid side by side, and the token
    at that share of their length is taken. With `top_p` below 1 they are the largest ones, until they first reach it."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    # In fp64 and from the largest down, so that a tiny temperature is a sharp choice and no infinity.
    probs_BV = ((logits_BV.double() - logits_BV.amax(-1, keepdim=True)) / temperature).softmax(-1)
    order_BV = None
    if top_p < 1:  # sorting takes longer than all else of a small model's step
        probs_BV, order_BV = probs_BV.sort(descending=True, stable=True)
        probs_BV = torch.where(probs_BV.cumsum(-1) - probs_BV < top_p, probs_BV, 0.0)
    ends_BV = probs_BV.cumsum(-1)
    places = torch.searchsorted(ends_BV, uniform_B[:, None] * ends_BV[:, -1:], right=True)
    places = places.minimum((ends_BV < ends_BV[:, -1:]).sum(-1, keepdim=True))  # the last one that has a length
    return (places if order_BV is None else order_BV.gather(1, places))[:, 0]
