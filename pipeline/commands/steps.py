"""`python -m pipeline steps`: what a recipe may hold."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from stages.errors import UserError

if TYPE_CHECKING:
    from pipeline.recipe.describe import Page

TITLES = {
    "step": "steps: `- NAME: {KEY: VALUE}` in sources.SOURCE.steps",
    "dedup": "dedup methods: `- dedup: {method: NAME}` among the steps, or in the recipe's own dedup",
    "reader": "readers: told by a file's name, or by sources.SOURCE.read.format",
    "section": "sections of a recipe",
}


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "steps",
        help="every step, dedup method, reader and key that a recipe may hold",
        description="Without a name: everything, one line each. With one: its keys, defaults and meanings, what it measures, "
        "where its rules come from, and its code.",
    )
    parser.add_argument("name", nargs="?", help="a step, dedup method, reader or section: gopher_quality, minhash, warc, run")
    parser.add_argument("--markdown", action="store_true", help="print docs/reference.md")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.recipe.describe import markdown, pages
    from pipeline.recipe.overrides import nearest
    from pipeline.terminal import print_json

    known = pages()
    if args.name is not None and args.name != "dedup" and args.name not in known:
        raise UserError(f"steps {args.name}: there is none of this name{nearest(args.name, list(known))}")
    chosen = [page for page in known.values() if args.name in (None, page.name, page.kind)]
    if args.json:
        print_json([dataclasses.asdict(page) for page in chosen])
    elif args.markdown:
        sys.stdout.write(markdown())
    elif len(chosen) == 1:
        print("\n".join(_told(chosen[0], _width())))
    else:
        print("\n".join(_listed(chosen, _width())))
    return 0


def _width() -> int:
    return min(120, shutil.get_terminal_size((120, 40)).columns)


def _listed(pages: list[Page], width: int) -> list[str]:
    """Everything, a line each, under its kind."""
    lines = []
    name_width = max(len(page.name) for page in pages)
    for kind in dict.fromkeys(page.kind for page in pages):
        lines += ["", TITLES[kind], ""]
        for page in pages:
            if page.kind == kind:
                line = textwrap.shorten(page.line, width - name_width - 4, placeholder=" ...")
                lines.append(f"  {page.name:{name_width}}  {line}")
    return [*lines[1:], "", "`steps NAME` tells all of one."]


def _told(page: Page, width: int) -> list[str]:
    """All of one, as wide as the terminal."""
    lines = [page.name]
    for paragraph in page.text.split("\n\n"):
        whole = re.sub(r"\n(?![-\s])", " ", paragraph)
        lines += ["", *(f"  {line}" for part in whole.split("\n") for line in textwrap.wrap(part, width - 2))]
    if page.keys:
        lines += ["", "keys"]
    for key in page.keys:
        lines.append(f"  {key.name}: {key.takes}; {'needed' if key.default is None else f'default {key.default}'}")
        lines += [f"      {line}" for line in textwrap.wrap(key.meaning, width - 6)]
    if page.measures:
        lines += ["", f"measures, in the parts as {page.name}.NAME"]
        keys = {key.name for key in page.keys}
        for name, meaning in page.measures:
            text = f"{name}: {'limited by the key of its name' if name in keys else meaning}"
            lines += [f"  {line}" for line in textwrap.wrap(text, width - 2, subsequent_indent="    ")]
    return [*lines, "", f"code: {page.code}"]
