"""The worked example of docs/user-filters.md, run as it stands; what editing the function reruns; what its errors do."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow.parquet as pq
import pytest

from pipeline.carry_out import Options, run_recipe
from pipeline.progress import Progress
from pipeline.questions.sweep import sweep
from pipeline.recipe import load_recipe
from pipeline.summary import Summary
from stages.errors import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "user-filters.md"
TEXTS = [text for _, text in sorted(topics.items())][:12]  # real prose
QUESTIONS = ["Who? What? When? Where? Why? That is all that was asked of him, and he did not answer any of it. " * 4]
SHORT_LINES = ["a\nlist\nof\nwords.\n" * 20]


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Path]:
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["my_filters.py", "recipe.yaml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text.replace("[docs.jsonl]", f"[{tmp_path}/docs.jsonl]"))
    rows = [{"id": str(i), "text": t} for i, t in enumerate(TEXTS + QUESTIONS + SHORT_LINES)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("my_filters", None)


def run(folder: Path, *assignments: str) -> Summary:
    recipe = load_recipe(folder / "recipe.yaml", None, assignments)
    return run_recipe(recipe, Options(str(folder / "out"), inline=True, progress=Progress(quiet=True)))


def test_the_example_in_the_docs_does_what_the_docs_say(example: Path) -> None:
    dropped = {reason: a.docs for reason, a in run(example).sources[0].dropped.items()}
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
    swept = sweep(str(example / "out"), "python.question_share", values=[0.4, 1])["sources"]["docs"]["limits"]
    assert [row["new"]["documents"] for row in swept] == [0, 1]


def test_a_changed_limit_calls_no_function_and_an_edited_one_is_called_again(example: Path) -> None:
    run(example)
    code = (example / "my_filters.py").read_text()
    assert run(example).tasks_run == 0
    summary = run(example, "sources.docs.steps.python.max=1")
    assert "python.question_share.max" not in summary.sources[0].dropped
    (example / "my_filters.py").write_text(
        code.replace("if ends else None", "if ends else None  # edited").replace('count("?") / ends', 'count("?") / 1')
    )
    summary = run(example, "sources.docs.steps.python.max=1")
    assert summary.sources[0].dropped["python.question_share.max"].docs >= 1
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
    assert summary.sources[0].failed.docs == 2
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
            "has no function question_shar; it has question_share, characters_a_line",
        ),
        ("function=nowhere_at_all:f", "no module nowhere_at_all on Python's path or in the recipe's folder"),
        ("function=nowhere", "String should match pattern"),
        ("min=2", "min 2 is above max 0.4"),
    ],
)
def test_a_mistake_in_the_recipe_is_named(example: Path, assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(example, f"sources.docs.steps.python.{assignment}")
