"""`python -m pipeline card`: a dataset card of a finished run."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "card",
        help="a dataset card of a finished run",
        description="A README.md as the Hugging Face hub reads it: counts, licences and citations (of the recipe's sources), "
        "filters with what they dropped, provenance and the recipe.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: to the terminal)")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline import storage
    from pipeline.run_folder.card import card
    from pipeline.run_folder.finished import open_finished
    from pipeline.terminal import printable

    text = card(open_finished(args.dir))
    if args.out:
        storage.write_bytes(args.out, text.encode())
        print(f"wrote {args.out}")
    else:
        print(printable(text, lines=True), end="")
    return 0
