"""The mixture-of-experts layer: router, dispatch, experts, combine. No token is ever dropped by token choice.

Shapes: N tokens, D d_model, E experts, K experts of a token, F width of an expert, G both halves of its first product,
S = N*K routed slots, sorted by expert.
OLMoE (arXiv 2409.02060, section 2 and appendix B): softmax over all experts in fp32, then top-k, not renormalised
unless `model.renormalize_top_k` says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.low import lowered


class Routing(NamedTuple):
    """Who goes where. Slots are sorted by expert, and within an expert by token."""

    token_of_slot: Tensor  # [S] int64
    slot_of_choice: Tensor | None  # [N, K] int64, the inverse permutation; None for expert choice
    weight_of_slot: Tensor  # [S] fp32, carries the gradient
    counts: Tensor  # [E] int64, slots of each expert


class RouterStats(NamedTuple):
    """What the router did: two losses with gradient, and two measures without."""

    load_balancing: Tensor  # scalar fp32; 1 when balanced
    router_z: Tensor  # scalar fp32, mean of logsumexp(logits)^2
    counts: Tensor  # [E] int64
    entropy: Tensor  # scalar fp32, nats, mean over tokens


Experts = Callable[[Tensor, Routing, Tensor, Tensor], Tensor]
"""What x [N, D], the routing and the experts' matrices [E, G, D] and [E, D, F] are made into: [N, D], as `apply_experts` does."""


class MoE(nn.Module):
    """A layer of routed SwiGLU experts, with shared ones beside them if configured."""

    experts: Experts = staticmethod(lambda *arguments: apply_experts(*arguments))

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n, width, d_model = config.n_experts, config.expert_width, config.d_model
        self.config = config
        self.router = Router(config)
        self.gate_up_EGD = nn.Parameter(torch.empty(n, 2 * width, d_model))  # gate rows, then up rows
        self.down_EDF = nn.Parameter(torch.empty(n, d_model, width))
        self.shared = SwiGlu(d_model, config.n_shared_experts * width) if config.n_shared_experts else None

    def forward(self, x_ND: Tensor, group_tokens: int) -> tuple[Tensor, RouterStats]:
        """Send x through its experts. `group_tokens` consecutive tokens are balanced together."""
        routing, stats = self.router(x_ND, group_tokens)
        gate_up_EGD, down_EDF = (lowered(self, name, x_ND.dtype) for name in ("gate_up_EGD", "down_EDF"))
        out_ND = self.experts(x_ND, routing, gate_up_EGD, down_EDF)
        return (out_ND if self.shared is None else out_ND + self.shared(x_ND)), stats


class SwiGlu(nn.Module):
    """The dense MLP: down(silu(gate(x)) * up(x)), without biases."""

    product = staticmethod(F.linear)

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.gate_up_GD = nn.Parameter(torch.empty(2 * width, d_model))
        self.down_DF = nn.Parameter(torch.empty(d_model, width))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.product(x, lowered(self, "gate_up_GD", x.dtype)).chunk(2, dim=-1)
        return self.product(F.silu(gate) * up, lowered(self, "down_DF", x.dtype))


class Router(nn.Module):
    """Scores every expert for every token in fp32 and picks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight_ED = nn.Parameter(torch.empty(config.n_experts, config.d_model))

    def forward(self, x_ND: Tensor, group_tokens: int) -> tuple[Routing, RouterStats]:
        config = self.config
        logits_NE = F.linear(x_ND.float(), self.weight_ED.float())
        probs_NE = logits_NE.softmax(dim=-1)
        if config.routing == "token_choice":
            routing, counts_GE = _token_choice(probs_NE, config, group_tokens)
        else:
            routing, counts_GE = _expert_choice(probs_NE, config, group_tokens)
        return routing, _stats(logits_NE, probs_NE, routing, counts_GE)


def _token_choice(probs_NE: Tensor, config: ModelConfig, group_tokens: int) -> tuple[Routing, Tensor]:
    (n_tokens, n_experts), top_k = probs_NE.shape, config.top_k
    weight_NK, expert_NK = probs_NE.topk(top_k, dim=-1)
    if config.renormalize_top_k:
        weight_NK = weight_NK / weight_NK.sum(-1, keepdim=True)
    expert_S = expert_NK.flatten()
    order_S = expert_S.sort(stable=True).indices
    slot_S = torch.empty_like(order_S)
    slot_S[order_S] = torch.arange(order_S.numel(), device=order_S.device)
    # Counted by scatter: bincount would wait for the GPU to learn its largest entry.
    group_S = torch.arange(order_S.numel(), device=order_S.device) // (group_tokens * top_k)
    counts_GE = expert_S.new_zeros(n_tokens // group_tokens * n_experts)
    counts_GE.scatter_add_(0, group_S * n_experts + expert_S, torch.ones_like(expert_S))
    counts_GE = counts_GE.view(-1, n_experts)
    weight_S = _Permute.apply(weight_NK.flatten(), order_S, slot_S)
    return Routing(order_S // top_k, slot_S.view(n_tokens, top_k), weight_S, counts_GE.sum(0)), counts_GE


def _expert_choice(probs_NE: Tensor, config: ModelConfig, group_tokens: int) -> tuple[Routing, Tensor]:
    """Each expert takes its best tokens of each group (Zhou et al. 2022, arXiv 2202.09368)."""
    n_tokens, n_experts = probs_NE.shape
    n_groups = n_tokens // group_tokens
    capacity = round(config.expert_capacity * group_tokens * config.top_k / n_experts)
    capacity = max(1, min(group_tokens, capacity))
    probs_GEN = probs_NE.view(n_groups, group_tokens, n_experts).transpose(1, 2)
    weight_GEC, token_GEC = probs_GEN.topk(capacity, dim=-1)
    token_GEC = token_GEC + (torch.arange(n_groups, device=probs_NE.device) * group_tokens).view(-1, 1, 1)
    counts_GE = torch.full((n_groups, n_experts), capacity, device=probs_NE.device)
    by_expert = [t.transpose(0, 1).flatten() for t in (token_GEC, weight_GEC)]
    return Routing(by_expert[0], None, by_expert[1], counts_GE.sum(0)), counts_GE


def _stats(logits_NE: Tensor, probs_NE: Tensor, routing: Routing, counts_GE: Tensor) -> RouterStats:
    """LB = E * sum_i f_i P_i with f the fraction of routed slots and P the mean probability, mean over groups."""
    n_groups, n_experts = counts_GE.shape
    fraction_GE = counts_GE.float() / counts_GE.sum(1, keepdim=True)
    mean_GE = probs_NE.view(n_groups, -1, n_experts).mean(1)
    log_total_N = logits_NE.logsumexp(dim=-1)
    with torch.no_grad():
        entropy = (log_total_N - (probs_NE * logits_NE).sum(-1)).mean()
    balance = n_experts * (fraction_GE * mean_GE).sum(1).mean()
    return RouterStats(balance, log_total_N.square().mean(), routing.counts, entropy)


def _grouped(rows_SK: Tensor, weight_ENK: Tensor, ends_E: Tensor) -> Tensor:
    return F.grouped_mm(rows_SK, weight_ENK.transpose(1, 2), offs=ends_E)


def apply_experts(x_ND: Tensor, routing: Routing, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
    """Weighted sum over each token's experts of down(silu(gate x) * up x). Returns [N, D] in the type of x.

    On a device with grouped products: three kernels over all experts, without waiting for the host. Elsewhere: one
    product for each expert.
    """
    token_S, slot_NK, weight_S, counts_E = routing
    if not grouped_products(x_ND.device, x_ND.dtype):
        return _one_by_one(x_ND, weight_S, gate_up_EGD, down_EDF, token_S, slot_NK, counts_E)
    return grouped_experts(x_ND, routing, gate_up_EGD, down_EDF)


def grouped_experts(
    x_ND: Tensor,
    routing: Routing,
    gate_up_EGD: Tensor,
    down_EDF: Tensor,
    product: Callable[[Tensor, Tensor, Tensor], Tensor] = _grouped,
) -> Tensor:
    """What `apply_experts` does, by a product that multiplies each expert's rows [S, K] by its own matrix [E, N, K]
    transposed, given where each expert's rows end."""
    token_S, slot_NK, weight_S, counts_E = routing
    ends_E = counts_E.cumsum(0).to(torch.int32)
    x_SD = _Dispatch.apply(x_ND, token_S, slot_NK)
    gate_SF, up_SF = product(x_SD, gate_up_EGD, ends_E).chunk(2, dim=-1)
    act_SF = (F.silu(gate_SF) * up_SF * weight_S[:, None]).to(x_ND.dtype)
    return _Combine.apply(product(act_SF, down_EDF, ends_E), token_S, slot_NK, len(x_ND))


@torch.compiler.disable
def _one_by_one(
    x_ND: Tensor,
    weight_S: Tensor,
    gate_up_EGD: Tensor,
    down_EDF: Tensor,
    token_S: Tensor,
    slot_NK: Tensor | None,
    counts_E: Tensor,
) -> Tensor:
    if x_ND.dtype != torch.float32 and slot_NK is not None:
        weight_S, token_S, slot_NK, counts_E = _rounded_up(weight_S, token_S, slot_NK, counts_E)
    return _PerExpert.apply(x_ND, weight_S, gate_up_EGD, down_EDF, token_S, slot_NK, counts_E)


def _rounded_up(
    weight_S: Tensor, token_S: Tensor, slot_NK: Tensor, counts_E: Tensor, multiple: int = 32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same slots with room up to a multiple for each expert, filled with token 0 at weight 0, which adds nothing.

    oneDNN writes machine code for every number of rows of a bf16 product that it meets; so there are few of them.
    """
    room_E = (counts_E + multiple - 1) // multiple * multiple
    moved_E = (room_E.cumsum(0) - room_E) - (counts_E.cumsum(0) - counts_E)
    place_S = torch.arange(len(token_S), device=token_S.device) + moved_E.repeat_interleave(counts_E)
    slots = int(room_E.sum())
    weights = weight_S.new_zeros(slots).index_copy(0, place_S, weight_S)
    return weights, token_S.new_zeros(slots).index_copy(0, place_S, token_S), place_S[slot_NK], room_E


@torch.compiler.assume_constant_result
def grouped_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this device multiplies groups of rows by their own matrices in one kernel (tried, not assumed)."""
    return _try_grouped_products(device, dtype)


@functools.cache
def _try_grouped_products(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type == "cpu" or dtype != torch.bfloat16:
        return False  # there it is a loop inside torch, slower than the one below
    if device.type == "meta":
        return True  # an accounting (account.py) of what a GPU would hold
    try:
        with torch.no_grad():
            rows, ends = torch.ones(32, 16, device=device, dtype=dtype), torch.tensor([16, 32], device=device)
            result = F.grouped_mm(rows, rows.new_ones(2, 16, 16), offs=ends.to(torch.int32))
            return bool((result == 16).all())
    except (AttributeError, RuntimeError):
        return False


def _collect(rows_SD: Tensor, token_S: Tensor, slot_NK: Tensor | None, n_tokens: int) -> Tensor:
    """Sum the rows of each token, always in the same order."""
    if slot_NK is None:
        return rows_SD.new_zeros(n_tokens, rows_SD.shape[1]).index_add_(0, token_S, rows_SD)
    if rows_SD.device.type == "cpu":
        return F.embedding_bag(slot_NK, rows_SD, mode="sum")  # gathers and adds in one pass
    return rows_SD[slot_NK].sum(1)


class _Permute(torch.autograd.Function):
    """x[order], whose gradient is a gather through the inverse and not a scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x[order]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad[inverse], None, None


class _Dispatch(torch.autograd.Function):
    """Copy each token to its slots; the gradient collects them."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, token_S: Tensor, slot_NK: Tensor | None) -> Tensor:
        ctx.save_for_backward(token_S, slot_NK)
        ctx.n_tokens = len(x_ND)
        return x_ND[token_S]

    @staticmethod
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None, None]:
        token_S, slot_NK = ctx.saved_tensors
        return _collect(grad_SD, token_S, slot_NK, ctx.n_tokens), None, None


class _Combine(torch.autograd.Function):
    """Sum each token's slots; the gradient copies to them."""

    @staticmethod
    def forward(ctx: Any, y_SD: Tensor, token_S: Tensor, slot_NK: Tensor | None, n_tokens: int) -> Tensor:
        ctx.save_for_backward(token_S)
        return _collect(y_SD, token_S, slot_NK, n_tokens)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None, None]:
        (token_S,) = ctx.saved_tensors
        return grad_ND[token_S], None, None, None


class _PerExpert(torch.autograd.Function):
    """A product for each expert; all else for a few experts at once, so few that their rows stay in the cache.

    The routing weight multiplies the inner activation (width F), not the output (width D): the same sum, and its
    gradient falls out of the product that the backward pass needs anyway.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_S: Tensor,
        gate_up_EGD: Tensor,
        down_EDF: Tensor,
        token_S: Tensor,
        slot_NK: Tensor | None,
        counts_E: Tensor,
    ) -> Tensor:
        groups = _groups(_on_host(counts_E, len(token_S)), _group_slots(x_ND.shape[1]))
        width = down_EDF.shape[2]
        hidden_SG = x_ND.new_empty(len(token_S), 2 * width)
        y_SD = x_ND.new_empty(len(token_S), x_ND.shape[1])
        weight_S1 = weight_S.to(x_ND.dtype)[:, None]
        for experts, slots, counts in groups:
            hidden = hidden_SG[slots]
            x = x_ND.index_select(0, token_S[slots])
            _products(x.split(counts), gate_up_EGD[experts].mT, hidden.split(counts))
            act = F.silu(hidden[:, :width]).mul_(hidden[:, width:]).mul_(weight_S1[slots])
            _products(act.split(counts), down_EDF[experts].mT, y_SD[slots].split(counts))
        ctx.save_for_backward(x_ND, weight_S1, gate_up_EGD, down_EDF, token_S, slot_NK, hidden_SG)
        ctx.groups = groups
        return _collect(y_SD, token_S, slot_NK, len(x_ND))

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_S1, gate_up_EGD, down_EDF, token_S, slot_NK, hidden_SG = ctx.saved_tensors
        width = down_EDF.shape[2]
        grad_x_SD = x_ND.new_empty(len(token_S), x_ND.shape[1])
        grad_weight_S = weight_S1.new_empty(len(token_S), dtype=torch.float32)
        grad_gate_up_EGD, grad_down_EDF = torch.empty_like(gate_up_EGD), torch.empty_like(down_EDF)
        for experts, slots, counts in ctx.groups:
            tokens, weight, hidden = token_S[slots], weight_S1[slots], hidden_SG[slots]
            gate, up = hidden[:, :width], hidden[:, width:]
            silu = F.silu(gate)
            act = silu * up
            grad_y, grad_act = grad_ND.index_select(0, tokens), torch.empty_like(act)
            _products(grad_y.split(counts), down_EDF[experts], grad_act.split(counts))
            torch.sum(grad_act * act, dim=1, dtype=torch.float32, out=grad_weight_S[slots])
            _products(grad_y.t().split(counts, 1), act.mul_(weight).split(counts), grad_down_EDF[experts])
            grad_act.mul_(weight)
            grad_hidden = torch.empty_like(hidden)
            torch.mul(grad_act, silu, out=grad_hidden[:, width:])
            torch.ops.aten.silu_backward(grad_act.mul_(up), gate, grad_input=grad_hidden[:, :width])
            x = x_ND.index_select(0, tokens)
            _products(grad_hidden.t().split(counts, 1), x.split(counts), grad_gate_up_EGD[experts])
            _products(grad_hidden.split(counts), gate_up_EGD[experts], grad_x_SD[slots].split(counts))
        grad_x_ND = _collect(grad_x_SD, token_S, slot_NK, len(x_ND))
        return grad_x_ND, grad_weight_S, grad_gate_up_EGD, grad_down_EDF, None, None, None


def _on_host(counts_E: Tensor, slots: int) -> list[int]:
    """Slots of each expert; where tensors have no values (account.py), as if they were balanced."""
    if counts_E.device.type != "meta":
        return counts_E.tolist()
    experts = len(counts_E)
    return [slots // experts + (expert < slots % experts) for expert in range(experts)]


def _group_slots(d_model: int) -> int:
    """Slots of a group. Fewer, and threads wait for one another more often; more, and the rows leave the cache."""
    return max(1, (torch.get_num_threads() << 19) // d_model)


def _groups(counts: list[int], most: int) -> list[tuple[slice, slice, list[int]]]:
    """Consecutive experts with at most `most` slots, or one expert: the experts, their slots, how many each has."""
    groups: list[tuple[slice, slice, list[int]]] = []
    first = start = end = 0
    for expert, count in enumerate(counts):
        if end > start and end + count - start > most:
            groups.append((slice(first, expert), slice(start, end), counts[first:expert]))
            first, start = expert, end
        end += count
    return [*groups, (slice(first, len(counts)), slice(start, end), counts[first:])]


def _products(left_E: Iterable[Tensor], right_E: Iterable[Tensor], out_E: Iterable[Tensor]) -> None:
    """One product for each expert; one without rows gives a gradient of 0."""
    for left, right, out in zip(left_E, right_E, out_E, strict=True):
        torch.mm(left, right, out=out)
