"""What the system refuses while training (memory, disk), as one sentence that says what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint
from trainer.errors import TrainerError


class Doing(Enum):
    """What training was doing, and what helps when it found no memory for it."""

    OPENING = "opening the data", "free memory on this machine"
    SET_UP = (
        "making the model and its optimizer",
        "take more processes with train.parallel=fsdp, or a smaller model (`python -m trainer plan` tells what fits)",
    )
    STEP = "a step", "lower train.micro_batch or train.loss_chunk_mib, or set train.recompute"
    EVALUATION = "an evaluation", "lower train.micro_batch or train.loss_chunk_mib"
    SAVING = "saving", "set checkpoint.asynchronous=false: a checkpoint written in the background is held in host memory"

    @property
    def what(self) -> str:
        """The activity."""
        return self.value[0]

    @property
    def advice(self) -> str:
        """What to change."""
        return self.value[1]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory, of a device or of the host; not every one that speaks of allocation."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = r"DefaultCPUAllocator: (can't allocate|not enough) memory|CUDA(?: error)?: out of memory"
    return isinstance(error, RuntimeError) and re.search(told, str(error)) is not None


@contextlib.contextmanager
def failures_told(out: Path, doing: Callable[[], Doing]) -> Iterator[None]:
    """Turn what the system refuses into a TrainerError that names the last good checkpoint of `out`."""
    try:
        yield
    except OSError as error:
        raise TrainerError(_told(error.filename or out, error.strerror or error, out)) from error
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        size = f" ({asked[1]} more were asked for)" if asked else ""
        now = doing()
        raise TrainerError(_told(out, f"out of memory in {now.what}{size}: {now.advice}", out)) from error


def _told(where: Any, what: Any, out: Path) -> str:
    good = checkpoint.latest(out / "checkpoints")
    return f"{where}: {what}; {f'the last good checkpoint is {good}' if good else 'no checkpoint had been saved'}"
