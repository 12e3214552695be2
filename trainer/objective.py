"""What a training is given: where its batches come from, and what is minimised over them.

`Training` (training.py) knows neither tokens nor cross-entropy. It asks a `Source` for the micro-batches at a position,
and an `Objective` for their losses. Pretraining is one such pair (pretrain.py); fine-tuning and preferences are others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from trainer.processes import Processes


class Part(Protocol):
    """A micro-batch of one process."""

    @property
    def instances(self) -> int:
        """Instances that it holds: its weight among the batch's parts, for what is averaged over instances."""

    @property
    def counted(self) -> int:
        """What its summed loss is divided by, added over the whole batch: predicted tokens, or pairs."""

    def to(self, device: torch.device) -> Self:
        """The same on the device, copied without waiting for it."""


P = TypeVar("P", bound=Part)
Source_P = TypeVar("Source_P", bound=Part, covariant=True)
Objective_P = TypeVar("Objective_P", bound=Part, contravariant=True)


class Source(Protocol[Source_P]):
    """The data of a training: instances numbered 0..instances-1 in the order in which they are learned from."""

    instances: int
    instance_tokens: int  # tokens of an instance, by which lengths of training are counted
    identity: dict[str, Any]  # what a checkpoint belongs to: one with other values (`held_out` aside) cannot be resumed
    tokenizer: Path | None  # a file that goes into every checkpoint

    def read(self, first: int, count: int, micro_batch: int) -> list[Source_P]:
        """Instances first..first+count-1 on the host, cut into parts of `micro_batch`, the last one maybe smaller.

        It is called in a thread while the model works on the batch before, so all that the host can do belongs here:
        targets, masks, pinned memory. The result depends on the arguments alone.
        """

    def facts(self) -> dict[str, Any]:
        """What the first line of metrics.jsonl says of the data."""

    def notes(self) -> list[str]:
        """Sentences that the user is told before the first step."""


class Loss(NamedTuple):
    """What a part gives. Its gradient is that of `summed` / (the batch's count) + `regular` * (its part of the batch)."""

    summed: Tensor  # scalar fp32: a sum over what `Part.counted` counts
    regular: Tensor  # scalar fp32: a mean over the part's instances, such as a router's losses
    sums: dict[str, Tensor]  # measures without gradient that are added over parts and processes
    means: dict[str, Tensor]  # measures without gradient that are averaged over instances


class Evaluation(NamedTuple):
    """A score of the model at a step."""

    told: str  # a sentence
    line: dict[str, Any]  # for metrics.jsonl


class Objective(Protocol[Objective_P]):
    """What a training minimises, and what it tells of it."""

    def loss(self, model: nn.Module, part: Objective_P) -> Loss:
        """The loss of one micro-batch, which is on the model's device. It must not wait for the device."""

    def numbers(self, totals: dict[str, Tensor]) -> dict[str, float]:
        """What a step's line says beside the loss, from the batch's totals."""

    def details(self, totals: dict[str, Tensor]) -> dict[str, Any] | None:
        """A longer line of kind `routing`, written every `train.routing_every` steps."""

    def evaluate(self, model: nn.Module, stopped: Callable[[], bool]) -> Evaluation | None:
        """Score the model; None if there is nothing to score it by, or if `stopped()` cut it short. Every process calls
        it and gets the same; `stopped` is a collective call, True in all processes or in none."""

    def watched(self) -> int:
        """How many held-out instances, always the same ones, are looked at to see what routers do: `evaluate.routing_tokens`
        of tokens, or as many as there are. 0: none."""

    def watch(self, model: nn.Module, rows: range) -> Tensor | None:
        """Pass these of them through the model, whose routers are being listened to. Returns which of the tokens in a row
        are no padding (bool [N] on the device); None: all."""


class Totals:
    """The measures of a batch, added over micro-batches on the device, and read from it once, at the end of the step."""

    def __init__(self) -> None:
        self._shapes: dict[str, torch.Size] = {}
        self._values: Tensor | None = None

    def add(self, loss: Loss, weight: float) -> None:
        """Add one part, which is `weight` of the batch over all processes."""
        measures = {"loss": loss.summed, **loss.sums, **loss.means}
        self._shapes = {name: value.shape for name, value in measures.items()}
        added = [value.detach().double().flatten() * (weight if name in loss.means else 1.0) for name, value in measures.items()]
        values = torch.cat(added)
        self._values = values if self._values is None else self._values + values

    def finish(self, processes: Processes) -> dict[str, Tensor]:
        """The sums over parts and processes, fp64 on the host; `loss` is the summed one. This waits for the device."""
        assert self._values is not None
        values = processes.sum(self._values).cpu().split([math.prod(shape) for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), values, strict=True)}
