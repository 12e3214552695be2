"""What a training holds in the memory of each GPU, worked out without one.

The activations are those of one micro-batch, forward and backward, on the meta device: the model's own code runs there
with shapes and no values, and every storage is counted from when it is made until nothing refers to it. Parameters,
gradients, moments and what FSDP2 gathers follow from sizes. Compiled layers hold less than this; the allocator's
fragments, CUDA's context and NCCL's buffers come on top (`RESERVE`).
"""

from __future__ import annotations

import functools
import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer import float8, low
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.model import Olmoe
from trainer.pretrain import router_losses

RESERVE = 0.06
"""Part of the memory that is left for fragments, CUDA's context and NCCL's buffers (an assumption: about 5 of 80 GB)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU at the fullest moment of a step."""

    weights: int  # fp32, this GPU's rows
    gradients: int  # fp32, as `train.reduce` keeps them
    moments: int  # fp32, two of AdamW
    activations: int  # kept for the backward pass, and what it works with, the loss included
    buffers: int  # FSDP: gathered weights, and gradients on their way; else copies of the weights for micro-batches (low.py)

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.moments + self.activations + self.buffers

    def fits(self, capacity: int) -> bool:
        """Whether it fits into a GPU of so many bytes."""
        return self.total <= capacity * (1 - RESERVE)


class Live(TorchDispatchMode):
    """Counts the storages that operations make, until they are freed: `now` and `most`, in bytes."""

    def __init__(self, *apart: Tensor) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in apart)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), more: Any = None) -> Any:
        result = function(*arguments, **(more or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def hold(self, size: int) -> None:
        """Count so many bytes more, which stay."""
        self.now += size
        self.most = max(self.most, self.now)

    def _count(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = -(-storage.nbytes() // 512) * 512  # as CUDA's allocator rounds
        self.hold(size)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def memory(config: Config, gpus: int) -> Memory:
    """What each of so many GPUs holds, for a model whose vocabulary is known. Raises TrainerError where the batch does not
    divide among them."""
    instances = config.batch_instances
    if instances % gpus:
        raise TrainerError(f"a batch of {instances} instances does not divide among {gpus} GPUs; change train.batch_tokens")
    split = gpus > 1 and config.train.parallel == "fsdp"
    together = (config.train.shard_over or gpus) if split else 1
    if gpus % together:
        raise TrainerError(f"train.shard_over {together} does not divide {gpus} GPUs")
    micro_batch = min(config.train.micro_batch, instances // gpus)
    accumulated = instances // gpus > micro_batch
    with torch.device("meta"):
        model = Olmoe(config.model, config.train.loss_chunk_mib, config.train.recompute)
    held = sum(_rows(parameter, together, name) for name, parameter in model.named_parameters())
    whole = sum(parameter.numel() for parameter in model.parameters())
    gradients = whole if split and accumulated and config.train.reduce == "batch" else held
    copies = low.worthwhile(config.train, instances // gpus, whole=not split)
    buffers = _gathered(model, config) if split else 0
    if copies:
        low.keep(model, getattr(torch, config.train.precision))
        buffers = sum(copy.numel() * copy.element_size() for copy in model.buffers())
    stays = accumulated or (gpus > 1 and not split)  # DDP's buckets hold gradients at all times
    live = activations(config, micro_batch, split, None if stays else together, copies)
    if not stays:  # gradients take the place of activations as the backward pass goes on
        live = max(0, live - 4 * gradients)
    return Memory(4 * held, 4 * gradients, 8 * held, live, buffers)


def _rows(parameter: nn.Parameter, together: int, name: str) -> int:
    """Values of a parameter on the GPU that holds most: FSDP2 cuts by rows, and leaves routers whole."""
    if name.endswith("router.weight_ED"):
        return parameter.numel()
    return -(-parameter.shape[0] // together) * math.prod(parameter.shape[1:])


def _gathered(model: Olmoe, config: Config) -> int:
    """Bytes that FSDP2 gathers and reduces by at the fullest moment: two layers (one is fetched while another works) and
    what lies outside layers, in the type of computation; a layer's gradients in it, and in fp32 for the reduction."""
    size = torch.empty((), dtype=getattr(torch, config.train.precision)).element_size()
    layer = sum(p.numel() for n, p in model.layers[0].named_parameters() if not n.endswith("router.weight_ED"))
    outside = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("layers."))
    return size * (2 * layer + outside) + size * layer + 4 * max(layer, outside)


def activations(
    config: Config, micro_batch: int, split: bool, together: int | None = None, copies: bool = False
) -> int:
    """Bytes at the fullest moment of a forward and backward pass, without parameters.

    Gradients are left out; or, given over how many GPUs they are split, counted from when they are made. Where the model
    is `split`, weights come in the type of computation, and with `copies` they are there; elsewhere each is cast to it, and
    the result is kept for the backward pass.
    """
    dtype = getattr(torch, config.train.precision)
    with torch.device("meta"):
        model = Olmoe(config.model, config.train.loss_chunk_mib, config.train.recompute)
    model.dtype = dtype
    if config.train.float8:
        float8.use(model, torch.device("meta"))
    if split:
        for name, parameter in model.named_parameters():
            if not name.endswith("router.weight_ED"):
                parameter.data = parameter.data.to(dtype)
    if copies:
        low.keep(model, dtype)
    tokens = torch.empty(micro_batch, config.data.sequence_length, dtype=torch.int64, device="meta")
    with Live(*model.parameters(), *model.buffers()) as live:
        for name, parameter in model.named_parameters():
            kept = 0 if together is None else 4 * _rows(parameter, together, name)
            parameter.register_post_accumulate_grad_hook(functools.partial(_drop_gradient, live, kept))
        output = model(tokens, tokens, balance_instances=config.losses.balance_instances)
        loss = output.loss_sum + router_losses(output, config)
        del output
        loss.backward()
    return live.most


def _drop_gradient(live: Live, kept: int, parameter: Tensor) -> None:
    parameter.grad = None
    live.hold(kept)
