"""Two runs of the same and of other inputs compared: every document is where the runs themselves say that it is."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

import pipeline
from pipeline.cli import main
from pipeline.questions import compare as module
from pipeline.questions.compare import NOT_READ, compare

LONG = [text for _, text in sorted(topics.items()) if len(text) > 300][:40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(LONG)]
    rows += [{"id": "copy", "text": LONG[3]}, {"id": "short", "text": "A few words."}]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:30]))
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[30:]))
    (folder / "other.jsonl").write_text(json.dumps({"id": "x", "text": LONG[0]}) + "\n")
    return folder


def run(folder: Path, out: str, words: int, keep: str = "all", **changes: Any) -> pipeline.Run:
    gopher = {"words": {"min": words}, "symbol_ratio": None, "non_alphabetic_words": None, "stop_words": None}
    data = {
        "name": "compared",
        "sources": {"docs": {"read": {"paths": [f"{folder}/[ab].jsonl"]}, "steps": [{"gopher_quality": gopher}]}} | changes,
        "dedup": [{"dedup": {"method": "exact"}}],
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"held_out": 0.1},
        "mixture": {"epochs": 1},
        "run": {"keep": keep},
    }
    return pipeline.run(data, out=folder / out, inline=True)


def kept(run: pipeline.Run) -> set[str]:
    return set(run.documents("docs", columns=["id"]).read_all()["id"].to_pylist())


@pytest.mark.parametrize("passes", [1, 5])
def test_documents_kept_by_one_alone_have_the_others_reasons(folder: Path, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PASS_DOCUMENTS", 84 // passes)
    one, two = run(folder, "one", 3), run(folder, "two", 150)
    found = compare(one.out, two.out)
    assert [(d.key, d.one, d.two) for d in found.recipe] == [("sources.docs.steps.gopher_quality.words.min", 3, 150)]
    docs = found.sources["docs"]
    mine, theirs = kept(one), kept(two)
    assert docs.kept == (len(mine), len(theirs)) and docs.both == len(mine & theirs)
    assert [(lost.reason, lost.documents) for lost in docs.only_one] == [("gopher_quality.words.min", len(mine - theirs))]
    assert docs.only_two == () and len(mine - theirs) > 3
    assert docs.overlap == len(mine & theirs) / len(mine | theirs)
    assert docs.tokens == (one.manifest["sources"]["docs"]["tokens"], two.manifest["sources"]["docs"]["tokens"])
    back = compare(two.out, one.out).sources["docs"]
    assert (back.only_two, back.kept) == (docs.only_one, docs.kept[::-1])


def test_runs_that_let_documents_go_and_other_sources_are_compared(folder: Path, capsys: pytest.CaptureFixture) -> None:
    one = run(folder, "one", 3)
    two = run(folder, "three", 150, keep="none", other={"read": {"paths": [f"{folder}/other.jsonl"]}})
    assert main(["compare", one.out, two.out, "--by", "id", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sources"]["docs"]["only_one"][0]["reason"] == "gopher_quality.words.min"
    assert found["sources"]["other"]["kept"] == [0, 1]
    assert {"sources.other.read.paths", "run.keep"} <= {difference["key"] for difference in found["recipe"]}
    assert main(["compare", one.out, two.out]) == 0
    told = capsys.readouterr().out
    assert "kept by one alone, by what two says of them" in told and "gopher_quality.words.min" in told and "overlap" in told


def test_a_document_that_the_other_never_read_is_said_to_be(folder: Path) -> None:
    (folder / "few").mkdir(exist_ok=True)
    (folder / "few/a.jsonl").write_bytes((folder / "a.jsonl").read_bytes())
    one, few = run(folder, "one", 3), run(folder / "few", "run", 3)
    docs = compare(one.out, few.out, by="id").sources["docs"]
    assert {lost.reason for lost in docs.only_one} == {NOT_READ} and docs.only_two == ()
    assert docs.only_one[0].documents == len(kept(one) - kept(few))
    assert compare(one.out, few.out).sources["docs"].both == 0  # other files, so other places
    same = compare(one.out, one.out)
    assert same.recipe == () and same.sources["docs"].overlap == 1.0


def test_what_is_no_run_is_refused(folder: Path, capsys: pytest.CaptureFixture) -> None:
    one = run(folder, "one", 3)
    assert main(["compare", one.out, str(folder / "few")]) == 2
    assert "holds no finished run" in capsys.readouterr().err
