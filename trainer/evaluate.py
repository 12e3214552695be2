"""Held-out loss and bits per byte, for each source of the mixture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.loader.data import Data, HeldOut
from trainer.losses import IGNORED, next_tokens
from trainer.masking import documents
from trainer.model import document_numbers
from trainer.processes import Processes

SHARE_INSTANCES = 65_536
"""Instances at the start of training that tell each source's share of it; any start has the mixture's proportions."""


@dataclass(frozen=True)
class HeldOutResult:
    """One source's result."""

    loss: float  # nats per token
    bits_per_byte: float  # of the text, in UTF-8
    tokens: int  # how many were scored


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: Data,
    processes: Processes,
    micro_batch: int,
    limit: int,
    masking: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, HeldOutResult]:
    """Score up to `limit` held-out instances of each source. Every process scores a part and gets the whole result.
    There is none once `stopped()`, which all processes ask before each pass, says True.

    Bits per byte = loss / ln 2 * (the source's held-out tokens / bytes of their text).
    """
    was_training = model.training
    model.eval()
    results = {}
    try:
        for source, held_out in data.held_out.items():
            total = torch.zeros(2, dtype=torch.float64, device=processes.device)
            for start in range(0, min(limit, len(held_out)), micro_batch * processes.count):
                if stopped():
                    return {}
                total += _score(model, held_out, start, micro_batch, limit, data.eos_id if masking else None, processes)
            loss_sum, scored = processes.sum(total).tolist()
            if scored:
                loss = loss_sum / scored
                per_byte = held_out.tokens / max(1, held_out.text_bytes)
                results[source] = HeldOutResult(loss, loss / math.log(2) * per_byte, int(scored))
    finally:
        model.train(was_training)
        if hasattr(model, "reshard"):
            model.reshard()  # a pass without gradient leaves FSDP's outer parameters whole
    return results


def _score(
    model: nn.Module, held_out: HeldOut, start: int, size: int, limit: int, eos_id: int | None, processes: Processes
) -> torch.Tensor:
    """[summed loss, tokens scored] of this process's `size` instances among those from `start` on, fp64 on the device.

    Every process runs the same number of passes, as a split model needs; a spare one counts nothing.
    """
    first = start + size * processes.rank
    have = max(0, min(size, min(limit, len(held_out)) - first))
    read = torch.from_numpy(held_out.batch(first, have) if have else held_out.batch(0, 1))
    own = documents(document_numbers(read, eos_id), processes.device) if eos_id is not None else None
    tokens = as_tensor(read, processes.device)
    targets = next_tokens(tokens)
    losses = model(tokens, targets, documents=own, per_token=True)
    found = torch.stack([losses.double().sum(), (targets != IGNORED).sum().double()])
    return found if have else torch.zeros_like(found)


def mixture_loss(results: dict[str, HeldOutResult], data: Data) -> float:
    """Mean loss in nats per token, each source weighing as much as it does in training."""
    count = min(len(data.train), SHARE_INSTANCES)
    first = data.train.source_of(0, count) if count else np.zeros(0, np.int64)  # a folder may be held out as a whole
    shares = dict(zip(data.sources, np.bincount(first, minlength=len(data.sources)), strict=True))
    total = sum(shares[source] for source in results)
    if not total:
        return sum(result.loss for result in results.values()) / max(1, len(results))
    return sum(float(shares[source]) * result.loss for source, result in results.items()) / total


def as_tensor(tokens: Any, device: torch.device) -> torch.Tensor:
    """Token ids as int64 on the device."""
    if isinstance(tokens, np.ndarray):
        tokens = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64))
    return tokens.to(device, torch.int64, non_blocking=True)
