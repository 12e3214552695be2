"""How the command line was started, for messages that name another command: `headrace`, or `python -m pipeline`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from stages.errors import UserError

INSTALLED = "headrace"


def _is_installed() -> bool:
    return Path(sys.argv[0]).stem == INSTALLED


def program() -> str:
    """What the user types for the pipeline's commands."""
    return INSTALLED if _is_installed() else "python -m pipeline"


def trainer_program() -> str:
    """What the user types for the trainer's commands, all but `train`."""
    return f"{INSTALLED} trainer" if _is_installed() else "python -m trainer"


def train_command(folder: str, config: str = "olmoe_tiny") -> str:
    """The command that trains a model, without another configuration a tiny one, on a folder of shards."""
    start = f"{INSTALLED} train" if _is_installed() else "python -m trainer train"
    return f"{start} {shlex.quote(config)} --data {shlex.quote(folder)}"


def check_trainer(config: str, flag: str = "--train") -> None:
    """Raise UserError where the trainer could not begin with this configuration: it is told before a run, and not after."""
    if find_spec("torch") is None:
        raise UserError(f"{flag} {config}: training needs PyTorch, which is not installed: pip install 'headrace[trainer]'")
    try:
        import_module("trainer.config").load(Path(config))
    except import_module("trainer.errors").TrainerError as error:
        raise UserError(f"{flag}: {error}") from None


def check_experiments(config: str) -> None:
    """Raise UserError where models could not be trained and compared: for the trainer, or for the picture at the end."""
    check_trainer(config, "--config")
    if find_spec("matplotlib") is None:
        raise UserError("the picture of the result needs matplotlib, which is not installed: pip install 'headrace[plots]'")


def trainer(arguments: Sequence[str]) -> int:
    """Run the trainer's command line. It is found by name: nothing else here needs PyTorch, or knows the trainer."""
    own = arguments[:1] == ["train"] and _is_installed()
    return import_module("trainer.__main__").main(arguments, INSTALLED if own else trainer_program())
