"""Preferences from a model's own answers: right ones against wrong ones, to the same prompt.

DPO and KTO move probability between answers. Where the wrong ones are answers that the model does give, what it loses on
them it can only win elsewhere near; where they are not, all that it says may lose (docs/adaptation.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.adapt.answer import Question, answered, open_pairs, questions, split_of
from trainer.adapt.chat import Message, chat_form, encode_prompt
from trainer.adapt.generate import Sample, Sampling, Writer
from trainer.adapt.scores import Task, score, task_of
from trainer.errors import TrainerError
from trainer.inference import open_trained

Form = Callable[[list[Message]], str]


@dataclass
class Counted:
    """What became of the prompts, and of the answers to them."""

    prompts: Counter[str] = field(default_factory=Counter)  # by what came of them
    answers: int = 0
    right: int = 0
    unfinished: int = 0
    pairs: int = 0


def write_preferences(
    checkpoint: Path,
    folder: Path,
    split: str,
    limit: int | None,
    sampling: Sampling,
    task: Task | None,
    out: Path,
    device: str | None,
) -> Counted:
    """Answer a split's prompts, several times each, and write a JSON line {id, prompt, chosen, rejected, ...} for each
    right answer with a wrong one: records for `python -m pipeline pairs`. Prints what became of the prompts.

    Raises TrainerError, also where answers are not right or wrong but more or less alike (judged by their text).
    """
    sampling.check()
    if sampling.samples < 2:
        raise TrainerError(
            f"--preferences wants several answers to each prompt: --samples {sampling.samples} is too few"
        )
    trained = open_trained(checkpoint, device)
    writer, counted = Writer.of(trained), Counted()
    asked = questions(split_of(open_pairs(folder, trained), split), writer.context, limit)
    out.parent.mkdir(parents=True, exist_ok=True)
    form = chat_form(trained) if trained.data.get("chat_template") is not None else None
    beside = out.with_name(f"{out.name}.part")
    with beside.open("w", encoding="utf-8") as file:
        for question, samples in answered(writer, _once(asked), sampling):
            for line in _of_one(question, samples, task, form, writer, counted):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                counted.pairs += 1
    _tell(counted, out)
    if not counted.pairs:
        beside.unlink()
        raise TrainerError(
            f"{out}: no prompt has both right and wrong answers; try more --samples, or another --temperature"
        )
    beside.rename(out)
    return counted


def _once(asked: Iterator[Question]) -> Iterator[Question]:
    """Each prompt once, however many answers the split shows. A number of 64 bits a prompt is held in memory."""
    seen: set[int] = set()
    for question in asked:
        prompt = hash(tuple(question.prompt))
        if prompt not in seen:
            seen.add(prompt)
            yield question


def _of_one(
    question: Question, samples: list[Sample], task: Task | None, form: Form | None, writer: Writer, counted: Counted
) -> list[dict[str, Any]]:
    """The lines of one prompt: its distinct right answers and its distinct wrong ones, in turn, as often as the more of
    the two have."""
    record, how = question.record, task or task_of(question.record)
    if how == "text":
        raise TrainerError(
            f"{record.id}: has neither final nor tests, by which an answer is right or wrong; preferences need one of them"
        )
    if (
        form is not None
        and encode_prompt(writer.tokenizer, form([{"role": "user", "content": record.prompt}])) != question.prompt
    ):
        counted.prompts["of several turns"] += 1  # of which records keep the text alone
        return []
    finished = [sample for sample in samples if sample.ended != "length" and sample.text.strip()]
    counted.answers += len(samples)
    counted.unfinished += len(samples) - len(finished)
    found: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for sample in finished:
        is_right = next(iter(score(how, record, sample.text).values())) >= 1
        counted.right += is_right
        found[is_right][sample.text] = None
    right, wrong = list(found[True]), list(found[False])
    if not right or not wrong:
        counted.prompts["without a wrong one" if right else "without a right one"] += 1
        return []
    counted.prompts["with both"] += 1
    pairs = [(right[n % len(right)], wrong[n % len(wrong)]) for n in range(max(len(right), len(wrong)))]
    return [
        record.fields | {"id": f"{record.id}/{n}", "prompt": record.prompt, "chosen": chosen, "rejected": rejected}
        for n, (chosen, rejected) in enumerate(pairs)
    ]


def _tell(counted: Counted, out: Path) -> None:
    told = ", ".join(f"{count:,} {what}" for what, count in counted.prompts.items())
    print(f"{sum(counted.prompts.values()):,} prompts: {told}")
    share = counted.right / max(1, counted.answers)
    print(f"{counted.answers:,} answers: {share:.1%} right, {counted.unfinished:,} unfinished")
    print(f"{out}: {counted.pairs:,} preferences; next: python -m pipeline pairs {out} --tokenizer FILE --out DIR")
