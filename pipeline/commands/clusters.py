"""`python -m pipeline clusters`: who was removed for whom."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell
from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "clusters",
        help="who was removed for whom",
        description="A finished run's dedups: sizes of clusters, the largest with samples, which source lost to which.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--dedup", metavar="NAME", help="one dedup, or the source whose only one it is (default: all)")
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="show the N largest clusters (default: 5, at most 20)"
    )
    parser.add_argument("--svg", metavar="FILE", help="write a picture of the sizes")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.questions.clusters import clusters, show_clusters, write_svg

    if not 0 <= args.top <= 20:
        raise UserError(f"--top {args.top}: from 0 to 20")
    found = clusters(args.dir, args.dedup, args.top)
    if args.svg:
        write_svg(found, args.svg)
    tell(args, found, show_clusters)
    return 0
