"""`python -m pipeline run`: carry out a recipe."""

from __future__ import annotations

import argparse
import gc
from typing import Any

from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "run", help="carry out a recipe", description="Carry out a recipe, or what is left of it."
    )
    parser.add_argument("recipe", help="YAML file")
    parser.add_argument("--profile", help="a profile of the recipe (default: its first)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change keys: a.b.c=value ...")
    parser.add_argument(
        "--out", help="output folder or s3:// prefix (default: runs/NAME, runs/NAME-PROFILE for other profiles)"
    )
    parser.add_argument("--address", help="a running Ray cluster (default: RAY_ADDRESS, else this machine)")
    parser.add_argument("--workers", type=int, help="Ray workers on this machine (default: all cores)")
    parser.add_argument("--inline", action="store_true", help="no Ray: all tasks in this process, one after the other")
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
    parser.add_argument("--yes", action="store_true", help="start a run that is large for this machine")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    gc.disable()  # what is imported stays: there is nothing to collect in it
    from pipeline.carry_out import Options, run_recipe
    from pipeline.folder import default_out
    from pipeline.overrides import read_yaml
    from pipeline.progress import Progress
    from pipeline.ray_start import ray_address
    from pipeline.recipe import load_recipe
    from pipeline.size import check_size
    from pipeline.summary import show
    from pipeline.tables import console
    from pipeline.terminal import print_json, printable_all

    gc.enable()
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: at least 1 is needed")
    recipe = load_recipe(args.recipe, args.profile, args.set)
    out = args.out or default_out(read_yaml(args.recipe), recipe)
    if not args.yes:
        check_size(recipe, None if args.inline else ray_address(args.address, args.workers))
    progress = Progress(quiet=args.quiet or args.json)
    options = Options(
        out,
        workers=args.workers,
        address=args.address,
        inline=args.inline,
        progress=progress,
        take_over=args.take_over,
        reuse_other_code=args.reuse_other_code,
        verify=args.verify,
    )
    summary = run_recipe(recipe, options)
    if args.json:
        print_json(summary.to_json())
        return 0
    if summary.unchanged:
        print(f"{out} is up to date with {args.recipe}: nothing to do")
        print(f"next: python -m trainer train configs/trainer/olmoe_tiny.yaml --data {out}")
        return 0
    show(printable_all(summary), console())
    print(f"wrote {out}/manifest.json")
    print(f"next: python -m trainer train configs/trainer/olmoe_tiny.yaml --data {out}")
    return 0
