"""`python -m pipeline schema`: the JSON schema of recipes, for editors."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "schema",
        help="the JSON schema of recipes, for editors",
        description="Prints a JSON schema: with it an editor completes the keys of a recipe, tells their meanings and marks "
        "mistakes. Save it, and begin the recipe with `# yaml-language-server: $schema=FILE`.",
    )
    parser.add_argument("--out", metavar="FILE", help="write it to a file")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pathlib import Path

    import orjson

    from pipeline.recipe.schema import recipe_schema

    text = orjson.dumps(recipe_schema(), option=orjson.OPT_INDENT_2).decode() + "\n"
    if args.out is None:
        print(text, end="")
        return 0
    Path(args.out).write_text(text, encoding="utf-8")
    print(f"wrote {args.out}; an editor with YAML support reads it where a recipe begins with")
    print(f"# yaml-language-server: $schema={args.out}")
    return 0
