"""Which experts a checkpoint's routers choose, read from forward passes over held-out instances.

Shapes: B instances, T tokens, N = B*T, L layers, K experts of a token, E experts, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import TrainerError
from trainer.evaluate import as_tensor
from trainer.inference import Trained
from trainer.loader.data import Data
from trainer.losses import next_tokens, rows_of_chunk
from trainer.masking import documents
from trainer.model import document_numbers
from trainer.moe import Routing


@dataclass(frozen=True)
class Routed:
    """What the routers did with one batch of a source's tokens."""

    source: int
    tokens_N: np.ndarray  # int64, the tokens themselves
    predicted_N: np.ndarray  # int64, the most probable next tokens
    choices_LNK: np.ndarray  # int16, experts, the one with the largest weight first


def require_routed(trained: Trained) -> None:
    """Raise TrainerError for a model without experts, or whose experts choose their tokens."""
    model = trained.config.model
    if not model.n_experts:
        raise TrainerError(f"{trained.path}: is a dense model, and has no experts to look at")
    if model.routing != "token_choice":
        raise TrainerError(f"{trained.path}: its experts choose their tokens; these measures are of tokens that choose")


def route(trained: Trained, data: Data, tokens_of_source: int, batch_tokens: int) -> Iterator[Routed]:
    """The routing of each source's held-out instances, up to `tokens_of_source` of each, `batch_tokens` at a time.

    Sources come in the mixture's order; what is read depends on the arguments alone, so that two checkpoints see the
    same tokens.
    """
    length = data.train.sequence_length
    size = max(1, batch_tokens // length)
    for number, source in enumerate(data.sources):
        held_out = data.held_out.get(source)
        count = 0 if held_out is None else min(len(held_out), max(1, tokens_of_source // length))
        for first in range(0, count, size):
            assert held_out is not None
            yield _route_batch(trained, data, number, held_out.batch(first, min(size, count - first)))


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[list[Tensor]]:
    """What routers choose within: a tensor a layer and forward pass, int64 [N, K], the largest weight first. Layers run
    uncompiled meanwhile: a compiled one would not ask its router for anything."""
    found: list[Tensor] = []
    hooks = [
        layer.mlp.router.register_forward_hook(lambda _module, _given, out: found.append(experts_of_tokens(out[0])))
        for layer in model.layers
    ]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _route_batch(trained: Trained, data: Data, source: int, instances: np.ndarray) -> Routed:
    read = torch.from_numpy(instances)
    masked = trained.config.model.document_masking
    own = documents(document_numbers(read, data.eos_id), trained.device) if masked else None
    tokens = as_tensor(instances, trained.device)
    chunk_mib, vocabulary = trained.config.train.loss_chunk_mib, data.vocab_size

    def predicted(hidden_ND: Tensor, head_VD: Tensor, _targets_N: Tensor) -> Tensor:
        parts = hidden_ND.split(rows_of_chunk(head_VD, chunk_mib))
        return torch.cat([F.linear(part, head_VD[:vocabulary]).argmax(-1) for part in parts])

    with recorded(trained.model) as found:
        output: Any = trained.model(tokens, next_tokens(tokens), documents=own, criterion=predicted)
    choices = torch.stack(found).cpu().numpy().astype(np.int16)
    return Routed(source, instances.reshape(-1), output.loss_sum.cpu().numpy(), choices)


def experts_of_tokens(routing: Routing) -> Tensor:
    """The experts of each token, int64 [N, K], the one with the largest weight first."""
    assert routing.slot_of_choice is not None
    numbers = torch.arange(len(routing.counts), device=routing.counts.device)
    return numbers.repeat_interleave(routing.counts)[routing.slot_of_choice]
