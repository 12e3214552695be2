"""What fine-tuning minimises: cross-entropy over answers, IQLearn, DPO, KTO (docs/adaptation.md)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from trainer import metrics
from trainer.adapt.config import AdaptConfig
from trainer.adapt.packed import PADDING, Packed
from trainer.adapt.preference import Preference, dpo_losses, kl_estimate, kto_losses, sum_by_sequence
from trainer.adapt.rules import EntropyBonus, InverseQ, Values, token_values
from trainer.adapt.source import PairPart, PairSource, part_of, sequences_of, targets_of
from trainer.losses import IGNORED, Rule, cross_entropy_sum
from trainer.model import Output
from trainer.objective import Evaluation, Loss
from trainer.pretrain import pass_through, router_losses, router_measures, router_numbers
from trainer.processes import Processes

MISMATCHED = -1


class ReferenceOf(Protocol):
    """Log-probabilities of a part's sequences by the reference model: fp32 [S]."""

    def __call__(self, part: PairPart) -> Tensor: ...


def forward(model: nn.Module, part: PairPart, rule: Rule | None, chunk_mib: int) -> Output:
    """The model on a part, with the loss that a rule adds up; without one, cross-entropy by the kernels that it was given."""
    criterion = functools.partial(cross_entropy_sum, chunk_mib=chunk_mib, rule=rule) if rule is not None else None
    return model(part.tokens_BT, part.targets_BT, documents=part.documents, criterion=criterion)


@torch.no_grad()
def values_of(model: nn.Module, part: PairPart, chunk_mib: int) -> Values:
    """Q, V and entropy of each token of a part."""

    def criterion(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
        return torch.stack(token_values(hidden_ND, head_VD, targets_N, chunk_mib))

    return Values(*model(part.tokens_BT, part.targets_BT, documents=part.documents, criterion=criterion).loss_sum)


def answer_tokens_of(part: PairPart) -> Tensor:
    """Learned tokens of each sequence, fp32 [S]."""
    learned_N = (targets_of(part) != IGNORED).float()
    return sum_by_sequence(learned_N, sequences_of(part), part.sequences)


def log_probs_of(model: nn.Module, part: PairPart, chunk_mib: int) -> Tensor:
    """log pi of each sequence's answers: fp32 [S], without gradient."""
    values = values_of(model, part, chunk_mib)
    return sum_by_sequence(values.log_probs_N, sequences_of(part), part.sequences)


class _OverPairs:
    """What all methods share."""

    def __init__(self, config: AdaptConfig, source: PairSource, processes: Processes) -> None:
        self.config, self.source, self.processes = config, source, processes
        self.chunk_mib = config.train.loss_chunk_mib

    def details(self, totals: dict[str, Tensor]) -> dict[str, Any] | None:
        """Load, entropy and losses of every layer's experts."""
        return metrics.routing_numbers(totals, self.config.model.top_k) if "counts" in totals else None

    def watched(self) -> int:
        """Held-out instances, `evaluate.routing_tokens` of tokens."""
        most = self.config.evaluate.routing_tokens // self.source.instance_tokens
        return min(len(self.source.held_out), max(1, most))

    def watch(self, model: nn.Module, rows: range) -> Tensor:
        """Pass some of them through the model."""
        part = part_of(self.source.held_out.read(np.array(rows)), self.processes.device, rows.start, "units", None)
        pass_through(model, part.to(self.processes.device).tokens_BT, part.documents)
        return (part.sequence_BT != PADDING).flatten().to(self.processes.device)

    @torch.no_grad()
    def _score(
        self, model: nn.Module, split: Packed, stopped: Callable[[], bool], measure: Callable[[PairPart], Tensor]
    ) -> Tensor | None:
        """The sum of `measure` (fp64) over the held-out instances, `evaluate.instances` at most, on all processes."""
        was_training, size, total = model.training, self.config.train.micro_batch, None
        model.eval()
        try:
            count = min(len(split), self.config.evaluate.instances)
            for start in range(0, count, size * self.processes.count):
                if stopped():
                    return None
                first = start + size * self.processes.rank
                # Every process runs the same number of passes; a spare one counts nothing.
                rows = np.arange(first, min(first + size, count)) if first < count else np.zeros(1, np.int64)
                device, stored = self.processes.device, self.source.held_reference
                part = part_of(split.read(rows), device, first, "units", stored).to(device)
                found = measure(part).double() * (first < count)
                total = found if total is None else total + found
        finally:
            model.train(was_training)
            if hasattr(model, "reshard"):
                model.reshard()  # a pass without gradient leaves FSDP's outer parameters whole
        return None if total is None else self.processes.sum(total).cpu()


class OverAnswers(_OverPairs):
    """sft and iqlearn: a sum over answer tokens."""

    def loss(self, model: nn.Module, part: PairPart) -> Loss:
        """The loss of one micro-batch."""
        adapt = self.config.adapt
        rule: Rule | None = None
        if adapt.method == "iqlearn":
            rule = InverseQ(adapt.iq_lambda, adapt.gamma)
        elif adapt.entropy_bonus:
            rule = EntropyBonus(adapt.entropy_bonus)
        output = forward(model, part, rule, self.chunk_mib)
        sums, means = router_measures(output)
        sums["answer_tokens"] = output.loss_sum.new_tensor(float(part.answer_tokens))
        return Loss(output.loss_sum, router_losses(output, self.config), sums, means)

    def numbers(self, totals: dict[str, Tensor]) -> dict[str, float]:
        """The loss a token, however the batch is reduced."""
        tokens = totals["answer_tokens"].item()
        return {"loss_per_token": totals["loss"].item() / max(1.0, tokens), **router_numbers(totals)}

    def evaluate(self, model: nn.Module, stopped: Callable[[], bool]) -> Evaluation | None:
        """Nats and entropy per held-out answer token."""

        def measure(part: PairPart) -> Tensor:
            values = values_of(model, part, self.chunk_mib)
            tokens = (targets_of(part) != IGNORED).sum()
            return torch.stack([-values.log_probs_N.double().sum(), values.entropy_N.double().sum(), tokens.double()])

        found = self._score(model, self.source.held_out, stopped, measure)
        if found is None or not found[2]:
            return None
        loss, entropy = (found[:2] / found[2]).tolist()
        line = {"loss": loss, "entropy": entropy, "answer_tokens": int(found[2])}
        return Evaluation(f"held-out answers: {loss:.4f} nats a token, entropy {entropy:.4f}", line)


class OverPreferences(_OverPairs):
    """dpo and kto: losses of whole answers' log-probabilities against a reference."""

    def __init__(self, config: AdaptConfig, source: PairSource, processes: Processes, reference: ReferenceOf) -> None:
        super().__init__(config, source, processes)
        self.reference = reference

    def loss(self, model: nn.Module, part: PairPart) -> Loss:
        """The loss of one micro-batch: a sum over pairs (dpo) or answers (kto)."""
        reference_S = self._reference(part)
        rule = Preference(sequences_of(part), part.sequences, lambda s: self._losses(s, reference_S, part).sum())
        output = forward(model, part, rule, self.chunk_mib)
        sums, means = router_measures(output)
        sums |= self._measures(rule.log_probs_S.detach(), reference_S, part.role_S)
        return Loss(output.loss_sum, router_losses(output, self.config), sums, means)

    def _reference(self, part: PairPart) -> Tensor:
        return part.reference_S if part.reference_S is not None else self.reference(part)

    def _losses(self, log_probs_S: Tensor, reference_S: Tensor, part: PairPart) -> Tensor:
        adapt, ratio_S = self.config.adapt, log_probs_S - reference_S
        own_S = part.role_S != MISMATCHED
        if adapt.method == "dpo":  # a pair's sequences follow one another
            losses = dpo_losses(ratio_S[0::2], ratio_S[1::2], adapt.beta)
            shown_S = torch.arange(part.sequences, device=ratio_S.device)[0::2]
        else:
            together = self.processes.sum if self.processes.count > 1 else None
            kl = kl_estimate(ratio_S[~own_S], together)
            good = _is_good(part.role_S[own_S])
            losses = kto_losses(ratio_S[own_S], good, kl, adapt.beta, adapt.desirable_weight, adapt.undesirable_weight)
            shown_S = own_S.nonzero()[:, 0]
        if not adapt.nll:
            return losses
        loss_of_token_S = -log_probs_S[shown_S] / answer_tokens_of(part)[shown_S].clamp(min=1)
        return losses + adapt.nll * loss_of_token_S * _is_good(part.role_S[shown_S])

    def _measures(self, log_probs_S: Tensor, reference_S: Tensor, role_S: Tensor) -> dict[str, Tensor]:
        """Sums of rewards (beta times the log-ratio) over good and bad answers, and how often the good one has more."""
        rewards_S, own = self.config.adapt.beta * (log_probs_S - reference_S).double(), role_S != MISMATCHED
        good_S = _is_good(role_S) & own
        bad_S = own & ~good_S
        sums = {
            "good_reward": (rewards_S * good_S).sum(),
            "good": good_S.sum(),
            "bad_reward": (rewards_S * bad_S).sum(),
            "bad": bad_S.sum(),
        }
        if self.config.adapt.method == "dpo":
            sums["right"] = (rewards_S[0::2] > rewards_S[1::2]).sum()
        return sums

    def numbers(self, totals: dict[str, Tensor]) -> dict[str, float]:
        """Mean rewards, the margin between them, and the share of pairs in which the chosen answer has more."""
        good = totals["good_reward"].item() / max(1.0, totals["good"].item())
        bad = totals["bad_reward"].item() / max(1.0, totals["bad"].item())
        numbers = {"good_reward": good, "bad_reward": bad, "margin": good - bad}
        if "right" in totals:
            numbers["right"] = totals["right"].item() / max(1.0, totals["good"].item())
        return numbers | router_numbers(totals)

    def evaluate(self, model: nn.Module, stopped: Callable[[], bool]) -> Evaluation | None:
        """Loss and margin over the held-out pairs; none for kto where the held-out pairs are fewer than two."""
        split = self.source.held_out
        if self.config.adapt.method == "kto" and len(np.unique(split.sequences.pair)) < 2:
            return None
        names: list[str] = []

        def measure(part: PairPart) -> Tensor:
            reference_S, log_probs_S = self._reference(part), log_probs_of(model, part, self.chunk_mib)
            sums = self._measures(log_probs_S, reference_S, part.role_S)
            losses = self._losses(log_probs_S, reference_S, part)
            sums |= {"loss": losses.sum(), "count": losses.new_tensor(float(len(losses)))}
            names[:] = list(sums)
            return torch.stack([value.double() for value in sums.values()])

        found = self._score(model, split, stopped, measure)
        if found is None:
            return None
        totals = dict(zip(names, found, strict=True))
        line: dict[str, Any] = {"loss": (totals["loss"] / totals["count"].clamp(min=1)).item(), **self.numbers(totals)}
        right = f", {line['right']:.1%} right" if "right" in line else ""
        return Evaluation(f"held-out pairs: loss {line['loss']:.4f}, margin {line['margin']:+.4f}{right}", line)


def _is_good(role: Tensor) -> Tensor:
    return (role == 1) | (role == 3)  # chosen, desirable (pairs.ROLES)
