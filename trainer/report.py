"""`python -m trainer eval`: one checkpoint's scores as they come, or as JSON. Several are compared in compare.py."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainer.adapt.answer import judge, print_judged
from trainer.adapt.generate import Sampling
from trainer.adapt.scores import Task
from trainer.errors import TrainerError
from trainer.evaluate import evaluate, mixture_loss
from trainer.inference import Trained, open_trained
from trainer.loader.data import open_data
from trainer.loader.packing import atomic
from trainer.olmes import plain as plain_scores
from trainer.olmes import together, told
from trainer.processes import Processes
from trainer.raw_text import by_file, plain, score_texts
from trainer.resume import require_tokenizer
from trainer.tasks import Scorer, TaskResult, find_tasks, plain_task, run_task
from trainer.touched import Touched
from trainer.unseen import notes_on_held_out, of_training


class TasksAsked(NamedTuple):
    """Which tasks a checkpoint is to be scored on, and what its corpus held of them, if that is known."""

    folder: Path
    touched: Touched | None = None


class PairsAsked(NamedTuple):
    """Which prompts a checkpoint is to answer, and how its answers are judged (None: as their records' fields say)."""

    folder: Path
    split: str
    sampling: Sampling
    task: Task | None


def evaluate_checkpoint(
    path: Path,
    data_dir: Path | None,
    tasks: TasksAsked | None,
    limit: int | None,
    as_json: bool,
    device: str | None,
    pairs: PairsAsked | None = None,
    text: Sequence[Path] = (),
    out: Path | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on held-out shards, on tasks, by its answers to pairs, on raw text, or on several; print and return
    it. `out` is a JSON file that keeps it, with the loss of every document of raw text."""
    result = scores_of(path, data_dir, tasks, limit, not as_json, device, pairs, text)
    keep(result, out)
    if as_json:
        print(json.dumps(without_documents(result), indent=1))
    return result


def keep(result: dict[str, Any], out: Path | None) -> None:
    """Write the scores to a JSON file, whole or not at all, where one is named."""
    if out is not None:
        with atomic(out) as file:
            file.write(json.dumps(result, indent=1).encode() + b"\n")


def without_documents(result: dict[str, Any]) -> dict[str, Any]:
    """The scores as they are printed: without the losses of single documents."""
    return {name: value for name, value in result.items() if name != "documents"}


def scores_of(
    path: Path,
    data_dir: Path | None,
    tasks: TasksAsked | None,
    limit: int | None,
    tell: bool,
    device: str | None,
    pairs: PairsAsked | None,
    text: Sequence[Path] = (),
) -> dict[str, Any]:
    """The scores themselves, printed as they come if `tell`. Raises TrainerError."""
    if limit is not None and limit < 1:
        raise TrainerError(f"--limit {limit}: at least 1, or leave it out for all")
    trained = open_trained(path, device)
    result: dict[str, Any] = {"checkpoint": str(trained.path)}
    if data_dir is not None:
        result["held_out"] = _held_out(trained, data_dir, limit)
        if tell:
            _print_held_out(result["held_out"])
    if text:
        losses = score_texts(trained, text, limit)
        result["text"] = {name: vars(one) for name, one in by_file(losses).items()}
        result["documents"] = plain(losses)
        if tell:
            _print_text(result["text"])
    if tasks is not None:
        result |= _tasks(trained, tasks, limit, tell)
    if pairs is not None:
        result["pairs"] = judge(trained, pairs.folder, pairs.split, limit, pairs.sampling, pairs.task)
        if tell:
            print_judged(result["pairs"])
    return result


def _tasks(trained: Trained, tasks: TasksAsked, limit: int | None, tell: bool) -> dict[str, Any]:
    """Every task below a folder, and their scores together."""
    scorer, found = Scorer.of(trained), dict[str, TaskResult]()
    for folder in find_tasks(tasks.folder):
        task = run_task(scorer, folder, limit, tasks.touched)
        assert task is not None  # nobody stops it
        found[task.name] = task
        if tell:
            _print_task(task)
    all_of_them = together(found.values())
    if tell and len(found) > 1:
        print(f"macro average: {told(all_of_them)}")
    return {"tasks": {name: plain_task(task) for name, task in found.items()}, "olmes": plain_scores(all_of_them)}


def _print_task(task: TaskResult) -> None:
    error = task.standard_errors[task.primary]
    best = f"{task.primary}: {task.metrics[task.primary]:.4f}" + ("" if error is None else f" ({error:.4f})")
    print(f"{task.name:<36} {task.documents:>6} documents  {best}")
    print("    " + "  ".join(f"{name} {value:.4f}" for name, value in task.metrics.items()))
    for which, part in (("not in the corpus", task.clean), ("found in the corpus", task.touched)):
        if part is not None:
            error = part.standard_errors[part.primary]
            told = f"{part.metrics[part.primary]:.4f}" + ("" if error is None else f" ({error:.4f})")
            print(f"    {which}: {part.documents} documents, {part.primary} {told}")


def _held_out(trained: Trained, data_dir: Path, limit: int | None) -> dict[str, Any]:
    asked = trained.config.data
    data = open_data(data_dir, asked.sequence_length, asked.seed, packing=asked.packing, held_out_only=True)
    if data.vocab_size != trained.data["vocab_size"]:
        raise TrainerError(
            f"{data_dir}: its tokenizer has {data.vocab_size} entries, the model was trained with "
            f"{trained.data['vocab_size']}: shards of another tokenizer"
        )
    require_tokenizer(trained.path, trained.data, data.tokenizer_sha256)
    config, alone = trained.config, Processes(0, 1, trained.device)
    masking = config.model.document_masking
    results = evaluate(trained.model, data, alone, config.train.micro_batch, limit or 2**62, masking)
    if not results:
        raise TrainerError(
            f"{data_dir}: no source has a held-out instance of {asked.sequence_length:,} tokens, so there is nothing to score"
        )
    notes = notes_on_held_out(trained.data, data, str(data_dir), config.start_from is not None)
    if config.model.routing == "expert_choice":
        notes.append("with expert choice a token's route depends on the tokens after it, so these losses are too low")
    if absent := [source for source in data.sources if source not in results]:
        instance = f"one instance of {asked.sequence_length:,} tokens"
        notes.append(f"no score for {', '.join(absent)}: less held-out text than {instance}, left out of the mean too")
    scores = {source: vars(one) for source, one in results.items()}
    found = {"loss": mixture_loss(results, data), "sources": scores, "of_training": of_training(trained.data, data)}
    return {**found, "near_copies": data.held_out_facts.get("near"), "notes": notes}


def _print_held_out(held_out: dict[str, Any]) -> None:
    print(f"{'source':<24} {'tokens':>12} {'nats/token':>11} {'perplexity':>11} {'bits/byte':>10}")
    for source, one in held_out["sources"].items():
        numbers = f"{one['loss']:>11.4f} {_perplexity(one['loss']):>11.2f} {one['bits_per_byte']:>10.4f}"
        print(f"{source:<24} {one['tokens']:>12,} {numbers}")
    print(f"{'as mixed in training':<24} {'':>12} {held_out['loss']:>11.4f} {_perplexity(held_out['loss']):>11.2f}")
    for note in held_out["notes"]:
        print(f"note: {note}")


def _print_text(files: dict[str, Any]) -> None:
    print(f"{'raw text':<24} {'documents':>10} {'tokens':>12} {'nats/token':>11} {'bits/byte':>10}")
    for name, one in files.items():
        error = "" if one["standard_error"] is None else f" ({one['standard_error']:.4f})"
        counts = f"{one['documents']:>10,} {one['tokens']:>12,}"
        print(f"{name:<24} {counts} {one['loss']:>11.4f} {one['bits_per_byte']:>10.4f}{error}")


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
