"""Cross-entropy in chunks, and the filter of instances that give no loss.

Shapes: N tokens, D d_model, V rows of the output matrix, B instances, T tokens of an instance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""A target that gives no loss."""


class Rule:
    """What a chunk of logits becomes: the losses of its rows, and the gradient in the logits' place.

    This one is cross-entropy; trainer/adapt/rules.py holds the others. Rules see logits a chunk at a time, in order.
    """

    weights_N: Tensor | None = None
    """fp32, what each token's loss and gradient are multiplied by where the rows are D wide; None: 1 each."""

    softmax: Callable[[Tensor], Tensor] | None = None
    """What stands for `softmax_in_place`; None: that."""

    def begin(self, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_mib: int) -> None:
        """Called once before the first chunk, without gradient."""

    def losses(self, logits: Tensor, targets: Tensor, start: int, tile: int, with_grad: bool) -> Tensor:
        """The loss of each row (nats, fp32). Rows from `start` on; targets are clamped to 0, so that each has a logit.

        With `with_grad` the logits are overwritten by d loss / d logit. `tile` rows are worked on at once.
        """
        picked = torch.arange(len(targets), device=targets.device), targets
        logit_of_target = logits[picked].float()
        normaliser = (self.softmax or softmax_in_place) if with_grad else logsumexp
        losses = torch.cat([normaliser(part) for part in logits.split(tile)]) - logit_of_target
        if with_grad:  # the probability, less 1 at the target
            logits[picked] = torch.expm1(-losses).to(logits.dtype)
        return losses

    def total(self, summed: Tensor) -> Tensor:
        """The value of the whole, given the weighted sum of all rows' losses."""
        return summed


def cross_entropy_sum(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_mib: int, rule: Rule | None = None
) -> Tensor:
    """Sum over tokens of -log softmax(hidden @ head.T)[target], in nats, fp32; or of what another rule makes of it.

    Logits exist for one chunk of tokens at a time (`chunk_mib` MiB). The gradient takes their place in the forward pass,
    so they are neither kept nor computed twice. Targets of IGNORED give 0.
    """
    rule = rule or Rule()
    with torch.no_grad():
        rule.begin(hidden_ND, head_VD, targets_N, chunk_mib)
    return _Chunked.apply(hidden_ND, head_VD, targets_N, rule, rows_of_chunk(head_VD, chunk_mib))


@torch.no_grad()
def token_losses(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, chunk_mib: int) -> Tensor:
    """-log probability of each target, in nats, fp32 [N], without gradient. 0 where the target is IGNORED."""
    rows = rows_of_chunk(head_VD, chunk_mib)
    losses_N = torch.zeros(len(targets_N), device=hidden_ND.device)
    for places in (targets_N != IGNORED).nonzero().squeeze(1).split(rows):
        logits = F.linear(hidden_ND[places], head_VD).float()
        losses_N[places] = F.cross_entropy(logits, targets_N[places], reduction="none")
    return losses_N


def rows_of_chunk(head_VD: Tensor, chunk_mib: int) -> int:
    """How many rows of logits, in the head's type, `chunk_mib` MiB hold; at least 64."""
    # Fewer rows than this would read the output matrix more often than it saves.
    return max(64, (chunk_mib << 20) // (head_VD.element_size() * head_VD.shape[0]))


def _tile(head_VD: Tensor) -> int:
    """Rows whose softmax is worked out at once, in fp32: on a CPU few enough to stay in the caches of its cores."""
    most = torch.get_num_threads() << 19 if head_VD.device.type == "cpu" else 1 << 26
    return max(1, most // head_VD.shape[0])


def softmax_in_place(logits: Tensor) -> Tensor:
    """Put the softmax of each row in its place and return the rows' logsumexp, fp32, both worked out in fp32.

    As the largest probability is 1 / sum exp(x - max x), no second pass of exp is needed for the logarithm.
    """
    largest = logits.amax(-1).float()
    if logits.dtype == torch.float32:
        probabilities = torch.softmax(logits, dim=-1, out=logits)
    else:
        probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)
        logits.copy_(probabilities)
    return largest - probabilities.amax(-1).log()


def softmax_to_compile(logits: Tensor) -> Tensor:
    """What `softmax_in_place` does, in a form of which a compiler makes one kernel that keeps no fp32 copy of the logits."""
    values = logits.float()
    largest = values.amax(-1)
    powers = torch.exp(values - largest[:, None])
    total = powers.sum(-1)
    logits.copy_(powers / total[:, None])
    return largest + total.log()


def logsumexp(logits: Tensor) -> Tensor:
    """The logsumexp of each row, in fp32."""
    return torch.logsumexp(logits.float(), -1)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, rule: Rule, rows: int) -> Tensor:
        with_grad = any(ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden_ND) if with_grad else None
        grad_head: Tensor | None = None
        total = hidden_ND.new_zeros((), dtype=torch.float32)
        chunks = max(1, -(-len(hidden_ND) // rows))
        rows = -(-len(hidden_ND) // chunks) or 1  # chunks of the same size, so that none is small
        tile, buffer = _tile(head_VD), hidden_ND.new_empty(rows, len(head_VD))
        for start in range(0, len(hidden_ND), rows):
            hidden, targets = hidden_ND[start : start + rows], targets_N[start : start + rows]
            valid = targets != IGNORED
            if rule.weights_N is not None:
                valid = valid * rule.weights_N[start : start + rows]
            logits = torch.mm(hidden, head_VD.t(), out=buffer[: len(hidden)])
            losses = rule.losses(logits, targets.clamp(min=0), start, tile, with_grad)
            total += (losses * valid).sum()
            if not with_grad:
                continue
            # Ignored rows are dropped where they are D wide.
            torch.mm(logits, head_VD, out=grad_hidden[start : start + rows])
            grad_hidden[start : start + rows].mul_(valid[:, None])
            grad_head = _added(grad_head, logits.t(), hidden * valid[:, None].to(hidden.dtype))
        if with_grad:
            grad_head = torch.zeros_like(head_VD) if grad_head is None else grad_head.to(head_VD.dtype)
            ctx.save_for_backward(grad_hidden, grad_head)
        return rule.total(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        return grad_hidden * grad.to(grad_hidden.dtype), grad_head * grad.to(grad_head.dtype), None, None, None


def _added(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """left @ right, added to the total if there is one. A total of several products is in fp32."""
    if total is None:
        return left @ right
    if right.dtype == torch.float32:
        return total.addmm_(left, right)
    return (total if total.dtype == torch.float32 else total.float()).add_(left @ right)


def next_tokens(tokens_BT: Tensor) -> Tensor:
    """The targets of an instance: at each position the token after it; IGNORED at the last."""
    return F.pad(tokens_BT[:, 1:], (0, 1), value=IGNORED)


def repeats_ngram(tokens_BT: Tensor, times: int, held_BT: Tensor | None = None, longest: int = 13) -> Tensor:
    """Which instances hold a sequence of 1..longest tokens `times` times in a row: bool [B]. Where `held_BT` (bool) is
    False there is padding, which repeats nothing.

    OLMo's filter against the loss spikes of such text (periods 1 to 13, 32 repetitions; allenai/OLMo, olmo/data).
    """
    found_B = torch.zeros(len(tokens_BT), dtype=torch.bool, device=tokens_BT.device)
    if held_BT is not None:
        tokens_BT = tokens_BT.where(held_BT, -1 - torch.arange(tokens_BT.shape[1], device=tokens_BT.device))
    for period in range(1, longest + 1):
        window = (times - 1) * period
        if window + period > tokens_BT.shape[1]:
            break
        equal_BT = tokens_BT[:, period:] == tokens_BT[:, :-period]
        runs_BT = F.pad(equal_BT.to(torch.int32).cumsum(1), (1, 0))
        found_B |= (runs_BT[:, window:] - runs_BT[:, :-window] == window).any(1)
    return found_B
