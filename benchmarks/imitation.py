"""The comparison of arXiv 2409.01369 at a size that two CPU cores train: task score against diversity of answers.

A small model is pretrained on a run's shards and fine-tuned on templated questions that have many right answers (`a red
fox` and `a grey wolf` are both animals) by maximum likelihood, with an entropy bonus, and by IQLearn over lambda, each
with several seeds. Prompts that are held out are answered several times: the score is the share of right answers,
diversity is Self-BLEU (lower is more diverse) and entropy; rewards are correlated with being right (Spearman).

--out keeps results.json and imitation.png. --update times an update of IQLearn against one of SFT in place of all that.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables import show_table, verdict
from pipeline.pairs.make import make_pairs
from pipeline.pairs.options import PairOptions
from trainer.adapt.answer import answered, open_pairs, questions
from trainer.adapt.config import AdaptConfig
from trainer.adapt.generate import Sampling, Writer
from trainer.adapt.reward_files import rewards_of
from trainer.adapt.rules import InverseQ
from trainer.adapt.run import adapt
from trainer.adapt.scores import self_bleu, spearman
from trainer.config import Config, check
from trainer.inference import open_trained
from trainer.losses import IGNORED, Rule, cross_entropy_sum
from trainer.model import Olmoe
from trainer.train import train

KINDS = {
    "animal": "fox wolf bear otter horse mouse goat heron",
    "tool": "hammer saw chisel plane drill level file wrench",
    "tree": "oak birch pine willow maple elm cedar alder",
    "drink": "water tea coffee milk cider juice cocoa broth",
    "garment": "coat shirt scarf glove hat boot belt sock",
    "instrument": "drum flute harp violin horn piano lute bell",
    "vehicle": "cart boat train sled wagon ship bicycle truck",
    "building": "mill barn tower church house shed castle bridge",
    "fruit": "apple pear plum cherry fig grape quince lemon",
    "metal": "iron copper tin silver gold zinc lead nickel",
}
ADJECTIVES = ["red", "grey", "old", "small", "large", "dark", "bright", "plain", "heavy", "pale", "fine", "new"]
FORMS = (
    "Name {a} {k}.", "Tell me {a} {k}.", "Give an example of {a} {k}.", "Think of {a} {k} and name it.",
    "What is {a} {k}?", "Which {k} comes to mind?", "Say the name of some {k}.", "I need {a} {k}. Which one?",
    "Pick {a} {k}.", "Choose {a} {k} for me.", "One {k}, please.", "Write down {a} {k}.", "Describe {a} {k}.",
    "Do you know {a} {k}?", "Can you name {a} {k}?", "Any {k} will do.", "Show me {a} {k}.", "Find {a} {k}.",
    "Imagine {a} {k}.", "Draw {a} {k}.",
)  # fmt: skip
MODEL = {"d_model": 96, "n_layers": 3, "n_heads": 4, "n_experts": 16, "top_k": 4, "expert_width": 96}
LENGTH = 64
UPDATE_GOAL = 1.1  # an update of IQLearn in parts of one of SFT; the paper has 196 ms to 189 ms
METHODS: dict[str, dict[str, Any]] = {
    "mle": {"method": "sft"},
    "mle, entropy bonus 0.05": {"method": "sft", "entropy_bonus": 0.05},
    "mle, entropy bonus 0.2": {"method": "sft", "entropy_bonus": 0.2},
    "iqlearn, lambda 0.01": {"method": "iqlearn", "iq_lambda": 0.01},
    "iqlearn, lambda 0.1": {"method": "iqlearn", "iq_lambda": 0.1},
    "iqlearn, lambda 0.5": {"method": "iqlearn", "iq_lambda": 0.5},
}


def main(arguments: Sequence[str] = ()) -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks imitation", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/dclm_mix"), help="a finished run to pretrain on")
    parser.add_argument("--out", type=Path, default=Path("runs/imitation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain-tokens", type=int, default=400_000)
    parser.add_argument("--answers", type=int, default=2, help="demonstrations of each prompt")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--only", action="append", default=[], metavar="METHOD", help="leave out the others")
    parser.add_argument("--samples", type=int, default=8, help="answers to each held-out prompt")
    parser.add_argument("--update", action="store_true", help="only time an update of IQLearn against one of SFT")
    options = parser.parse_args(arguments)
    if options.update:
        time_updates()
        return
    base = _pretrained(options)
    results = []
    for seed in range(options.seeds):
        pairs = _pairs(options, base, seed)
        for name, settings in METHODS.items():
            if options.only and name not in options.only:
                continue
            results.append({"method": name, "seed": seed, **_run(options, base, pairs, name, settings, seed)})
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
            (options.out / "results.json").write_text(json.dumps(results, indent=1))
    show(results)
    draw(results, options.out / "imitation.png")


def _pretrained(options: argparse.Namespace) -> Path:
    out = options.out / "base"
    config: Config = check(
        {
            "name": "base",
            "model": MODEL,
            "data": {"sequence_length": LENGTH * 4},
            "schedule": {"peak": 3e-3, "warmup_tokens": 32_768},
            "train": {"tokens": options.pretrain_tokens, "batch_tokens": 2048, "micro_batch": 8, "log_every": 50},
            "evaluate": {"instances": 8},
        },
        "benchmark",
    )
    if not (out / "checkpoints").is_dir():
        train(config, options.data, out, device="cpu")
    return out


def _pairs(options: argparse.Namespace, base: Path, seed: int) -> Path:
    """The demonstrations of one seed: which answers are shown, and which prompts are held out."""
    file, folder = options.out / f"pairs{seed}.jsonl", options.out / f"pairs{seed}"
    if (folder / "manifest.json").is_file():
        return folder
    rng, rows = random.Random(seed), []
    for kind, names in KINDS.items():
        article = "an" if kind[0] in "aeiou" else "a"
        for form in FORMS:
            prompt = form.format(a=article, k=kind)
            for _ in range(options.answers):
                answer = f"a {rng.choice(ADJECTIVES)} {rng.choice(names.split())}"
                rows.append({"id": f"{len(rows)}", "prompt": prompt, "answer": answer, "kind": kind})
    rng.shuffle(rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = options.data / "tokenizer" / "tokenizer.json"
    asked = PairOptions(tokenizer=str(tokenizer), max_tokens=LENGTH, held_out=0.2, seed=seed, dedup="none")
    make_pairs([str(file)], str(folder), asked)
    return folder


def _run(
    options: argparse.Namespace, base: Path, pairs: Path, name: str, settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    out = options.out / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
    config = _config(name, {**settings, "epochs": options.epochs}, LENGTH, seed, options.rate)
    begun = time.process_time()
    if not (out / "checkpoints").is_dir():
        with contextlib.redirect_stdout(io.StringIO()):
            adapt(config, base, pairs, out, device="cpu")
    seconds = time.process_time() - begun
    return _judge(options, out, pairs, settings) | {"adapt_cpu_s": round(seconds, 1)}


def _judge(options: argparse.Namespace, out: Path, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Score, diversity and correlation on held-out prompts, each asked once."""
    trained = open_trained(out, "cpu")
    pairs, writer = open_pairs(folder, trained), Writer.of(trained)
    sampling = Sampling(tokens=16, samples=options.samples, batch=64)
    asked = {q.record.prompt: q for q in questions(pairs.held_out, writer.context, None)}
    right, sums, means, bleu, entropy, distinct = [], [], [], [], [], []
    for question, samples in answered(writer, iter(asked.values()), sampling):
        rows = [
            np.array([*question.prompt, *s.tokens, *([writer.eos_id] if s.ended == "end" else [])]) for s in samples
        ]
        masks = [np.arange(len(row)) >= len(question.prompt) for row in rows]
        found = rewards_of(trained, list(zip(rows, masks, strict=True)), settings.get("gamma", 1.0), pairs.pad_id)
        right += [is_right(question.record.fields["kind"], sample.text) for sample in samples]
        sums += [float(one.sum()) for one in found]
        means += [float(one.mean()) for one in found]
        bleu.append(self_bleu([sample.text for sample in samples]))
        distinct.append(len({sample.text for sample in samples}) / len(samples))
        entropy += [sample.entropy for sample in samples]
    return {
        "prompts": len(asked),
        "score": float(np.mean(right)),
        "self_bleu": float(np.mean(bleu)),
        "entropy": float(np.mean(entropy)),
        "distinct": float(np.mean(distinct)),
        "spearman_of_sum": spearman(sums, right),
        "spearman_of_mean": spearman(means, right),
    }


def is_right(kind: str, answer: str) -> bool:
    """Whether an answer is of the form asked for, and names one of the kind."""
    words = answer.split()
    return len(words) == 3 and words[0] == "a" and words[1] in ADJECTIVES and words[2] in KINDS[kind].split()


def _config(name: str, settings: dict[str, Any], length: int, seed: int, rate: float) -> AdaptConfig:
    values: dict[str, Any] = {
        "name": name,
        "adapt": settings,
        "data": {"sequence_length": length, "seed": seed},
        "schedule": {"peak": rate},
        "train": {"batch_tokens": 8 * length, "micro_batch": 8, "log_every": 10_000},
        "evaluate": {"instances": 64},
    }
    return check(values, "benchmark", AdaptConfig)


COLUMNS = ("score", "self_bleu", "entropy", "distinct", "spearman_of_sum", "spearman_of_mean")


def show(results: list[dict[str, Any]]) -> None:
    """Means over seeds, with the standard deviation."""
    rows = []
    for name in dict.fromkeys(one["method"] for one in results):
        values = {column: [one[column] for one in results if one["method"] == name] for column in COLUMNS}
        rows.append([name, *(f"{np.nanmean(v):.3f} ± {np.nanstd(v):.3f}" for v in values.values())])
    show_table("mean and standard deviation over seeds", ["method", *COLUMNS], rows)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Score against diversity, a point a run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name in dict.fromkeys(one["method"] for one in results):
        own = [one for one in results if one["method"] == name]
        for axis, column in ((left, "self_bleu"), (right, "entropy")):
            axis.plot([one[column] for one in own], [one["score"] for one in own], "o", label=name)
    left.set(xlabel="Self-BLEU (lower is more diverse)", ylabel="share of right answers")
    right.set(xlabel="entropy (nats a token)")
    right.legend(fontsize="small")
    FigureCanvasAgg(figure).print_png(path)


def time_updates(rounds: int = 8) -> None:
    """CPU time of a whole forward and backward pass by SFT and by IQLearn, in turns; the median of each, and their ratio."""
    torch.set_num_threads(1)
    config = check(
        {"name": "x", "model": {**MODEL, "d_model": 128, "n_layers": 4, "n_experts": 32, "vocab_size": 8192}}, "x"
    )
    model = Olmoe(config.model)
    model.init_weights(0)
    tokens = torch.randint(8192, (4, 256), generator=torch.Generator().manual_seed(0))
    targets = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=IGNORED)
    targets[:, :64] = IGNORED

    def update(rule: Rule | None) -> float:
        begun = time.process_time()
        output = model(tokens, targets, criterion=lambda h, w, t: cross_entropy_sum(h, w, t, 128, rule))
        output.loss_sum.backward()
        model.zero_grad()
        return time.process_time() - begun

    times: dict[str, list[float]] = {"sft": [], "iqlearn": []}
    for number in range(rounds + 2):
        for name, rule in (("sft", None), ("iqlearn", InverseQ(0.1))):
            taken = update(rule)
            if number >= 2:
                times[name].append(taken)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    rows = [[name, f"{1000 * value:.1f}"] for name, value in medians.items()]
    ratio = medians["iqlearn"] / medians["sft"]
    rows.append(["ratio", f"{ratio:.3f}, {verdict(ratio, UPDATE_GOAL, at_most=True)}"])
    show_table("an update, forward and backward", ["loss", "CPU ms"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
