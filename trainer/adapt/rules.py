"""Losses over answers, as rules of the chunked loss (trainer/losses.py): no [tokens, vocabulary] tensor is kept.

Shapes: N tokens of a batch in order, V rows of the output matrix, D d_model. An answer is a run of targets that are not
IGNORED. At an answer's token t: Q_t the logit of the token that follows, V_t the logsumexp of the logits, and
d_t = Q_t - gamma V_{t+1}, where V after the answer's last token is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.losses import IGNORED, Rule, logsumexp, rows_of_chunk, softmax_in_place


class InverseQ(Rule):
    """IQLearn with the chi-squared regulariser (arXiv 2409.01369, equation 14), summed over tokens:

        weight (Q_t - gamma V_{t+1})^2 + e_t (V_t - Q_t) + (1 - e_t) (V_t - gamma V_{t+1})

    e_t is 1 for demonstrations alone: then the second term is -log pi and the third is none. With samples of the
    model's own among them (the online variant) e_t is 0 for a sample's token and (all tokens) / (demonstrated tokens)
    for a demonstration's, which makes the sum over tokens, divided by their number, the paper's objective over the mix.
    weight is the paper's lambda, 1 / (4 alpha). The gradient flows through V_{t+1}:

        d loss / d logits_t = pi_t (1 - 2 weight gamma d_{t-1} - gamma (1 - e_{t-1})) + onehot (2 weight d_t - e_t)

    where terms of t - 1 are absent at an answer's first token. One pass is enough: what a chunk needs of the next one is
    V of its first row, a product of one row.
    """

    def __init__(self, weight: float, gamma: float = 1.0, demonstrated_N: Tensor | None = None) -> None:
        self.weight, self.gamma, self.demonstrated_N = weight, gamma, demonstrated_N

    def begin(self, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_mib: int) -> None:
        """Note which tokens go on with an answer."""
        self._hidden_ND, self._head_VD = hidden_ND, head_VD
        valid_N = targets_N != IGNORED
        self._follows_N = F.pad(valid_N[1:] & valid_N[:-1], (1, 1))  # N + 1: whether row n goes on with row n - 1
        self._carried = torch.zeros(2, device=hidden_ND.device)  # Q and e of the row before the chunk

    def losses(self, logits: Tensor, targets: Tensor, start: int, tile: int, with_grad: bool) -> Tensor:
        """See Rule.losses."""
        rows, weight, gamma = len(logits), self.weight, self.gamma
        picked = torch.arange(rows, device=targets.device), targets
        q = logits[picked].float()
        shown = torch.ones_like(q) if self.demonstrated_N is None else self.demonstrated_N[start : start + rows]
        follows = self._follows_N[start : start + rows + 1].float()
        q_before, shown_before = (
            torch.cat([carried[None], now[:-1]]) for carried, now in zip(self._carried, (q, shown), strict=True)
        )
        self._carried = torch.stack([q[-1], shown[-1]])
        v, factor = torch.empty_like(q), torch.empty_like(q)
        for first in range(0, rows, tile):
            part, at = logits[first : first + tile], slice(first, first + tile)
            v[at] = softmax_in_place(part) if with_grad else logsumexp(part)
            before = 2 * weight * (q_before[at] - gamma * v[at]) + (1 - shown_before[at])
            factor[at] = 1 - gamma * before * follows[:-1][at]
            if with_grad:
                part.mul_(factor[at, None])
        v_next = torch.cat([v[1:], self._value(start + rows)[None]]) * follows[1:]
        nll, difference = v - q, q - gamma * v_next
        if with_grad:
            # The probability of the target, times its factor, and the rest; expm1 keeps what is left near 1.
            rest = (factor - 1) * torch.exp(-nll) + (1 - shown) + 2 * weight * difference
            logits[picked] = (torch.expm1(-nll) + rest).to(logits.dtype)
        return shown * nll + (1 - shown) * (v - gamma * v_next) + weight * difference.square()

    def _value(self, row: int) -> Tensor:
        """V of one row, which may be the one after the last."""
        if row >= len(self._hidden_ND):
            return self._carried.new_zeros(())
        return logsumexp(self._hidden_ND[row : row + 1] @ self._head_VD.t())[0]


class EntropyBonus(Rule):
    """-log pi(target) - weight H(pi), summed over tokens: maximum likelihood with a bonus for entropy (nats)."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def losses(self, logits: Tensor, targets: Tensor, start: int, tile: int, with_grad: bool) -> Tensor:
        """See Rule.losses. d loss / d logits = pi (1 + weight (log pi + H)) - onehot."""
        picked = torch.arange(len(targets), device=targets.device), targets
        log_of_target, entropies = torch.empty(2, len(targets), device=logits.device)
        for first in range(0, len(logits), tile):
            part, at = logits[first : first + tile], slice(first, first + tile)
            log_probs = F.log_softmax(part.float(), -1)
            probs = log_probs.exp()
            entropies[at] = -(probs * log_probs).sum(-1)
            log_of_target[at] = log_probs.gather(1, targets[at, None])[:, 0]
            if with_grad:
                part.copy_(probs * (1 + self.weight * (log_probs + entropies[at, None])))
        if with_grad:
            bonus = self.weight * log_of_target.exp() * (log_of_target + entropies)
            logits[picked] = (torch.expm1(log_of_target) + bonus).to(logits.dtype)
        return -log_of_target - self.weight * entropies


class Values(NamedTuple):
    """Of each token, fp32 [N]; 0 where the target is IGNORED."""

    q_N: Tensor  # the target's logit
    v_N: Tensor  # logsumexp of the logits
    entropy_N: Tensor  # of the distribution, nats

    @property
    def log_probs_N(self) -> Tensor:
        """log pi(target)."""
        return self.q_N - self.v_N


@torch.no_grad()
def token_values(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_mib: int) -> Values:
    """Q, V and entropy of each token that has a target, in chunks of `chunk_mib` MiB of logits."""
    q, v, entropy = torch.zeros(3, len(targets_N), device=hidden_ND.device)
    for places in (targets_N != IGNORED).nonzero().squeeze(1).split(rows_of_chunk(head_VD, chunk_mib)):
        logits = F.linear(hidden_ND[places], head_VD).float()
        v[places] = logits.logsumexp(-1)
        q[places] = logits.gather(1, targets_N[places, None])[:, 0]
        entropy[places] = v[places] - (logits.softmax(-1) * logits).sum(-1)
    return Values(q, v, entropy)


def rewards(values: Values, targets_N: Tensor, gamma: float = 1.0) -> Tensor:
    """r_t = Q_t - gamma V_{t+1} of each answer token, fp32 [N]: the reward that a soft-Q function stands for (Garg et al.
    2021; arXiv 2409.01369). V after an answer's last token is 0. 0 where the target is IGNORED."""
    valid_N = targets_N != IGNORED
    follows_N = F.pad(valid_N[1:] & valid_N[:-1], (0, 1))
    return (values.q_N - gamma * F.pad(values.v_N[1:], (0, 1)) * follows_N) * valid_N
