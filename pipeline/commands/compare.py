"""`python -m pipeline compare`: two finished runs side by side."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="two finished runs side by side",
        description="What differs in two runs' recipes, the documents that one keeps and the other does not, with the other's "
        "reasons, how much they overlap, and the tokens of each source.",
    )
    parser.add_argument("one", help="a run's folder")
    parser.add_argument("two", help="another run's folder")
    parser.add_argument(
        "--by", choices=("place", "id"), default="place", help="what names a document: file and record (default), or its id"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.questions.compare import compare, show_compare

    tell(args, compare(args.one, args.two, args.by), show_compare)
    return 0
