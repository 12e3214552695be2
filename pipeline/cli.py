"""The command line. Errors that the user can mend are one sentence; exit status 2."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from stages.errors import UserError

EPILOG = "Each command tells more with --help. Start with: python -m pipeline run configs/dclm_mix.yaml"
# In the order of --help: a file each in pipeline/commands/.
COMMANDS = (
    "run",
    "plan",
    "status",
    "inspect",
    "trace",
    "why",
    "sweep",
    "clusters",
    "compare",
    "contamination",
    "report",
    "card",
    "mix",
    "export",
    "import_tokens",
    "pairs",
    "train_classifier",
    "train_extractor",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m pipeline", description="From text where it lies to token shards.", epilog=EPILOG
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"pipeline.commands.{name}").add(commands)
    args = _parsed(parser, commands.choices, sys.argv[1:] if arguments is None else list(arguments))
    try:
        return args.call(args)
    except UserError as error:
        from pipeline.storage.public import without_secrets
        from pipeline.terminal import printable

        print(f"error: {printable(without_secrets(str(error)), lines=True)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what is done stays done, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


def _parsed(
    parser: argparse.ArgumentParser, commands: dict[str, argparse.ArgumentParser], arguments: list[str]
) -> argparse.Namespace:
    """The command's arguments, flags and names in any order: `trace DIR --context 9 SHARD:0`, `mix A --out C B`."""
    if not arguments or arguments[0] not in commands:
        return parser.parse_args(arguments)
    return commands[arguments[0]].parse_intermixed_args(
        _each_set(arguments[1:]), argparse.Namespace(command=arguments[0])
    )


def _each_set(arguments: Sequence[str]) -> list[str]:
    """`--set a=1 b=2` as `--set a=1 --set b=2`: only what looks like a value is taken for one."""
    found: list[str] = []
    values = False
    for argument in arguments:
        if argument == "--set" or argument.startswith("--set="):
            values = True
        elif found and found[-1] != "--set":  # the first thing after --set is its value, whatever it looks like
            values = values and re.match(r"\w[\w.-]*=", argument) is not None
            found += ["--set"] if values else []
        found.append(argument)
    return found
