"""Attention within documents: each token attends to the earlier tokens of its own document and to no other.

Three ways to the same numbers. On a GPU in half precision one kernel takes all documents of a batch as sequences of
their own length (flash attention, `torch.nn.attention.varlen`), tried once against the plain way before it is used. On
the CPU each document is attended to by itself, which costs the sum of squared lengths where a mask costs the square of
the whole: 2 to 12 times as fast. Everywhere else a mask of T x T is laid over full attention.

Positions are those in the instance, as without masking: RoPE is relative, so where a document stands in its instance
changes nothing within it.

Shapes: B instances, T tokens of an instance, H heads, C width of a head, S documents of the batch.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Blocks:
    """How many tokens each document has, in order, over all instances of the batch: for the CPU."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths


class Varlen(NamedTuple):
    """Where each document ends among the B*T tokens, int32 [S + 1] from 0; and the most tokens that one can have."""

    ends_S: Tensor
    longest: int


class Documents(NamedTuple):
    """Which document each token of a batch is of, prepared by `documents` before the batch goes through the model."""

    numbers_BT: Tensor  # on the model's device
    ends_S: Tensor  # int32 [S + 1] from 0, on the model's device
    lengths: Blocks


Mask = Tensor | Blocks | Varlen | None
"""What may attend to what: None is plain causal attention; a bool tensor is True where allowed."""


def documents(numbers_BT: Tensor, device: torch.device) -> Documents:
    """Prepare document numbers (any numbers that change where a document begins), which had better be on the CPU:
    how many documents there are is known there without waiting for the device."""
    numbers = numbers_BT.cpu()
    begins = torch.ones(numbers.shape, dtype=torch.bool)
    begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    starts_S = begins.flatten().nonzero().squeeze(1)
    ends_S = F.pad(starts_S, (0, 1), value=numbers.numel()).to(torch.int32)
    lengths = Blocks(ends_S.diff().tolist())
    if device.type == "cuda":
        ends_S = ends_S.pin_memory()
    return Documents(numbers_BT.to(device, non_blocking=True), ends_S.to(device, non_blocking=True), lengths)


def mask_for(found: Documents, heads: int, width: int, dtype: torch.dtype) -> Mask:
    """The fastest mask for these documents, on their device, for heads of this width and activations of this type."""
    length, device = found.numbers_BT.shape[1], found.numbers_BT.device
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and varlen_works(heads, width, dtype, device):
        return Varlen(found.ends_S, length)
    if device.type == "cpu":
        return found.lengths
    return dense_mask(found.numbers_BT)


def dense_mask(numbers_BT: Tensor) -> Tensor:
    """bool [B, 1, T, T]: True where the row's token may attend to the column's."""
    length = numbers_BT.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=numbers_BT.device).tril()
    return causal & (numbers_BT[:, None, :, None] == numbers_BT[:, None, None])


def attend(q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, mask: Mask) -> Tensor:
    """Scaled dot-product attention under a mask: [B, H, T, C]."""
    if isinstance(mask, Varlen):
        return _varlen(q_BHTC, k_BHTC, v_BHTC, mask)
    if isinstance(mask, Blocks):
        return _each(q_BHTC, k_BHTC, v_BHTC, mask)
    if q_BHTC.device.type == "meta":  # an accounting (account.py) of what a GPU would hold
        return torch.ops.aten._scaled_dot_product_flash_attention(q_BHTC, k_BHTC, v_BHTC, 0.0, True)[0]
    return F.scaled_dot_product_attention(q_BHTC, k_BHTC, v_BHTC, attn_mask=mask, is_causal=mask is None)


def _varlen(q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, mask: Varlen) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q_NHC, k_NHC, v_NHC = (t.transpose(1, 2).flatten(0, 1) for t in (q_BHTC, k_BHTC, v_BHTC))
    ends, most = mask
    y_NHC = varlen_attn(q_NHC, k_NHC, v_NHC, ends, ends, most, most, window_size=(-1, 0))
    return y_NHC.unflatten(0, (q_BHTC.shape[0], -1)).transpose(1, 2)


@torch.compiler.disable  # the lengths differ from batch to batch, and each would be compiled anew
def _each(q_BHTC: Tensor, k_BHTC: Tensor, v_BHTC: Tensor, mask: Blocks) -> Tensor:
    batch = q_BHTC.shape[0]
    by_document = [t.transpose(0, 1).flatten(1, 2).split(mask.lengths, 1) for t in (q_BHTC, k_BHTC, v_BHTC)]
    y_HNC = [
        F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        for q, k, v in zip(*by_document, strict=True)
    ]
    return torch.cat(y_HNC, 1).unflatten(1, (batch, -1)).transpose(0, 1)


@functools.cache
def varlen_works(heads: int, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel for documents of any length gives, forward and backward, what a mask gives, here and now."""
    generator = torch.Generator(device).manual_seed(0)
    q, k, v, g = torch.randn(4, 2, heads, 96, width, generator=generator, device=device).to(dtype)
    found = documents(torch.arange(192).view(2, 96) // 37, device)

    def run(mask: Mask) -> list[Tensor]:
        leaves = [t.detach().clone().requires_grad_() for t in (q, k, v)]
        with torch.enable_grad():
            y = attend(*leaves, mask)
            return [y.detach(), *torch.autograd.grad(y, leaves, g)]

    try:
        pairs = zip(run(Varlen(found.ends_S, 96)), run(dense_mask(found.numbers_BT)), strict=True)
        return all(bool((a.float() - b.float()).abs().max() < 0.05) for a, b in pairs)
    except (RuntimeError, NotImplementedError, ImportError, ValueError, TypeError):
        return False
