"""`trainer generate` and `trainer eval --pairs`: answers to prompts, written, judged and compared with one another."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from trainer.adapt.chat import chat_prompt, encode_prompt
from trainer.adapt.generate import Sample, Sampling, Writer, generate
from trainer.adapt.pairs import Pairs, Record, Sequences
from trainer.adapt.scores import Task, score, self_bleu, task_of
from trainer.errors import TrainerError
from trainer.inference import Trained, open_trained
from trainer.resume import require_tokenizer
from trainer.tasks import standard_error

BLOCK = 256  # prompts held at once


class Question(NamedTuple):
    """A pair whose prompt is asked."""

    number: int  # of its sequence in the split
    record: Record
    prompt: list[int]


def open_pairs(path: Path, trained: Trained) -> Pairs:
    """A folder of pairs for a checkpoint. Raises TrainerError where they were made with another tokenizer."""
    pairs = Pairs(path)
    if pairs.vocab_size != trained.data["vocab_size"]:
        raise TrainerError(
            f"{path}: its tokenizer has {pairs.vocab_size} entries, the model was trained with "
            f"{trained.data['vocab_size']}: make the pairs with the checkpoint's tokenizer.json"
        )
    require_tokenizer(trained.path, trained.data, pairs.tokenizer_sha256)
    return pairs


def split_of(pairs: Pairs, split: str) -> Sequences:
    """The split of this name. Raises TrainerError where it is empty."""
    found = pairs.train if split == "train" else pairs.held_out
    if not len(found):
        raise TrainerError(f"{pairs.folder}: has no {split} pairs; name the other split with --split")
    return found


def questions(split: Sequences, context: int, limit: int | None) -> Iterator[Question]:
    """The prompts of a split, each once, the first `limit` of them, without those that fill the context."""
    asked = 0
    for number, record in enumerate(split.records()):
        if record.role in ("rejected", "undesirable"):
            continue
        if limit is not None and asked >= limit:
            return
        prompt = split.prompt(number).tolist()
        if 0 < len(prompt) < context:
            asked += 1
            yield Question(number, record, prompt)


def answered(writer: Writer, asked: Iterator[Question], sampling: Sampling) -> Iterator[tuple[Question, list[Sample]]]:
    """Each question with the samples of its answer, in order, a block of questions at a time."""
    while block := list(itertools.islice(asked, BLOCK)):
        samples = generate(writer, [question.prompt for question in block], sampling)
        for question in block:
            yield question, list(itertools.islice(samples, sampling.samples))


# ---- generate


def write_answers(
    checkpoint: Path,
    prompts: list[str],
    chat: bool,
    pairs: Path | None,
    split: str,
    limit: int | None,
    sampling: Sampling,
    out: Path | None,
    device: str | None,
) -> None:
    """Answer prompts, or those of a folder of pairs, into a JSON lines file or onto the screen. Raises TrainerError."""
    if bool(prompts) == (pairs is not None):
        raise TrainerError("generate needs --prompt (one or more) or --pairs (a folder), and not both")
    sampling.check()
    trained = open_trained(checkpoint, device)
    writer = Writer.of(trained)
    with contextlib.ExitStack() as stack:
        file: TextIO | None = None
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(out.open("w", encoding="utf-8"))
        if pairs is None:
            texts = [chat_prompt(trained, [{"role": "user", "content": text}]) if chat else text for text in prompts]
            tokens = [encode_prompt(writer.tokenizer, text) or [writer.eos_id] for text in texts]
            for sample in generate(writer, tokens, sampling):
                _tell(file, {"prompt": prompts[sample.prompt]}, sample)
            return
        asked = questions(split_of(open_pairs(pairs, trained), split), writer.context, limit)
        for question, samples in answered(writer, asked, sampling):
            for sample in samples:
                _tell(file, {"id": question.record.id, "prompt": question.record.prompt}, sample)


def _tell(file: TextIO | None, whose: dict[str, Any], sample: Sample) -> None:
    if file is None:
        sys.stdout.write(f"{_printable(whose['prompt'])}\n--> {_printable(sample.text)}\n\n")
        return
    facts = {"sample": sample.sample, "answer": sample.text, "ended": sample.ended, "tokens": len(sample.tokens)}
    facts |= {"entropy": sample.entropy, "log_probability": sample.log_probability}
    file.write(json.dumps(whose | facts, ensure_ascii=False) + "\n")


def _printable(text: str) -> str:
    """Text without the characters that a terminal takes for orders: a model may write any."""
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\x{ord(c):02x}" for c in text)


# ---- eval --pairs


def judge(
    trained: Trained, folder: Path, split: str, limit: int | None, sampling: Sampling, task: Task | None
) -> dict[str, Any]:
    """Scores of a checkpoint's own answers to a folder's prompts: means over prompts with standard errors; and with
    several samples of each, how much they differ. Raises TrainerError."""
    sampling.check()
    writer = Writer.of(trained)
    asked = questions(split_of(open_pairs(folder, trained), split), writer.context, limit)
    values: dict[str, list[float]] = defaultdict(list)
    tasks: set[Task] = set()
    for question, samples in answered(writer, asked, sampling):
        how = task or task_of(question.record)
        tasks.add(how)
        found = [score(how, question.record, sample.text) for sample in samples]
        for name in found[0]:
            values[name].append(float(np.mean([one[name] for one in found])))
        values["entropy"].append(float(np.mean([sample.entropy for sample in samples])))
        values["tokens"].append(float(np.mean([len(sample.tokens) for sample in samples])))
        values["ended"].append(float(np.mean([sample.ended != "length" for sample in samples])))
        if len(samples) > 1:
            values["self_bleu"].append(self_bleu([sample.text for sample in samples]))
    if not values:
        raise TrainerError(f"{folder}: none of its prompts leaves room for an answer in {writer.context} tokens")
    return {
        "task": "+".join(sorted(tasks)),
        "prompts": len(values["entropy"]),
        "samples": sampling.samples,
        "scores": {
            name: {"mean": float(np.mean(v)), "standard_error": standard_error(v)} for name, v in values.items()
        },
    }


def print_judged(found: dict[str, Any]) -> None:
    """Print it as a table."""
    print(f"{found['prompts']:,} prompts, {found['samples']} sample(s) each, judged by {found['task']}")
    for name, value in found["scores"].items():
        error = "" if value["standard_error"] is None else f"  ({value['standard_error']:.4f})"
        print(f"  {name:<14} {value['mean']:>10.4f}{error}")
