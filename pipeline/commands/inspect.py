"""`python -m pipeline inspect`: what a finished run holds."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import orjson


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect", help="what a finished run holds", description="What a finished run holds: sources, shards, tokens."
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--show", type=int, metavar="N", help="decode the first N documents of each source")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.inspect import inspect, show_inspect
    from pipeline.summary import console

    found = inspect(args.dir, args.show or 0)
    if args.json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show_inspect(found, console())
    return 0 if not found["problems"] else 1
