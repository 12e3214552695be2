"""`python -m pipeline train-extractor`: train the model of the extraction engine `blocks`."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "train-extractor",
        help="train the model of the extraction engine `blocks`",
        description="Train the model that tells a page's main text, from crawled pages, people's strings and trafilatura.",
    )
    parser.add_argument("--pages", nargs="+", required=True, metavar="PATH", help="WARC files of pages, patterns too")
    parser.add_argument(
        "--truth", required=True, metavar="FILE", help='JSON: {URL: {"with": [wanted strings], "without": [unwanted ones]}}'
    )
    parser.add_argument("--out", required=True, metavar="FILE.npz", help="model to write; its card is written beside it")
    parser.add_argument(
        "--folds", type=int, default=5, metavar="N", help="parts of the sites for cross-validation; 0: none (default: 5)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting: seed, rounds, leaves, ...")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.models.train_extractor import train
    from stages.errors import UserError
    from stages.extract.train import card

    if args.folds < 0 or args.folds == 1:
        raise UserError(f"--folds {args.folds}: 0, or 2 and more")
    trained = train(
        args.pages, args.truth, args.out, args.set, args.folds, lambda what: print(what, file=sys.stderr, flush=True)
    )
    print(card(trained))
    print(f"wrote {trained.model} and {trained.model.with_suffix('.card.md')}")
    return 0
