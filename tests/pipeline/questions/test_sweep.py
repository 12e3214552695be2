"""Sweeps over stored measures: what they count is what a run with that limit does."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from told import as_json

from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.progress import Progress
from pipeline.questions.sweep import sweep
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.run_summary import RunSummary
from stages.errors import UserError

WORDS = [word for _, text in sorted(topics.items()) for word in text.split() if word.isalpha()]  # real prose


def text_of(number: int, words: int) -> str:
    lines = [" ".join(WORDS[i : i + 12]) for i in range(number * 53, number * 53 + words, 12)]
    return (
        f"Document {number} is about the of and to have with that be. See http://www.python.org/{number}\n"
        + "\n".join(lines)
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    texts = [text_of(i, 12 * (1 + i % 13)) for i in range(60)]
    texts += [texts[20], texts[33], "### " * 30, "short"]
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    for part in range(2):
        (folder / f"docs-{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[part::2]))
    return folder


def run(inputs: Path, out: Path, *assignments: str) -> RunSummary:
    gopher = {"words": {"min": 60}, "symbol_ratio": 0.1, "non_alphabetic_words": None, "stop_words": None}
    steps = [{"gopher_quality": gopher}, {"remove_urls": {"urls": "all"}}, {"dedup": {"method": "exact"}}]
    data = {
        "name": "small",
        "sources": {"docs": {"read": {"paths": [f"{inputs}/docs-*.jsonl"]}, "steps": steps}},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "50KB"}},
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "10KB"},
    }
    return run_recipe(
        build_recipe(data, None, assignments), Options(str(out), inline=True, progress=Progress(quiet=True))
    )


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run(inputs, out)
    return out


def rows_of(out: Path, measure: str, **options: Any) -> dict[float, dict[str, Any]]:
    return {row["limit"]: row for row in as_json(sweep(str(out), measure, **options))["sources"]["docs"]["limits"]}


def test_the_counts_are_those_of_a_run_with_that_limit(finished: Path, inputs: Path, tmp_path: Path) -> None:
    swept = rows_of(finished, "gopher_quality.words", values=[20, 60, 100])
    for limit, row in swept.items():
        summary = run(inputs, tmp_path / "out", f"sources.docs.steps.gopher_quality.words.min={limit:g}")
        out = next(step.out for step in summary.sources["docs"].steps if step.step == "gopher_quality")
        assert (row["passes"]["documents"], row["passes"]["bytes"]) == (out.documents, out.bytes)


def test_documents_that_pass_are_kept_or_lost_later_or_new(finished: Path) -> None:
    swept = rows_of(finished, "gopher_quality.words", values=[20, 60, 100])
    for row in swept.values():
        assert row["passes"]["documents"] == sum(row[k]["documents"] for k in ("kept", "lost_later", "new"))
        assert row["passes"]["bytes"] == sum(row[k]["bytes"] for k in ("kept", "lost_later", "new"))
    manifest = json.loads((finished / "manifest.json").read_text())
    assert swept[60]["kept"]["documents"] == manifest["sources"]["docs"]["documents"]
    assert swept[60]["lost_later"]["documents"] == 2  # the copies
    assert swept[60]["new"]["documents"] == 0 < swept[20]["new"]["documents"]


def test_another_limit_of_the_same_step_still_drops(finished: Path) -> None:
    swept = as_json(sweep(str(finished), "gopher_quality.symbol_ratio", values=[0.05, 5]))["sources"]["docs"]
    assert swept["side"] == "max" and swept["reached"]["documents"] == 64
    assert [row["passes"]["documents"] for row in swept["limits"]][1] < 64 - 1  # the short ones stay dropped


def test_limits_are_chosen_where_none_are_given(finished: Path) -> None:
    swept = as_json(sweep(str(finished), "gopher_quality.words"))["sources"]["docs"]
    limits = [row["limit"] for row in swept["limits"]]
    assert limits == sorted(set(limits)) and 60 in limits and len(limits) > 10
    passing = [row["passes"]["documents"] for row in swept["limits"]]
    assert passing == sorted(passing, reverse=True)
    assert swept["bytes_per_token"] > 1


def test_without_the_text_the_size_before_a_later_edit_counts(finished: Path, inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "out", "run.keep=measures")
    whole, bare = (
        as_json(sweep(str(o), "gopher_quality.words", values=[60]))["sources"]["docs"] for o in (finished, tmp_path / "out")
    )
    assert bare["limits"][0]["passes"]["documents"] == whole["limits"][0]["passes"]["documents"]
    assert not bare["bytes_are_estimates"]  # a later edit left the size before it on record


@pytest.mark.parametrize(
    ("measure", "options", "message"),
    [
        ("gopher_quality.word", {}, "did you mean gopher_quality.words"),
        ("gopher_quality.words", {"source": "doc"}, "did you mean docs"),
        ("gopher_quality.stop_words", {}, "sets neither min nor max"),
    ],
)
def test_a_mistake_is_named(finished: Path, measure: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep(str(finished), measure, **options)


def test_a_run_without_measures_says_how_to_keep_them(inputs: Path, tmp_path: Path) -> None:
    run(inputs, tmp_path / "out", "run.keep=none")
    with pytest.raises(UserError, match=r"run\.keep=measures"):
        sweep(str(tmp_path / "out"), "gopher_quality.words")


def test_the_command_prints_a_table_and_draws(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(finished), "--measure", "gopher_quality.words", "--values", "20", "60"]) == 0
    assert "60 *" in capsys.readouterr().out
    assert main(["sweep", str(finished), "--measure", "gopher_quality.words", "--png", "a.bmp"]) == 2
    pytest.importorskip("matplotlib")
    picture = tmp_path / "sweep.png"
    assert main(["sweep", str(finished), "--measure", "gopher_quality.words", "--png", str(picture), "--json"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert json.loads(capsys.readouterr().out)["sources"]["docs"]["limit"] == 60
