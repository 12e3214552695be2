"""`python -m pipeline status`: how far a run is."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="how far a run is",
        description="How far a run is: while it goes on, of how much, how fast and how long it may still take; and what is done.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.questions.status import show_status, status
    from pipeline.summary import console
    from pipeline.terminal import print_json, printable_all

    found = status(args.dir)
    if args.json:
        print_json(found)
    else:
        show_status(printable_all(found), console())
    return 0
