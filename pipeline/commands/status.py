"""`python -m pipeline status`: how far a run is."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell
from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="how far a run is",
        description="How far a run is: while it goes on, of how much, how fast and how long it may still take; and what is done.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--watch", action="store_true", help="show it on one screen until the run ends; Ctrl-C leaves")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    if args.watch:
        return _watch(args)
    from pipeline.questions.status import show_status, status

    found = status(args.dir)
    tell(args, found, show_status)
    return 0


def _watch(args: argparse.Namespace) -> int:
    from pipeline.live.screen import watch
    from pipeline.tables import console

    if args.json:
        raise UserError("--watch and --json are both given: a screen is for people")
    try:
        return watch(args.dir, console())
    except KeyboardInterrupt:
        print("left; the run goes on")
        return 0
