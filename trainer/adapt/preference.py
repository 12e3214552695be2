"""Preference losses over whole answers' log-probabilities: DPO and KTO.

Shapes: P pairs or answers, S sequences (prompts with answers) of a batch, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.adapt.rules import token_values
from trainer.losses import IGNORED, Rule


def dpo_losses(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)) of each pair (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    `chosen_P` and `rejected_P` are log pi - log ref of whole answers, nats.
    """
    return -F.logsigmoid(beta * (chosen_P - rejected_P))


def kto_losses(
    ratio_P: Tensor,
    desirable_P: Tensor,
    kl: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """lambda - v of each answer (Ethayarajh et al. 2024, arXiv 2402.01306, equation 8): v = lambda sigmoid(beta (r - z0))
    for a desirable answer, lambda sigmoid(beta (z0 - r)) for an undesirable one.

    `ratio_P` is r = log pi - log ref, nats; `desirable_P` bool; `kl` is z0, a scalar without gradient, 0 or more.
    """
    sign_P = torch.where(desirable_P, 1.0, -1.0)
    weight_P = torch.where(desirable_P, desirable_weight, undesirable_weight)
    return weight_P * (1 - torch.sigmoid(beta * sign_P * (ratio_P - kl.detach())))


def kl_estimate(mismatched_P: Tensor, sum_over_processes: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """z0: the mean of log pi - log ref over answers to other prompts, and 0 where that is negative. No gradient.

    `sum_over_processes` sums a tensor over all processes in place, for the mean over all of a batch.
    """
    parts = torch.stack([mismatched_P.detach().sum(), mismatched_P.new_tensor(float(len(mismatched_P)))])
    if sum_over_processes is not None:
        parts = sum_over_processes(parts)
    return (parts[0] / parts[1].clamp(min=1)).clamp(min=0)


class Preference(Rule):
    """A loss of the sequences' log-probabilities, with its gradient.

    Two passes over the chunks: the first sums each sequence's log-probability, from which the loss and its derivative
    to each of them follow; the second is cross-entropy with that derivative as the weight of the sequence's tokens.
    """

    def __init__(self, sequence_N: Tensor, sequences: int, loss_of: Callable[[Tensor], Tensor]) -> None:
        """`sequence_N` (int64) is the sequence of each token, below `sequences`; what stands where the target is IGNORED
        is not used. `loss_of` turns log-probabilities (fp32 [S]) into the loss, a scalar with gradient."""
        self.sequence_N, self.sequences, self.loss_of = sequence_N, sequences, loss_of

    def begin(self, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_mib: int) -> None:
        """The first pass."""
        values = token_values(hidden_ND, head_VD, targets_N, chunk_mib)
        sequence_N = self.sequence_N.where(targets_N != IGNORED, 0)
        with torch.enable_grad():
            self.log_probs_S = sum_by_sequence(values.log_probs_N, sequence_N, self.sequences).requires_grad_()
            loss = self.loss_of(self.log_probs_S)
            (slope_S,) = torch.autograd.grad(loss, self.log_probs_S)
        self.weights_N = -slope_S[sequence_N]  # of -log pi
        self.loss = loss.detach()

    def total(self, summed: Tensor) -> Tensor:
        """The loss itself: the weighted sum has its gradient, not its value."""
        return self.loss.to(summed.dtype)


def sum_by_sequence(values_N: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """The sum of each sequence's values, fp32 [S], in the same order every time."""
    return values_N.new_zeros(sequences).scatter_add_(0, sequence_N, values_N)
