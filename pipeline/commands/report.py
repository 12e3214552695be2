"""`python -m pipeline report`: a finished run as one static page."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell
from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="a finished run as one static page",
        description="One HTML file that needs nothing else and no network: the ledger's balance, the funnel of each source, "
        "reasons, every measure with its limit, languages, lengths, sampled kept and dropped documents side by side, dedup, "
        "mixture, shards, speed and failures.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--out", metavar="FILE", help="where to write it, local or s3:// (default: report.html in the folder)")
    parser.add_argument(
        "--parts",
        type=int,
        metavar="N",
        help="of each source, read N parts for measures, lengths and documents; 0: all (default: 64; the page says how many)",
    )
    parser.add_argument("--against", metavar="RUN", help="another finished run: a section says what differs, as `compare` does")
    parser.add_argument("--mixture", metavar="DIR", help="show the mixture of this folder, which `mix` made of the run")
    parser.add_argument(
        "--summary",
        action="store_true",
        help="print what the content is: tokens by licence and opt-out, what the rules of `permissions` cost, by top domains",
    )
    parser.add_argument("--json", action="store_true", help="print the figures; with --out, write the page too")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline import storage
    from pipeline.report.gather import PARTS, gather
    from pipeline.report.page import page
    from pipeline.terminal import print_json
    from stages.units import show_bytes

    if args.summary:
        return _summary(args)
    parts = PARTS if args.parts is None else args.parts
    if parts < 0:
        raise UserError(f"--parts {parts}: a number of parts, 0 for all")
    found = gather(args.dir, parts, against=args.against, mixture=args.mixture)
    if args.json:
        print_json(found)
    if args.out or not args.json:
        out = args.out or storage.join(args.mixture or args.dir, "report.html")
        data = page(found)
        storage.write_bytes(out, data)
        if not args.json:
            balance = "the ledger balances" if found.balances else "the ledger does not balance"
            print(f"wrote {out} ({show_bytes(len(data))}); {balance}")
    return 0 if found.balances else 1


def _summary(args: argparse.Namespace) -> int:
    from pipeline.report.content import content, show_content

    if args.out or args.parts is not None or args.against or args.mixture:
        raise UserError("--summary is of all parts, and printed: leave out --out, --parts, --against and --mixture")
    tell(args, content(args.dir), show_content)
    return 0
