"""`python -m pipeline why`: why a document was kept or dropped."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "why",
        help="why a document was kept or dropped",
        description="A document's way through a finished run: each step's measures beside its limits, what decided, "
        "the edits as diffs (made again from the source file, where it is still there), and where its tokens lie.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("document", help="its id, its URL, or FILE:RECORD (the file's whole name, or its last part)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.pairs.why import show_why_pair, why_pair
    from pipeline.questions.why import show_why, why
    from pipeline.run_folder.folder import PAIRS, read_mark

    if read_mark(args.dir, PAIRS) is not None:
        tell(args, why_pair(args.dir, args.document), show_why_pair)
    else:
        tell(args, why(args.dir, args.document), show_why)
    return 0
