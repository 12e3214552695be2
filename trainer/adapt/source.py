"""Pairs as a training's source: packed instances in an order of their own for each epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.adapt.config import AdaptConfig
from trainer.adapt.packed import PADDING, Instances, Packed
from trainer.adapt.pairs import Pairs
from trainer.errors import TrainerError
from trainer.loader.order import Order
from trainer.losses import IGNORED
from trainer.masking import Documents, documents


@dataclass(frozen=True)
class PairPart:
    """A micro-batch of B instances of T tokens, which hold S sequences."""

    tokens_BT: Tensor  # int64
    targets_BT: Tensor  # int64, IGNORED where nothing is learned
    documents: Documents  # each sequence is one
    sequence_BT: Tensor  # int64, the sequence of each token; PADDING
    role_S: Tensor  # int64; -1: a prompt with another's answer
    unit_S: np.ndarray  # int64
    number_S: np.ndarray  # int64, in the split
    reference_S: Tensor | None  # fp32, log-probability of the answer by the reference
    position: int  # of the first instance, in training
    answer_tokens: int
    counted: int  # what the summed loss is divided by

    @property
    def instances(self) -> int:
        """Instances of the part."""
        return len(self.tokens_BT)

    @property
    def sequences(self) -> int:
        """Sequences of the part."""
        return len(self.role_S)

    def to(self, device: torch.device) -> PairPart:
        """The same on the device. `documents` are prepared for it by whoever made the part."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("tokens_BT", "targets_BT", "sequence_BT", "role_S")
        }
        reference = None if self.reference_S is None else self.reference_S.to(device, non_blocking=True)
        return replace(self, **moved, reference_S=reference)


def part_of(
    read: Instances, device: torch.device, position: int, counts: str, reference: np.ndarray | None
) -> PairPart:
    """A part from instances. `counts` is what its loss is divided by: instances, tokens or units. `reference` holds the
    log-probabilities of each unit's sequences, fp32 [units, 2]."""
    tokens, targets, sequence = (torch.from_numpy(a) for a in (read.tokens_BT, read.targets_BT, read.sequence_BT))
    # Padding is a document of its own in each row, so that it never joins with the next row's first sequence.
    found = documents(sequence.where(sequence != PADDING, -2 - torch.arange(len(sequence))[:, None]), device)
    answer_tokens = int((targets != IGNORED).sum())
    second = np.zeros(len(read.unit_S), np.int64)
    second[1:] = read.unit_S[1:] == read.unit_S[:-1]
    log_probs = None if reference is None else torch.from_numpy(reference[read.unit_S, second])
    units = len(np.unique(read.unit_S))
    counted = {"instances": len(tokens), "tokens": answer_tokens, "units": units}[counts]
    if device.type == "cuda":
        tokens, targets, sequence = tokens.pin_memory(), targets.pin_memory(), sequence.pin_memory()
    roles = torch.from_numpy(read.role_S.astype(np.int64))
    return PairPart(
        tokens, targets, found, sequence, roles, read.unit_S, read.number_S, log_probs, position, answer_tokens, counted
    )


def own_part(rows: list[tuple[list[int], int]], pad_id: int, device: torch.device) -> PairPart:
    """A part of one sequence a row: (tokens, how many of them are the prompt)."""
    width = max(len(tokens) for tokens, _ in rows)
    tokens = np.full((len(rows), width), pad_id, np.int64)
    targets, sequence = np.full(tokens.shape, IGNORED, np.int64), np.full(tokens.shape, PADDING, np.int64)
    for row, (values, prompt) in enumerate(rows):
        tokens[row, : len(values)] = values
        targets[row, prompt - 1 : len(values) - 1] = values[prompt:]
        sequence[row, : len(values)] = row
    numbers = np.arange(len(rows))
    read = Instances(tokens, targets, sequence, np.zeros(len(rows), np.int8), numbers, numbers)
    return part_of(read, device, 0, "instances", None).to(device)


class PairSource:
    """The training split of a folder of pairs, `epochs` times, each in another order."""

    def __init__(self, config: AdaptConfig, pairs: Pairs, device: torch.device, context: int) -> None:
        """`context` is the most tokens that the model sees at once. Raises TrainerError where no pair fits."""
        adapt, length = config.adapt, config.data.sequence_length
        self.config, self.pairs, self.device = config, pairs, device
        self.train, self.held_out = (
            Packed(split, adapt.method, pairs.kind, length, context, IGNORED, pairs.pad_id)
            for split in (pairs.train, pairs.held_out)
        )
        if not len(self.train):
            raise TrainerError(
                f"{pairs.folder}: none of its {self.train.units:,} pairs fits into an instance of {length:,} tokens; "
                f"with sequences of at most {context:,}; raise data.sequence_length, or make the pairs with a smaller "
                "--max-tokens"
            )
        self.seed = pairs.seed if config.data.seed is None else config.data.seed
        self.instances, self.instance_tokens = len(self.train) * adapt.epochs, length
        self._order = Order([len(self.train)], [self.instances], self.seed)
        self.tokenizer = pairs.tokenizer_file if pairs.tokenizer_file.is_file() else None
        # The reference's log-probabilities of either split, fp32 [units, 2], where they are stored.
        self.reference: np.ndarray | None = None
        self.held_reference: np.ndarray | None = None
        self.identity: dict[str, Any] = {
            "fingerprint": pairs.fingerprint,
            "tokenizer_sha256": pairs.tokenizer_sha256,
            "vocab_size": pairs.vocab_size,
            "eos_id": pairs.eos_id,
            "pad_id": pairs.pad_id,
            "context": context,
            "chat_template": pairs.chat_template,
            "method": adapt.method,
            "epochs": adapt.epochs,
            "order": self.seed,
        }
        of_pairs = adapt.method in ("dpo", "kto")
        self.counts = "units" if of_pairs else "tokens" if adapt.reduce == "mean" else "instances"

    def read(self, first: int, count: int, micro_batch: int) -> list[PairPart]:
        """Instances first..first+count-1 in parts."""
        instances = self._order.instances(np.arange(first, first + count)).instance
        return [
            part_of(
                self.train.read(instances[at : at + micro_batch]), self.device, first + at, self.counts, self.reference
            )
            for at in range(0, count, micro_batch)
        ]

    def facts(self) -> dict[str, Any]:
        """How much there is to learn from."""
        return {"pairs": self.train.units - self.train.left_out, "epochs": self.config.adapt.epochs}

    def notes(self) -> list[str]:
        """What is worth knowing of the pairs before training begins."""
        train, length = self.train, self.instance_tokens
        full = train.tokens / max(1, len(train) * length)
        notes = [
            f"{self.pairs.folder}: {train.units - train.left_out:,} {self.pairs.kind} in {len(train):,} instances of "
            f"{length:,} tokens, {1 - full:.1%} of which is padding; {self.config.adapt.epochs} epochs"
        ]
        for name, split in (("", train), ("held-out ", self.held_out)):
            if split.left_out:
                notes.append(
                    f"note: {split.left_out:,} {name}pairs are longer than an instance or the context: left out"
                )
        if not len(self.held_out):
            notes.append("note: there are no held-out pairs, so nothing is evaluated")
        return notes


def with_warmup(config: AdaptConfig, source: PairSource) -> AdaptConfig:
    """The configuration with `adapt.warmup` as tokens, where the schedule does not name them."""
    if config.schedule.warmup_tokens or config.schedule.kind == "constant":
        return config
    tokens = int(config.adapt.warmup * source.instances * source.instance_tokens)
    return config.model_copy(update={"schedule": config.schedule.model_copy(update={"warmup_tokens": tokens})})


def targets_of(part: PairPart) -> Tensor:
    """The targets of all tokens in a row, int64 [N]."""
    return part.targets_BT.flatten()


def sequences_of(part: PairPart) -> Tensor:
    """The sequence of all tokens in a row, int64 [N]; 0 for padding."""
    return F.relu(part.sequence_BT.flatten())
