"""`trainer train`: pretraining on the shards of a finished run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from trainer import processes as procs
from trainer.config import Config
from trainer.failures import Doing, failures_told
from trainer.host import only_one, reuse_memory, signals
from trainer.objective import Objective, Source
from trainer.pretrain import Pretraining, TokenSource, open_together, require_tokens, with_vocabulary
from trainer.processes import Processes
from trainer.training import Training


class Work(NamedTuple):
    """All that a training needs beside its folder."""

    config: Config
    source: Source[Any]
    objective: Objective[Any]


def train(
    config: Config, data_dir: Path, out: Path, resume: bool | Path = False, device: str | None = None, exact: bool = False
) -> int:
    """Pretrain to the end, or until told to stop. Returns the exit status: 0, or 128 + the signal that stopped it.

    `resume` continues from the newest checkpoint in `out` (from the start if there is none), or from the one given.
    `exact`: data that hold fewer tokens than `train.tokens` are refused; else training ends with them.
    Raises TrainerError for everything that the user can mend.
    """

    def prepare(processes: Processes) -> Work:
        data = open_together(config, data_dir, processes)
        if exact:
            require_tokens(config, data, data_dir)
        full = with_vocabulary(config, data, data_dir)
        source = TokenSource(full, data, data_dir, processes.device)
        return Work(full, source, Pretraining(full, data, source.entropy, processes))

    return run(prepare, out, resume, device)


def run(prepare: Callable[[Processes], Work], out: Path, resume: bool | Path = False, device: str | None = None) -> int:
    """Carry out the training that `prepare` describes to each process; what `train` says of the rest holds here too."""
    processes = procs.start(device)
    training: Training[Any] | None = None
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(failures_told(out, lambda: training.doing if training else Doing.OPENING))
            if processes.first:
                stack.enter_context(only_one(out))
            received = stack.enter_context(signals())
            reuse_memory()
            training = stack.enter_context(Training(*prepare(processes), processes, out, received))
            training.set_up(resume)
            return training.run()
    finally:
        processes.close()
