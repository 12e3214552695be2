"""`python -m pipeline sweep`: what another limit would keep."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep",
        help="what another limit would keep",
        description="Documents, bytes and tokens that pass under each limit on a measure, from the measures on record: no "
        "kernel runs. Counted are the documents that reached the step; what an earlier step dropped is not. "
        "A document passes where this limit and the step's other limits let it through. Of those that pass, `kept` ended in "
        "a shard in this run, `lost later` were taken by later steps or dedup, and `new` were dropped by this step: they "
        "would reach the next steps, and what becomes of them there shows when the recipe runs with the new limit. Tokens "
        "are bytes over the source's bytes a token.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--measure", required=True, metavar="STEP.MEASURE", help="such as gopher_quality.words")
    parser.add_argument("--source", help="one source (default: all that have the step)")
    parser.add_argument("--side", choices=("min", "max"), help="needed where the recipe sets both or neither")
    parser.add_argument(
        "--values", nargs="+", type=float, metavar="LIMIT", help="limits to count (default: at the measure's quantiles)"
    )
    parser.add_argument("--png", metavar="FILE", help="draw a picture (.png, .svg, .pdf); needs headrace[plots]")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.questions.sweep import show_sweep, sweep
    from pipeline.questions.sweep_picture import draw_sweep

    found = sweep(args.dir, args.measure, args.source, args.side, args.values)
    if args.png:
        draw_sweep(found, args.png)
    tell(args, found, show_sweep)
    if args.png and not args.json:
        print(f"wrote {args.png}")
    return 0
