"""Training of classifiers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stages.errors import UserError
from stages.quality.classifier import Quality, good_probability
from stages.quality.examples import in_order, stage, training_texts
from stages.quality.fasttext_model import load_model
from stages.quality.scores import roc_auc
from stages.quality.train import TrainSettings, train_classifier

GOOD_TEXT = "the mill by river turns its wheel because water falls and so grain becomes flour which bakers need"
PLAIN_TEXT = "buy now cheap click here best price free shipping login cart offer deal subscribe cookies terms"
GOOD, PLAIN = GOOD_TEXT.split(), PLAIN_TEXT.split()
SMALL = TrainSettings(dim=8, bucket=2000, epoch=8, lr=0.5, held_out=0.2)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path_factory.getbasetemp() / "headrace-cache"))


def texts(words: list[str], n: int, seed: int) -> list[str]:
    choose = random.Random(seed)
    return ["\n".join(" ".join(choose.choices(words, k=8)) for _ in range(4)) for _ in range(n)]


def batches(rows: list[str], size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(rows), size):
        yield pa.record_batch({"text": pa.array(rows[start : start + size], pa.large_string())})


def test_a_trained_classifier_tells_its_kinds_apart(tmp_path: Path) -> None:
    good, plain = texts(GOOD, 300, 1), [*texts(PLAIN, 200, 2), "", " \n "]
    card = train_classifier(
        good, batches(plain, 50), tmp_path / "out" / "m.bin", SMALL, sources={"positive": "made up"}
    )
    assert card["documents"]["positive"] == {
        "given": 300, "empty": 0, "trained_on": 240, "held_out": 60, "text_bytes": sum(len(t) for t in good)
    }  # fmt: skip
    assert (card["documents"]["negative"]["empty"], card["documents"]["negative"]["held_out"]) == (2, 40)
    assert (
        card["held_out"]["roc_auc"] > 0.99
        and card["held_out"]["precision"] > 0.95
        and card["held_out"]["recall"] > 0.95
    )
    step = Quality(model=str(tmp_path / "out" / "m.bin"), score=0.5)
    verdict = step.decide(step.measure(next(batches(texts(GOOD, 5, 3) + texts(PLAIN, 5, 4), 10))))
    assert (verdict < 0).tolist() == [True] * 5 + [False] * 5
    assert json.loads((tmp_path / "out" / "m.bin.card.json").read_text()) == card
    page = (tmp_path / "out" / "m.bin.card.md").read_text()
    assert (
        card["model"]["sha256"] in page and "positive: made up" in page and "| positive | 300 | 0 | 240 | 60 |" in page
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["m.bin", "m.bin.card.json", "m.bin.card.md"]


def test_the_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    good, plain = texts(GOOD, 80, 1), texts(PLAIN, 80, 2)
    made = []
    for number, (first, second) in enumerate(
        [(good, plain), (batches(good[::-1], 7), batches(plain[40:] + plain[:40], 3))]
    ):
        settings = SMALL.model_copy(update={"shuffle_mb": 1 + number})
        train_classifier(first, second, tmp_path / str(number) / "m.bin", settings)
        made.append((tmp_path / str(number) / "m.bin").read_bytes())
    assert made[0] == made[1]
    train_classifier(good, plain, tmp_path / "other" / "m.bin", SMALL.model_copy(update={"seed": 1}))
    assert (tmp_path / "other" / "m.bin").read_bytes() != made[0]


def test_order_does_not_hang_on_partitions(tmp_path: Path) -> None:
    rows = (texts(GOOD, 150, 1), texts(PLAIN, 150, 2) + texts(PLAIN, 20, 2))
    staged = stage(rows, tmp_path / "staged.arrow", seed=5)
    whole = [row for batch in in_order(staged, tmp_path, 1 << 30) for row in batch.to_pylist()]
    parts = [row for batch in in_order(staged, tmp_path, 3000) for row in batch.to_pylist()]
    assert whole == parts and len(whole) == 320
    assert [(row["key"], row["label"]) for row in whole] == sorted((row["key"], row["label"]) for row in whole)
    assert sorted(row["text"] for row in whole if row["label"] == 1) == sorted(t.replace("\n", " ") for t in rows[1])
    with pytest.raises(UserError, match="raise shuffle_mb"):
        list(in_order(staged, tmp_path, 10))


def test_fasttexts_own_words_do_not_get_into_the_training_text() -> None:
    given = [
        "a __label__x b",
        "__label__x __label__y",
        "a __label__",
        "x__label__y",
        "a </s> b\nc",
        "</s>",
        "a</s> b",
        "é\r\nz ",
    ]
    expected = ["a  b", " ", "a ", "x__label__y", "a ", "", "a</s> b", "é z"]
    assert training_texts(pa.array(given)).to_pylist() == expected


def test_labels_in_a_text_do_not_become_classes(tmp_path: Path) -> None:
    good = [text + " __label__other" for text in texts(GOOD, 60, 1)]
    train_classifier(good, texts(PLAIN, 60, 2), tmp_path / "m.bin", SMALL)
    assert set(load_model(tmp_path / "m.bin").labels) == {"__label__hq", "__label__cc"}


def test_failures_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no negative document"):
        train_classifier(texts(GOOD, 5, 1), ["", "\n"], tmp_path / "m.bin", SMALL)
    with pytest.raises(UserError, match="both 'x'"):
        train_classifier([], [], tmp_path / "m.bin", TrainSettings(positive="x", negative="x"))
    wild = SMALL.model_copy(update={"lr": 1e30})
    with pytest.raises(UserError, match="fastText could not train"):
        train_classifier(texts(GOOD, 40, 1), texts(PLAIN, 40, 2), tmp_path / "m.bin", wild)
    assert list(tmp_path.iterdir()) == []


def test_without_held_out_documents_nothing_is_judged(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"held_out": 0.0})
    card = train_classifier(texts(GOOD, 30, 1), texts(PLAIN, 30, 2), tmp_path / "m.bin", settings)
    assert set(card["held_out"].values()) == {None}
    assert "Not judged" in (tmp_path / "m.bin.card.md").read_text()


def read_texts(path: Path) -> list[dict]:
    import zstandard

    with zstandard.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def test_real_texts_against_peoples_judgement(shared_data: Path, tmp_path: Path) -> None:
    good = [row["text"] for name in ("wiki-en", "books") for row in read_texts(shared_data / f"{name}.jsonl.zst")]
    plain = [row["text"] for row in read_texts(shared_data / "c4.jsonl.zst")]
    settings = TrainSettings(dim=16, bucket=20_000)
    card = train_classifier(good, plain, tmp_path / "m.bin", settings)
    assert card["held_out"]["roc_auc"] > 0.85
    judged = read_texts(shared_data / "quality-labels.jsonl.zst")
    column = pa.array([row["text"] for row in judged], pa.large_string())
    scores = good_probability(load_model(tmp_path / "m.bin"), column, "hq")
    assert roc_auc(scores, np.array([row["label"] == 1 for row in judged])) > 0.6
