"""What `steps`, `schema` and docs/reference.md tell is what the models are, and what the steps do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pyarrow as pa
import pytest

from pipeline.cli import main
from pipeline.recipe.describe import Page, markdown, pages
from pipeline.recipe.overrides import parse_yaml, read_yaml
from stages.document import DOCUMENT, PAGE
from stages.steps import STEPS
from stages.tokens.train_tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
PAGES = list(pages().values())


def test_the_reference_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "reference.md").read_text() == markdown(), (
        "write it anew: python -m pipeline steps --markdown > docs/reference.md"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_has_a_meaning_and_says_what_it_takes(page: Page) -> None:
    assert page.line.endswith((".", ":")) and len(page.line) < 200
    assert (ROOT / page.code).is_file()
    for key in page.keys:
        assert key.meaning and key.takes, key.name


def test_all_steps_methods_and_readers_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steps"]) == 0
    told = capsys.readouterr().out
    names = [*STEPS, "exact", "url", "minhash", "bff", "substring", "warc", "jsonl", "parquet", "csv", "text"]
    assert [name for name in names if f"\n  {name} " not in told] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_one_is_told_with_all_its_keys_on_80_columns(
    page: Page, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["steps", page.name]) == 0
    told = capsys.readouterr().out
    assert page.code in told
    for key in page.keys:
        assert f"\n  {key.name}: {key.takes}; " in told
    for name, _ in page.measures:
        assert f"\n  {name}:" in told


def test_the_methods_of_dedup_are_told_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steps", "dedup"]) == 0
    told = capsys.readouterr().out
    assert "\n  minhash " in told and "gopher_quality" not in told


def test_a_name_that_is_none_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steps", "gopher"]) == 2
    assert "did you mean gopher_quality?" in capsys.readouterr().err


def settings_of(name: str, folder: Path) -> dict:
    """What a step needs besides its defaults."""
    question = "Which of the eight wheels of the old mill turns first in spring?"
    (folder / "evaluation.jsonl").write_text(json.dumps({"question": question}))
    (folder / "lengths_of_texts.py").write_text(
        "def length(text):\n    return len(text)\n\n\ndef shout(text):\n    return text.upper()\n"
    )
    return {
        "datatrove": {"block": "GopherQualityFilter"},
        "decontaminate": {"files": [str(folder / "evaluation.jsonl")]},
        "python": {"function": "lengths_of_texts:length", "measure": "MEASURE".lower()},
        "python_edit": {"function": "lengths_of_texts:shout"},
        "token_repeats": {"tokenizer": str(folder / "tokenizer.json")},
        "url_filter": {"domains": ["example.com"]},
    }.get(name, {})


@pytest.mark.parametrize("name", [name for name in STEPS if name != "quality"])  # its model is trained elsewhere: `score`
def test_the_measures_that_are_told_are_those_that_a_step_makes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    train_tokenizer(["a few words to learn from"], tmp_path / "tokenizer.json", 300)
    row = {"id": "1", "text": "Some words, and some more of them.", "file": "f", "record": 1}
    page = {**row, "text": "", "html": b"<p>Some words, and some more of them.</p>"}
    docs = pa.RecordBatch.from_pylist([page if name == "extract" else row], schema=PAGE if name == "extract" else DOCUMENT)
    step = STEPS[name].model_validate(settings_of(name, tmp_path))
    step.prepare()
    _, measures = step.edit(docs)
    assert {measure.lower() for measure, _ in pages()[name].measures} == set(measures)


def test_the_schema_takes_the_shipped_recipes_and_marks_mistakes_where_they_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", "--out", str(tmp_path / "schema.json")]) == 0
    assert "yaml-language-server" in capsys.readouterr().out
    schema = json.loads((tmp_path / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    recipes = sorted((ROOT / "configs").glob("*.yaml"))
    assert recipes
    for path in recipes:
        assert list(checker.iter_errors(read_yaml(path))) == [], path
    page = (ROOT / "docs/user-filters.md").read_text()
    for own in re.findall(r"```yaml\n(# .*?)```", page, re.DOTALL):  # steps of a user's own, by their import paths
        assert list(checker.iter_errors(parse_yaml(own, "own"))) == []
    assert list(checker.iter_errors(parse_yaml("name: a\nsources: {a: {steps: ['mine:Capitals']}}", "own"))) == []
    bad = """
name: a
sources:
  web:
    read: {path: [a]}
    steps: [{gopher_quality: {wrds: 3}}, nope, {repetition: {top_2gram: [0, 1]}}]
shards: {bytes: 64MiB}
run: {keep: everything}
"""
    assert {error.json_path for error in checker.iter_errors(parse_yaml(bad, "bad"))} == {
        "$.sources.web.read",
        "$.sources.web.steps[0].gopher_quality",
        "$.sources.web.steps[1]",
        "$.run.keep",
    }
    words = schema["$defs"]["GopherQuality"]["properties"]["words"]
    assert words["description"].startswith("Words that begin with a letter or digit")
