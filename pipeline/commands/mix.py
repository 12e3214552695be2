"""`python -m pipeline mix`: a mixture of what exists."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell
from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "mix",
        help="compile a mixture from finished folders",
        description="Compile a mixture of the sources in one or more folders (of runs, imports or mixtures with one "
        "tokenizer) and print it. With --out, a new folder gets a manifest and links to the shards: no token is read or "
        "written, and the folders it is made of stay as they are.",
    )
    parser.add_argument("dirs", nargs="*", metavar="DIR", help="a finished folder; the sources of all are mixed")
    parser.add_argument(
        "--recipe", help="take the mixture of this recipe (default: of the one DIR's; else one epoch of all)"
    )
    parser.add_argument("--profile", help="a profile of the recipe")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="keys of the mixture: tokens=5.133T, epochs=1.26, max_repeats=4, reshuffle_last_tokens=100B, seed=1, "
        "per_source.S.tokens=1B, per_source.S.share=0.1, per_source.S.repeats=2.5, per_source.S.max_repeats=8",
    )
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="DIR/SOURCE=NAME",
        help="another name for one of two that are the same",
    )
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="SOURCE=AXES",
        help="split a source of a run by what it measured, as `split` in a recipe does (`web={by: quality.score, quantiles: "
        "[0.5, 0.8]}`), or a file of such lines; no token is written again",
    )
    parser.add_argument("--name", help="of the mixture (default: that of what it is made of)")
    parser.add_argument("--out", help="folder to write the mixture to, empty or not there yet")
    parser.add_argument("--files", choices=("link", "symlink", "copy"), default="link", help="how shards come to --out")
    parser.add_argument("--dry-run", action="store_true", help="print the mixture, write nothing")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.mixture.mix import MixOptions, mix, show_mix

    out = None if args.dry_run else args.out
    if not args.dirs:
        raise UserError(
            "name a finished folder whose sources are mixed: python -m pipeline mix DIR... [--set KEY=VALUE ...]"
        )
    found = mix(args.dirs, MixOptions(args.recipe, args.profile, args.set, args.rename, args.name, out, args.files, args.split))
    tell(args, found, show_mix)
    return 0
