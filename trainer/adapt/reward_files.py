"""`trainer rewards`: r_t = Q_t - gamma V_{t+1} of every answer token, written beside the pairs (arXiv 2409.01369)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.adapt.answer import answered, open_pairs, questions, split_of
from trainer.adapt.generate import Sampling, Writer
from trainer.adapt.objectives import values_of
from trainer.adapt.pairs import Sequences
from trainer.adapt.rules import Values, rewards
from trainer.adapt.scores import score, spearman, task_of
from trainer.adapt.source import PairPart, own_part, targets_of
from trainer.errors import TrainerError
from trainer.inference import Trained, open_trained
from trainer.losses import IGNORED

ROWS = 8  # sequences that go through the model at once


def write_rewards(
    checkpoint: Path,
    folder: Path,
    split: str,
    limit: int | None,
    gamma: float | None,
    out: Path | None,
    sampling: Sampling | None,
    as_json: bool,
    device: str | None,
) -> dict[str, Any]:
    """Write the rewards of a split's answers; with `sampling` also of the model's own, and how they go with the task's
    score. Prints and returns a summary. Raises TrainerError.

        SPLIT.rewards.npy    fp32, raw: of each token of the answers, in order
        SPLIT.rewards.jsonl  a line a sequence: its id, role, where its tokens are in that file, sum, mean
        samples.jsonl        a line a sample: id, answer, score, sum and mean of its rewards
    """
    trained = open_trained(checkpoint, device)
    trained.require_causal()
    if gamma is None:
        adapt = getattr(trained.config, "adapt", None)
        gamma = adapt.gamma if adapt is not None else 1.0
    pairs = open_pairs(folder, trained)
    sequences = split_of(pairs, split)
    out = out or folder / "rewards" / f"{trained.path.parent.parent.name}-{trained.path.name}"
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"checkpoint": str(trained.path), "gamma": gamma, "out": str(out)}
    found |= _of_pairs(trained, sequences, split, limit, gamma, out, pairs.pad_id)
    if sampling is not None:
        found["samples"] = _of_samples(trained, sequences, limit, gamma, out, sampling, pairs.pad_id)
    (out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _print(found)
    return found


def _of_pairs(
    trained: Trained, sequences: Sequences, split: str, limit: int | None, gamma: float, out: Path, pad_id: int
) -> dict[str, Any]:
    written, skipped, sums = 0, 0, []
    context = trained.context
    numbers = range(len(sequences) if limit is None else min(limit, len(sequences)))
    records = sequences.records()
    with (out / f"{split}.rewards.npy").open("wb") as values, (out / f"{split}.rewards.jsonl").open("w") as lines:
        for some in _batches(iter(numbers), ROWS):
            rows = []
            for number in some:
                tokens, mask = sequences.read(number)
                rows.append((tokens, mask) if len(tokens) <= context else None)
            found = iter(rewards_of(trained, [row for row in rows if row is not None], gamma, pad_id))
            for row in rows:
                record = next(records)
                if row is None:
                    skipped += 1
                    continue
                one = next(found)
                values.write(one.astype("<f4").tobytes())
                place = {"first": written, "end": written + len(one)}
                written += len(one)
                total = float(one.sum())
                sums.append(total)
                facts = {"id": record.id, "role": record.role, **place, "sum": total, "mean": float(one.mean())}
                lines.write(json.dumps(facts, ensure_ascii=False) + "\n")
    if not sums:
        raise TrainerError(f"{sequences.folder}: none of its sequences fits into the context of {context} tokens")
    return {"sequences": len(sums), "tokens": written, "longer_than_context": skipped, "mean_sum": float(np.mean(sums))}


def rewards_of(
    trained: Trained, rows: list[tuple[np.ndarray, np.ndarray]], gamma: float, pad_id: int
) -> list[np.ndarray]:
    """The rewards of each sequence's answer tokens."""
    if not rows:
        return []
    part = own_part([(tokens.tolist(), 1) for tokens, _ in rows], pad_id, trained.device)
    learned = torch.zeros_like(part.targets_BT, dtype=torch.bool)
    for row, (tokens, mask) in enumerate(rows):
        learned[row, : len(tokens) - 1] = torch.from_numpy(mask[1:])
    part = _only(part, learned)
    values: Values = values_of(trained.model, part, trained.config.train.loss_chunk_mib)
    found = rewards(values, targets_of(part), gamma).view_as(part.targets_BT).cpu()
    return [found[row][learned[row].cpu()].numpy() for row in range(len(rows))]


def _only(part: PairPart, learned: torch.Tensor) -> PairPart:
    return replace(part, targets_BT=part.targets_BT.where(learned, IGNORED))


def _of_samples(
    trained: Trained, sequences: Sequences, limit: int | None, gamma: float, out: Path, sampling: Sampling, pad_id: int
) -> dict[str, Any]:
    """Rewards of the model's own answers, with the task's score of each."""
    writer = Writer.of(trained)
    scores, sums, means, names = [], [], [], set()
    with (out / "samples.jsonl").open("w") as lines:
        for question, samples in answered(writer, questions(sequences, writer.context, limit), sampling):
            rows = []
            for sample in samples:
                tokens = [*question.prompt, *sample.tokens, *([writer.eos_id] if sample.ended == "end" else [])]
                rows.append((np.array(tokens), np.arange(len(tokens)) >= len(question.prompt)))
            for sample, one in zip(samples, rewards_of(trained, rows, gamma, pad_id), strict=True):
                name, value = next(iter(score(task_of(question.record), question.record, sample.text).items()))
                names.add(name)
                scores.append(value)
                sums.append(float(one.sum()))
                means.append(float(one.mean()))
                facts = {"id": question.record.id, "sample": sample.sample, "answer": sample.text, "score": value}
                lines.write(json.dumps(facts | {"sum": sums[-1], "mean": means[-1]}, ensure_ascii=False) + "\n")
    return {
        "answers": len(scores),
        "score": "+".join(sorted(names)),
        "mean_score": float(np.mean(scores)),
        "spearman_of_sum": _number(spearman(sums, scores)),
        "spearman_of_mean": _number(spearman(means, scores)),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _batches(numbers: Iterator[int], size: int) -> Iterator[list[int]]:
    while some := list(itertools.islice(numbers, size)):
        yield some


def _print(found: dict[str, Any]) -> None:
    print(
        f"{found['out']}: rewards of {found['tokens']:,} tokens of {found['sequences']:,} answers, gamma {found['gamma']:g}"
    )
    if found["longer_than_context"]:
        print(f"note: {found['longer_than_context']:,} sequences are longer than the model's context, and are left out")
    if "samples" in found:
        own = found["samples"]
        told = (
            "none: one of the two does not vary" if own["spearman_of_sum"] is None else f"{own['spearman_of_sum']:+.3f}"
        )
        print(
            f"{own['answers']:,} answers of its own, {own['score']} {own['mean_score']:.4f}; Spearman with the sum: {told}"
        )
