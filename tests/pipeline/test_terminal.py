"""What other people put into ids, names and texts: commands print it, and no terminal obeys it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.terminal import print_json, printable, printable_all

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
TEXT = "The water turns the wheel of the mill, and the mill grinds the corn of document {}.\n" * 12
OBEYED = re.compile("(?![\n\t])[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a file whose name, ids, addresses and texts hold escape sequences, with copies and a failed document."""
    folder = tmp_path_factory.mktemp("terminal")
    rows = [
        {
            "id": f"{ESCAPE}\nd{n}",
            "url": f"http://a.example/{ESCAPE}",
            "text": TEXT.replace("{}", str(n % 15)) + ESCAPE + "\n" + "see http://a.example/b\n" * 3,
        }
        for n in range(20)
    ]
    rows.append({"id": f"short{ESCAPE}", "url": None, "text": f"too short {ESCAPE}"})
    file = folder / f"x{ESCAPE}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "terminal",
        "sources": {
            "web": {
                "read": {"paths": [str(folder / "x*.jsonl")]},
                "steps": [
                    {"gopher_quality": {"words": {"min": 20}}},
                    {"remove_urls": {"urls": "all"}},
                    {"dedup": {"method": "exact"}},
                ],
            }
        },
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"held_out": 0},
        "mixture": {},
        "run": {"failures": {"documents": 0.5}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    assert main(["run", str(folder / "recipe.yaml"), "--out", str(folder / "out"), "--inline", "--quiet"]) == 0
    return folder


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "inspect": lambda out: ["inspect", out, "--show", "3"],
    "trace": lambda out: ["trace", out, "web/00000:3"],
    "why kept": lambda out: ["why", out, f"{ESCAPE}\nd3"],
    "why a copy": lambda out: ["why", out, f"{ESCAPE}\nd18"],
    "why dropped": lambda out: ["why", out, f"short{ESCAPE}"],
    "clusters": lambda out: ["clusters", out],
    "sweep": lambda out: ["sweep", out, "--measure", "gopher_quality.words", "--side", "min"],
    "status": lambda out: ["status", out],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_prints_what_a_terminal_obeys(finished: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    command = COMMANDS[name](str(finished / "out"))
    assert main(command) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert not OBEYED.search(printed)
    if name not in ("sweep", "status"):
        assert "\\x1b]0;owned\\x07" in printed
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr().out
    assert not OBEYED.search(printed)
    if name not in ("sweep", "status", "inspect", "clusters"):
        assert any(ESCAPE in text for text in _strings(json.loads(printed)))  # the value itself is as it was


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def test_errors_are_printed_as_they_are_but_for_escapes(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["why", str(finished / "out"), f"none{ESCAPE}"],
        ["inspect", str(finished / f"none{ESCAPE}")],
        [
            "run",
            str(finished / "recipe.yaml"),
            "--inline",
            "--set",
            json.dumps(f"sources.web.read.paths=[none{ESCAPE}]"),
        ],
        ["run", str(finished / f"none{ESCAPE}.yaml")],
    ):
        assert main(command) == 2, command
        error = capsys.readouterr().err
        assert error.startswith("error: ") and "none" in error and not OBEYED.search(error)


@given(st.text())
def test_printable_changes_nothing_else(text: str) -> None:
    shown = printable(text, lines=True)
    assert not OBEYED.search(shown)
    assert shown == text or OBEYED.search(text)
    assert "\n" not in printable(text)
    assert printable_all({"id": text, "text": [text]}) == {"id": printable(text), "text": [shown]}


@given(
    st.recursive(
        st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    )
)
def test_json_keeps_its_value(value: object) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        print_json(value)
    assert json.loads(out.getvalue()) == value and not OBEYED.search(out.getvalue())
