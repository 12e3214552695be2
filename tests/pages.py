"""The commands of the documents: taken out of the pages, run in order, and their outputs held against what the pages show.

A page's commands stand in fenced blocks: ```sh, or ```console with `$` before each and its output below. They run as a reader
would type them, in one temporary folder, with three differences: `run` is carried out without Ray (--inline), a training is
cut to a few steps, and of `make` it is only asked what it would do (the gate itself calls it). A command that a reader cannot
try at once says why in a comment, by one of MARKS; such a one is parsed, by the very parser of its command.

Figures hang on the versions of the packages whose texts are the sample, so outputs are compared with all numbers, names of
documents and addresses taken out. `python tests/pages.py README.md ...` writes pages' outputs anew, line by line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = {"sh", "console", "text", "yaml", "python", "sql", "toml", "diff", "json", "xml"}
MARKS = ("needs a cluster", "needs the network", "needs a hub account", "takes hours", "takes minutes", "runs until Ctrl-C")
OURS = re.compile(r"^(?:python -m (pipeline|trainer)|(headrace))\b")
TEXTS = [text for _, text in sorted(topics.items()) if len(text) > 600]
SHELL = re.compile(r"[|<>;*`]|&&|\$\(")
PREPARED = {
    "runs/dclm_mix": "python -m pipeline run configs/dclm_mix.yaml",
    "runs/train/olmoe_tiny": "python -m trainer train olmoe_tiny --data runs/dclm_mix",
}
_TRAINING = (
    *("--set", "train.tokens=2048", "train.batch_tokens=1024", "model.n_layers=1", "model.n_experts=4", "model.top_k=2"),
    *("evaluate.instances=2", "checkpoint.keep_every_tokens=1024"),
)
_ANSWERS = ("--limit", "2", "--samples", "2", "--tokens", "4")
SHORTER: dict[tuple[str, str], tuple[str, ...]] = {
    ("pipeline", "run"): ("--inline", "--quiet"),
    ("pipeline", "export"): ("--inline", "--quiet"),
    ("pipeline", "import"): ("--inline", "--quiet"),
    ("trainer", "train"): _TRAINING,
    ("trainer", "analyze"): ("--tokens", "512", "--batch-tokens", "512"),
    ("trainer", "generate"): ("--tokens", "4"),
    ("trainer", "rewards"): _ANSWERS,
    ("trainer", "sample"): ("--tokens", "4"),
}
"""What is put behind the arguments of commands, so that they take less time."""
ONE_FILE = ("--set", 'sources.dclm.read.paths=["sample:dclm/crawl-00000.warc.gz"]')
_CLASSIFIER = "sources.web.steps.quality.train.settings"
SMALL_MODEL = (
    *("--set", f"{_CLASSIFIER}.dim=16", f"{_CLASSIFIER}.bucket=100000", f"{_CLASSIFIER}.epoch=2"),
    "tokenizer.train.max_bytes=1MiB",
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, the number of its first line, and its lines."""

    page: str
    language: str
    line: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command of a page, and the number of its first line. output: as the page shows it. mark: why it is not run; "": it is."""

    page: str
    line: int
    text: str
    mark: str
    output: tuple[str, ...] = ()

    @property
    def wrong(self) -> bool:
        """True where the page shows what the command finds wrong."""
        return any(line.startswith(("error: ", "problem: ")) for line in self.output)

    @property
    def ours(self) -> tuple[str, list[str]] | None:
        """(pipeline or trainer, arguments), where it is one command of ours and nothing of the shell's."""
        found = OURS.match(self.text)
        if not found or SHELL.search(re.sub(r'"[^"]*"', "", self.text)):
            return None
        words = shlex.split(self.text.replace("\\\n", " "), comments=True)
        if found[2]:
            rest = words[1:]
            trains = rest[:1] == ["train"] or rest[:1] == ["trainer"]
            return ("trainer", rest[rest[0] == "trainer" :]) if trains else ("pipeline", rest)
        return found[1], words[3:]


def pages() -> list[str]:
    """All documents, by their paths in the repository."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
    return [str(path.relative_to(ROOT)) for path in (*found, *sorted((ROOT / "docs").rglob("*.md")))]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    inside: list[str] | None = None
    language, first = "", 0
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if line.startswith("```"):
            if inside is None:
                inside, language, first = [], line[3:].strip(), number + 1
            else:
                found.append(Block(page, language, first, tuple(inside)))
                inside = None
        elif inside is not None:
            inside.append(line)
    return found


def files_of(page: str) -> dict[str, str]:
    """The files that a page shows whole: blocks that begin with their name as a comment."""
    named = re.compile(r"# (\S+\.(?:yaml|py))")
    found = ((named.fullmatch(block.lines[0]), block) for block in blocks(page) if block.lines)
    return {name[1]: "\n".join((*block.lines, "")) for name, block in found if name}


def commands(page: str) -> list[Command]:
    """The commands of a page, in order."""
    return [command for block in blocks(page) for command in _commands(block)]


def _commands(block: Block) -> Iterator[Command]:
    if block.language == "console":
        starts = [i for i, line in enumerate(block.lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(block.lines)], strict=True):
            stop = start + 1
            while block.lines[stop - 1].endswith("\\"):
                stop += 1
            text, mark = _marked("\n".join(block.lines[start:stop])[2:])
            yield Command(block.page, block.line + start, text, mark, block.lines[stop:end])
    elif block.language == "sh":
        yield from _script(block)


def _script(block: Block) -> Iterator[Command]:
    lines, at, over_all = block.lines, 0, ""
    while at < len(lines):
        start, at = at, at + 1
        if not lines[start].strip():
            continue
        if lines[start].startswith("#"):
            over_all = _marked(f"x {lines[start]}")[1] or over_all
            continue
        while lines[at - 1].endswith("\\"):
            at += 1
        if (here := re.search(r"<<'(\w+)'", lines[start])) is not None:
            at = lines.index(here[1], at) + 1
        text, mark = _marked("\n".join(lines[start:at]))
        yield Command(block.page, block.line + start, text, mark or over_all)


def _marked(text: str) -> tuple[str, str]:
    """A command without the comment behind it, and the mark in that."""
    found = re.search(r"\s+#\s*([^\n#]*)$", text)
    mark = found[1] if found and found[1].startswith(MARKS) else ""
    return (text[: found.start()] if found else text), mark


def parse(command: Command) -> argparse.Namespace | None:
    """The arguments of a command of ours as its parser takes them; None for another's. Raises SystemExit for what it refuses."""
    if not OURS.match(command.text):
        return None
    package, arguments = command.ours or ("pipeline", shlex.split(command.text.replace("\\\n", " "), comments=True)[3:])
    if package == "trainer":
        from trainer.__main__ import _each_set, _parser

        return _parser("python -m trainer").parse_args(_each_set(arguments))
    from pipeline.cli import parse_arguments

    return parse_arguments(arguments)


def _rows(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_inputs(folder: Path) -> None:
    """The files that pages say a reader has."""
    sums = [{"prompt": f"What is {i} plus {i}?", "answer": f"It is {2 * i}.", "final": str(2 * i)} for i in range(160)]
    _rows(folder / "mbpp.jsonl.zst", sums)  # the first bytes tell that it is not compressed
    _rows(folder / "good/a.jsonl", [{"text": text[i : i + 500]} for text in TEXTS[:40] for i in (0, 100)])
    _rows(folder / "ordinary/a.jsonl", [{"text": text[i : i + 500].upper()} for text in TEXTS[:40] for i in (0, 100)])
    items = [" ".join(TEXTS[20 + i].split()[:40]) for i in range(3)]
    _rows(folder / "set.jsonl", [*({"text": item} for item in items), {"text": "too short"}])
    taken = [f"{TEXTS[1]} {item}" for item in items[:2]]
    _rows(folder / "docs.jsonl", [{"text": text} for text in (*TEXTS[2:20], *taken)])


def flags_of_commands() -> dict[tuple[str, str], set[str]]:
    """The flags of each command, by package and name."""
    from importlib import import_module

    from pipeline.cli import COMMANDS
    from trainer.__main__ import _parser

    parser = argparse.ArgumentParser()
    ours = parser.add_subparsers()
    for name in COMMANDS:
        import_module(f"pipeline.commands.{name}").add(ours)
    theirs = next(action for action in _parser("trainer")._actions if action.choices).choices
    found = {("pipeline", name): one for name, one in ours.choices.items()} | {("trainer", n): one for n, one in theirs.items()}
    return {key: {flag for action in one._actions for flag in action.option_strings} for key, one in found.items()}


class Tour:
    """A folder in which commands are carried out one after another; one that was carried out before is not again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, str] = {}
        (folder / "configs").symlink_to(ROOT / "configs")

    def take_files(self, page: str) -> None:
        """Write the files that a page shows, for its commands."""
        for name, text in files_of(page).items():
            (self.folder / name).write_text(text)

    def run(self, text: str, *, wrong: bool = False) -> str:
        """What a command prints on both streams, in one. Raises AssertionError, with that, where it fails.

        wrong: the page shows what is wrong: a mistake in one sentence, or the problems of a damaged folder.
        """
        if text not in self._known:
            for path, made_by in PREPARED.items():
                if path in text and text not in PREPARED.values() and not (self.folder / path).exists():
                    self.run(made_by)
            status, printed = self._run(Command("", 0, text, ""))
            assert (status in (1, 2)) if wrong else status == 0, f"{text}: exit status {status}\n{printed}"
            self._known[text] = printed
        return self._known[text]

    def _run(self, command: Command) -> tuple[int, str]:
        text = command.text
        if command.ours:
            package, arguments = command.ours
            return self._inside(package, [*arguments, *_shorter(package, arguments)], text.startswith("headrace"))
        if text.startswith("make "):
            text = text.replace("make ", f"make -n -C {ROOT} ", 1)
        script = 'headrace() { python -m pipeline "$@"; }\n' + text
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def _inside(self, package: str, arguments: list[str], installed: bool) -> tuple[int, str]:
        """Carry out a command of ours in this process: what it prints is the same, and Python need not start again."""
        if package == "trainer":
            import torch

            from trainer.__main__ import main

            torch.set_num_threads(1)  # models as small take longer with two
        else:
            from pipeline.cli import main
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        before = sys.argv
        sys.argv = ["headrace" if installed else "python"]
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                status = main(arguments)
        finally:
            sys.argv = before
        out.seek(0)
        return status, out.read()


def _shorter(package: str, arguments: list[str]) -> tuple[str, ...]:
    short = SHORTER.get((package, arguments[0]), ())
    if arguments[0] == "plan" and "full" in arguments:
        return ("--offline",) if package == "pipeline" else ()
    if arguments[0] == "eval":
        return _ANSWERS if "--pairs" in arguments else _ANSWERS[:2]
    more = {"web_from_warc": ONE_FILE, "topics.yaml": SMALL_MODEL}.get(arguments[1], ()) if arguments[0] == "run" else ()
    return (*short, *more)


_UNIT = r"(?:[KMBTx%]\b|[kMGT]?B(?:/s)?\b|s\b|ms\b|min\b|h\b)?"
_SHAPES = (
    (re.compile(r"\w+://\S+|urn:uuid:\S+|sample:\S+"), "@"),
    (re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{8,}\b"), "#"),
    (re.compile(rf"[-+]?\d[\d,.]*(?:e[-+]?\d+)? ?{_UNIT}"), "#"),
    (re.compile(r"#(?:[ #]*#)?"), "#"),
    (re.compile(r"#\s+(?:cores|network|sources|storage)\s+#"), "# @ #"),  # what bounds a phase
    (re.compile(r" ?(?:─{2,}|={2,})"), ""),
    (re.compile(r"(?<=in training: )[\w-]+ #.*"), "@"),  # which sources of the sample hold copies, hangs on Python's own pages
)


def shape(line: str) -> str:
    """A line of output without what hangs on versions: numbers, addresses and names of documents; white space is one space."""
    for pattern, instead in _SHAPES:
        line = pattern.sub(instead, line)
    return " ".join(line.split())


def compared(shown: Iterable[str], printed: str) -> Iterator[tuple[str, str | None]]:
    """Each line that a page shows, with the one that is printed; `...` stands for any lines, and empty ones do not count."""
    lines = [line.rstrip() for line in printed.splitlines()]
    at = 0
    for line in shown:
        if line.strip() in ("", "..."):
            yield line, line
            continue
        found = next((i for i in range(at, len(lines)) if shape(lines[i]) == shape(line)), None)
        yield line, None if found is None else lines[found]
        at = at if found is None else found + 1


def write(page: str, tour: Tour) -> None:
    """Write a page's outputs anew. A line that is printed no more is told, and left."""
    lines = (ROOT / page).read_text().splitlines()
    tour.take_files(page)
    for command in commands(page):
        if command.mark:
            continue
        printed = tour.run(command.text, wrong=command.wrong)
        start = command.line + command.text.count("\n")
        for number, (shown, new) in enumerate(compared(command.output, printed), start):
            if new is None:
                print(f"{page}, line {number + 1}: not printed by {command.text}: {shown}\n{printed}")
            else:
                lines[number] = new
    (ROOT / page).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    import tempfile

    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        one = Tour(Path(folder))
        for name in sys.argv[1:]:
            write(name, one)
