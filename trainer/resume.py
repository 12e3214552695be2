"""Which checkpoint a run may go on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer import checkpoint
from trainer.config import Config, plain, stored_config
from trainer.errors import TrainerError
from trainer.processes import Processes


def resumable(
    path: Path, config: Config, identity: dict[str, Any], processes: Processes, say: Callable[..., Any]
) -> dict[str, Any]:
    """The state of a checkpoint that this run may go on from. Raises TrainerError if data or model differ."""
    checkpoint.verify(path, processes)
    state = checkpoint.read_state(path)
    for key, now in identity.items():
        then = state["data"].get(key, now)  # what an older checkpoint does not say
        if then != now:
            raise TrainerError(f"{path}: was trained on other data ({key} {then}, now {now}); resume needs the same")
    before, after = plain(stored_config(state["config"], str(path))), plain(config)
    changed = dict(differences(before, after))
    fixed = [key for key in changed if key.startswith(("model.", "data."))]
    if fixed:
        told = ", ".join(f"{key} {changed[key][0]} -> {changed[key][1]}" for key in fixed)
        raise TrainerError(f"{path}: the configuration has changed ({told}); resume needs the same model and data")
    for key, (then, now) in changed.items():
        say(f"note: {key} was {then} when {path.name} was saved, and is {now} now")
    return state


def startable(path: Path, config: Config, identity: dict[str, Any], processes: Processes) -> dict[str, Any]:
    """The state of a checkpoint whose weights this run starts from. Raises TrainerError if model or tokenizer differ.

    How weights were first drawn no longer matters, and document masking may begin or end here: it has no weights.
    """
    checkpoint.verify(path, processes)
    state = checkpoint.read_state(path)
    free = ("init", "init_std", "init_cut", "document_masking")
    found = differences(plain(stored_config(state["config"], str(path)).model), plain(config.model))
    changed = [(key, values) for key, values in found if key not in free]
    if changed:
        told = ", ".join(f"model.{key} {then} -> {now}" for key, (then, now) in changed)
        raise TrainerError(f"{path}: is another model ({told}); start_from needs the same")
    require_tokenizer(path, state["data"], identity["tokenizer_sha256"])
    return state


def require_tokenizer(path: Path, trained_on: dict[str, Any], sha256: str) -> None:
    """Raise TrainerError if the data's tokenizer is known not to be the checkpoint's (imported ones do not say)."""
    if trained_on.get("tokenizer_sha256", sha256) != sha256:
        raise TrainerError(f"{path}: was trained with another tokenizer than these shards are made with; the same is needed")


def differences(before: Any, after: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """(dotted key, (value before, value after)) of everything that differs between two nested configurations."""
    for key in sorted(before.keys() | after.keys()):
        then, now = before.get(key), after.get(key)
        if isinstance(then, dict) and isinstance(now, dict):
            yield from differences(then, now, f"{prefix}{key}.")
        elif then != now:
            yield prefix + key, (then, now)
