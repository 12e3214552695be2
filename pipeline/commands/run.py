"""`python -m pipeline run`: carry out a recipe."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.commands.arguments import add_recipe, add_workers, carried_out
from stages.errors import UserError

COLLECT_AFTER = 20_000  # new objects


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "run", help="carry out a recipe", description="Carry out a recipe, or what is left of it."
    )
    add_recipe(parser)
    parser.add_argument(
        "--out", help="output folder or s3:// prefix (default: runs/NAME, runs/NAME-PROFILE for other profiles)"
    )
    add_workers(parser)
    parser.add_argument(
        "--take-over", action="store_true", help="go on in a folder that holds another recipe's run: what is not this one's goes"
    )
    parser.add_argument(
        "--reuse-other-code",
        action="store_true",
        help="keep results that other code or library versions made (the manifest says so), in place of making them again",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read all files of the run first, and make again what is damaged"
    )
    parser.add_argument(
        "--train", metavar="CONFIG", help="afterwards train a model on the tokens: a trainer's configuration, such as olmoe_tiny"
    )
    parser.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="tell Prometheus at this port's /metrics how far the run is"
    )
    parser.add_argument("--yes", action="store_true", help="start a run that is large for this machine")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    with _collecting_seldom():
        name, out = _run(args)
    if args.json:
        return 0
    if args.train:
        return _train(args.train, name, out)
    from pipeline.program import train_command

    print(f"next: {train_command(out)}")
    return 0


def _run(args: argparse.Namespace) -> tuple[str, str]:
    """Carry out the recipe and print what came out; the run's name and folder."""
    gc.disable()  # what is imported stays: there is nothing to collect in it
    from pipeline.carry_out import Options, run_recipe
    from pipeline.engine.ray_start import ray_address
    from pipeline.metrics import served
    from pipeline.program import check_trainer
    from pipeline.recipe.overrides import read_yaml
    from pipeline.recipe.recipe import load_recipe
    from pipeline.recipe.shipped import find_recipe
    from pipeline.run_folder.folder import default_out
    from pipeline.run_folder.summary import show
    from pipeline.size import check_size
    from pipeline.tables import console
    from pipeline.terminal import print_json, printable_all

    gc.enable()
    recipe = load_recipe(args.recipe, args.profile, args.set)
    if args.train and args.json:
        raise UserError("--train and --json are both given: the run's result is printed as JSON, and nothing after it")
    if args.train:
        check_trainer(args.train)
    out = args.out or default_out(read_yaml(find_recipe(args.recipe)), recipe)
    if not args.yes:
        check_size(recipe, None if args.inline else ray_address(args.address, args.workers))
    flags = {name: getattr(args, name) for name in ("take_over", "reuse_other_code", "verify")}
    options = Options(out, **flags, **carried_out(args))
    with served(args.metrics_port, options.progress.standing_now):
        summary = run_recipe(recipe, options)
    if args.json:
        print_json(summary)
    elif summary.unchanged:
        print(f"{out} is up to date with {args.recipe}: nothing to do")
    else:
        show(printable_all(summary), console())
        print(f"wrote {out}/manifest.json")
    return recipe.name, out


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """So that the collector does not look again and again at what a run imports and loads, which stays."""
    usual = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _train(config: str, name: str, out: str) -> int:
    """Train on the run's tokens. Other tokens, or another configuration, have a folder of their own; the same go on."""
    from pathlib import Path

    from pipeline.program import train_command, trainer, trainer_program
    from pipeline.run_folder.manifest import read_manifest

    folder = f"runs/train/{name}-{Path(config).stem}-{read_manifest(out)['fingerprint'][:8]}"
    print(f"now: {train_command(out, config)} --out {folder} --resume", flush=True)
    status = trainer(["train", config, "--data", out, "--out", folder, "--resume"])
    if status == 0:
        print(f'next: {trainer_program()} sample {folder} --prompt "..."')
    return status
