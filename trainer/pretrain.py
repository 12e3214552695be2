"""Pretraining: every token of an instance is predicted from those before it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer import metrics
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.evaluate import as_tensor, evaluate, mixture_loss
from trainer.loader.data import Data, open_data
from trainer.loader.entropy import unigram_entropy
from trainer.losses import IGNORED, next_tokens, repeats_ngram
from trainer.masking import Documents, documents
from trainer.model import Output, document_numbers
from trainer.objective import Evaluation, Loss
from trainer.processes import Processes
from trainer.unseen import held_out_rule


@dataclass(frozen=True)
class Tokens:
    """A micro-batch of B instances of T tokens."""

    tokens_BT: Tensor  # int64
    targets_BT: Tensor  # int64, IGNORED where there is no loss
    documents: Documents | None
    counted: int  # targets that give a loss

    @property
    def instances(self) -> int:
        """Instances of the part."""
        return len(self.tokens_BT)

    def to(self, device: torch.device) -> Tokens:
        """The same on the device. `documents` are prepared for it by whoever made the part."""
        return Tokens(as_tensor(self.tokens_BT, device), as_tensor(self.targets_BT, device), self.documents, self.counted)


class TokenSource:
    """A run's instances in the order of its mixture (loader/order.py)."""

    def __init__(self, config: Config, data: Data, data_dir: Path, device: torch.device) -> None:
        self.config, self.data, self.data_dir, self.device = config, data, data_dir, device
        self.instances, self.instance_tokens = len(data.train), config.data.sequence_length
        tokenizer = data_dir / "tokenizer" / "tokenizer.json"
        self.tokenizer = tokenizer if tokenizer.is_file() else None
        self.entropy = unigram_entropy(data)
        self.identity = {
            "fingerprint": data.fingerprint,
            "tokenizer_sha256": data.tokenizer_sha256,
            "vocab_size": data.vocab_size,
            "eos_id": data.eos_id,
            "pad_id": data.pad_id,
            "held_out": held_out_rule(data),
        }

    def read(self, first: int, count: int, micro_batch: int) -> list[Tokens]:
        """Instances first..first+count-1 in parts, in pinned memory where the device is a GPU."""
        masked, padded = self.config.model.document_masking, self.data.train.padded
        batch = self.data.train.read(first, count, documents=masked or padded)
        tokens = as_tensor(batch.tokens, torch.device("cpu"))
        numbers = None if batch.documents is None else torch.from_numpy(batch.documents)
        targets = self._targets(tokens, numbers if padded else None)
        parts = []
        for start in range(0, count, micro_batch):
            rows = slice(start, start + micro_batch)
            own = documents(numbers[rows], self.device) if masked and numbers is not None else None
            counted = int((targets[rows] != IGNORED).sum())
            parts.append(Tokens(self._pinned(tokens[rows]), self._pinned(targets[rows]), own, counted))
        return parts

    def _targets(self, tokens: Tensor, numbers: Tensor | None) -> Tensor:
        """The next token at each position; none at the last, in padding (`numbers` -1), and in text that repeats itself."""
        targets = next_tokens(tokens)
        if numbers is not None:
            targets[next_tokens(numbers) < 0] = IGNORED
        if times := self.config.losses.repeated_ngrams:
            targets[repeats_ngram(tokens, times, None if numbers is None else numbers >= 0)] = IGNORED
        return targets

    def _pinned(self, values: Tensor) -> Tensor:
        return values.pin_memory() if self.device.type == "cuda" else values

    def facts(self) -> dict[str, Any]:
        """The entropy that a model is compared with."""
        return {"unigram_entropy": self.entropy}

    def notes(self) -> list[str]:
        """What is worth knowing of the data before training begins."""
        data, asked = self.data, self.config.train.tokens
        tokens = self.instances * self.instance_tokens
        notes = [f"{self.data_dir}: {tokens:,} tokens of {len(data.sources)} sources"]
        if data.train.padded:
            notes.append(f"best-fit packing: {data.padding:.2%} of the positions are padding, which gives no loss")
        if asked and tokens + self.instance_tokens <= asked:
            notes.append(f"note: train.tokens asks for {asked:,} tokens, the mixture's budget is {tokens:,}")
        notes.append(
            f"unigram entropy of the training tokens: {self.entropy:.4f} nats a token; a model has learned once it is below"
        )
        if data.held_out:
            notes.append(
                "held-out bits per byte are of this data's own documents: trainings on different data are compared on one text "
                "(python -m trainer eval A B --text FILES)"
            )
        for source in sorted(set(data.sources) - set(data.held_out)):
            notes.append(f"note: {source} has no held-out instance of {self.instance_tokens} tokens, and is not evaluated")
        return notes


class Pretraining:
    """Cross-entropy of the next token, and the router's losses."""

    def __init__(self, config: Config, data: Data, entropy: float, processes: Processes) -> None:
        self.config, self.data, self.entropy, self.processes = config, data, entropy, processes
        self._watched = _watched(data, config.evaluate.routing_tokens // config.data.sequence_length)

    def loss(self, model: nn.Module, part: Tokens) -> Loss:
        """The loss of one micro-batch, with what its routers did."""
        output = model(
            part.tokens_BT,
            part.targets_BT,
            documents=part.documents,
            balance_instances=self.config.losses.balance_instances,
        )
        return Loss(output.loss_sum, router_losses(output, self.config), *router_measures(output))

    def numbers(self, totals: dict[str, Tensor]) -> dict[str, float]:
        """The router's losses, mean over layers."""
        return router_numbers(totals)

    def details(self, totals: dict[str, Tensor]) -> dict[str, Any] | None:
        """Load, entropy and losses of every layer's experts."""
        return metrics.routing_numbers(totals, self.config.model.top_k) if "counts" in totals else None

    def evaluate(self, model: nn.Module, stopped: Callable[[], bool]) -> Evaluation | None:
        """The held-out loss and bits per byte of each source that has a held-out instance."""
        config = self.config
        results = evaluate(
            model,
            self.data,
            self.processes,
            config.train.micro_batch,
            config.evaluate.instances,
            config.model.document_masking,
            stopped,
        )
        if not results:
            return None
        loss = mixture_loss(results, self.data)
        told = f"held-out loss {loss:.4f} ({loss - self.entropy:+.4f} against unigram entropy); bits per byte "
        told += ", ".join(f"{source} {result.bits_per_byte:.4f}" for source, result in results.items())
        return Evaluation(told, {"loss": loss, "sources": {source: vars(result) for source, result in results.items()}})

    def watched(self) -> int:
        """Held-out instances, as many of each source as there are."""
        return len(self._watched)

    def watch(self, model: nn.Module, rows: range) -> None:
        """Pass some of them through the model."""
        places = [self._watched[row] for row in rows]
        read = torch.from_numpy(np.concatenate([self.data.held_out[source].batch(n, 1) for source, n in places]))
        masked, device = self.config.model.document_masking, self.processes.device
        own = documents(document_numbers(read, self.data.eos_id), device) if masked else None
        pass_through(model, as_tensor(read, device), own)


def pass_through(model: nn.Module, tokens_BT: Tensor, own: Documents | None) -> None:
    """A forward pass for what happens within: no logits are made."""
    model(tokens_BT, tokens_BT, documents=own, criterion=lambda hidden_ND, _head, _targets: hidden_ND.new_zeros(()))


def _watched(data: Data, most: int) -> list[tuple[str, int]]:
    """(source, held-out instance), up to `most`, one of each source in turn; at least one where there are any."""
    counts = {source: len(held_out) for source, held_out in data.held_out.items()}
    rounds = range(max(counts.values(), default=0))
    in_turn = ((source, number) for number in rounds for source, count in counts.items() if number < count)
    return list(itertools.islice(in_turn, max(1, most)))


def router_losses(output: Output, config: Config) -> Tensor:
    """The weighted load-balancing and z losses of one forward pass, mean over layers."""
    if not len(output.router_z_L):
        return output.loss_sum.new_zeros(())
    scale = 1.0 / config.model.top_k if config.losses.router_z_form == "original_code" else 1.0
    balance, z = output.load_balancing_L.mean(), output.router_z_L.mean() * scale
    return config.losses.load_balancing * balance + config.losses.router_z * z


def router_measures(output: Output) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What routers did in one forward pass, by layer: `Loss.sums` and `Loss.means`. Empty for a dense model."""
    if not len(output.router_z_L):
        return {}, {}
    means = {"load_balancing": output.load_balancing_L, "router_z": output.router_z_L, "entropy": output.entropy_L}
    return {"counts": output.counts_LE}, means


def router_numbers(totals: dict[str, Tensor]) -> dict[str, float]:
    """The raw losses of the router, mean over layers, from a batch's totals."""
    return {name: totals[name].mean().item() for name in ("load_balancing", "router_z") if name in totals}


def open_together(config: Config, data_dir: Path, processes: Processes) -> Data:
    """The training data, opened by every process; the first one makes what best-fit packing needs, the others find it."""
    if not processes.first:
        processes.wait()
    asked = config.data
    data = open_data(data_dir, asked.sequence_length, asked.seed, config.train.tokens, asked.packing)
    if processes.first:
        processes.wait()
    return data


def require_tokens(config: Config, data: Data, data_dir: Path) -> None:
    """Raise TrainerError where the mixture gives fewer tokens than `train.tokens` asks for, but for a part of an instance."""
    asked, length = config.train.tokens or 0, config.data.sequence_length
    there = len(data.train) * length
    if there + length <= asked:
        raise TrainerError(
            f"{data_dir}: train.tokens asks for {asked:,} tokens, and the mixture gives {there:,}; ask for as many, or let it "
            f"repeat: python -m pipeline mix {data_dir} --set tokens={asked} --out NEW"
        )


def with_vocabulary(config: Config, data: Data, data_dir: Path) -> Config:
    """The configuration with the data's vocabulary. Raises TrainerError if it names another one."""
    stated = config.model.vocab_size
    if stated is not None and stated != data.vocab_size:
        raise TrainerError(
            f"{data_dir}: its tokenizer has {data.vocab_size} entries, but model.vocab_size is {stated}; "
            "train on shards of the right tokenizer, or leave model.vocab_size out"
        )
    model = config.model.model_copy(update={"vocab_size": data.vocab_size})
    return config.model_copy(update={"model": model})
