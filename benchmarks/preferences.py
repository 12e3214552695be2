"""DPO and KTO on pairs of right and wrong final answers: does the margin grow, and do right answers stay?

A small model is pretrained on a run's shards for a moment, taught templated arithmetic (`3 + 4 = 7`, `#### 7`) by
likelihood until it is right about half of the time, and asked each prompt several times. Its own right answers are
preferred to its own wrong ones (`trainer generate --preferences`), and DPO and KTO go on from it, as adapt/dpo_tiny and
adapt/kto_tiny are shipped, and without their `adapt.nll`. Told of held-out prompts: the share of right answers at
temperature 1, and the probability of the worked answer, which needs no samples; of held-out preferences: the margin, and
how far right and wrong answers themselves have become more or less probable (rewards: beta times the log-ratio).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables import show_table
from pipeline.pairs.make import make_pairs
from pipeline.pairs.options import PairOptions
from trainer import metrics
from trainer.adapt.answer import judge
from trainer.adapt.config import AdaptConfig
from trainer.adapt.generate import Sampling
from trainer.adapt.objectives import log_probs_of
from trainer.adapt.pairs import Pairs
from trainer.adapt.preferences import write_preferences
from trainer.adapt.run import adapt
from trainer.adapt.source import own_part
from trainer.config import Config, check, load
from trainer.inference import open_trained
from trainer.train import train

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kim", "Leo")
THINGS = ("apples", "books", "coins", "cards", "eggs", "pens", "shells", "stamps")
SUMS = ("{n} has {a} {t} and gets {b} more. How many now?", "There are {a} {t} here and {b} there. How many in all?")
DIFFERENCES = ("{n} had {a} {t} and gave away {b}. How many are left?",)
MODEL = {"d_model": 64, "n_layers": 2, "n_heads": 4, "n_experts": 8, "top_k": 2, "expert_width": 64}
LENGTH = 64
PREFERRED = 100  # added to the seed: the answers' own seed has held out all prompts that it holds out
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dpo": ("dpo_tiny", ()),
    "kto": ("kto_tiny", ()),
    "dpo, no nll": ("dpo_tiny", ("adapt.nll=0",)),
    "kto, no nll": ("kto_tiny", ("adapt.nll=0",)),
}
"""Shipped configurations, and what is changed in them."""


@dataclass(frozen=True)
class Result:
    """One run."""

    method: str
    seed: int
    margin_before: float
    margin: float
    right_reward: float  # of held-out right answers, beta * log-ratio
    wrong_reward: float
    share: float  # of right answers to held-out prompts, temperature 1
    standard_error: float
    probability: float  # of the worked answers to held-out prompts, mean
    change: float  # of it, by the method
    change_error: float  # its standard error, over prompts
    entropy: float
    cpu_s: float


def main(arguments: Sequence[str] = ()) -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks preferences", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/dclm_mix"), help="a finished run to pretrain on")
    parser.add_argument("--out", type=Path, default=Path("runs/preferences"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=600, help="a fifth of them held out (600)")
    parser.add_argument("--epochs", type=int, default=6, help="of teaching by likelihood (6)")
    parser.add_argument("--samples", type=int, default=6, help="answers to each prompt (6)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change DPO's and KTO's settings")
    parser.add_argument("--only", action="append", default=[], metavar="METHOD", help="leave out the others")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # matrices this small are slower on two
    options.out.mkdir(parents=True, exist_ok=True)
    base, results = _pretrained(options), list[Result]()
    for seed in options.seeds:
        results += (found := _of_seed(options, base, seed))
        (options.out / f"results-{seed}.json").write_text(json.dumps([asdict(one) for one in found], indent=1))
    show(results)


def _of_seed(options: argparse.Namespace, base: Path, seed: int) -> list[Result]:
    """Teach, sample, and go on by each method."""
    answers = _pairs(options, f"answers-{seed}", questions(seed, options.prompts), seed, 0.2)
    begun = time.process_time()
    taught = options.out / f"taught-{seed}"
    sets = [
        f"data.sequence_length={LENGTH}",
        f"data.seed={seed}",
        f"adapt.epochs={options.epochs}",
        "schedule.peak=5e-3",
    ]
    sets += [f"train.batch_tokens={8 * LENGTH}", "train.micro_batch=8", "train.log_every=10_000"]
    _adapted(taught, load(Path("adapt/sft_tiny"), sets, AdaptConfig), base, answers)
    found = [_result(options, "likelihood", seed, taught, answers, time.process_time() - begun)]
    preferred = _own(options, taught, answers, seed)
    for name, (config, changed) in METHODS.items():
        if options.only and name not in options.only:
            continue
        begun = time.process_time()
        # An instance holds two pairs, or two answers with a mismatched one each.
        sets = [f"data.sequence_length={3 * LENGTH}", f"data.seed={seed}", f"train.batch_tokens={24 * LENGTH}"]
        sets += ["train.micro_batch=8", "train.log_every=10_000", "evaluate.instances=64", *changed, *options.set]
        out = options.out / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
        _adapted(out, load(Path(f"adapt/{config}"), sets, AdaptConfig), taught, preferred)
        found.append(_result(options, name, seed, out, answers, time.process_time() - begun, taught))
        print(found[-1], file=sys.stderr, flush=True)
    return found


def questions(seed: int, count: int) -> list[dict[str, str]]:
    """Different questions with worked answers, drawn by the seed: numbers from 1 to 9."""
    rng, found = random.Random(seed), dict[str, dict[str, str]]()
    while len(found) < count:
        plus, a = rng.random() < 0.6, rng.randint(1, 9)
        b = rng.randint(1, 9 if plus else a)
        form = rng.choice(SUMS if plus else DIFFERENCES)
        prompt = form.format(n=rng.choice(NAMES), t=rng.choice(THINGS), a=a, b=b)
        found[prompt] = {"prompt": prompt, **worked(a, b, plus, a + b if plus else a - b)}
    return [{"id": f"sum/{number}", **one} for number, one in enumerate(found.values())]


def worked(a: int, b: int, plus: bool, result: int) -> dict[str, str]:
    """The answer that ends in this result, right or wrong."""
    return {"answer": f"{a} {'+' if plus else '-'} {b} = {result}\n#### {result}", "final": str(result)}


def _pretrained(options: argparse.Namespace) -> Path:
    out = options.out / "base"
    values: dict[str, Any] = {
        "name": "base",
        "model": MODEL,
        "data": {"sequence_length": LENGTH * 4},
        "schedule": {"peak": 3e-3, "warmup_tokens": 32_768},
        "train": {"tokens": 100_000, "batch_tokens": 2048, "micro_batch": 8, "log_every": 50},
        "evaluate": {"instances": 8},
    }
    if not (out / "checkpoints").is_dir():
        config: Config = check(values, "benchmark")
        train(config, options.data, out, device="cpu")
    return out


def _pairs(options: argparse.Namespace, name: str, rows: Iterable[dict[str, Any]], seed: int, held_out: float) -> Path:
    file, folder = options.out / f"{name}.jsonl", options.out / name
    if not (folder / "manifest.json").is_file():
        lines = [json.dumps(row) + "\n" for row in rows]
        file.write_text("".join(lines))
        tokenizer = options.data / "tokenizer" / "tokenizer.json"
        asked = PairOptions(tokenizer=str(tokenizer), max_tokens=LENGTH, held_out=held_out, seed=seed, dedup="none")
        make_pairs([str(file)], str(folder), asked)
    return folder


def _own(options: argparse.Namespace, taught: Path, answers: Path, seed: int) -> Path:
    """The model's right answers to the training prompts, preferred to its wrong ones."""
    file = options.out / f"own-{seed}.jsonl"
    if not (file.is_file() and file.stat().st_size):
        sampling = Sampling(tokens=24, samples=options.samples, seed=seed, batch=64)
        write_preferences(taught, answers, "train", None, sampling, "final", file, "cpu")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return _pairs(options, f"own-{seed}", rows, PREFERRED + seed, 0.15)


def _adapted(out: Path, config: AdaptConfig, start: Path, data: Path) -> None:
    if not (out / "checkpoints").is_dir():
        with contextlib.redirect_stdout(io.StringIO()):
            adapt(config, start, data, out, device="cpu")


def _result(
    options: argparse.Namespace,
    method: str,
    seed: int,
    out: Path,
    answers: Path,
    cpu_s: float,
    before: Path | None = None,
) -> Result:
    kept = out / "result.json"  # a run that goes on does not judge again
    if kept.is_file():
        return Result(**json.loads(kept.read_text()))
    sampling = Sampling(tokens=24, samples=options.samples, seed=seed, batch=64)
    scores = judge(open_trained(out, "cpu"), answers, "held_out", None, sampling, "final")["scores"]
    lines = [line for line in metrics.read(out / "metrics.jsonl") if line["kind"] == "eval"]
    first, last = ({"margin": np.nan, "good_reward": np.nan, "bad_reward": np.nan} | lines[at] for at in (0, -1))
    share, probable = scores["exact_match"], probabilities(out, answers)
    change = probable - probabilities(before or out, answers)
    found = Result(
        method,
        seed,
        margin_before=first["margin"],
        margin=last["margin"],
        right_reward=last["good_reward"],
        wrong_reward=last["bad_reward"],
        share=share["mean"],
        standard_error=share["standard_error"],
        probability=float(probable.mean()),
        change=float(change.mean()),
        change_error=float(change.std() / len(change) ** 0.5),
        entropy=scores["entropy"]["mean"],
        cpu_s=round(cpu_s, 1),
    )
    kept.write_text(json.dumps(asdict(found)))
    return found


def probabilities(checkpoint: Path, answers: Path) -> np.ndarray:
    """The probability of each held-out answer, fp64."""
    trained, pairs = open_trained(checkpoint, "cpu"), Pairs(answers)
    read = [pairs.held_out.read(number) for number in range(len(pairs.held_out))]
    rows = [(tokens.tolist(), int(np.argmax(mask))) for tokens, mask in read]
    part = own_part(rows, pairs.pad_id, trained.device)
    return np.exp(log_probs_of(trained.model, part, trained.config.train.loss_chunk_mib).double().numpy())


def show(results: list[Result]) -> None:
    """Each run, then means over seeds with standard deviations."""
    shares = {one.seed: one.share for one in results if one.method == "likelihood"}
    headings = ["margin", "right's reward", "wrong's", "share right (s.e.)", "its change", "probability"]
    headings += ["its change (s.e.)", "entropy", "CPU s"]
    rows = []
    for one in results:
        told = [_told([value]) for value in (one.margin, one.right_reward, one.wrong_reward)]
        told += [f"{one.share:.3f} ({one.standard_error:.3f})", f"{one.share - shares[one.seed]:+.3f}"]
        told += [f"{one.probability:.3f}", f"{one.change:+.3f} ({one.change_error:.3f})"]
        rows.append([f"{one.method}, seed {one.seed}", *told, f"{one.entropy:.3f}", f"{one.cpu_s:.0f}"])
    show_table("runs", ["", *headings], rows)
    rows = []
    for method in dict.fromkeys(one.method for one in results):
        own = [one for one in results if one.method == method]
        columns = [[getattr(one, name) for one in own] for name in ("margin", "right_reward", "wrong_reward")]
        columns += [[one.share - shares[one.seed] for one in own], [one.change for one in own]]
        rows.append([method, *map(_told, columns)])
    headings = ["margin", "right's reward", "wrong's", "change of share", "change of probability"]
    show_table("mean ± deviation over seeds", ["", *headings], rows)


def _told(values: list[float]) -> str:
    """Their mean, with the deviation of several; nothing for the start, which has no margin."""
    if np.isnan(values).any():
        return ""
    return f"{np.mean(values):+.3f}" + (f" ± {np.std(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main(sys.argv[1:])
