"""A model for each arm and seed, trained and scored by the trainer in processes of its own; what is done stays done."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Protocol

import msgspec

from pipeline.ablate.compare import Loss
from pipeline.engine.place import Placement
from pipeline.engine.ray_driver import Raised, Result
from pipeline.engine.ray_start import ray_address, start_ray
from stages.errors import UserError

LOOK_SECONDS = 5.0
# Nothing is written to its stdin, which ends when the process that holds the other end does. The first command that fails is the
# last.
_CODE = """
import gc, json, os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from trainer.__main__ import main
status = next(filter(None, map(main, json.loads(sys.argv[1]))), 0)
gc.freeze()
sys.exit(status)
"""
FREE_SECONDS = 60.0
LINES = 12  # of what a trainer said last, where it failed


class _Scores(msgspec.Struct):
    """What is read of the file of `trainer eval --out`."""

    documents: list[Loss]


@dataclass(frozen=True)
class Plan:
    """How models are trained: the trainer's configuration and its `--set`, tokens, seeds, evaluation files; jobs side by side,
    each with so many threads."""

    config: str
    settings: tuple[str, ...]
    tokens: int
    seeds: Sequence[int]
    evaluation: tuple[Path, ...]
    jobs: int
    threads: int
    device: str | None

    def identity(self, texts: str) -> str:
        """What besides an arm's data decides a result. texts: a hash of the evaluation text."""
        known = [self.config, *self.settings, str(self.tokens), str(self.threads), texts]
        return hashlib.blake2b("\0".join(known).encode(), digest_size=6).hexdigest()


class Trained(Protocol):
    """What is trained on: a folder with a manifest, relative to the experiment's, and its fingerprint."""

    @property
    def folder(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class _Training:
    """A model to be trained and scored: commands of the trainer, for one process, in whose folder its log lies."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    folder: Path
    threads: int


def train_all(
    plan: Plan,
    arms: Mapping[str, Trained],
    out: Path,
    texts: str,
    placement: Placement,
    say: Callable[[str], None],
) -> dict[str, list[list[Loss]]]:
    """The losses of every arm and seed, document by document. texts: a hash of the evaluation text. Trainings run side by side
    on this machine, or on the cluster that `placement` names. Raises UserError where a trainer fails."""
    out = out.absolute()
    folders = {
        (name, seed): out / "arms" / name / f"{arm.fingerprint[:12]}-{plan.identity(texts)}" / f"seed-{seed}"
        for seed in plan.seeds
        for name, arm in arms.items()
    }
    left = [
        _training(plan, name, seed, out / arms[name].folder, folder)
        for (name, seed), folder in folders.items()
        if not (folder / "scores.json").is_file()
    ]
    if left and not placement.inline and ray_address(placement.address, placement.workers):
        _on_ray(left, placement, say)
    else:
        with ThreadPoolExecutor(plan.jobs) as pool:
            list(pool.map(lambda one: _here(one, say), left))
    losses = {place: _losses(folder) for place, folder in folders.items()}
    return {name: [losses[name, seed] for seed in plan.seeds] for name in arms}


def _losses(folder: Path) -> list[Loss]:
    return msgspec.json.decode((folder / "scores.json").read_bytes(), type=_Scores).documents


def _training(plan: Plan, name: str, seed: int, data: Path, folder: Path) -> _Training:
    own = [*plan.settings, f"train.tokens={plan.tokens}", f"train.seed={seed}", f"data.seed={seed}"]
    train = ["train", plan.config, "--data", str(data), "--out", str(folder), "--resume", "--set", *own]
    texts = [str(path.absolute()) for path in plan.evaluation]
    score = ["eval", str(folder), "--text", *texts, "--out", str(folder / "scores.json")]
    device = ["--device", plan.device] if plan.device else []
    return _Training(f"{name}, seed {seed}", tuple((*command, *device) for command in (train, score)), folder, plan.threads)


def _here(one: _Training, say: Callable[[str], None]) -> None:
    say(f"{one.name}: training")
    run_trainer(one.commands, one.folder, one.threads)
    say(f"{one.name}: done")


def _on_ray(trainings: Sequence[_Training], placement: Placement, say: Callable[[str], None]) -> None:
    """One call of a worker each, as many side by side as the cluster has room for. The experiment's folder is one that all of its
    nodes reach at the same path."""
    ray = start_ray(placement.address, placement.workers, placement.progress)
    try:
        for number, one in enumerate(trainings):
            arguments = (one.commands, one.folder, one.threads)
            ray.call(number, "pipeline.ablate.train:run_trainer", arguments, name=one.name, spread=True)
        say(f"{len(trainings)} trainings on the cluster's {ray.cpus} cores")
        left = set(range(len(trainings)))
        while left:
            for outcome in ray.outcomes(LOOK_SECONDS):
                if isinstance(outcome, Raised):
                    raise outcome.error
                if not isinstance(outcome, Result):
                    raise UserError(f"{trainings[outcome.number].name}: was lost by Ray ({outcome}); the same command goes on")
                left.discard(outcome.number)
                say(f"{trainings[outcome.number].name}: done")
    finally:
        ray.cancel()
        ray.close()


def run_trainer(commands: Sequence[Sequence[str]], folder: Path, threads: int) -> None:
    """Run commands of the trainer, one after another in one process, which ends with this one, however that ends; what they say
    goes to `log.txt`. Raises UserError with the last of it."""
    folder.mkdir(parents=True, exist_ok=True)
    _until_free(folder)
    given = json.dumps([list(command) for command in commands])
    most = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with (folder / "log.txt").open("a") as log:
        own = {**os.environ, **most}
        with subprocess.Popen([sys.executable, "-c", _CODE, given], stdin=PIPE, stdout=log, stderr=log, env=own) as done:
            try:
                done.wait()
            finally:
                done.kill()
    if done.returncode:
        said = (folder / "log.txt").read_text().splitlines()[-LINES:]
        last = next((line for line in reversed(said) if line.startswith("error: ")), said[-1] if said else "")
        raise UserError(f"{folder}: the trainer ended with status {done.returncode}: {last.removeprefix('error: ')}")


def _until_free(folder: Path) -> None:
    """Wait, but not for ever, until a training of a command that was killed has let go of its folder."""
    with (folder / ".lock").open("a") as lock:
        for _ in range(int(FREE_SECONDS / 0.1)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.1)
