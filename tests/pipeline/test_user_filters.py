"""The worked examples of docs/user-filters.md, run as they stand; what editing a function reruns; what its errors do."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow.parquet as pq
import pytest
from told import as_json, first_source

import pipeline
from pipeline.carry_out import Options, run_recipe
from pipeline.progress import Progress
from pipeline.questions.sweep import sweep
from pipeline.questions.why import why
from pipeline.recipe.recipe import load_recipe
from pipeline.run_folder.run_summary import RunSummary
from stages.errors import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "user-filters.md"
TEXTS = [text for _, text in sorted(topics.items())][:12]  # real prose
QUESTIONS = ["Who? What? When? Where? Why? That is all that was asked of him, and he did not answer any of it. " * 4]
SHORT_LINES = ["a\nlist\nof\nwords.\n" * 20]


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Path]:
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["my_filters.py", "recipe.yaml", "my_steps.py", "my_readers.py", "mails.yaml"]
    for name, text in blocks:
        text = text.replace("[docs.jsonl]", f"[{tmp_path}/docs.jsonl]").replace("[mails.zip]", f"[{tmp_path}/mails.zip]")
        (tmp_path / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "mails.zip", "w") as archive:
        for i, text in enumerate(TEXTS):
            archive.writestr(f"{i}.eml", f"{text}\n-- \nJohn Q. Public, Department {i}" if i % 2 else text)
        archive.writestr("loud.eml", TEXTS[3].upper())
        archive.writestr("picture.png", b"\x89PNG")
    rows = [{"id": str(i), "text": t} for i, t in enumerate(TEXTS + QUESTIONS + SHORT_LINES)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in ("my_filters", "my_steps", "my_readers"):
        sys.modules.pop(name, None)


def run(folder: Path, *assignments: str) -> RunSummary:
    recipe = load_recipe(folder / "recipe.yaml", None, assignments)
    return run_recipe(recipe, Options(str(folder / "out"), inline=True, progress=Progress(quiet=True)))


def mails(folder: Path, *changes: str, **options: Any) -> pipeline.Run:
    return pipeline.run(folder / "mails.yaml", changes=changes, out=folder / "mails", **({"inline": True} | options))


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def by_id(run: pipeline.Run, *columns: str) -> dict[str, tuple]:
    rows = run.documents("mails", dropped=True, columns=["id", *columns]).read_all().to_pylist()
    return {row["id"]: tuple(row[name] for name in columns) for row in rows}


@pytest.mark.parametrize("workers", [None, 1], ids=["inline", "ray"])
def test_an_edit_a_class_and_a_reader_do_what_the_docs_say(example: Path, workers: int | None) -> None:
    done = mails(example, inline=workers is None, workers=workers)
    rows = by_id(done, "text", "reason", "python_edit.changed", "metadata", "Capitals.share")
    assert set(rows) == {*(f"{i}.eml" for i in range(len(TEXTS))), "loud.eml"}
    for i, text in enumerate(TEXTS):
        stored, reason, changed, metadata, _ = rows[f"{i}.eml"]
        assert (stored, reason, changed) == (text, None, i % 2) and json.loads(metadata)["year"] >= 1980
    assert rows["loud.eml"][1] == "Capitals.share.max" and rows["loud.eml"][4] > 0.9
    assert done.summary.sources["mails"].notes["record that the reader passed over"] == 1
    (told,) = why(str(example / "mails"), "1.eml").documents
    assert "John Q. Public" in str(told.edits)


def test_an_edited_class_or_reader_runs_again_and_a_limit_alone_does_not(example: Path) -> None:
    mails(example)
    changed = mails(example, "sources.mails.steps.Capitals.share=1")
    assert by_id(changed, "reason")["loud.eml"] == (None,)
    replace(example / "my_steps.py", "return {\"share\": pc.divide(", "return {\"share\": pc.subtract(")
    assert by_id(mails(example), "Capitals.share")["loud.eml"] == (0.0,)
    replace(example / "my_readers.py", '"id": member.filename', '"id": "zip/" + member.filename')
    assert "zip/loud.eml" in by_id(mails(example), "reason")


def test_a_package_gives_steps_and_readers_names(example: Path) -> None:
    groups = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    info = example / "installed" / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(lines))
    sys.path.append(str(info.parent))
    text = (example / "mails.yaml").read_text()
    (example / "mails.yaml").write_text(text.replace("my_steps:Capitals", "capitals").replace('"my_readers:texts_of_zip"', "zip"))
    done = mails(example)
    assert by_id(done, "reason")["loud.eml"] == ("capitals.share.max",)
    assert by_id(pipeline.open_run(done.out), "reason") == by_id(done, "reason")


def test_a_reader_that_raises_leaves_what_it_gave_and_stops_the_run(example: Path) -> None:
    replace(example / "my_readers.py", "                yield None", '                raise OSError("no text")')
    with pytest.raises(UserError, match=r"mails.zip, record 14: the reader my_readers:texts_of_zip raised OSError: no text"):
        mails(example)
    done = mails(example, "run.failures.files=1")
    assert done.summary.sources["mails"].documents_in == len(TEXTS) + 1


def test_records_without_a_text_fail_alone(example: Path) -> None:
    replace(example / "my_readers.py", "                yield None", '                yield {"id": "x", "text": 3}')
    done = mails(example, "run.failures.documents=0.5")
    failed = done.documents("mails", kept=False, failed=True).read_all().to_pylist()
    assert [(row["record"], row["reason"]) for row in failed] == [(14, "read: the text (text) of the record is int")]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("read.format=my_readers:texts_of_zi", "my_readers has no texts_of_zi; it has texts_of_zip"),
        ("read.format=zipped", "format zipped: there are warc, jsonl, parquet, csv, text, datatrove"),
        ("read.options={ending: .eml}", r"unexpected keyword argument 'ending'; it takes \(stream"),
        ("steps.python_edit.function=my_steps:with", "my_steps has no with; it has without_signature, Capitals"),
        ("steps.Capitals.shar=1", "sources.mails.steps.Capitals.shar = 1: unknown key; did you mean share"),
    ],
)
def test_a_mistake_in_the_second_recipe_is_named(example: Path, assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mails(example, f"sources.mails.{assignment}")


def test_what_is_no_step_is_refused(example: Path) -> None:
    text = (example / "mails.yaml").read_text()
    (example / "mails.yaml").write_text(text.replace("my_steps:Capitals", "my_steps:without_signature"))
    with pytest.raises(UserError, match="my_steps:without_signature is no step"):
        mails(example)


def test_the_example_in_the_docs_does_what_the_docs_say(example: Path) -> None:
    dropped = {reason: a.documents for reason, a in first_source(run(example)).dropped.items()}
    assert dropped == {"python.question_share.max": 1, "python_2.line_length.min": 1}
    part = pq.read_table(next(example.glob("out/parts/docs/0/*.kept.parquet")))
    for text, share, length in zip(
        part["text"].to_pylist(),
        part["python.question_share"].to_pylist(),
        part["python_2.line_length"].to_pylist(),
        strict=True,
    ):
        assert share == pytest.approx(text.count("?") / sum(map(text.count, ".!?")))
        assert length == pytest.approx(len(text) / (text.count("\n") + 1))
    swept = as_json(sweep(str(example / "out"), "python.question_share", values=[0.4, 1]))["sources"]["docs"]["limits"]
    assert [row["new"]["documents"] for row in swept] == [0, 1]


def test_a_changed_limit_calls_no_function_and_an_edited_one_is_called_again(example: Path) -> None:
    run(example)
    code = (example / "my_filters.py").read_text()
    assert run(example).tasks_run == 0
    summary = run(example, "sources.docs.steps.python.max=1")
    assert "python.question_share.max" not in first_source(summary).dropped
    (example / "my_filters.py").write_text(
        code.replace("if ends else None", "if ends else None  # edited").replace('count("?") / ends', 'count("?") / 1')
    )
    summary = run(example, "sources.docs.steps.python.max=1")
    assert first_source(summary).dropped["python.question_share.max"].documents >= 1
    assert summary.tasks_run > 0


def test_an_error_in_the_function_quarantines_the_document(example: Path) -> None:
    code = (example / "my_filters.py").read_text()
    code = code.replace(
        "    ends = sum", '    if text.startswith("Who?"):\n        raise KeyError("Who")\n    ends = sum'
    )
    code = code.replace(
        "    lines = pc",
        '    if pc.any(pc.starts_with(texts, "a\\n")).as_py():\n        raise OSError("list")\n    lines = pc',
    )
    (example / "my_filters.py").write_text(code)
    summary = run(example, "run.failures.documents=0.5")
    assert first_source(summary).failed.documents == 2
    failed = pq.read_table(next(example.glob("out/parts/docs/0/*.failed.parquet"))).to_pylist()
    assert {(row["id"], row["step"], row["error"]) for row in failed} == {
        ("12", "python", "KeyError: 'Who'"),
        ("13", "python_2", "OSError: list"),
    }
    assert all("my_filters" in row["traceback"] for row in failed)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "function=my_filters:question_shar",
            "has no question_shar; it has question_share, characters_a_line",
        ),
        ("function=nowhere_at_all:f", "no module nowhere_at_all on Python's path or in the recipe's folder"),
        ("function=nowhere", "write it as module:function"),
        ("min=2", "min 2 is above max 0.4"),
    ],
)
def test_a_mistake_in_the_recipe_is_named(example: Path, assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(example, f"sources.docs.steps.python.{assignment}")
