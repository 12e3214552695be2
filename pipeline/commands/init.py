"""`python -m pipeline init`: a first recipe for files of one's own."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "init",
        help="write a recipe for your own files",
        description="Looks at the files (JSON lines, CSV, Parquet, WARC, plain text; compressed or not), finds what they hold "
        "and which fields are text, and writes a commented recipe for them.",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files and folders (default: the current folder)")
    parser.add_argument("--out", default="recipe.yaml", metavar="FILE", help="the recipe to write (default: recipe.yaml)")
    parser.add_argument("--name", help="what the run is called (default: the folder's name)")
    parser.add_argument(
        "--language", metavar="CODE", help="keep one language, such as en; any: all (default: that of most web pages)"
    )
    parser.add_argument(
        "--tokenizer", metavar="WHICH", help="a tokenizer.json, ORG/NAME on the hub, or train, a new one (default)"
    )
    parser.add_argument("--force", action="store_true", help="write over a recipe that is there")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.program import program
    from pipeline.recipe.init import Asked, find, recipe_text
    from pipeline.recipe.recipe import load_recipe
    from pipeline.terminal import printable
    from stages.quality.languages import wrong_label

    out = Path(args.out)
    if out.exists() and not args.force:
        raise UserError(f"{out} exists; choose another --out, or write over it with --force")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if args.language not in (None, "any") and (wrong := wrong_label(args.language)):
        raise UserError(f"--language {args.language}: {wrong}")
    found, notes = find(args.paths or ["."], out.parent)
    for one in found:
        text = f", text in `{one.looks.text}`" if one.looks else ""
        language = f", mostly {one.language}" if one.language else ""
        print(printable(f"{one.name}: {one.amount}, {one.format}{text}{language}"))
    for note in notes:
        print(printable(note), file=sys.stderr)
    name = args.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", out.resolve().parent.name).strip("-_.") or "corpus"
    out.write_text(recipe_text(found, Asked(name, args.language, args.tokenizer), args.out), encoding="utf-8")
    load_recipe(out)
    print(f"wrote {out}: look it through, and change what you like")
    print(f"next: {program()} validate {out}")
    return 0
