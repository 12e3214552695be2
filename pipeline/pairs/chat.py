"""Conversations as text, by a chat template, in segments that tell the answers from the rest.

Templates are Jinja, in the dialect of transformers' `apply_chat_template`: blocks leave no line behind, and the names
`messages`, `add_generation_prompt`, `bos_token`, `eos_token` and `raise_exception` are known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stages.errors import UserError

Message = dict[str, str]  # role, content

# OLMoE-Instruct's: <|endoftext|><|user|>\n...\n<|assistant|>\n...<|endoftext|>, turns joined by a newline.
OLMOE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
# The bare texts, the end token after each answer.
PLAIN = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {"olmoe": OLMOE, "plain": PLAIN}


class Segment(NamedTuple):
    """A stretch of a conversation's text."""

    text: str
    answer: bool  # whether it is learned


class TemplateError(Exception):
    """A conversation that the template does not take; the text says why."""


def load_template(named: str) -> str:
    """The template of this name, or of this file. Raises UserError."""
    if named in TEMPLATES:
        return TEMPLATES[named]
    try:
        return Path(named).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--chat-template {named}: {reason}; name {', '.join(TEMPLATES)} or a file in Jinja") from None


class ChatTemplate:
    """A template with the tokens that it names."""

    def __init__(self, text: str, bos_token: str, eos_token: str) -> None:
        """Raises UserError for what is no Jinja."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(text)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template is no Jinja ({error})") from None
        self.text, self._tokens = text, {"bos_token": bos_token, "eos_token": eos_token}

    def render(self, messages: list[Message], add_generation_prompt: bool = False) -> str:
        """The text of a conversation. Raises TemplateError where the template refuses it."""
        try:
            values: dict[str, Any] = {"messages": messages, "add_generation_prompt": add_generation_prompt}
            return self._template.render(**values, **self._tokens)
        except (jinja2.TemplateError, TypeError) as error:
            raise TemplateError(str(error)) from None

    def segments(self, messages: list[Message], last_only: bool = False) -> list[Segment]:
        """The text of a conversation in segments; answers are what the template adds for an assistant's message after
        the text that asks for one. With `last_only` only the last answer is learned.

        Raises TemplateError where the text before an answer changes with what follows: such a template cannot tell.
        """
        whole, found, at = self.render(messages), [], 0
        answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        for number, place in enumerate(answers, start=1):
            before = self.render(messages[:place], add_generation_prompt=True)
            after = whole if place == len(messages) - 1 else self.render(messages[: place + 1])
            if not (whole.startswith(after) and after.startswith(before) and len(before) >= at):
                two = ", as two answers in a row do not ask for the second" if place - 1 in answers else ""
                raise TemplateError(f"the text before answer {number} is another once the answer is there{two}")
            found.append(Segment(whole[at : len(before)], False))
            found.append(Segment(whole[len(before) : len(after)], not last_only or place == answers[-1]))
            at = len(after)
        if at < len(whole):
            found.append(Segment(whole[at:], False))
        return found


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
