"""The quality step."""

from __future__ import annotations

from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from fasttext_models import WORDS

from stages.errors import UserError
from stages.marks import named_files
from stages.quality.classifier import Quality
from stages.quality.language import packaged_model

TEXTS = [
    "the mill wheel turns",
    "le moulin\r\ntourne  ",
    "",
    "\u3000the\u2028roue\x1cand\u00a0",
    "river bread " * 500,
    "\n \n",
]


def batch(texts: list[str]) -> pa.RecordBatch:
    return pa.record_batch({"text": pa.array(texts, pa.large_string())})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quality")
    found = {}
    for name, labels in (("two", ("hq", "cc")), ("three", ("hq", "cc", "spam"))):
        lines = [f"__label__{labels[i % len(labels)]} {' '.join(WORDS[i % 11 :: 2 + i % 3])}\n" for i in range(600)]
        (folder / "train.txt").write_text("".join(lines), encoding="utf-8", newline="\n")
        model = fasttext.train_supervised(
            str(folder / "train.txt"), wordNgrams=2, bucket=5000, dim=10, lr=0.5, thread=1, verbose=0
        )
        found[name] = folder / f"{name}.bin"
        model.save_model(str(found[name]))
    return found


def reference(model: Path, text: str) -> float:
    """DCLM's enricher, with the library."""
    (label,), (probability,) = fasttext.load_model(str(model)).predict(" ".join(text.strip().splitlines()))
    return 1 - probability if label == "__label__cc" else probability


def test_scores_are_dclms(models: dict[str, Path]) -> None:
    scores = Quality(model=str(models["two"])).measure(batch(TEXTS))["score"]
    np.testing.assert_allclose(scores, [reference(models["two"], text) for text in TEXTS], atol=1e-5)


def test_labels_can_be_named(models: dict[str, Path]) -> None:
    two = str(models["two"])
    good = Quality(model=two).measure(batch(TEXTS))["score"]
    other = Quality(model=two, positive="cc", negative="__label__hq").measure(batch(TEXTS))["score"]
    np.testing.assert_allclose(good + other, 1, atol=3e-5)
    three = Quality(model=str(models["three"]), negative="cc").measure(batch(TEXTS))["score"]
    alone = Quality(model=str(models["three"])).measure(batch(TEXTS))["score"]
    library = fasttext.load_model(str(models["three"]))
    for i, text in enumerate(TEXTS):
        labels, probabilities = library.predict(" ".join(text.strip().splitlines()), k=-1)
        expected = dict(zip(labels, probabilities, strict=True))
        assert alone[i] == pytest.approx(expected["__label__hq"], abs=1e-5)
        best_is_ordinary = labels[0] == "__label__cc"
        assert three[i] == pytest.approx(1 - expected["__label__cc"] if best_is_ordinary else alone[i], abs=1e-5)


def test_wrong_labels_and_files_are_named(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no label 'good'; it has __label__"):
        Quality(model=str(models["two"]), positive="good").prepare()
    with pytest.raises(UserError, match="are both 'hq'"):
        Quality(model=str(models["two"]), negative="hq").prepare()
    with pytest.raises(UserError, match=r"absent\.bin: No such file"):
        Quality(model=str(tmp_path / "absent.bin")).prepare()


def test_results_hang_on_the_models_content(models: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.bin"
    copy.write_bytes(models["two"].read_bytes())
    one, other = Quality(model=str(models["two"]), score=0.5), Quality(model=str(copy), table_mb=1)
    assert one.settings() == other.settings()  # the model counts by its content, which whoever makes a key adds
    assert [*named_files(one)] == ["model"] and "model" not in one.settings()
    assert one.reasons() == ["score.min"]


def test_scores_lie_between_0_and_1(tmp_path: Path) -> None:
    """fastText says 1.00001 of what it is sure of; 1 minus that was below 0, so that a limit of 0 dropped it."""
    (tmp_path / "train.txt").write_text("__label__hq good\n__label__cc bad\n" * 500)
    model = fasttext.train_supervised(str(tmp_path / "train.txt"), dim=10, lr=1.0, epoch=50, thread=1, verbose=0)
    model.save_model(str(tmp_path / "model.bin"))
    assert model.predict("bad")[1][0] > 1
    step = Quality(model=str(tmp_path / "model.bin"), score=0)
    measures = step.measure(batch(["good", "bad", "good good good", "bad bad bad"]))
    assert measures["score"].min() == 0 and measures["score"].max() == 1
    assert (step.decide(measures) == -1).all()


def test_every_label_is_a_measure_and_so_are_the_likeliest(models: dict[str, Path]) -> None:
    three = str(models["three"])
    library = fasttext.load_model(three)
    every = Quality(model=three, labels="all").measure(batch(TEXTS))
    assert set(every) == {"score", "p_hq", "p_cc", "p_spam"}
    likeliest = Quality(model=three, labels=2).measure(batch(TEXTS))
    assert set(likeliest) == {"score", "top_1", "top_1_p", "top_2", "top_2_p"}
    for i, text in enumerate(TEXTS):
        labels, probabilities = library.predict(" ".join(text.strip().splitlines()), k=-1)
        for k, (label, probability) in enumerate(zip(labels, probabilities, strict=True)):
            name = label.removeprefix("__label__")
            assert every[f"p_{name}"][i] == pytest.approx(probability, abs=2e-5)
            if k < 2:
                assert likeliest[f"top_{k + 1}"][i].as_py() == name
                assert likeliest[f"top_{k + 1}_p"][i] == pytest.approx(probability, abs=2e-5)


def test_a_model_of_other_labels_needs_no_good_one() -> None:
    step = Quality(model=str(packaged_model()), labels=1)
    found = step.measure(batch(["The mill wheel turns in the water.", "Le moulin tourne dans la rivière."]))
    assert set(found) == {"top_1", "top_1_p"}
    assert pa.array(found["top_1"]).to_pylist() == ["en", "fr"]
    assert step.decide(found).tolist() == [-1, -1]
    with pytest.raises(UserError, match="no label 'hq'"):
        Quality(model=str(packaged_model()), labels=1, score=0.5).prepare()
    with pytest.raises(UserError, match="no label 'xx'"):
        Quality(model=str(packaged_model()), labels=1, positive="xx").prepare()
