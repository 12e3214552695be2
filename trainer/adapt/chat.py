"""Prompts in chat form, by the template that a checkpoint was fine-tuned with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from trainer.errors import TrainerError
from trainer.inference import Trained

Message = dict[str, str]  # role, content


def chat_prompt(trained: Trained, messages: list[Message]) -> str:
    """The text that asks for the next answer of a conversation. Raises TrainerError for a checkpoint without a template."""
    return chat_form(trained)(messages)


def chat_form(trained: Trained) -> Callable[[list[Message]], str]:
    """What turns a conversation into the text that asks for its next answer.

    The template is rendered as transformers does it. Raises TrainerError for a checkpoint without one.
    """
    template = trained.data.get("chat_template")
    if template is None:
        raise TrainerError(f"{trained.path}: has no chat template: it was not fine-tuned on pairs; leave --chat out")
    eos = trained.tokenizer().id_to_token(trained.data["eos_id"])
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse

    def render(messages: list[Message]) -> str:
        try:
            return parsed.render(messages=messages, add_generation_prompt=True, bos_token=eos, eos_token=eos)
        except jinja2.TemplateError as error:
            raise TrainerError(f"the chat template does not take this conversation ({error})") from None

    try:
        parsed = environment.from_string(template)
    except jinja2.TemplateError as error:
        raise TrainerError(f"{trained.path}: its chat template is no Jinja ({error})") from None
    return render


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a prompt, none added."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
