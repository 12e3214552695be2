"""`python -m pipeline train-classifier`: train a quality classifier."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "train-classifier",
        help="train a quality classifier",
        description="Train a fastText classifier of good against ordinary text, with the settings of DCLM but for --set; of "
        "fewer than 10,000 documents with settings for few, where --set names none of word_ngrams, dim, lr, epoch and bucket.",
    )
    parser.add_argument("--positive", nargs="+", default=[], metavar="PATH", help="files of good text, patterns too")
    parser.add_argument("--negative", nargs="+", default=[], metavar="PATH", help="files of ordinary text")
    parser.add_argument(
        "--labelled", nargs="+", default=[], metavar="PATH", help='in their place or besides: files of {"text", "label": 0 or 1}'
    )
    parser.add_argument("--out", required=True, help="model file to write (.bin); its card is written beside it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting: bucket, dim, lr, epoch, ..."
    )
    parser.add_argument(
        "--evaluate", metavar="FILE", help='JSON lines of {"text", "label": 0 or 1} to judge the model on'
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.models.train_classifier import show, train

    tell(args, train(args.positive, args.negative, args.out, args.set, args.evaluate, args.labelled), show, args.out)
    return 0
