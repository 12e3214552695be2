"""DPO and KTO on pairs of right and wrong final answers: does the margin grow, and do right answers stay?

A small model is pretrained on a run's shards for a moment, taught templated arithmetic (`3 + 4 = 7`, `#### 7`) by
likelihood until it is right about half of the time, and asked each prompt several times. Its own right answers are
preferred to its own wrong ones (`trainer generate --preferences`), and DPO and KTO go on from it. Held-out prompts tell the
share of right answers at temperature 1 before and after, held-out preferences the margin, and how far the right and the
wrong answers themselves have become more or less probable (rewards: beta times the log-ratio).

For comparison the same right answers are preferred to wrong ones that the model did not write (`made up`), without and
with the key `adapt.nll`.
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
from trainer.adapt.preferences import write_preferences
from trainer.adapt.run import adapt
from trainer.config import Config, check
from trainer.inference import open_trained
from trainer.train import train

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ida", "Jon", "Kim", "Leo")
THINGS = ("apples", "books", "coins", "cards", "eggs", "pens", "shells", "stamps")
SUMS = ("{n} has {a} {t} and gets {b} more. How many now?", "There are {a} {t} here and {b} there. How many in all?")
DIFFERENCES = ("{n} had {a} {t} and gave away {b}. How many are left?",)
MODEL = {"d_model": 64, "n_layers": 2, "n_heads": 4, "n_experts": 8, "top_k": 2, "expert_width": 64}
LENGTH = 64
PREFERRED = 100  # added to the seed: the answers' own seed has held out all prompts that it holds out
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("own", {"method": "dpo"}),
    "kto": ("own", {"method": "kto"}),
    "dpo, nll 1": ("own", {"method": "dpo", "nll": 1.0}),
    "kto, nll 1": ("own", {"method": "kto", "nll": 1.0}),
    "dpo, made up": ("made_up", {"method": "dpo"}),
    "dpo, made up, nll 1": ("made_up", {"method": "dpo", "nll": 1.0}),
}


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
    parser.add_argument("--rate", type=float, default=3e-4, help="peak learning rate of DPO and KTO (3e-4)")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--preference-epochs", type=int, default=2)
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
    taught = _adapted(options, f"taught-{seed}", {"method": "sft", "epochs": options.epochs}, base, answers, seed, 5e-3)
    found = [_result(options, "likelihood", seed, taught, answers, time.process_time() - begun)]
    preferred = {"own": _own(options, taught, answers, seed)}
    rows = list(made_up(options.out / f"own-{seed}.jsonl", seed))
    preferred["made_up"] = _pairs(options, f"made_up-{seed}", rows, PREFERRED + seed, 0.15)
    for name, (kind, settings) in METHODS.items():
        if options.only and name not in options.only:
            continue
        begun = time.process_time()
        asked = {**settings, "epochs": options.preference_epochs, "warmup": 0.1, "beta": options.beta}
        folder = f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
        out = _adapted(options, folder, asked, taught, preferred[kind], seed, options.rate)
        found.append(_result(options, name, seed, out, answers, time.process_time() - begun))
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


def made_up(file: Path, seed: int) -> Iterable[dict[str, Any]]:
    """The preferences of a file with other wrong answers: the right one's words with another number in the end."""
    rng = random.Random(1000 + seed)
    for line in file.read_text().splitlines():
        row = json.loads(line)
        wrong = rng.choice([number for number in range(100, 200) if str(number) != row["final"]])
        yield {**row, "rejected": f"It is {wrong}.\n#### {wrong}"}


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
        asked = PairOptions(str(tokenizer), max_tokens=LENGTH, held_out=held_out, seed=seed, dedup="none")
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


def _adapted(
    options: argparse.Namespace, name: str, settings: dict[str, Any], start: Path, data: Path, seed: int, rate: float
) -> Path:
    out = options.out / name
    length = LENGTH if settings["method"] == "sft" else 3 * LENGTH  # two pairs, or two answers with a mismatched one
    values: dict[str, Any] = {
        "name": name,
        "adapt": settings,
        "data": {"sequence_length": length, "seed": seed},
        "schedule": {"peak": rate},
        "train": {"batch_tokens": 8 * length, "micro_batch": 8, "log_every": 10_000},
        "evaluate": {"instances": 64},
    }
    if not (out / "checkpoints").is_dir():
        with contextlib.redirect_stdout(io.StringIO()):
            adapt(check(values, "benchmark", AdaptConfig), start, data, out, device="cpu")
    return out


def _result(options: argparse.Namespace, method: str, seed: int, out: Path, answers: Path, cpu_s: float) -> Result:
    kept = out / "result.json"  # a run that goes on does not judge again
    if kept.is_file():
        return Result(**json.loads(kept.read_text()))
    sampling = Sampling(tokens=24, samples=options.samples, seed=seed, batch=64)
    scores = judge(open_trained(out, "cpu"), answers, "held_out", None, sampling, "final")["scores"]
    lines = [line for line in metrics.read(out / "metrics.jsonl") if line["kind"] == "eval"]
    before, after = ({"margin": np.nan, "good_reward": np.nan, "bad_reward": np.nan} | lines[at] for at in (0, -1))
    share = scores["exact_match"]
    rewards = (after["good_reward"], after["bad_reward"])
    told = (share["mean"], share["standard_error"], scores["entropy"]["mean"], round(cpu_s, 1))
    found = Result(method, seed, before["margin"], after["margin"], *rewards, *told)
    kept.write_text(json.dumps(asdict(found)))
    return found


def show(results: list[Result]) -> None:
    """Each run, then means over seeds with standard deviations; the last column is how often the share fell."""
    before = {one.seed: one.share for one in results if one.method == "likelihood"}
    columns = ("margin", "right_reward", "wrong_reward", "share", "entropy")
    rows = []
    for one in results:
        share = f"{one.share:.3f} ({one.standard_error:.3f})"
        told = [_told([getattr(one, name)]) for name in columns[:3]]
        rows.append([f"{one.method}, seed {one.seed}", *told, share, f"{one.entropy:.3f}", f"{one.cpu_s:.0f}"])
    show_table("runs", ["", "margin", "right's reward", "wrong's", "share right (s.e.)", "entropy", "CPU s"], rows)
    rows = []
    for method in dict.fromkeys(one.method for one in results):
        own = [one for one in results if one.method == method]
        values = {name: [getattr(one, name) for one in own] for name in columns}
        change = [one.share - before[one.seed] for one in own]
        told = [_told(one) for one in values.values()]
        rows.append([method, *told, f"{np.mean(change):+.3f}"])
    headings = [
        "mean ± deviation over seeds",
        "margin",
        "right's reward",
        "wrong's",
        "share right",
        "entropy",
        "change of share",
    ]
    show_table("", headings, rows)


def _told(values: list[float]) -> str:
    """Their mean, with the deviation of several; nothing for the start, which has no margin."""
    if np.isnan(values).any():
        return ""
    return f"{np.mean(values):+.3f}" + (f" ± {np.std(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main(sys.argv[1:])
