"""A model for each arm and seed, trained and scored by the trainer in processes of its own; what is done stays done."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.ablate.compare import Loss
from pipeline.ablate.data import ArmData
from stages.errors import UserError

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
    seeds: int
    evaluation: tuple[Path, ...]
    jobs: int
    threads: int
    device: str | None

    def identity(self, texts: str) -> str:
        """What besides an arm's data decides a result. texts: a hash of the evaluation text."""
        known = [self.config, *self.settings, str(self.tokens), str(self.threads), texts]
        return hashlib.blake2b("\0".join(known).encode(), digest_size=6).hexdigest()


def train_all(
    plan: Plan, arms: Mapping[str, ArmData], out: Path, texts: str, say: Callable[[str], None]
) -> dict[str, list[list[Loss]]]:
    """The losses of every arm and seed, document by document. Raises UserError where a trainer fails."""

    def one(place: tuple[str, int]) -> list[Loss]:
        name, seed = place
        folder = out / "arms" / name / f"{arms[name].fingerprint[:12]}-{plan.identity(texts)}" / f"seed-{seed}"
        scores = folder / "scores.json"
        if not scores.is_file():
            say(f"{name}, seed {seed}: training")
            scoring = ["eval", str(folder), "--text", *map(str, plan.evaluation), "--out", str(scores)]
            _trainer(plan, [_training(plan, out / arms[name].folder, folder, seed), scoring], folder)
            say(f"{name}, seed {seed}: done")
        return msgspec.json.decode(scores.read_bytes(), type=_Scores).documents

    places = [(name, seed) for seed in range(plan.seeds) for name in arms]
    with ThreadPoolExecutor(plan.jobs) as pool:
        found = dict(zip(places, pool.map(one, places), strict=True))
    return {name: [found[name, seed] for seed in range(plan.seeds)] for name in arms}


def _training(plan: Plan, data: Path, folder: Path, seed: int) -> list[str]:
    own = [*plan.settings, f"train.tokens={plan.tokens}", f"train.seed={seed}", f"data.seed={seed}"]
    return ["train", plan.config, "--data", str(data), "--out", str(folder), "--resume", "--set", *own]


def _trainer(plan: Plan, commands: Sequence[Sequence[str]], folder: Path) -> None:
    """Run commands of the trainer, one after another in one process; what they say goes to `log.txt`. Raises UserError with the
    last of it."""
    folder.mkdir(parents=True, exist_ok=True)
    device = ["--device", plan.device] if plan.device else []
    threads = {name: str(plan.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    given = json.dumps([[*command, *device] for command in commands])
    code = "import json, sys; from trainer.__main__ import main\n"
    code += "sys.exit(next(filter(None, map(main, json.loads(sys.argv[1]))), 0))"  # the first that fails ends it
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(
            [sys.executable, "-c", code, given], stdout=log, stderr=log, env={**os.environ, **threads}, check=False
        )
    if done.returncode:
        said = (folder / "log.txt").read_text().splitlines()[-LINES:]
        last = next((line for line in reversed(said) if line.startswith("error: ")), said[-1] if said else "")
        raise UserError(f"{folder}: the trainer ended with status {done.returncode}: {last.removeprefix('error: ')}")
