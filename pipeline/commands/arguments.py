"""Arguments that several commands take, and what they stand for."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from stages.errors import UserError

if TYPE_CHECKING:
    from pipeline.ablate.train import Plan
    from pipeline.progress import Progress


def tell(args: argparse.Namespace, found: object, show: Callable[..., None], *more: Any) -> None:
    """Print what a command found: as JSON (--json), or by `show(found, console, *more)` for people."""
    from pipeline.tables import console
    from pipeline.terminal import print_json, printable_all

    if args.json:
        print_json(found)
    else:
        show(printable_all(found), console(), *more)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """A recipe, and what changes it."""
    parser.add_argument("recipe", help="a YAML file, or a recipe that comes with Headrace, by name: dclm_mix")
    parser.add_argument("--profile", help="a profile of the recipe (default: its first)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change keys: a.b.c=value ...")


def add_training(parser: argparse.ArgumentParser) -> None:
    """The flags of commands that train models and score them on raw text."""
    parser.add_argument("--eval", nargs="+", type=Path, required=True, metavar="FILE", help="raw text: .jsonl, .txt; .gz, .zst")
    parser.add_argument("--tokens", required=True, help="that each model is trained on, such as 1M; a multiple of a batch's")
    parser.add_argument("--config", default="olmoe_tiny", help="the trainer's configuration (olmoe_tiny)")
    parser.add_argument("--train-set", nargs="+", default=[], metavar="A.B=C", help="change the trainer's configuration")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trainings side by side (as many as cores)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each training (1); others give other roundings")
    parser.add_argument("--device", help="cpu or cuda (cuda if there is one)")


def training_of(args: argparse.Namespace, first_seed: int = 0) -> Plan:
    """What these flags and --seeds ask for, seeds from `first_seed` on. Raises UserError for a number that is none."""
    from pipeline.ablate.train import Plan

    for name in ("seeds", "jobs", "threads"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: at least 1 is needed")
    return Plan(
        config=args.config,
        settings=tuple(args.train_set),
        tokens=count_of("--tokens", args.tokens),
        seeds=tuple(range(first_seed, first_seed + args.seeds)),
        evaluation=tuple(args.eval),
        jobs=args.jobs,
        threads=args.threads,
        device=args.device,
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The flags that say where tasks run, and what is printed."""
    parser.add_argument("--address", help="a running Ray cluster (default: RAY_ADDRESS, else this machine)")
    parser.add_argument("--workers", type=int, help="Ray workers on this machine (default: all cores)")
    parser.add_argument("--inline", action="store_true", help="no Ray: all tasks in this process, one after the other")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")


class Carried(TypedDict):
    """How a command's tasks are carried out, as `Place` has it."""

    workers: int | None
    address: str | None
    inline: bool
    progress: Progress


def carried_out(args: argparse.Namespace) -> Carried:
    """The options that these flags stand for."""
    from pipeline.progress import Progress

    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: at least 1 is needed")
    progress = Progress(quiet=args.quiet or args.json)
    return {"workers": args.workers, "address": args.address, "inline": args.inline, "progress": progress}


def say_lines(args: argparse.Namespace) -> Callable[[str], None]:
    """Prints a line of what is going on, whole where threads do; nothing with --quiet and --json."""

    def say(text: str) -> None:
        if not (args.quiet or args.json):
            print(f"{text}\n", end="", flush=True)  # one write

    return say


def source_name(args: argparse.Namespace) -> str:
    """The name that --source gives; UserError if no source can be called so."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", args.source):
        raise UserError(f"--source {args.source}: letters, digits, - and _ make a source's name")
    return args.source


def count_of(flag: str, text: str) -> int:
    """The number that a flag gives; UserError if it is not a quantity."""
    from pydantic import TypeAdapter, ValidationError

    from stages.units import Count

    try:
        return TypeAdapter(Count).validate_python(text)
    except ValidationError:
        raise UserError(f"{flag} {text}: not a quantity: write it like 1M or 1048576") from None


def shard_bytes(args: argparse.Namespace) -> int:
    """The bytes of a shard that --shard-bytes gives; UserError if it is not a quantity."""
    from pydantic import TypeAdapter, ValidationError

    from stages.units import Bytes

    try:
        return TypeAdapter(Bytes).validate_python(args.shard_bytes)
    except ValidationError:
        raise UserError(f"--shard-bytes {args.shard_bytes}: not a quantity: write it like 64MiB") from None
