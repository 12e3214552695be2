"""What pairs are made of and how: everything that decides the bytes of the folder, with the files and the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from stages.errors import UserError

Kind = Literal["auto", "answers", "messages", "preferences", "labels"]
TooLong = Literal["cut_answer", "cut_prompt", "drop"]
Dedup = Literal["exact", "minhash", "none"]


@dataclass(frozen=True)
class Fields:
    """Where a record holds what; nested objects with dots."""

    id: str = "id"
    context: str | None = None  # text that stands before the prompt, parted from it by a blank line
    prompt: str = "prompt"
    answer: str = "answer"
    messages: str = "messages"
    chosen: str = "chosen"
    rejected: str = "rejected"
    label: str = "label"  # whether an answer is a good one: true or false


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """How records become pairs: what decides the bytes, but for the files' contents, the tokenizer's and the template's."""

    source: str = "pairs"
    kind: Kind = "auto"
    fields: Fields = Fields()
    answers: Literal["all", "last"] = "all"  # of a conversation: which of the assistant's turns are learned
    wrong_answers: bool = False  # answers as preferences over the answers to other prompts
    max_tokens: int = 4096  # of one sequence: the instance that it must fit into
    too_long: TooLong = "cut_answer"
    dedup: Dedup = "exact"
    decontaminate: tuple[str, ...] = ()  # evaluation sets, as JSON lines
    decontaminate_fields: tuple[str, ...] = ("request.context", "request.continuation")
    ngram: int = 13
    held_out: float = 0.02  # share of the prompts
    seed: int = 0
    shard_bytes: int = 64 << 20
    eos_token: str | None = None
    pad_token: str | None = None
    max_record_bytes: int = 16 << 20


@dataclass(frozen=True, kw_only=True)
class PairOptions(PairSettings):
    """All that is asked for."""

    tokenizer: str
    chat_template: str = "olmoe"  # a name of chat.TEMPLATES, or a file in Jinja

    def check(self) -> None:
        """Raise UserError for values that make no sense."""
        if not 0 <= self.held_out < 1:
            raise UserError(f"--held-out {self.held_out:g}: a share of the prompts, from 0 to below 1")
        if self.max_tokens < 2:
            raise UserError(
                f"--max-tokens {self.max_tokens}: a sequence needs a token to start from and one to predict"
            )
        if self.shard_bytes < 1:
            raise UserError(f"--shard-bytes {self.shard_bytes}: at least 1 is needed")

    def settings(self) -> PairSettings:
        """What decides the bytes."""
        return PairSettings(**{one.name: getattr(self, one.name) for one in fields(PairSettings)})
