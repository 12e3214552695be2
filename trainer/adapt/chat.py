"""Prompts in chat form, by the template that a checkpoint was fine-tuned with."""

from __future__ import annotations

from typing import NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from trainer.errors import TrainerError
from trainer.inference import Trained


def chat_prompt(trained: Trained, messages: list[dict[str, str]]) -> str:
    """The text that asks for the next answer of a conversation ([{role, content}]).

    The template is rendered as transformers does it. Raises TrainerError for a checkpoint without one.
    """
    template = trained.data.get("chat_template")
    if template is None:
        raise TrainerError(f"{trained.path}: has no chat template: it was not fine-tuned on pairs; leave --chat out")
    eos = trained.tokenizer().id_to_token(trained.data["eos_id"])
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(template).render(
            messages=messages, add_generation_prompt=True, bos_token=eos, eos_token=eos
        )
    except jinja2.TemplateError as error:
        raise TrainerError(f"the chat template does not take this conversation ({error})") from None


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a prompt, none added."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
