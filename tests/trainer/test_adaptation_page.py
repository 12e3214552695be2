"""The whole way that docs/adaptation.md shows: its commands are taken as they stand, and read what earlier ones write."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib import import_module
from pathlib import Path

from trainer.__main__ import _parser
from trainer.adapt.config import AdaptConfig
from trainer.config import load

PAGE = Path(__file__).parents[2] / "docs" / "adaptation.md"


def commands() -> list[list[str]]:
    block = re.search(r"```sh\n(.*?)```", PAGE.read_text(), re.S)
    assert block is not None
    return [shlex.split(line) for line in block[1].splitlines() if line.startswith("python -m ")]


def parsed(package: str, arguments: list[str]) -> argparse.Namespace:
    if package == "trainer":
        return _parser("python -m trainer").parse_args(arguments)
    parser = argparse.ArgumentParser()
    import_module(f"pipeline.commands.{arguments[0]}").add(parser.add_subparsers())
    return parser.parse_args(arguments)


def test_each_command_is_one_and_reads_what_was_written_before() -> None:
    made: set[str] = set()
    adapted = []
    for _, _, package, *arguments in commands():
        options = parsed(package, arguments)
        out = getattr(options, "out", None)
        read = [word for word in arguments if word.startswith("runs/") and word != str(out)]
        assert all(word in made or word.startswith(tuple(f"{folder}/" for folder in made)) for word in read), arguments
        if arguments[0] in ("train", "adapt"):
            config = load(options.config, (), AdaptConfig) if arguments[0] == "adapt" else load(options.config)
            made.add(f"runs/{arguments[0]}/{config.name}")
            adapted += [config.adapt.method] if isinstance(config, AdaptConfig) else []
        elif arguments[0] == "run":
            made.add(f"runs/{Path(arguments[1]).stem}")
        elif out is not None:
            made.add(str(out))
    assert sorted(adapted) == ["dpo", "iqlearn", "kto", "sft"]
    assert {"generate", "eval", "rewards", "export", "analyze"} <= {arguments[3] for arguments in commands()}
