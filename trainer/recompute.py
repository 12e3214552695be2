"""Working out activations again in the backward pass, which saves the memory that would hold them (Chen et al. 2016,
arXiv 1604.06174)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = Literal["none", "activations", "layers"]
"""What is worked out again: nothing; all but products and attention (norms, RoPE, SwiGLU, copies of tokens); all."""

T = TypeVar("T")

KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten._scaled_mm_v2.default,
    torch.ops.aten.topk.default,  # and what sorts, so that tokens go where they went
    torch.ops.aten.sort.stable,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}
"""What costs too much to work out again."""


GROUPED = {torch.ops.aten._grouped_mm.default, torch.ops.aten._scaled_grouped_mm.default}


def recomputed(function: Callable[..., T], kind: Recompute, d_model: int, *arguments: Any) -> T:
    """function(*arguments), a layer of this width, of whose activations the backward pass gets those that `kind` says, and
    makes the others."""
    if kind == "layers":
        return checkpoint(function, *arguments, use_reentrant=False)
    contexts = functools.partial(create_selective_checkpoint_contexts, functools.partial(_policy, d_model))
    return checkpoint(function, *arguments, use_reentrant=False, context_fn=contexts)


def _policy(d_model: int, _context: Any, operation: Any, *arguments: Any, **_more: Any) -> CheckpointPolicy:
    kept = operation in KEPT or str(operation).startswith("torch_attn._varlen_attn.")
    if operation in GROUPED:
        kept = arguments[0].shape[-1] == d_model  # the experts' first product; no gradient needs the second one's result
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
