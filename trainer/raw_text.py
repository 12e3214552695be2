"""Losses of a model on raw text: files that no run has tokenized, so that models of different data are scored on one text.

Every token of a document is predicted once. A document begins after an end token, and one longer than the model's
context goes on after the last token of the window before. Bits per byte count the document's own tokens alone: the end
token behind it is no text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.errors import TrainerError
from trainer.inference import Trained
from trainer.losses import IGNORED
from trainer.texts import Document, read_texts, text_files

BLOCK_DOCUMENTS = 512
"""Documents whose tokens are held at once."""
BATCH_TOKENS = 16_384
"""Tokens that go through the model at once, padding included."""


@dataclass(frozen=True)
class DocumentLoss:
    """A document's summed loss in nats, over so many tokens, which stand for so many bytes of UTF-8."""

    file: str
    id: str
    bytes: int
    tokens: int
    nats: float


@dataclass(frozen=True)
class TextResult:
    """One file's result. standard_error: of bits_per_byte over documents, as of a ratio of means; None for one document."""

    documents: int
    bytes: int
    tokens: int
    loss: float  # nats per token
    bits_per_byte: float
    standard_error: float | None


@torch.no_grad()
def score_texts(trained: Trained, paths: Sequence[Path], limit: int | None = None) -> list[DocumentLoss]:
    """The loss of every document that has text, up to `limit` of a file, in the files' order.

    Raises TrainerError where a model is not causal, a file cannot be read, or holds no text.
    """
    trained.require_causal()
    found: list[DocumentLoss] = []
    for name, path in text_files(paths).items():
        documents = (one for one in itertools.islice(read_texts(name, path), limit) if one.text)
        before = len(found)
        while block := list(itertools.islice(documents, BLOCK_DOCUMENTS)):
            found += _score(trained, block)
        if len(found) == before:
            raise TrainerError(f"--text {path}: holds no text")
    return found


def _score(trained: Trained, block: Sequence[Document]) -> list[DocumentLoss]:
    encoded = trained.tokenizer().encode_batch([one.text for one in block], add_special_tokens=False)
    eos, length = trained.data["eos_id"], trained.context
    owners: list[int] = []
    windows: list[np.ndarray] = []  # each predicts all but its first token
    counts = []
    for number, one in enumerate(encoded):
        ids = np.array([eos, *one.ids], np.int64)
        counts.append(len(one.ids))
        for start in range(0, len(one.ids), length):
            windows.append(ids[start : start + length + 1])
            owners.append(number)
    sums = np.zeros(len(block))
    order = np.argsort([-len(window) for window in windows], kind="stable").tolist()
    while order:
        width = len(windows[order[0]]) - 1
        batch, order = order[: max(1, BATCH_TOKENS // width)], order[max(1, BATCH_TOKENS // width) :]
        np.add.at(sums, [owners[row] for row in batch], _losses(trained, [windows[row] for row in batch], width))
    return [
        DocumentLoss(one.file, one.id, len(one.text.encode()), count, float(nats))
        for one, count, nats in zip(block, counts, sums, strict=True)
    ]


def _losses(trained: Trained, windows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """The summed loss of each window, nats."""
    inputs = torch.full((len(windows), width), trained.data["eos_id"])
    targets = torch.full((len(windows), width), IGNORED)
    for row, window in enumerate(windows):
        inputs[row, : len(window) - 1] = torch.from_numpy(window[:-1])
        targets[row, : len(window) - 1] = torch.from_numpy(window[1:])
    losses = trained.model(inputs.to(trained.device), targets.to(trained.device), per_token=True)
    return losses.double().sum(1).cpu().numpy()


def by_file(losses: Sequence[DocumentLoss]) -> dict[str, TextResult]:
    """Each file's result, from the losses of its documents."""
    found = {}
    for name in dict.fromkeys(one.file for one in losses):
        mine = [one for one in losses if one.file == name]
        size, tokens = (np.array([getattr(one, what) for one in mine], float) for what in ("bytes", "tokens"))
        nats = np.array([one.nats for one in mine])
        bits = nats.sum() / size.sum() / math.log(2)
        error = None
        if len(mine) > 1:  # the ratio's linearization: deviations of documents from it, by the mean size
            deviations = nats / math.log(2) - bits * size
            error = float(np.std(deviations, ddof=1) / math.sqrt(len(mine)) / size.mean())
        loss = float(nats.sum() / tokens.sum())
        found[name] = TextResult(len(mine), int(size.sum()), int(tokens.sum()), loss, float(bits), error)
    return found


def plain(losses: Sequence[DocumentLoss]) -> list[dict[str, Any]]:
    """The losses of documents as JSON has them."""
    return [vars(one) for one in losses]
