"""The command line. Errors that the user can mend are one sentence; exit status 2."""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from pipeline.program import INSTALLED, program, trainer
from stages.errors import UserError

# In the order of --help: a file each in pipeline/commands/.
COMMANDS = (
    "init",
    "validate",
    "steps",
    "schema",
    "run",
    "plan",
    "status",
    "serve",
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
    "ablate",
    "search_mixture",
    "export",
    "import_tokens",
    "pairs",
    "train_classifier",
    "train_extractor",
    "language_rules",
)
TRAINER = ("train", "trainer")  # go to the trainer, which has a command line of its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["--version"]:
        print(_version())
        return 0
    if given and given[0] in TRAINER:
        return trainer(given if given[0] == "train" else given[1:])
    args = parse_arguments(given)
    try:
        return args.call(args)
    except UserError as error:
        from pipeline.storage.public import without_secrets
        from pipeline.terminal import printable

        text = printable(without_secrets(str(error)), lines=True)
        if program() == INSTALLED:
            text = text.replace("python -m pipeline", INSTALLED).replace("python -m trainer", f"{INSTALLED} trainer")
        print(f"error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what is done stays done, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


def parse_arguments(given: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command; ends the process, with one sentence, where they are wrong."""
    parser = _Parser(
        program(), description="From text where it lies to token shards, and to a trained model.", epilog=_epilog()
    )
    parser.add_argument("--version", action="store_true", help="the versions of Headrace and Python, and where it lies")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"pipeline.commands.{name}").add(commands)
    commands.add_parser("train", help="train a model on the shards of a run: train CONFIG --data DIR", add_help=False)
    commands.add_parser("trainer", help="the trainer's other commands: trainer --help", add_help=False)
    return _parsed(parser, commands.choices, list(given))


def console() -> NoReturn:
    """The command `headrace`, and `python -m pipeline`."""
    status = main()
    # Python would look through all modules for garbage once more, which takes longer than to leave them to the system.
    gc.freeze()
    sys.exit(status)


class _Parser(argparse.ArgumentParser):
    """A parser that tells what is wrong in one sentence, with the nearest valid name."""

    def error(self, message: str) -> NoReturn:
        """End the process, exit status 2."""
        from pipeline.recipe.overrides import nearest

        if found := re.match(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message):
            what = "no such command" if found[1] == "COMMAND" else f"not one that {found[1].split('/')[0]} takes"
            valid = re.findall(r"[\w-]+", found[3])
            message = f"{found[2]}: {what}{nearest(found[2], valid)}"
        elif found := re.match(r"unrecognized arguments: (\S+)", message):
            flags = [flag for action in self._actions for flag in action.option_strings]
            near = nearest(found[1], flags) if found[1].startswith("-") else f"; {self.prog} --help tells what it takes"
            message = f"{found[1]}: unknown argument{near}"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def _epilog() -> str:
    return f"Each command tells more with --help. For your own files: {program()} init. A tour: {program()} run dclm_mix."


def _version() -> str:
    from pipeline.plan.code import versions

    found = versions()
    return f"headrace {found['headrace']}, Python {found['python']}, in {Path(__file__).parents[1]}"


def _parsed(
    parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser], arguments: list[str]
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
