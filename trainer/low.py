"""Copies of the weights in the type of computation, made once an update where several micro-batches use them.

Without them each matrix is cast from fp32 in each micro-batch, and the result is kept for the backward pass: as much memory
at the fullest moment, and a pass over all weights for each micro-batch. Where activations are recomputed the casts are
too, and are not kept, so that copies would cost memory where there is little.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainer.sections import TrainConfig

MATRICES = ("weight", "gate_up_GD", "down_DF", "gate_up_EGD", "down_EDF", "head_VD")
"""The parameters that products take, by name within their module."""


def worthwhile(train: TrainConfig, instances: int, whole: bool) -> bool:
    """Whether a process with so many instances of a batch, which holds the `whole` model, takes copies."""
    several = instances > train.micro_batch
    return whole and several and train.precision != "float32" and train.recompute == "none"


def keep(model: nn.Module, dtype: torch.dtype) -> None:
    """Give the model room for the copies, on its device. They hold nothing until `refresh`."""
    for module in model.modules():
        for name in MATRICES:
            weight = module._parameters.get(name)
            if weight is not None:
                module.register_buffer(f"{name}_low", torch.empty_like(weight, dtype=dtype), persistent=False)


@torch.no_grad()
def refresh(model: nn.Module) -> None:
    """Bring the copies, if there are any, up to date: after the weights were filled, and after each update."""
    for weight, copy in _pairs(model):
        copy.copy_(weight)


def _pairs(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    for module in model.modules():
        for name, copy in module._buffers.items():
            if name.endswith("_low") and copy is not None:
                yield module._parameters[name.removesuffix("_low")], copy


def lowered(module: nn.Module, name: str, dtype: torch.dtype) -> Tensor:
    """A weight in this type: itself, its copy, or a cast. The gradient is the weight's, in its own type."""
    weight, copy = getattr(module, name), getattr(module, f"{name}_low", None)
    return weight.to(dtype) if copy is None or copy.dtype != dtype else _Low.apply(weight, copy)


class _Low(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype), None
