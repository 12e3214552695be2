"""Headrace from Python: a recipe as data carried out, its documents as Arrow, pandas and DuckDB, its measures and tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import pipeline
from stages.errors import UserError
from stages.tokens.tokenizer import load_tokenizer

LONG = [text for _, text in sorted(topics.items()) if len(text) > 600]
PROSE = [*LONG[:7], *LONG[8:17]]  # the one left out repeats what another says
HEADER = "Read this before you read any of what follows, for it says how to read it."
DROPPING = "gopher_quality.words.min"


def recipe(folder: Path, keep: str = "all") -> dict:
    """Prose with one header over every text, which bff cuts out, two copies and a text that is too short; and code."""
    rows = [{"id": f"p{i}", "text": f"{HEADER}\n{text}", "topic": i} for i, text in enumerate(PROSE)]
    added = {"short": "too short", "copy": rows[3]["text"], "copy2": rows[5]["text"]}
    rows += [{"id": name, "text": text} for name, text in added.items()]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:12]))
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[12:]))
    (folder / "notes.txt").write_text("\n".join(text.replace("\n", " ") for text in PROSE[:4]))
    gopher = {"words": {"min": 20}, "symbol_ratio": None, "non_alphabetic_words": None, "stop_words": None}
    bff = {"method": "bff", "ngram": 5, "expected_ngrams": 100_000}
    return {
        "name": "from-python",
        "sources": {
            "prose": {
                "read": {"paths": [f"{folder}/?.jsonl"]},
                "steps": [{"gopher_quality": gopher}, {"dedup": {"method": "exact"}}, {"limit_newlines": {}}, {"dedup": bff}],
            },
            "notes": {"read": {"paths": [f"{folder}/notes.txt"], "document": "line"}},
        },
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "50KB"}},
        "shards": {"held_out": 0.2},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "1", "keep": keep},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pipeline.Run:
    folder = tmp_path_factory.mktemp("api")
    return pipeline.run(recipe(folder), out=folder / "run", inline=True)


def test_kept_documents_are_those_that_were_tokenized_with_the_texts_that_were(run: pipeline.Run) -> None:
    table = run.documents("prose").read_all()
    assert pc.unique(table["outcome"]).to_pylist() == ["kept"]
    assert table.num_rows == run.summary.sources["prose"].documents_kept == len(PROSE)
    tokens = pa.concat_tables([run.tokens("prose", split).read_all() for split in ("train", "held_out")])
    tokenizer = load_tokenizer(Path(run.out) / run.manifest["tokenizer"]["path"], engine="tokenizers").reference.tokenizer
    decoded = {row["id"]: tokenizer.decode(row["tokens"][:-1]) for row in tokens.to_pylist()}
    texts = {row["id"]: row["text"].strip() for row in table.select(["id", "text"]).to_pylist()}
    assert texts == decoded  # the tokenizer's rules strip white space
    assert [HEADER in text for text in table["text"].to_pylist()].count(True) == 1  # bff left the first of them
    assert json.loads(table["metadata"][2].as_py())["topic"] == 2


def test_dropped_documents_have_reason_text_and_measures(run: pipeline.Run) -> None:
    rows = run.documents("prose", kept=False, dropped=True).read_all().to_pylist()
    assert {(row["id"], row["outcome"], row["reason"], row["representative"]) for row in rows} == {
        ("short", "dropped", DROPPING, None),
        ("copy", "dropped", "dedup.exact", "p3"),
        ("copy2", "dropped", "dedup.exact", "p5"),
    }
    assert {row["id"]: row["gopher_quality.words"] for row in rows}["short"] == 2
    assert {row["id"]: row["text"] for row in rows}["copy2"] == f"{HEADER}\n{PROSE[5]}"
    both = run.documents("prose", dropped=True, columns=["reason", "gopher_quality.words"]).read_all()
    assert both.column_names == ["reason", "gopher_quality.words"] and both.num_rows == len(PROSE) + 3
    totals = {reason: amount.documents for reason, amount in run.summary.sources["prose"].dropped.items()}
    assert totals == {DROPPING: 1, "dedup.exact": 2}


def test_documents_that_the_last_dedup_drops_are_dropped_ones(tmp_path: Path) -> None:
    data = recipe(tmp_path)
    data["sources"]["prose"]["steps"] = [{"dedup": {"method": "exact"}}]
    run = pipeline.run(data, out=tmp_path / "run", inline=True)
    rows = run.documents("prose", dropped=True, columns=["id", "outcome", "representative"]).read_all().to_pylist()
    dropped = [(row["id"], row["representative"]) for row in rows if row["outcome"] == "dropped"]
    assert dropped == [("copy", "p3"), ("copy2", "p5")] and len(rows) == len(PROSE) + 3


def test_measures_have_types_and_the_recipes_limits(run: pipeline.Run) -> None:
    found = {measure.name: measure for measure in run.measures["prose"]}
    assert "gopher_quality.mean_word_length" in found and not any(name.endswith("text_in") for name in found)
    words = found["gopher_quality.words"]
    assert (words.type, words.limit.min) == (pa.float64() if pa.types.is_floating(words.type) else pa.int64(), 20)
    assert run.measures["notes"] == ()


def test_pandas_and_duckdb_take_the_batches(run: pipeline.Run) -> None:
    frame = run.documents("prose", dropped=True).read_pandas()
    assert frame.groupby("outcome").size().to_dict() == {"kept": len(PROSE), "dropped": 3}
    documents = run.documents("prose", dropped=True)  # DuckDB finds it by its name
    rows = duckdb.sql("select reason, count(*) from documents where outcome = 'dropped' group by 1 order by 2").fetchall()
    assert rows == [(DROPPING, 1), ("dedup.exact", 2)] and documents is not None


def test_why_and_a_finished_run_opened_again(run: pipeline.Run) -> None:
    again = pipeline.open_run(run.out)
    assert (again.sources, again.recipe.name) == (("prose", "notes"), "from-python")
    assert again.summary == run.summary and again.summary.sources["prose"].steps[0].into.documents == len(PROSE) + 3
    assert "p3" in str(again.why("copy"))


def test_a_second_call_does_nothing_and_a_changed_limit_is_decided_again(run: pipeline.Run, tmp_path: Path) -> None:
    data = recipe(tmp_path)
    one = pipeline.run(data, out=tmp_path / "run", inline=True)
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "run/parts").rglob("*.parquet"))
    pipeline.run(data, out=tmp_path / "run", inline=True)
    assert before == sorted(path.stat().st_mtime_ns for path in (tmp_path / "run/parts").rglob("*.parquet"))
    changed = pipeline.run(data, out=tmp_path / "run", inline=True, changes=["sources.prose.steps.gopher_quality.words.min=1"])
    assert DROPPING not in changed.summary.sources["prose"].dropped and DROPPING in one.summary.sources["prose"].dropped


def test_documents_that_were_let_go_are_said_to_be(tmp_path: Path) -> None:
    run = pipeline.run(recipe(tmp_path, keep="none"), out=tmp_path / "none", inline=True)
    with pytest.raises(UserError, match=r"kept documents of prose were let go \(run.keep is none\)"):
        run.documents("prose")
    assert run.documents("prose", kept=False, dropped=True, columns=["id", "reason"]).read_all().num_rows == 3
    run = pipeline.run(recipe(tmp_path, keep="measures"), out=tmp_path / "measures", inline=True)
    table = run.documents("prose").read_all()
    assert table.num_rows == len(PROSE) and "text" not in table.column_names and "gopher_quality.words" in table.column_names
    with pytest.raises(UserError, match="no column 'text'"):
        run.documents("prose", columns=["text"])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.documents("pros"), "no source 'pros'; did you mean prose"),
        (lambda run: run.documents("prose", columns=["gopher_quality.word"]), "did you mean gopher_quality.words"),
        (lambda run: run.tokens("prose", "test"), "there are train and held_out"),
        (lambda run: pipeline.open_run("nowhere"), "nowhere holds no finished run"),
        (lambda run: pipeline.run({"name": "x"}), "recipe: sources: this key is needed"),
    ],
)
def test_a_mistake_is_one_sentence(run: pipeline.Run, ask, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(run)


def test_importing_is_cheap() -> None:
    """`import pipeline` loads nothing; what runs a recipe loads neither Ray nor PyTorch nor datatrove; `status` no kernels."""
    heavy = {"ray", "torch", "datatrove", "pandas", "duckdb", "pyarrow", "numba", "tokenizers"}
    loaded = f"print(sorted({{name.partition('.')[0] for name in sys.modules}} & {heavy}))"
    for code, found in (
        ("import sys, pipeline", []),
        ("import sys, pipeline; pipeline.run", ["numba", "pyarrow", "tokenizers"]),
        ("import sys, pipeline.commands.status, pipeline.questions.status", []),
    ):
        done = subprocess.run([sys.executable, "-c", f"{code}; {loaded}"], capture_output=True, text=True)
        assert done.stdout.strip() == str(found), done
