"""`python -m pipeline ablate`: what steps of a recipe, or other data, are worth to a model trained on them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.arguments import add_recipe, add_training, add_workers, carried_out, say_lines, tell, training_of
from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "ablate",
        help="train a model on each of several variants of the data, and compare them",
        description="Carry out a recipe in several arms, train the trainer's model on each with several seeds and exactly as "
        "many tokens, score all on one raw text, and compare them document by document. The same command goes on where it was "
        "broken off.",
    )
    add_recipe(parser)
    parser.add_argument(
        "--arms",
        default="all-but-one",
        help="all-but-one (the default), cumulative, dedup, extraction, cutoffs, buckets, or a file (docs/ablate.md)",
    )
    parser.add_argument("--by", metavar="SOURCE.STEP.MEASURE", help="of cutoffs and buckets: the measure (a classifier's score)")
    parser.add_argument("--at", nargs="+", type=float, help="and the shares of documents at which it cuts (0.25 0.5 0.75)")
    parser.add_argument("--seeds", type=int, default=2, help="models of each arm (2)")
    parser.add_argument("--out", type=Path, help="folder of the experiment (runs/ablate/NAME)")
    add_training(parser)
    add_workers(parser)
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.program import check_experiments

    check_experiments(args.config)  # before what needs it is imported
    from pipeline.ablate.arms import BY_MEASURE, QUANTILES
    from pipeline.ablate.run import Experiment, ablate
    from pipeline.ablate.show import show_result
    from pipeline.engine.place import Placement
    from pipeline.recipe.recipe import load_recipe

    training = training_of(args)
    if (args.by or args.at) and args.arms not in BY_MEASURE:
        raise UserError(f"--by and --at belong to --arms {' and '.join(BY_MEASURE)}, not to --arms {args.arms}")
    out = args.out or Path("runs") / "ablate" / load_recipe(args.recipe, args.profile, args.set).name
    asked = Experiment(
        args.recipe, args.profile, tuple(args.set), args.arms, out, training, args.by, tuple(args.at or QUANTILES)
    )
    placement = Placement(**carried_out(args))
    found = ablate(asked, placement, say_lines(args))
    tell(args, found, show_result)
    if not args.json:
        print(f"wrote {out}/ablation.json, ablation.csv and ablation.png")
    return 0
