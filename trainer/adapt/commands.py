"""The commands of fine-tuning: adapt, generate, rewards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError


def add(commands: Any) -> None:
    """Add them to the trainer's command line."""
    _add_adapt(commands)
    _add_generate(commands)
    _add_rewards(commands)


def _add_adapt(commands: Any) -> None:
    adapt = commands.add_parser("adapt", help="fine-tune a checkpoint on pairs: sft, dpo, kto, iqlearn")
    adapt.add_argument("config", type=Path, help="a YAML file, or a shipped one by name: adapt/sft_tiny")
    adapt.add_argument(
        "--from", dest="start", type=Path, required=True, help="the checkpoint, or its training's folder"
    )
    adapt.add_argument("--data", type=Path, required=True, help="a folder that `python -m pipeline pairs` made")
    adapt.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change values: a.b=c ...")
    adapt.add_argument("--out", type=Path, help="where checkpoints and metrics go (runs/adapt/NAME)")
    adapt.add_argument(
        "--resume", nargs="?", const=True, default=False, metavar="CHECKPOINT", help="go on from the newest or this one"
    )
    adapt.add_argument("--device", help="cpu or cuda (cuda if there is one)")
    adapt.set_defaults(run=_adapt)


def _adapt(options: argparse.Namespace) -> int:
    from trainer import checkpoint
    from trainer.adapt.config import AdaptConfig
    from trainer.adapt.run import adapt
    from trainer.config import load
    from trainer.host import device

    config = load(options.config, options.set, AdaptConfig)
    out = options.out or Path("runs") / "adapt" / config.name
    resume = options.resume if isinstance(options.resume, bool) else checkpoint.find(Path(options.resume))
    return adapt(config, options.start, options.data, out, resume, device(options.device))


def add_sampling(parser: argparse.ArgumentParser, samples: int, temperature: float) -> None:
    """The flags of generate.Sampling."""
    parser.add_argument("--tokens", type=int, default=256, help="at most this many of an answer (256)")
    parser.add_argument(
        "--temperature", type=float, default=temperature, help=f"0: the most probable ({temperature:g})"
    )
    parser.add_argument("--top-p", type=float, default=1.0, help="the most probable tokens up to this sum (1)")
    parser.add_argument("--samples", type=int, default=samples, help=f"answers to each prompt ({samples})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end an answer before this text")
    parser.add_argument("--batch", type=int, default=16, help="answers written at once (16)")


def sampling_of(options: argparse.Namespace) -> Any:
    """The flags as generate.Sampling."""
    from trainer.adapt.generate import Sampling

    names = ("tokens", "temperature", "top_p", "samples", "seed", "batch")
    return Sampling(**{name: getattr(options, name) for name in names}, stop=tuple(options.stop))


def _check_limit(options: argparse.Namespace) -> None:
    if options.limit is not None and options.limit < 1:
        raise TrainerError(f"--limit {options.limit}: at least 1, or leave it out for all")


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser("generate", help="write answers in batches, to prompts or to a folder of pairs")
    generate.add_argument("checkpoint", type=Path, help="a checkpoint, or a training's folder (its newest)")
    generate.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt; again for more")
    generate.add_argument("--chat", action="store_true", help="put --prompt into the checkpoint's chat form")
    generate.add_argument("--pairs", type=Path, help="a folder of pairs: answer its prompts")
    generate.add_argument("--split", choices=("held_out", "train"), default="held_out", help="of the pairs (held_out)")
    generate.add_argument("--limit", type=int, help="only the first so many pairs")
    add_sampling(generate, 1, 0.8)
    generate.add_argument("--out", type=Path, help="a JSON lines file to write (else the answers are printed)")
    generate.add_argument(
        "--preferences",
        type=Path,
        metavar="FILE",
        help="judge the answers to --pairs, and write right ones against wrong ones as JSON lines, for dpo and kto",
    )
    generate.add_argument("--judge", choices=("final", "tests"), help="of --preferences: how (as records say)")
    generate.add_argument("--device", help="cpu or cuda (cuda if there is one)")
    generate.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> int:
    from trainer.adapt.answer import write_answers
    from trainer.adapt.preferences import write_preferences

    _check_limit(options)
    if options.preferences is not None:
        if options.pairs is None or options.prompt or options.out:
            raise TrainerError(
                "--preferences judges the answers to --pairs: name a folder, and neither --prompt nor --out"
            )
        asked = (options.pairs, options.split, options.limit, sampling_of(options), options.judge)
        write_preferences(options.checkpoint, *asked, options.preferences, options.device)
        return 0
    write_answers(
        options.checkpoint,
        options.prompt,
        options.chat,
        options.pairs,
        options.split,
        options.limit,
        sampling_of(options),
        options.out,
        options.device,
    )
    return 0


def _add_rewards(commands: Any) -> None:
    rewards = commands.add_parser("rewards", help="the rewards that a model's logits stand for, token by token")
    rewards.add_argument("checkpoint", type=Path, help="a checkpoint, or a training's folder (its newest)")
    rewards.add_argument("--pairs", type=Path, required=True, help="a folder of pairs")
    rewards.add_argument("--split", choices=("held_out", "train"), default="held_out", help="of the pairs (held_out)")
    rewards.add_argument("--limit", type=int, help="only the first so many pairs")
    rewards.add_argument("--gamma", type=float, help="discount (as the checkpoint was trained; else 1)")
    rewards.add_argument("--out", type=Path, help="a folder (PAIRS/rewards/CHECKPOINT)")
    add_sampling(rewards, 0, 1.0)
    rewards.add_argument("--json", action="store_true", help="print JSON")
    rewards.add_argument("--device", help="cpu or cuda (cuda if there is one)")
    rewards.set_defaults(run=_rewards)


def _rewards(options: argparse.Namespace) -> int:
    from trainer.adapt.reward_files import write_rewards

    _check_limit(options)
    if options.gamma is not None and not 0 <= options.gamma <= 1:
        raise TrainerError(f"--gamma {options.gamma:g}: a discount is from 0 to 1")
    sampling = sampling_of(options) if options.samples else None
    write_rewards(
        options.checkpoint,
        options.pairs,
        options.split,
        options.limit,
        options.gamma,
        options.out,
        sampling,
        options.json,
        options.device,
    )
    return 0
