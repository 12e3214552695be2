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


def gradient_norm(model: nn.Module) -> Tensor:
    """The norm of the whole gradient, over all processes: a scalar on the device."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    split = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    if not split:
        return torch.nn.utils.get_total_norm(gradients)
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [torch.nn.utils.get_total_norm(split).full_tensor()]
    norms += [torch.nn.utils.get_total_norm(whole)] if whole else []
    return torch.linalg.vector_norm(torch.stack(norms))


def update(optimizer: torch.optim.AdamW, norm: Tensor, most: float) -> None:
    """An update from the gradient, of that norm, scaled down to a norm of at most `most`.

    The fused kernel scales while it reads, which saves a pass over the gradient; it takes no tensor beside rows that are
    split over processes (FSDP), and those are scaled before.
    """
    too_long = ((norm + 1e-6) / most).clamp(min=1.0)  # 1e-6 as torch.nn.utils.clip_grad_norm_ has it
    gradients = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
    if any(isinstance(gradient, DTensor) for gradient in gradients):
        local = [one.to_local() if isinstance(one, DTensor) else one for one in gradients]
        torch._foreach_div_(local, too_long)
    else:
        optimizer.grad_scale = too_long  # what the fused step divides by
    optimizer.step()
