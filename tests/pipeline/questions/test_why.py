"""Why a document was kept or dropped: its way through a small finished run, and through runs that let documents go."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from told import as_json

from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.progress import Progress
from pipeline.questions.find import Nearest
from pipeline.questions.why import why
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.finished import open_finished
from stages.errors import UserError

WORDS = [word for _, text in sorted(topics.items()) for word in text.split() if word.isalpha()]  # real prose


def text_of(number: int) -> str:
    lines = [" ".join(WORDS[i : i + 12]) for i in range(number * 53, number * 53 + 120, 12)]
    return f"Document {number} is about the of and to have with that be.\n" + "\n".join(lines)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("why")
    rows: list[dict[str, Any]] = [
        {"id": f"doc-{i}", "url": f"http://a.example/{i}", "text": text_of(i)} for i in range(30)
    ]
    rows[4]["text"] += "\nSee https://www.python.org/page for more of it."
    rows += [{"id": "copy", "text": text_of(2)}, {"id": "short", "text": "too short"}]
    (folder / "docs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def run(inputs: Path, out: Path, keep: str) -> Path:
    gopher = {"words": {"min": 20}, "symbol_ratio": None, "non_alphabetic_words": None}
    recipe = build_recipe(
        {
            "name": "small",
            "sources": {
                "docs": {
                    "read": {"paths": [f"{inputs}/docs.jsonl"]},
                    "steps": [{"gopher_quality": gopher}, {"dedup": {"method": "exact"}}, {"remove_urls": {"urls": "all"}}],
                }
            },
            "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "50KB"}},
            "shards": {"bytes": "10KB", "held_out": 0.2},
            "mixture": {"epochs": 1},
            "run": {"keep": keep},
        }
    )
    run_recipe(recipe, Options(str(out), inline=True, progress=Progress(quiet=True)))
    return out


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(inputs, tmp_path_factory.mktemp("run"), "all")


def one(out: Path, query: str) -> dict[str, Any]:
    found = as_json(why(str(out), query))
    assert found["found"] == 1
    return found["documents"][0]


def test_the_recipe_in_a_runs_folder_is_the_one_it_was_made_by(finished: Path) -> None:
    opened = open_finished(str(finished))
    assert opened.recipe.content() == opened.manifest["recipe_hash"]


def test_a_dropped_document_shows_the_measure_beside_the_limit(finished: Path, inputs: Path) -> None:
    found = one(finished, "short")
    assert (found["outcome"], found["reason"]) == ("dropped", "gopher_quality.words.min")
    assert (found["file"], found["record"]) == (f"{inputs}/docs.jsonl", 32)
    steps = {step["step"]: step for step in found["steps"]}
    words = next(m for m in steps["gopher_quality"]["measures"] if m["name"] == "words")
    assert words == {"name": "words", "value": 2, "limit": {"min": 20, "max": None}, "passes": False}
    verdicts = [(name, step["verdict"]) for name, step in steps.items()]
    assert verdicts == [
        ("read", "passed"),
        ("gopher_quality", "dropped"),
        ("dedup", "not reached"),
        ("remove_urls", "not reached"),
        ("tokenize", "not reached"),
    ]


def test_a_copy_names_the_document_that_stays(finished: Path) -> None:
    found = one(finished, "copy")
    assert (found["outcome"], found["reason"], found["representative"]) == ("duplicate", "dedup.exact", "doc-2")
    assert [s["verdict"] for s in found["steps"]] == ["passed", "passed", "dropped", "not reached", "not reached"]


def test_a_kept_document_shows_its_edits_and_its_tokens(finished: Path) -> None:
    found = one(finished, "http://a.example/4")
    assert found["id"] == "doc-4" and found["outcome"] == "kept" and found["edits_note"] is None
    (edit,) = found["edits"]
    assert edit["step"] == "remove_urls"
    assert "-See https://www.python.org/page for more of it." in edit["diff"].split("\n")
    index = finished / found["shard"]["path"].replace(".npy", ".csv.gz")
    rows = [line.split(",") for line in gzip.decompress(index.read_bytes()).decode().splitlines()]
    row = next(r for r in rows if r[2] == "doc-4")
    assert [int(row[0]), int(row[1])] == [found["shard"]["first_token"], found["shard"]["end_token"]]


def test_every_document_is_found_by_id_and_by_place_and_every_kept_one_in_a_shard(finished: Path) -> None:
    for number in range(0, 30, 7):
        by_id, by_place = one(finished, f"doc-{number}"), one(finished, f"docs.jsonl:{number + 1}")
        assert by_id == by_place
        assert by_id["shard"] is not None


def test_an_unknown_document_is_an_error_that_names_near_ids(finished: Path) -> None:
    with pytest.raises(UserError, match=r"knows no document 'doc-1x' .* near it are doc-1"):
        why(str(finished), "doc-1x")


@pytest.mark.parametrize("keep", ["measures", "none"])
def test_a_run_that_let_documents_go_tells_what_is_left(inputs: Path, tmp_path: Path, keep: str) -> None:
    out = run(inputs, tmp_path / "out", keep)
    short, copy, kept = one(out, "short"), one(out, "copy"), one(out, "doc-4")
    assert short["reason"] == "gopher_quality.words.min"
    assert copy["representative"] == "doc-2"
    assert kept["outcome"] == "kept" and kept["shard"]["end_token"] > kept["shard"]["first_token"]
    assert bool(kept["steps"][1]["measures"]) == (keep == "measures")
    assert bool(kept["measures_note"]) == (keep == "none")
    assert kept["edits"][0]["diff"]


def test_a_source_file_that_changed_is_said_so(inputs: Path, tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_bytes((inputs / "docs.jsonl").read_bytes())
    out = run(tmp_path, tmp_path / "out", "all")
    file.write_text(file.read_text().replace("Document 4 is about", "Document 4 was about"))
    assert "changed since" in (one(out, "doc-4")["edits_note"] or "")
    file.unlink()
    assert "cannot be shown" in (one(out, "doc-4")["edits_note"] or "")


def test_the_command_prints_text_and_json(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", str(finished), "doc-4"]) == 0
    text = capsys.readouterr().out
    assert "kept: tokens/docs/" in text and "gopher_quality" in text and "-See https://www.python.org/page" in text
    assert main(["why", str(finished), "short", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"][0]["reason"] == "gopher_quality.words.min"
    assert main(["why", str(finished), "shrt"]) == 2
    assert "near it are short" in capsys.readouterr().err


@given(st.lists(st.text(alphabet="abc", max_size=6), max_size=8), st.text(alphabet="abc", min_size=1, max_size=6))
def test_nearest_scores_by_common_beginning_and_end(ids: list[str], query: str) -> None:
    def common(a: str, b: str) -> int:
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

    def score(name: str) -> int:
        shorter = min(len(name), len(query))
        return min(common(name, query) + common(name[::-1], query[::-1]), shorter)

    near = Nearest(query)
    near.see(pa.array(ids, pa.large_string()))
    wanted = sorted({(score(i), i) for i in ids if score(i) * 2 >= len(query)}, reverse=True)
    assert sorted((s for s, _ in near.found), reverse=True) == [s for s, _ in wanted][: len(near.found)]
    assert bool(near.found) == bool(wanted)
