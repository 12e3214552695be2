"""`python -m pipeline inspect`: what a finished run holds."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="what a finished run holds, and whether it is whole",
        description="What a finished run holds: sources, shards, tokens, lengths. Each shard is compared with its index and "
        "the manifest; the exit status is 1 where something is wrong, and each problem names shard and document.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="decode the first N documents of each source")
    parser.add_argument("--shards", action="store_true", help="list every shard, also where there are many")
    parser.add_argument("--quick", action="store_true", help="leave the tokens unread: check sizes and indexes only")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.questions.inspect import inspect, show_inspect

    found = inspect(args.dir, args.show, args.quick)
    tell(args, found, show_inspect, args.shards)
    return 0 if not found.problems else 1
