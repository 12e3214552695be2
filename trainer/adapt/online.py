"""IQLearn with answers that the model writes itself, between updates (arXiv 2409.01369, the online objective)."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from trainer.adapt.config import AdaptConfig
from trainer.adapt.generate import Sampling, Writer, generate
from trainer.adapt.objectives import OverAnswers, forward
from trainer.adapt.rules import InverseQ
from trainer.adapt.source import PairPart, PairSource, own_part
from trainer.errors import TrainerError
from trainer.loader.order import key
from trainer.objective import Loss
from trainer.pretrain import router_losses, router_measures
from trainer.processes import Processes


class OnlineAnswers(OverAnswers):
    """J = lambda E_mix[(Q - gamma V')^2] - E_demonstrations[Q - gamma V'] + E_mix[V - gamma V'], over a mix of
    demonstrations and samples. Sums over tokens stand for the means, scaled so that demonstrations alone give the
    offline objective's sum."""

    def __init__(self, config: AdaptConfig, source: PairSource, processes: Processes) -> None:
        """Raises TrainerError where the model is split over processes: they would have to write in step."""
        super().__init__(config, source, processes)
        if processes.count > 1 and config.train.parallel == "fsdp":
            raise TrainerError("adapt.online writes answers with the whole model: set train.parallel to ddp")
        self.tokenizer = Tokenizer.from_file(str(source.pairs.tokenizer_file))

    def loss(self, model: nn.Module, part: PairPart) -> Loss:
        """The loss of one micro-batch and of the answers written for it."""
        adapt = self.config.adapt
        own = self._written(model, part)
        if own is None:
            offline = super().loss(model, part)
            return offline._replace(sums=offline.sums | {"own_tokens": torch.zeros_like(offline.summed)})
        every, shown = part.answer_tokens + own.answer_tokens, part.answer_tokens
        scale = shown / every
        demonstrated_N = torch.full((part.tokens_BT.numel(),), every / max(1, shown), device=part.tokens_BT.device)
        output = forward(model, part, InverseQ(adapt.iq_lambda, adapt.gamma, demonstrated_N), self.chunk_mib)
        none_N = torch.zeros(own.tokens_BT.numel(), device=part.tokens_BT.device)
        written = forward(model, own, InverseQ(adapt.iq_lambda, adapt.gamma, none_N), self.chunk_mib)
        sums, means = router_measures(output)
        sums["answer_tokens"] = output.loss_sum.new_tensor(float(part.answer_tokens))
        sums["own_tokens"] = output.loss_sum.new_tensor(float(own.answer_tokens))
        total = scale * (output.loss_sum + written.loss_sum)
        return Loss(total, router_losses(output, self.config), sums, means)

    def numbers(self, totals: dict[str, Tensor]) -> dict[str, Any]:
        """As offline, and how many tokens the model wrote itself."""
        return super().numbers(totals) | {"own_tokens": totals["own_tokens"].item()}

    def _written(self, model: nn.Module, part: PairPart) -> PairPart | None:
        """Answers to some of the part's prompts; None where it is none's turn. A function of weights and position."""
        adapt, bare = self.config.adapt, getattr(model, "module", model)
        share = adapt.online / (1 - adapt.online) * part.sequences
        seed = key(self.source.seed, part.position)
        count = int(share) + ((seed >> 11) * 2.0**-53 < share - int(share))
        prompts = [self.source.train.sequences.prompt(int(number)).tolist() for number in part.number_S[:count]]
        context = self.source.instance_tokens
        prompts = [prompt for prompt in prompts if 0 < len(prompt) < context]
        if not prompts:
            return None
        pairs, was_training = self.source.pairs, bare.training
        writer = Writer(bare, self.tokenizer, pairs.vocab_size, pairs.eos_id, context)
        bare.eval()
        samples = generate(writer, prompts, Sampling(adapt.online_tokens, seed=seed, batch=len(prompts)))
        rows = []
        for prompt, sample in zip(prompts, samples, strict=True):
            end = [pairs.eos_id] if sample.ended == "end" else []
            rows.append(([*prompt, *sample.tokens, *end], len(prompt)))
        bare.train(was_training)
        return own_part(rows, pairs.pad_id, part.tokens_BT.device)
