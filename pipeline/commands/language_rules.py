"""`python -m pipeline language-rules`: the stop words and limits of a language, as steps for a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "language-rules",
        help="a language's stop words and limits, from its own texts or FineWeb2's files, as steps of a recipe",
        description="Print the filters of FineWeb2 for a language, as steps for a recipe: docs/languages.md.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--texts", nargs="+", metavar="PATH", help="files of texts in the language, as a recipe's paths"
    )
    source.add_argument(
        "--published", metavar="FILE.yml", help="a file of FineWeb2's folder configs, such as fra_Latn.yml"
    )
    parser.add_argument(
        "--tail",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the texts that lies beyond each limit (default: 0.1)",
    )
    parser.add_argument(
        "--splitter",
        choices=("english", "french", "spanish", "unicode"),
        default="english",
        help="what words are in the steps (default: english)",
    )
    parser.add_argument("--out", metavar="FILE.yaml", help="write the steps there, and not to standard output")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.models.language_rules import rules_of_fineweb2, rules_of_texts

    file = args.published
    rules = rules_of_fineweb2(file, args.splitter) if file else rules_of_texts(args.texts, args.tail, args.splitter)
    if args.out:
        Path(args.out).write_text(rules.text(), "utf-8")
        print(f"wrote {args.out}: {len(rules.stop_words)} stop words ({rules.origin})")
    else:
        print(rules.text(), end="")
    return 0
