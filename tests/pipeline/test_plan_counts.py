"""The plan that is foretold is the plan that is carried out: the same stages, as many tasks of each kind and source."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from ledgers import entries

from pipeline.cli import main
from pipeline.forecast.inputs import inputs_of, list_sources
from pipeline.forecast.rates import read_rates
from pipeline.forecast.usual import usual_rates
from pipeline.forecast.walk import forecast
from pipeline.ledger import AnotherVersionError, Entry
from pipeline.recipe.recipe import build_recipe, load_recipe

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "dclm_mix.yaml"


def is_round(kind: str, stage: str) -> bool:
    """How many rounds the components of a dedup take, only its documents tell."""
    return kind == "dedup" and ("large-" in stage or "small-" in stage)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "sample"
    assert main(["run", str(RECIPE), "--out", str(out), "--inline", "--quiet"]) == 0
    return out


def test_as_many_tasks_are_foretold_as_run(run: Path) -> None:
    recipe = load_recipe(RECIPE)
    rates = read_rates(str(run))
    _, outline = forecast(recipe, inputs_of(recipe, rates, list_sources(recipe)), rates)
    foretold = Counter({place: n for place, n in outline.tasks().items() if not is_round(place[0], place[2])})
    ran = Counter((e.ref.kind, e.ref.source, e.ref.stage) for e in entries(run) if not is_round(e.ref.kind, e.ref.stage))
    assert foretold == ran
    rounds = {place[2] for place in outline.tasks() if place[1] == "wiki" and is_round(place[0], place[2])}
    assert rounds == {"dedup large-00", "dedup small-01", "dedup large-01"}  # copies of copies take a second one


def test_no_more_tasks_are_foretold_than_there_are_documents(tmp_path: Path) -> None:
    """However finely a source is to be cut: the walk would else take longer than the run."""
    rows = [{"id": f"{i}", "text": "A sentence that is said again. " * 300} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "name": "finely",
        "sources": {"notes": {"read": {"paths": [f"{tmp_path}/*.jsonl"]}, "steps": []}},
        "tokenizer": {"train": {"vocab_size": 400}},
        "mixture": {},
        "run": {"split_bytes": 1},
        "expected": {"documents": 3, "text_bytes": 27_900},
    }
    recipe = build_recipe(data)
    _, outline = forecast(recipe, inputs_of(recipe, usual_rates(), list_sources(recipe)), usual_rates())
    assert [n for (kind, _, _), n in outline.tasks().items() if kind == "documents"] == [3]


def test_the_tree_names_the_stages_in_their_order(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(RECIPE), "--rates", str(run), "--tree"]) == 0
    shown = capsys.readouterr().out
    titles = ["read and filter", "minhash: scatter", "train dclm.quality", "after dedup 1", "tokenizer", "tokenize", "shard"]
    places = [shown.index(title) for title in titles]
    assert places == sorted(places)
    assert "documents dclm" in shown and "tokenize wiki" in shown


def test_a_tree_needs_no_rates(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its stages are those of the run, and it counts what the files alone decide."""
    assert main(["plan", str(RECIPE), "--rates", str(run), "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["plan"]
    monkeypatch.chdir(tmp_path)  # where no run of the recipe lies
    assert main(["plan", str(RECIPE), "--tree", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["plan"]
    assert [stage["stage"] for stage in found] == [stage["stage"] for stage in known]
    told = {(one["stage"], name): n for one in found for name, n in one["tasks"].items() if n is not None}
    assert told.items() <= {((one["stage"], name), n) for one in known for name, n in one["tasks"].items()}
    assert {("read and filter", "documents dclm"), ("tokenize", "tokenize wiki")} <= told.keys()
    assert main(["plan", str(RECIPE), "--tree"]) == 0
    shown = capsys.readouterr().out
    assert "documents dclm: 8" in shown and "shard dclm: ?" in shown and "which rates tell" in shown


def test_the_run_of_another_version_gives_a_tree_and_no_rates(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report_as(entry: Entry, kind: type) -> None:
        raise AnotherVersionError(f"{entry.ref}: its report was written by another version of Headrace; run the recipe again")

    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "dclm_mix").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Entry, "report_as", report_as)
    assert main(["plan", str(RECIPE), "--tree"]) == 0
    assert "read and filter" in capsys.readouterr().out
    assert main(["plan", str(RECIPE)]) == 2
    told = capsys.readouterr().err
    assert "no rates in runs/dclm_mix: " in told and "run the recipe again, or measure with --measure" in told
