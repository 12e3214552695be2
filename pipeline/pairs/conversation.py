"""From a record's fields to conversations: what must be there, and which rule drops a record where it is not."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.pairs.chat import Message
from pipeline.pairs.options import Fields, Kind
from pipeline.pairs.records import Record
from stages.errors import UserError

ROLES = ("answer", "chosen", "rejected", "desirable", "undesirable")
"""What a sequence is; its number here is what the shards hold."""


class Dropped(Exception):
    """A record that gives no pair: the rule's name, and a sentence."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(detail)
        self.rule, self.detail = rule, detail


@dataclass(frozen=True)
class Pair:
    """One record's conversations: one, or the chosen and the rejected one."""

    id: str
    file: str
    record: int
    conversations: tuple[list[Message], ...]
    roles: tuple[str, ...]
    fields: dict[str, Any] = field(default_factory=dict)  # what else the record held

    @property
    def prompt(self) -> str:
        """The text before the first answer: by its hash a pair is held out."""
        messages = self.conversations[0]
        first = next(place for place, message in enumerate(messages) if message["role"] == "assistant")
        return "\n".join(message["content"] for message in messages[:first])

    @property
    def text(self) -> str:
        """All that is said: what copies and evaluation sets are looked for in."""
        said = [message["content"] for message in self.conversations[0]]
        said += [messages[-1]["content"] for messages in self.conversations[1:]]
        return "\n".join(said)


def kind_of(record: Record, fields: Fields) -> Kind:
    """What a record's own fields make it. Raises UserError where a label is there, and is not true or false: bad answers
    would be learned as good ones."""
    there = record.fields
    if _get(there, fields.chosen) is not None and _get(there, fields.rejected) is not None:
        return "preferences"
    if _get(there, fields.messages) is not None:
        return "messages"
    label = _get(there, fields.label)
    if isinstance(label, bool):
        return "labels"
    if label is not None or fields.label in there:
        raise UserError(
            f"{record.file}, record {record.number}: {fields.label} is {_kind(label)}, not true or false; write whether an "
            "answer is a good one as true or false, or say --kind answers where it means something else"
        )
    return "answers"


def read_pair(record: Record, kind: Kind, fields: Fields) -> Pair:
    """The pair of a record. Raises Dropped."""
    if record.problem:
        raise Dropped(record.problem, record.detail)
    if kind == "messages":
        conversations: tuple[list[Message], ...] = (_messages(record, fields.messages),)
        roles: tuple[str, ...] = ("answer",)
    elif kind == "preferences":
        conversations = tuple(_answered(record, name, fields) for name in (fields.chosen, fields.rejected))
        roles = ("chosen", "rejected")
        if conversations[0] == conversations[1]:
            raise Dropped("same_answers", f"{fields.chosen} and {fields.rejected} are the same")
        if conversations[0][:-1] != conversations[1][:-1]:
            raise Dropped("other_prompt", f"{fields.chosen} and {fields.rejected} answer different prompts")
    else:
        conversations, roles = (_answered(record, fields.answer, fields),), ("answer",)
        if kind == "labels":
            label = _get(record.fields, fields.label)
            if not isinstance(label, bool):
                raise Dropped("wrong_field", _missing(record, fields.label, label, "true or false"))
            roles = ("desirable" if label else "undesirable",)
    known = {fields.id, fields.context, fields.prompt, fields.answer, fields.messages, fields.chosen, fields.rejected}
    rest = {name: value for name, value in record.fields.items() if name not in known}
    name = _get(record.fields, fields.id)
    own = str(name) if isinstance(name, str | int) and not isinstance(name, bool) and name != "" else None
    place = f"{record.file.rsplit('/', 1)[-1]}:{record.number}"
    return Pair(own or place, record.file, record.number, conversations, roles, rest)


def with_wrong_answers(pairs: Iterator[Pair], drop: Callable[[Pair, Dropped], None]) -> Iterator[Pair]:
    """Answers as preferences over the answer to another prompt: the last one before that differs, for the first ones
    one after. Pairs of several turns, or whose answer no other one differs from, are handed to `drop`.

    What is wrong is known without a judge: a stand-in for preferences of people, by which methods can be tried.
    """
    before: tuple[str, str] | None = None  # the last answer, and the last that differs from it
    waiting: list[Pair] = []
    for pair in pairs:
        if len(pair.roles) > 1 or sum(message["role"] == "assistant" for message in pair.conversations[0]) > 1:
            drop(pair, Dropped("wrong_field", "wrong answers are made for pairs of one answer"))
            continue
        answer = pair.conversations[0][-1]["content"]
        if before is None or (before[0] == answer == before[1]):
            before = before or (answer, answer)
            if before[0] == answer:
                waiting.append(pair)
                continue
        for one in waiting:
            yield _preferred(one, answer)
        waiting = []
        wrong = before[0] if before[0] != answer else before[1]
        yield _preferred(pair, wrong)
        before = (answer, wrong)
    for one in waiting:
        drop(one, Dropped("same_answers", "no other prompt has another answer"))


def _preferred(pair: Pair, wrong: str) -> Pair:
    chosen = pair.conversations[0]
    rejected = [*chosen[:-1], {"role": "assistant", "content": wrong}]
    return replace(pair, conversations=(chosen, rejected), roles=("chosen", "rejected"))


def _answered(record: Record, name: str, fields: Fields) -> list[Message]:
    """The conversation that ends in the answer of this field: a text, or a list of messages."""
    value = _get(record.fields, name)
    if isinstance(value, list):
        return _messages(record, name)
    prompt, answer = _text(record, fields.prompt), _text(record, name)
    if fields.context is not None:
        context = _text(record, fields.context)
        prompt = f"{context}\n\n{prompt}" if prompt.strip() else prompt
    if not prompt.strip():
        raise Dropped("no_prompt", f"{fields.prompt} is empty")
    if not answer.strip():
        raise Dropped("empty_answer", f"{name} is empty")
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _messages(record: Record, name: str) -> list[Message]:
    value = _get(record.fields, name)
    if not isinstance(value, list) or not value:
        raise Dropped("wrong_field", _missing(record, name, value, "a list of messages"))
    found: list[Message] = []
    for place, message in enumerate(value, start=1):
        role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise Dropped("wrong_field", f"message {place} of {name} has no text as role and content")
        if role not in ("system", "user", "assistant"):
            raise Dropped("wrong_field", f"message {place} of {name} has the role {role!r}")
        found.append({"role": role, "content": content})
    while found and found[-1]["role"] != "assistant":  # a question that nobody answers teaches nothing
        found.pop()
    if not found:
        raise Dropped("no_answer", f"{name} has no message of the assistant's")
    if not any(message["role"] == "user" and message["content"].strip() for message in found):
        raise Dropped("no_prompt", f"{name} has no message of a user's")
    if found[0]["role"] == "assistant":
        raise Dropped("no_prompt", f"{name} begins with an answer")
    if any(message["role"] == "assistant" and not message["content"].strip() for message in found):
        raise Dropped("empty_answer", f"an answer of {name} is empty")
    return found


def _text(record: Record, name: str) -> str:
    value = _get(record.fields, name)
    if not isinstance(value, str):
        raise Dropped("wrong_field", _missing(record, name, value, "a text"))
    return value


def _missing(record: Record, name: str, value: Any, wanted: str) -> str:
    if value is not None or name in record.fields:
        return f"{name} is {_kind(value)}, not {wanted}"
    there = list(record.fields)
    near = difflib.get_close_matches(name, there, 1, 0.4)
    hint = f"; is it {near[0]}?" if near else ""
    return f"there is no {name}; the record has {', '.join(map(str, there[:8])) or 'no fields'}{hint}"


def _get(values: Any, path: str) -> Any:
    if isinstance(values, dict) and path in values:
        return values[path]
    for name in path.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
