"""Rotary position embeddings (Su et al., arXiv 2104.09864), also stretched to longer contexts, in fp32.

Shapes: T tokens, C width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.config import ModelConfig, RopeScaling


def rope_tables(config: ModelConfig, start: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions start..start+count: two fp32 tensors [count, C/2]."""
    width = config.d_model // config.n_heads
    exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    positions = torch.arange(start, start + count, device=device, dtype=torch.float32)
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        angles = torch.outer(positions, frequencies)
        return angles.cos(), angles.sin()
    angles = torch.outer(positions, stretched(frequencies, scaling, config.rope_theta))
    return angles.cos() * scaling.temperature, angles.sin() * scaling.temperature


def stretched(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """The frequencies [C/2], radians a token, of a context `factor` times as long.

    `linear` divides all by the factor (Chen et al. 2023, arXiv 2306.15595). The others leave those that turn often
    within the original context, divide those that turn seldom, and blend in between: `llama3` by wavelength (Llama 3.1's
    code), `yarn` by the number of the pair (Peng et al. 2023, arXiv 2309.00071, section 3.2).
    """
    slow = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slow
    if scaling.kind == "llama3":
        turns = scaling.original_context * frequencies / (2 * math.pi)
        kept = (turns - scaling.slow_turns) / (scaling.fast_turns - scaling.slow_turns)
    else:
        first, last = (_pair(turns, scaling, theta, len(frequencies)) for turns in (scaling.fast_turns, scaling.slow_turns))
        if scaling.whole_pairs:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * len(frequencies) - 1)
        last += 0.001 if first == last else 0.0
        kept = 1 - (torch.arange(len(frequencies), device=frequencies.device, dtype=torch.float32) - first) / (last - first)
    kept = kept.clamp(0.0, 1.0)
    return frequencies * kept + slow * (1 - kept)


def _pair(turns: float, scaling: RopeScaling, theta: float, pairs: int) -> float:
    """The number of the pair, not rounded, that turns so often within the original context."""
    return pairs * math.log(scaling.original_context / (turns * 2 * math.pi)) / math.log(theta)


def rotate(x_BHTC: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """RoPE with the first half of a head paired to the second, in fp32."""
    first, second = x_BHTC.float().chunk(2, dim=-1)
    turned = torch.cat((first * cos_TC - second * sin_TC, second * cos_TC + first * sin_TC), dim=-1)
    return turned.to(x_BHTC.dtype)
