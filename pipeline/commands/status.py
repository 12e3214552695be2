"""`python -m pipeline status`: how far a run is."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import orjson


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "status", help="how far a run is", description="How far a run is, from its ledger; also while it goes on."
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.status import show_status, status
    from pipeline.summary import console

    found = status(args.dir)
    if args.json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show_status(found, console())
    return 0
