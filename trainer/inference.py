"""A trained model, ready for use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer import checkpoint
from trainer.config import Config, stored_config
from trainer.errors import TrainerError
from trainer.host import device as pick_device
from trainer.model import Olmoe
from trainer.remote import is_remote

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds."""

    path: Path
    model: Olmoe
    config: Config
    data: dict[str, Any]  # vocab_size, eos_id, pad_id, fingerprint
    device: torch.device

    @property
    def context(self) -> int:
        """Tokens that the model was trained to see at once. Fine-tuning packs several sequences into an instance."""
        return context_of(self.config, self.data)

    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer. Raises TrainerError if it carries none, or not the one it was trained with."""
        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise TrainerError(f"{self.path}: has no tokenizer.json; copy the run's tokenizer/tokenizer.json there")
        from tokenizers import Tokenizer  # needed here alone: training does without

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises bare Exception
            raise TrainerError(f"{path}: cannot be read ({error})") from None
        entries = tokenizer.get_vocab_size()
        if entries != self.data["vocab_size"]:
            raise TrainerError(
                f"{path}: is another tokenizer: it has {entries} entries, the model was trained with "
                f"{self.data['vocab_size']}"
            )
        expected = self.data.get("tokenizer_sha256")
        if expected is not None and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise TrainerError(f"{path}: is another tokenizer than the one that the model was trained with")
        return tokenizer

    def require_causal(self) -> None:
        """Raise TrainerError if a token's output depends on later tokens."""
        if self.config.model.routing == "expert_choice":
            raise TrainerError(
                f"{self.path}: with expert choice a token's route depends on the tokens after it, so the model can "
                "neither write text nor be scored on answers"
            )


def context_of(config: Config, data: dict[str, Any]) -> int:
    """The context of a checkpoint's model, in tokens, from its configuration and data."""
    return data.get("context", config.data.sequence_length)


def all_or_newest(path: Path) -> list[Path]:
    """All checkpoints of a training's folder, oldest first; or the one that is meant otherwise, as `find` has it."""
    found = [] if is_remote(path) or (path / "state.json").is_file() else checkpoint.all_checkpoints(path / "checkpoints")
    return found or [checkpoint.find(path)]


def open_trained(path: Path, device: str | None = None) -> Trained:
    """Load a checkpoint, or the newest of a training's folder, for use. Raises TrainerError if it is damaged."""
    path = checkpoint.find(path)
    checkpoint.verify(path)
    state = checkpoint.read_state(path)
    config = stored_config(state["config"], str(path))
    place = torch.device(pick_device(device))
    with torch.device("meta"):
        model = Olmoe(config.model, config.train.loss_chunk_mib)
    model.to_empty(device=place)
    checkpoint.load(path, model)
    if place.type == "cuda":
        model.dtype = getattr(torch, config.train.precision)
    return Trained(path, model.requires_grad_(False).eval(), config, state["data"], place)
