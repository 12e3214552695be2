"""`python -m pipeline status`: how far a run is."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell


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

    found = status(args.dir)
    tell(args, found, show_status)
    return 0
