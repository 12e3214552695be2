"""The trainer's command line: `python -m trainer COMMAND ...`."""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.tokens.shard_format import ShardError
from trainer.adapt import commands as adapt_commands
from trainer.analyze import commands as analyze_commands
from trainer.errors import TrainerError
from trainer.fetched import fetched, is_elsewhere
from trainer.units import BYTES, quantity

if "OMP_WAIT_POLICY" not in os.environ:
    # Read when torch is loaded. A waiting thread spins for milliseconds by default; on a machine that does other work
    # too, that takes the core from the very thread it waits for, and training is several times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main(arguments: Sequence[str] | None = None, program: str = "python -m trainer") -> int:
    """Run one command. Returns the exit status; an error that the user can mend is one line and status 2.

    program: what the user typed to come here, for help and usage.
    """
    options = _parser(program).parse_args(_each_set(sys.argv[1:] if arguments is None else arguments))
    sys.stdout.reconfigure(line_buffering=True)
    try:
        if is_elsewhere(getattr(options, "data", None) or ""):
            options.data = fetched(options.data)
        return options.run(options)
    except (TrainerError, ShardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        print(f"error: {error.name} is not installed: pip install 'headrace[trainer]'", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        where = error.filename or getattr(options, "out", None) or options.run.__name__.lstrip("_")
        print(f"error: {where}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # training collects the first one, and saves
        print("stopped", file=sys.stderr)
        return 130


def _each_set(arguments: Sequence[str]) -> list[str]:
    """`--set a=1 b=2` as `--set a=1 --set b=2`: after the first, only what is written name=value counts as one."""
    found: list[str] = []
    open_ = False
    for argument in arguments:
        if argument == "--set" or argument.startswith("--set="):
            open_ = True
        elif found and found[-1] != "--set":
            open_ = open_ and re.match(r"[\w.]+=", argument) is not None
            found += ["--set"] if open_ else []
        found.append(argument)
    return found


def _count(text: str) -> int:
    """A number on the command line: 1000, 5e9, 1B."""
    try:
        return quantity(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def _bytes(text: str) -> int:
    """A size on the command line: 80GB, 141GB, 80GiB."""
    try:
        return quantity(text, BYTES)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Train, evaluate and look into models on a run's tokens.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_plan(commands)
    adapt_commands.add(commands)
    analyze_commands.add(commands)
    for add in (_add_eval, _add_sample, _add_plot, _add_export, _add_import, _add_upcycle, _add_materialize):
        add(commands)
    return parser


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train a model on the shards of a finished run")
    parser.add_argument("config", type=Path, help="a YAML file, or a shipped one by name: olmoe_tiny")
    parser.add_argument("--data", type=Path, required=True, help="the run's folder, with manifest.json")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change values: a.b=c ...")
    parser.add_argument("--out", type=Path, help="where checkpoints and metrics go (runs/train/NAME)")
    parser.add_argument(
        "--resume", nargs="?", const=True, default=False, metavar="CHECKPOINT", help="go on from the newest or this one"
    )
    parser.add_argument("--device", help="cpu or cuda (cuda if there is one)")
    parser.set_defaults(run=_train)


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser("plan", help="what a training takes: memory of each GPU, tokens/s, days, money")
    parser.add_argument("config", type=Path, help="a YAML file, or a shipped one by name: olmoe_1b_7b")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change values: a.b=c ...")
    parser.add_argument("--gpus", type=_count, default=8, help="how many (8)")
    parser.add_argument("--memory", type=_bytes, default=80 * 10**9, metavar="SIZE", help="of each, such as 80GB (80GB)")
    parser.add_argument("--gpu", default="H100", help="its name, which says its peak (H100)")
    parser.add_argument("--mfu", type=float, default=0.4, help="part of the peak that is reached (0.4)")
    parser.add_argument("--tokens", type=_count, help="how many to train on, such as 5T (the configuration's)")
    parser.add_argument("--price", type=float, help="of one GPU for an hour")
    parser.set_defaults(run=_plan)


def _add_eval(commands: Any) -> None:
    parser = commands.add_parser("eval", help="held-out bits per byte, tasks from request files, answers to pairs")
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", help="checkpoints, or trainings' folders (the newest); several make a table"
    )
    parser.add_argument("--all", action="store_true", help="of a training's folder all checkpoints that it keeps")
    parser.add_argument("--png", type=Path, help="the picture of several (eval.png in the last one's training's folder)")
    parser.add_argument("--data", type=Path, help="a run's folder: score its held-out shards")
    parser.add_argument("--tasks", type=Path, help="a folder of tasks (config.json, requests.jsonl.gz), at any depth")
    parser.add_argument(
        "--text", type=Path, nargs="+", default=[], metavar="FILE", help="score raw text (.jsonl, .txt; .gz, .zst)"
    )
    parser.add_argument(
        "--contamination",
        type=Path,
        metavar="FILE",
        help="what `contamination DIR --json` printed: scores clean items apart",
    )
    parser.add_argument("--limit", type=_count, help="at most this many instances of a source, documents of a task or file")
    parser.add_argument("--pairs", type=Path, help="a folder of pairs: judge the model's answers to its prompts")
    parser.add_argument("--split", choices=("held_out", "train"), default="held_out", help="of the pairs (held_out)")
    parser.add_argument("--judge", choices=("final", "tests", "text"), help="how answers are judged (as records say)")
    adapt_commands.add_sampling(parser, 1, 0.0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help="keep the scores in this JSON file, and the loss of each document of --text")
    parser.add_argument("--device", help="cpu or cuda (cuda if there is one)")
    parser.set_defaults(run=_eval)


def _add_sample(commands: Any) -> None:
    parser = commands.add_parser("sample", help="write text with a trained model")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a training's folder (its newest)")
    parser.add_argument("--prompt", default="", help="what to go on from (nothing: a new document)")
    parser.add_argument("--tokens", type=_count, default=128, help="at most this many new tokens (128)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the most probable token (0.8)")
    parser.add_argument("--top-p", type=float, default=0.95, help="the most probable tokens up to this sum (0.95)")
    parser.add_argument("--seed", type=_count, default=0)
    parser.add_argument("--device", help="cpu or cuda (cuda if there is one)")
    parser.set_defaults(run=_sample)


def _add_plot(commands: Any) -> None:
    parser = commands.add_parser("plot", help="draw a training's losses and expert loads")
    parser.add_argument("folder", type=Path, help="the training's folder, with metrics.jsonl")
    parser.set_defaults(run=_plot)


def _add_export(commands: Any) -> None:
    parser = commands.add_parser("export", help="write a checkpoint as a Hugging Face OlmoeForCausalLM folder")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a training's folder (its newest)")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.set_defaults(run=_export)


def _add_import(commands: Any) -> None:
    parser = commands.add_parser("import", help="turn a Hugging Face OlmoeForCausalLM folder into a checkpoint")
    parser.add_argument("folder", type=Path, help="a folder with config.json and safetensors")
    parser.add_argument("--out", type=Path, required=True, help="a training's folder; start_from can name it")
    parser.set_defaults(run=_import)


def _add_upcycle(commands: Any) -> None:
    parser = commands.add_parser("upcycle", help="make a mixture of experts from a dense checkpoint")
    parser.add_argument("checkpoint", type=Path, help="the dense checkpoint, or its training's folder")
    parser.add_argument("config", type=Path, help="the configuration of the model to make")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change values: a.b=c ...")
    parser.add_argument("--noise", type=float, default=0.5, help="part of each expert's values drawn anew (0.5)")
    parser.add_argument("--out", type=Path, required=True, help="a training's folder; start_from can name it")
    parser.set_defaults(run=_upcycle)


def _add_materialize(commands: Any) -> None:
    parser = commands.add_parser("materialize", help="write a run's instances in training order, to be read in a row")
    parser.add_argument("--data", type=Path, required=True, help="the run's folder, with manifest.json")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, which --data can then name")
    parser.add_argument("--sequence-length", type=_count, required=True, help="tokens of an instance")
    parser.add_argument("--packing", choices=("concatenate", "best_fit"), default="concatenate")
    parser.add_argument("--seed", type=_count, help="of the order (the mixture's own)")
    parser.add_argument("--max-tokens", type=_count, help="only the first so many tokens of training")
    parser.add_argument("--shard-mib", type=_count, default=256, help="size of a shard, which is held in memory (256)")
    parser.set_defaults(run=_materialize)


def _train(options: argparse.Namespace) -> int:
    from trainer import checkpoint
    from trainer.config import load
    from trainer.host import device
    from trainer.train import train

    config = load(options.config, options.set)
    out = options.out or Path("runs") / "train" / config.name
    resume = options.resume if isinstance(options.resume, bool) else checkpoint.find(Path(options.resume))
    asked = any(setting.partition("=")[0].strip() == "train.tokens" for setting in options.set)
    return train(config, options.data, out, resume, device(options.device), exact=asked)


def _plan(options: argparse.Namespace) -> int:
    from trainer.config import load
    from trainer.plan import Asked, plan

    if options.gpus < 1 or not 0 < options.mfu <= 1:
        raise TrainerError(f"--gpus {options.gpus} --mfu {options.mfu}: at least one GPU, and an MFU of 0 to 1")
    asked = Asked(options.gpus, options.memory, options.gpu, options.mfu, options.tokens, options.price)
    for line in plan(load(options.config, options.set), asked):
        print(line)
    return 0


def _eval(options: argparse.Namespace) -> int:
    from trainer.compare import compare_checkpoints
    from trainer.inference import all_or_newest
    from trainer.report import PairsAsked, TasksAsked, evaluate_checkpoint
    from trainer.touched import read_touched

    if options.data is None and options.tasks is None and options.pairs is None and not options.text:
        raise TrainerError(
            "eval needs --data (a run with held-out shards), --text (files), --tasks or --pairs (folders), or several"
        )
    pairs = None
    if options.pairs is not None:
        sampling = adapt_commands.sampling_of(options)
        pairs = PairsAsked(options.pairs, options.split, sampling, options.judge)
    if options.contamination is not None and options.tasks is None:
        raise TrainerError("--contamination goes with --tasks")
    touched = read_touched(options.contamination) if options.contamination else None
    tasks = TasksAsked(options.tasks, touched) if options.tasks is not None else None
    paths = [one for path in options.checkpoints for one in (all_or_newest(path) if options.all else [path])]
    asked = (options.data, tasks, options.limit, options.json, options.device, pairs)
    if len(paths) == 1 and options.png is None:
        evaluate_checkpoint(paths[0], *asked, options.text, options.out)
    else:
        compare_checkpoints(paths, *asked, options.png, options.text, options.out)
    return 0


def _sample(options: argparse.Namespace) -> int:
    from trainer.inference import open_trained
    from trainer.sample import write

    trained = open_trained(options.checkpoint, options.device)
    write(
        trained,
        options.prompt,
        options.tokens,
        options.temperature,
        options.top_p,
        options.seed,
        lambda text: print(text, end="", flush=True),
    )
    print()
    return 0


def _plot(options: argparse.Namespace) -> int:
    from trainer.plot import plot

    for path in plot(options.folder):
        print(path)
    return 0


def _export(options: argparse.Namespace) -> int:
    from trainer.hf import export

    export(options.checkpoint, options.out, options.dtype)
    print(f"{options.out}: load it with transformers' OlmoeForCausalLM.from_pretrained")
    return 0


def _import(options: argparse.Namespace) -> int:
    from trainer.hf import import_

    print(import_(options.folder, options.out))
    return 0


def _upcycle(options: argparse.Namespace) -> int:
    from trainer.config import load
    from trainer.upcycle import upcycle

    print(upcycle(options.checkpoint, load(options.config, options.set), options.out, options.noise))
    return 0


def _materialize(options: argparse.Namespace) -> int:
    from trainer.loader.materialize import materialize

    if options.shard_mib < 1:
        raise TrainerError(f"--shard-mib {options.shard_mib}: a shard needs at least 1 MiB")
    count = materialize(
        options.data,
        options.out,
        options.sequence_length,
        options.packing,
        options.seed,
        options.max_tokens,
        options.shard_mib << 20,
    )
    print(f"{options.out}: {count:,} instances of {options.sequence_length} tokens in training order")
    return 0


if __name__ == "__main__":
    status = main()
    gc.freeze()  # Python would look through all of PyTorch for garbage once more, which takes most of a second
    sys.exit(status)
