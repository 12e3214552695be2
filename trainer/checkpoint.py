"""Checkpoints: safetensors files and one state.json, written beside their place and moved there whole.

    step_00000300/
        state.json                            step, tokens, position, configuration, data; each file's size and sha256
        model-00000-of-00001.safetensors      parameters, or this process's rows of them (pieces.py)
        optimizer-00000-of-00001.safetensors  exp_avg and exp_avg_sq of the same
        tokenizer.json

Each process writes what it holds and reads what it needs, so that a checkpoint moves once however many there are; any
number of processes can read what any other number wrote. A folder without the `.tmp-` prefix is complete. Older ones go
after a newer one is in place; those of a history that was left are moved to `left-1`, `left-2`, ..., and never removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.errors import TrainerError
from trainer.pieces import PieceError, PieceReader, held, writers_of
from trainer.processes import Processes
from trainer.remote import MARK, Remote, is_remote
from trainer.remote import find as find_remote

FORMAT = "headrace-checkpoint"
MOMENTS = ("exp_avg", "exp_avg_sq")
CHOICES = "experts.npy"
"""In a checkpoint that stays for good: the experts of the tokens that are watched (analyze/watch.py), int16 [L, N, K]."""


class Saver:
    """Writes checkpoints into a folder, in the background if told to, and where `copy_to` says so to S3 as well, each
    process its part. The newest `keep` stay, and for good the first one past each multiple of `keep_every_tokens`.

    The first process clears away what an earlier one left unfinished when it is made, so that processes must meet between
    that and the first save.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        processes: Processes,
        asynchronous: bool,
        keep_every_tokens: int | None = None,
        copy_to: Remote | None = None,
    ) -> None:
        self.folder, self.keep, self.processes, self.asynchronous = folder, keep, processes, asynchronous
        self.keep_every_tokens, self.copy_to = keep_every_tokens, copy_to
        self.seconds = 0.0  # that the last save took, from its call to the end of writing
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._pinned: dict[str, Tensor] = {}
        self._begun = 0.0
        if processes.first:
            for unfinished in folder.glob(".tmp-*"):
                shutil.rmtree(unfinished)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        state: dict[str, Any],
        tokenizer: Path | None,
        choices: np.ndarray | None = None,
    ) -> None:
        """Save the state of this step. `state` holds at least `step`; `choices` is what CHOICES is to hold. Raises
        TrainerError if this save, or an earlier one in the background, fails (a full disk, a folder that cannot be written)."""
        self.wait()
        self._begun = time.monotonic()
        files = self._snapshot(model, optimizer)
        copied = torch.cuda.Event() if self.processes.device.type == "cuda" else None
        if copied:
            copied.record()
        asked = (files, state, tokenizer, choices, copied)
        if self.asynchronous:
            self._thread = threading.Thread(target=self._write, args=asked, daemon=False)
            self._thread.start()
        else:
            self._write(*asked)
            self.wait()

    def wait(self) -> None:
        """Until the background save is done. Raises its error."""
        self.join()
        self.raise_failure()

    def join(self) -> None:
        """Until the background save is done, well or not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def raise_failure(self) -> None:
        """Raise the error of a background save that has failed by now: a TrainerError for a disk that did not take it."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _snapshot(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, dict[str, Tensor]]:
        """This process's part of the tensors, on the host, out of training's reach: the tensors of each file.

        From a GPU they are copied into pinned memory that is kept for the next save, and nothing waits for that here.
        """
        rank, count = self.processes.rank, self.processes.count
        names, parameters = zip(*model.named_parameters(), strict=True)
        writers = writers_of([parameter.numel() for parameter in parameters], count)
        share = f"{rank:05d}-of-{count:05d}.safetensors"
        files: dict[str, dict[str, Tensor]] = {f"model-{share}": {}}
        if optimizer is not None:
            files[f"optimizer-{share}"] = {}
        for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
            tensors = {name: parameter}
            if optimizer is not None and optimizer.state:  # empty before the first update
                tensors |= {f"{name}.{moment}": optimizer.state[parameter][moment] for moment in MOMENTS}
            for key, tensor in tensors.items():
                here = held(tensor, count, rank)
                mine = writers[index] if here.whole and here.writers == count else index % here.writers
                if here.writer == mine and here.local.numel():
                    files[f"{'model' if key == name else 'optimizer'}-{share}"][here.key(key)] = self._copy(key, here.local)
        return files

    def _copy(self, key: str, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.to("cpu", copy=self.asynchronous).contiguous()
        if not self.asynchronous:
            return tensor.cpu().contiguous()
        if key not in self._pinned or self._pinned[key].shape != tensor.shape:
            self._pinned[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        # In the stream of the steps: the next update of these values comes after it. `_write` waits for the copies.
        return self._pinned[key].copy_(tensor, non_blocking=True)

    def _write(
        self,
        files: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        tokenizer: Path | None,
        choices: np.ndarray | None,
        copied: torch.cuda.Event | None,
    ) -> None:
        name = step_name(state["step"])
        part = self.folder / f".tmp-{name}"
        try:
            if copied:
                copied.synchronize()
            part.mkdir(parents=True, exist_ok=True)
            sums = {}
            for file, tensors in files.items():
                save_file(tensors, part / file)
                sums[file] = {"bytes": (part / file).stat().st_size, "sha256": _sha256(part / file)}
                _sync(part / file)
            with contextlib.ExitStack() as stack:  # opened before the first process moves the folder
                opened = {file: stack.enter_context((part / file).open("rb")) for file in files if self.copy_to}
                _write_json(part / f"sums-{self.processes.rank:05d}.json", sums)
                dropped = self._commit(part, name, state, tokenizer, choices) if self.processes.first else []
                if self.copy_to:
                    self._copy_out(self.copy_to, name, opened, dropped)
            self.seconds = time.monotonic() - self._begun
        except (OSError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            reason = getattr(error, "strerror", None) or str(error)
            left = latest(self.folder)
            kept = f"the last good checkpoint is {left}" if left else "there is no earlier checkpoint"
            self._error = TrainerError(f"{self.folder / name}: the checkpoint could not be written ({reason}); {kept}")
        except Exception as error:  # in a thread: whoever waits must learn of it
            self._error = error

    def _copy_out(self, to: Remote, name: str, opened: dict[str, BinaryIO], dropped: list[str]) -> None:
        """Copy this process's files; the first one waits for the others' and then says that the copy is complete."""
        final = self.folder / name
        try:
            for file, handle in opened.items():
                to.put(handle, f"{name}/{file}")
            to.put_bytes(b"", f"{name}/{MARK}{self.processes.rank:05d}")
            if self.processes.first:
                last = [path for name in ("tokenizer.json", CHOICES, "state.json") if (path := final / name).is_file()]
                to.finish(name, {path.name: path.read_bytes() for path in last}, self.processes.count)
                for old in dropped:
                    to.remove(old)
        except TrainerError as error:
            raise TrainerError(f"{error}; on disk {final} is complete") from None

    def _commit(
        self, part: Path, name: str, state: dict[str, Any], tokenizer: Path | None, choices: np.ndarray | None
    ) -> list[str]:
        """Wait for the other processes' files, write the state, move the folder to its name, drop old ones: their names."""
        parts = [part / f"sums-{rank:05d}.json" for rank in range(self.processes.count)]
        deadline = time.monotonic() + 1800
        while not all(path.exists() for path in parts):
            if time.monotonic() > deadline:
                raise OSError("another process did not write its part within 30 minutes")
            time.sleep(0.05)
        files: dict[str, Any] = {}
        for path in parts:
            files |= json.loads(path.read_text())
            path.unlink()
        if tokenizer is not None:
            shutil.copyfile(tokenizer, part / "tokenizer.json")
            _sync(part / "tokenizer.json")
        if choices is not None:
            np.save(part / CHOICES, choices)
            _sync(part / CHOICES)
        for_good = self.for_good(state.get("tokens", 0))
        state = {"format": FORMAT, "version": 1, **state, "for_good": for_good, "files": files}
        _write_json(part / "state.json", state)
        _sync(part)
        final = self.folder / name
        if final.exists():
            left = _move([final], self.folder)
            self.processes.say(f"note: {name} was there already: kept in {left}")
        part.rename(final)
        _sync(self.folder)
        return self._prune()

    def for_good(self, tokens: int) -> bool:
        """Whether a checkpoint after so many tokens, saved now, would stay for good."""
        if self.keep_every_tokens is None:
            return False
        before = latest(self.folder)
        seen = read_state(before).get("tokens", 0) if before else 0
        return tokens // self.keep_every_tokens > seen // self.keep_every_tokens

    def _prune(self) -> list[str]:
        dropped = [old for old in all_checkpoints(self.folder)[: -self.keep] if not stays(old)]
        for old in dropped:
            shutil.rmtree(old)
        return [old.name for old in dropped]


def stays(path: Path) -> bool:
    """Whether a checkpoint stays for good."""
    try:
        return bool(read_state(path).get("for_good", False))
    except TrainerError:  # a damaged one says nothing, and is not removed unseen
        return True


def set_aside(folder: Path, going_on: Path, step: int) -> Path | None:
    """Move what is of another history than `going_on`, the checkpoint of `step` that training goes on from: later steps,
    or, where that checkpoint lies elsewhere, all. Returns where they are now; None if there are none."""
    inside = going_on.resolve().parent == folder.resolve()
    others = [path for path in sorted(folder.glob("step_*")) if not inside or path.name > step_name(step)]
    return _move(others, folder) if others else None


def _move(paths: list[Path], folder: Path) -> Path:
    """Move checkpoints into the first of `left-1`, `left-2`, ... that is not there yet."""
    number = 1
    while (left := folder / f"left-{number}").exists():
        number += 1
    left.mkdir()
    for path in paths:
        path.rename(left / path.name)
    _sync(folder)
    return left


def step_name(step: int) -> str:
    """The name of a step's folder; names sort as steps do."""
    return f"step_{step:08d}"


def all_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step_*") if (path / "state.json").is_file())


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    return (all_checkpoints(folder) or [None])[-1]


def find(path: Path) -> Path:
    """The checkpoint that a user means: a checkpoint's folder, or a training run's, whose newest it is then. One on S3
    (s3://BUCKET/PREFIX) is fetched."""
    if is_remote(path):
        return find_remote(str(path))
    if (path / "state.json").is_file():
        return path
    found = latest(path / "checkpoints") or latest(path)
    if found is None:
        raise TrainerError(f"{path}: no checkpoint there; name a checkpoint's folder, or a training's that has saved one")
    return found


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's state.json. Raises TrainerError if it is missing or damaged."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if state["format"] != FORMAT or not isinstance(state["files"], dict):
            raise ValueError("not a checkpoint of this trainer")
        return state
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _corrupt(path, f"state.json cannot be read ({error})") from None


def verify(path: Path, processes: Processes | None = None) -> None:
    """Compare size and sha256 of the files with the state. Several processes check a share of the files each."""
    rank, count = (processes.rank, processes.count) if processes else (0, 1)
    for index, (name, expected) in enumerate(sorted(read_state(path)["files"].items())):
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            raise _corrupt(path, f"{name} is missing")
        if size != expected["bytes"]:
            raise _corrupt(path, f"{name} has {size} bytes and should have {expected['bytes']}")
        if index % count == rank and _sha256(file) != expected["sha256"]:
            raise _corrupt(path, f"the content of {name} does not match its sha256")


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Fill a model, and an optimizer if given, from a checkpoint; of parameters that are split, this process's rows are
    read and no others. Returns the bytes that were read.

    A checkpoint without optimizer state (imported, upcycled) leaves the optimizer as it is: new.
    """
    state, read = read_state(path), _pieces(path)
    with_moments = optimizer is not None and any(name.startswith("optimizer-") for name in state["files"])
    try:
        for name, parameter in model.named_parameters():
            _fill(path, read, name, parameter)
            if not with_moments:
                continue
            moments = {moment: torch.zeros_like(parameter.detach()) for moment in MOMENTS}
            for moment, values in moments.items():
                _fill(path, read, f"{name}.{moment}", values)
            step = torch.tensor(float(state["updates"]), device=parameter.device)
            optimizer.state[parameter] = {"step": step, **moments}
    except PieceError as error:
        raise _corrupt(path, str(error)) from None
    return read.bytes


def reader(path: Path) -> Callable[[str], Tensor]:
    """A function that reads one whole tensor of a checkpoint by its name. Raises TrainerError if it has no such."""
    pieces = _pieces(path)

    def read(name: str) -> Tensor:
        try:
            return pieces.read(name)
        except PieceError as error:
            raise _corrupt(path, str(error)) from None

    return read


def _pieces(path: Path) -> PieceReader:
    try:
        return PieceReader([path / name for name in sorted(read_state(path)["files"])])
    except PieceError as error:
        raise _corrupt(path, str(error)) from None


def _fill(path: Path, read: PieceReader, name: str, tensor: Tensor) -> None:
    found, wanted = read.shape(name), list(tensor.shape)
    if found != wanted:
        raise _corrupt(path, f"{name} has the shape {found} and should have {wanted}")
    here = held(tensor)
    values = read.read(name) if here.whole else read.rows(name, here.start, here.start + len(here.local))
    here.local.copy_(values)


def _corrupt(path: Path, what: str) -> TrainerError:
    others = [other for other in all_checkpoints(path.parent) if other != path]
    advice = f"; {others[-1]} is the newest other one (--resume {others[-1]})" if others else ""
    return TrainerError(f"{path}: the checkpoint is damaged: {what}{advice}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Any) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    _sync(beside)
    beside.rename(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
