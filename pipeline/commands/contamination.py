"""`python -m pipeline contamination`: which items of evaluation sets were found, and where."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell
from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "contamination",
        help="which items of evaluation sets were found, and where",
        description="For each evaluation set of a finished run's `decontaminate` steps: how many of its items are long enough "
        "to be found, how many were, and in how many documents; for each item found, how much of it, and where. Counted "
        "are the documents that reached the step, kept or dropped.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--source", help="one source (default: all that have the step)")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="show N items of each set, most found first (10)")
    parser.add_argument("--json", action="store_true", help="print all items found as JSON")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.questions.contamination import contamination, show_contamination

    if args.top < 0:
        raise UserError(f"--top {args.top}: a number of items, 0 for none")
    tell(args, contamination(args.dir, args.source), show_contamination, args.top)
    return 0
