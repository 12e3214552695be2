"""AdamW and the learning rate, both as OLMoE used them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainer.config import OptimizerConfig, ScheduleConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over all parameters; weight decay on all of them unless the configuration spares norms or embeddings."""
    spared = (() if config.decay_norms else ("norm.weight_D",)) + (() if config.decay_embeddings else ("embedding_VD",))
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = 0.0 if name.endswith(spared) and spared else config.weight_decay
        groups.setdefault((decay, isinstance(parameter, DTensor)), []).append(parameter)  # one kernel takes one kind
    return torch.optim.AdamW(
        [{"params": parameters, "weight_decay": decay} for (decay, _), parameters in groups.items()],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def learning_rate(config: ScheduleConfig, tokens: int, training_tokens: int) -> float:
    """The learning rate of the update that brings the count of seen tokens to `tokens`.

    Warm-up is linear from `warmup_from` of the peak, which at 0.1 is allenai/OLMo's (olmo/optim.py).
    """
    if tokens < config.warmup_tokens:
        return config.peak * (config.warmup_from + (1.0 - config.warmup_from) * tokens / config.warmup_tokens)
    if config.kind == "constant":
        return config.peak
    end = config.tokens or training_tokens
    part = min(1.0, (tokens - config.warmup_tokens) / max(1, end - config.warmup_tokens))
    if config.kind == "linear_to_zero":
        return config.peak * (1.0 - part)
    floor = config.floor * config.peak
    return floor + (config.peak - floor) * (1.0 + math.cos(math.pi * part)) / 2.0


def clip(model: nn.Module, most: float) -> Tensor:
    """Scale the whole gradient down to a norm of at most `most`; its norm before that, a scalar on the device."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    split = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    if not split:
        return torch.nn.utils.clip_grad_norm_(model.parameters(), most)
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [torch.nn.utils.get_total_norm(split).full_tensor()]
    norms += [torch.nn.utils.get_total_norm(whole)] if whole else []
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch._foreach_mul_([*(one.to_local() for one in split), *whole], (most / (norm + 1e-6)).clamp(max=1.0))
    return norm
