"""The OLMoE transformer (arXiv 2409.02060), every detail as it was trained.

Shapes: B instances, T tokens of an instance, N = B*T, D d_model, H heads, C width of a head, E experts, L layers,
V padded vocabulary. RMSNorm in fp32, cast back, then times the weight; QK-norm over all D before the split into
heads and before RoPE; RoPE in fp32; no biases. What OLMoE has not, other models of its form have: shared key and value
heads, clipped projections, renormalised routing weights, tied embeddings, stretched RoPE (config.ModelConfig).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.losses import cross_entropy_sum, token_losses
from trainer.low import lowered
from trainer.masking import Documents, Mask, attend, mask_for
from trainer.moe import MoE, RouterStats, SwiGlu
from trainer.recompute import Recompute, recomputed
from trainer.rope import rope_tables, rotate

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What the last hidden state [N, D], the output matrix [V, D] and the targets [N] are made into: a loss. It sees the
output matrix whole, also where the model is split, and need not make all logits at once."""


class Output(NamedTuple):
    """One forward pass with targets. The per-layer tensors are empty for a dense model."""

    loss_sum: Tensor  # scalar fp32, nats, summed over targets; or what the criterion gave
    load_balancing_L: Tensor  # fp32, with gradient
    router_z_L: Tensor  # fp32, with gradient
    counts_LE: Tensor  # int64, slots of each expert
    entropy_L: Tensor  # fp32, nats


class Cache:
    """Keys and values of the tokens seen so far, for generation."""

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.n_layers, 2, batch, config.kv_heads, capacity, config.head_width)
        self.kv = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0
        self.padding_B: Tensor | None = None  # tokens at the start of each row that nothing attends to

    def extend(self, layer: int, k_BHTC: Tensor, v_BHTC: Tensor) -> tuple[Tensor, Tensor]:
        """Append a layer's new keys and values; return all of them. The model advances `length` once a pass."""
        end = self.length + k_BHTC.shape[2]
        self.kv[layer, 0, :, :, self.length : end] = k_BHTC
        self.kv[layer, 1, :, :, self.length : end] = v_BHTC
        return self.kv[layer, 0, :, :, :end], self.kv[layer, 1, :, :, :end]


class Norm(nn.Module):
    """RMSNorm with a weight, or LayerNorm without parameters."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.eps, self.width = config.norm_eps, width
        self.weight_D = nn.Parameter(torch.empty(width)) if config.norm == "rms" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight_D is None:
            return F.layer_norm(x.float(), (self.width,), eps=self.eps).to(x.dtype)
        return F.rms_norm(x.float(), (self.width,), eps=self.eps).to(x.dtype) * self.weight_D.to(x.dtype)


class Linear(nn.Module):
    """A product without bias, in the type of its input."""

    product = staticmethod(F.linear)

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, lowered(self, "weight", x.dtype))


class Attention(nn.Module):
    """Causal self-attention with QK-norm and RoPE."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        kv_width = config.kv_heads * config.head_width
        self.layer, self.width, self.clip = layer, config.head_width, config.clip_qkv
        self.sizes, self.sharing = (config.d_model, kv_width, kv_width), config.n_heads // config.kv_heads
        self.qkv = Linear(config.d_model, sum(self.sizes))
        self.q_norm = Norm(config, config.d_model) if config.qk_norm else nn.Identity()
        self.k_norm = Norm(config, kv_width) if config.qk_norm else nn.Identity()
        self.out = Linear(config.d_model, config.d_model)

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], mask: Mask, cache: Cache | None) -> Tensor:
        q, k, v = self.qkv(x_BTD).split(self.sizes, dim=-1)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.clip is not None:
            q, k, v = (t.clamp(-self.clip, self.clip) for t in (q, k, v))
        q, k, v = (t.unflatten(-1, (-1, self.width)).transpose(1, 2) for t in (q, k, v))
        q, k = rotate(q, *rope), rotate(k, *rope)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        if self.sharing > 1:
            k, v = (t.repeat_interleave(self.sharing, 1) for t in (k, v))
        return self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int, recompute: Recompute = "none") -> None:
        super().__init__()
        self.recompute = recompute
        self.attention_norm, self.mlp_norm = Norm(config, config.d_model), Norm(config, config.d_model)
        self.attention = Attention(config, layer)
        self.mlp = MoE(config) if config.n_experts else SwiGlu(config.d_model, config.expert_width)

    def forward(
        self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], mask: Mask, cache: Cache | None, group_tokens: int
    ) -> tuple[Tensor, RouterStats | None]:
        if self.recompute == "none" or not torch.is_grad_enabled():
            return self._run(x_BTD, rope, mask, cache, group_tokens)
        return recomputed(self._run, self.recompute, x_BTD.shape[-1], x_BTD, rope, mask, cache, group_tokens)

    def _run(
        self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], mask: Mask, cache: Cache | None, group_tokens: int
    ) -> tuple[Tensor, RouterStats | None]:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rope, mask, cache)
        h_BTD = self.mlp_norm(x_BTD)
        if isinstance(self.mlp, SwiGlu):
            return x_BTD + self.mlp(h_BTD), None
        y_ND, stats = self.mlp(h_BTD.flatten(0, 1), group_tokens)
        return x_BTD + y_ND.view_as(x_BTD), stats


class Olmoe(nn.Module):
    """The model. Call it with targets for the losses, without for logits."""

    def __init__(self, config: ModelConfig, loss_chunk_mib: int = 128, recompute: Recompute = "none") -> None:
        super().__init__()
        self.config, self.loss_chunk_mib = config, loss_chunk_mib
        self.criterion: Criterion | None = None  # of the loss where a call names none; None: cross_entropy_sum
        self.dtype = torch.float32  # of activations; weights are cast to it where they are used
        self.embedding_VD = nn.Parameter(torch.empty(config.padded_vocab, config.d_model))
        self.layers = nn.ModuleList(Block(config, layer, recompute) for layer in range(config.n_layers))
        self.final_norm = Norm(config, config.d_model)
        self.head_VD = None if config.tie_embeddings else nn.Parameter(torch.empty_like(self.embedding_VD))

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        *,
        documents: Documents | None = None,
        balance_instances: int = 0,
        cache: Cache | None = None,
        per_token: bool = False,
        criterion: Criterion | None = None,
    ) -> Tensor | Output:
        """Logits [B, T, V]; with targets the Output, or with `per_token` each target's loss [B, T], without gradient.
        The loss is cross-entropy unless a `criterion` is given.

        With `documents` (masking.documents) a token attends to its own document only; `balance_instances` instances
        are balanced together (0: all of them); with a `cache`, tokens_BT continue what it holds.
        """
        n_batch, n_tokens = tokens_BT.shape
        past = cache.length if cache is not None else 0
        rope = rope_tables(self.config, past, n_tokens, tokens_BT.device)
        if documents is None:
            mask = attention_mask(past, n_tokens, tokens_BT.device, cache.padding_B if cache is not None else None)
        else:
            mask = mask_for(documents, self.config.n_heads, self.config.head_width, self.dtype)
        x_BTD = F.embedding(tokens_BT, self.embedding_VD).to(self.dtype)
        layer_stats = []
        for layer in self.layers:
            x_BTD, stats = layer(x_BTD, rope, mask, cache, (balance_instances or n_batch) * n_tokens)
            layer_stats.append(stats)
        x_BTD = self.final_norm(x_BTD)
        if cache is not None:
            cache.length += n_tokens
        head_VD = self.embedding_VD.to(self.dtype) if self.head_VD is None else lowered(self, "head_VD", self.dtype)
        if targets_BT is None:
            return F.linear(x_BTD, head_VD)
        flat = x_BTD.flatten(0, 1), head_VD, targets_BT.flatten()
        if per_token:
            return token_losses(*flat, self.loss_chunk_mib).view_as(targets_BT)
        criterion = criterion or self.criterion
        loss = criterion(*flat) if criterion is not None else cross_entropy_sum(*flat, self.loss_chunk_mib)
        return Output(loss, *_stack(layer_stats, x_BTD))

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fill every parameter in place. Each draws from a generator of its own, seeded by its name, so that the
        values depend neither on the order nor on how the model is spread over processes."""
        for name, parameter in self.named_parameters():
            whole = torch.empty(parameter.shape, device=parameter.device, dtype=torch.float32)
            fill_parameter(name, whole, self.config, seed)
            copy_into(parameter, whole)


@torch.no_grad()
def fill_parameter(name: str, values: Tensor, config: ModelConfig, seed: int) -> None:
    """Initial values of one parameter: 1 for norms, a (truncated) normal for all others, without depth scaling."""
    if name.endswith("norm.weight_D"):
        values.fill_(1.0)
        return
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator(values.device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    if config.init == "normal":
        values.normal_(0.0, config.init_std, generator=generator)
    else:
        cut = config.init_cut * config.init_std
        nn.init.trunc_normal_(values, 0.0, config.init_std, -cut, cut, generator=generator)


@torch.no_grad()
def copy_into(parameter: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into a parameter, or this process's part of it if the parameter is spread over several."""
    if hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        whole = whole.to(parameter.device, parameter.dtype)
        whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.copy_(whole)


def attention_mask(past: int, count: int, device: torch.device, padding_B: Tensor | None = None) -> Tensor | None:
    """Causal attention of `count` tokens after `past` ones: None where it is the plain one, else bool, True if allowed.
    With `padding_B`, [B, 1, count, past + count]: a row's first so many tokens are attended to by themselves alone."""
    if past == 0 and padding_B is None:
        return None
    mask = torch.ones(count, past + count, dtype=torch.bool, device=device).tril(past)
    if padding_B is None:
        return mask
    seen_BT = torch.arange(past + count, device=device) >= padding_B[:, None]
    itself = torch.eye(past + count, dtype=torch.bool, device=device)[past:]
    return (mask & seen_BT[:, None]).logical_or(itself)[:, None]


def document_numbers(tokens_BT: Tensor, eos_id: int) -> Tensor:
    """The document of each token, counted within its instance; an EOS is the last token of its document."""
    ends_BT = (tokens_BT == eos_id).to(torch.int32)
    return ends_BT.cumsum(1) - ends_BT


def parameter_counts(config: ModelConfig) -> tuple[int, int]:
    """(all parameters, those that work on a token), counted on the meta device."""
    with torch.device("meta"):
        model = Olmoe(config)
    total = sum(p.numel() for p in model.parameters())
    idle = 0
    if config.n_experts:
        experts = sum(p.numel() for n, p in model.named_parameters() if n.endswith(("mlp.gate_up_EGD", "mlp.down_EDF")))
        idle = experts // config.n_experts * (config.n_experts - config.top_k)
    return total, total - idle


def flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """Floating-point operations of a training step per token, forward and backward.

    6 for each active parameter but the embedding's, unless it is the output matrix too; and 6*L*D*T for causal attention
    (half of the full square; PaLM's count, arXiv 2204.02311 appendix B, without the masked half).
    """
    active = parameter_counts(config)[1] - (0 if config.tie_embeddings else config.padded_vocab * config.d_model)
    return 6 * active + 6 * config.n_layers * config.d_model * sequence_length


def _stack(layer_stats: list[RouterStats | None], like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stats = [one for one in layer_stats if one is not None]
    if not stats:
        none = like.new_zeros(0, dtype=torch.float32)
        return none, none, none.new_zeros((0, 0), dtype=torch.int64), none
    balance, z, counts, entropy = (torch.stack(parts) for parts in zip(*stats, strict=True))
    return balance, z, counts, entropy
