"""`trainer eval` says how far the held-out documents are text that the model never saw."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main as pipeline
from trainer import checkpoint
from trainer.__main__ import main
from trainer.train import train

WORDS = [f"{a}{b}" for a in ("mill", "wheel", "water", "stone") for b in ("ing", "er", "wright", "bed", "s")]


def corpus(folder: Path, name: str, *assignments: str) -> Path:
    """A run over 40 texts, each there twice, once with its first word changed."""
    rows = []
    for number in range(40):
        words = random.Random(number).choices(WORDS, k=120)
        rows += [
            {"id": f"t{number}", "text": " ".join(words)},
            {"id": f"e{number}", "text": " ".join(["other", *words[1:]])},
        ]
    (folder / "web.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": name,
        "sources": {"web": {"read": {"paths": [str(folder / "web.jsonl")]}, "steps": []}},
        "tokenizer": {"train": {"vocab_size": 300, "max_bytes": "20KB"}},
        "shards": {"bytes": "64KB", "held_out": 0.3},
        "mixture": {"epochs": 1},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    out = folder / name
    more = ("--set", *assignments) if assignments else ()
    assert pipeline(["run", str(path), "--out", str(out), "--inline", "--quiet", *more]) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unseen")


@pytest.fixture(scope="module")
def own(folder: Path) -> Path:
    return corpus(folder, "own")


@pytest.fixture(scope="module")
def trained(folder: Path, own: Path, make_config, one_thread) -> Path:
    assert train(make_config(train={"tokens": 256}), own, folder / "training", device="cpu") == 0
    return folder / "training"


def told(trained: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["eval", str(trained), "--data", str(data), "--limit", "2", "--device", "cpu"]) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))


def test_near_copies_that_were_trained_on_are_told(
    trained: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = json.loads((own / "manifest.json").read_text())["held_out"]["near"]["web"]
    assert near["documents"] > 5
    shown = f"web {near['documents']} ({near['tokens']:,} tokens)"
    note = told(trained, own, capsys)
    assert note == f"note: training documents that are near copies of held-out ones were trained on: {shown}"
    assert main(["eval", str(trained), "--data", str(own), "--limit", "2", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["held_out"]
    assert found["of_training"] is True and found["near_copies"] == {"web": near}


def test_another_run_by_the_same_rule_was_held_out_too(
    trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = told(trained, corpus(folder, "twin", "mixture.epochs=2"), capsys)
    assert "is not the data that the checkpoint was trained on" in note and "so these were not trained on" in note


@pytest.mark.parametrize(
    ("assignment", "why"),
    [
        ("shards.held_out_salt=other", "another rule chose what it held out"),
        ("shards.held_out=0.4", "it held out a share of 0.3, here it is 0.4"),
    ],
)
def test_documents_of_another_rule_may_have_been_trained_on(
    trained: Path, folder: Path, capsys: pytest.CaptureFixture[str], assignment: str, why: str
) -> None:
    note = told(trained, corpus(folder, why.split()[0], assignment), capsys)
    assert "held-out documents may have been trained on" in note and why in note


def test_a_smaller_share_by_the_same_salt_is_a_part_of_what_was_held_out(
    trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "so these were not trained on" in told(trained, corpus(folder, "less", "shards.held_out=0.2"), capsys)


def test_a_training_that_dropped_them_says_so(folder: Path, make_config, capsys: pytest.CaptureFixture[str]) -> None:
    data = corpus(folder, "dropped", "shards.near_held_out=drop")
    assert train(make_config(train={"tokens": 128}), data, folder / "clean", device="cpu") == 0
    assert "were left out of training: web " in told(folder / "clean", data, capsys)


def test_a_checkpoint_that_does_not_say_its_rule_goes_on(
    own: Path, make_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data is the same whether a checkpoint says how it holds out or not, so the training may be resumed."""
    out = tmp_path / "training"
    with monkeypatch.context() as patch:
        patch.setattr("trainer.pretrain.held_out_rule", lambda data: None)
        assert train(make_config(train={"tokens": 128}), own, out, device="cpu") == 0
    assert checkpoint.read_state(checkpoint.find(out))["data"]["held_out"] is None
    assert train(make_config(train={"tokens": 256}), own, out, resume=True, device="cpu") == 0
    assert checkpoint.read_state(checkpoint.find(out))["data"]["held_out"] == {"share": 0.3, "salt": "headrace"}


def test_a_folder_that_is_held_out_as_a_whole_is_an_evaluation_set(
    trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus(folder, "whole", "shards.held_out=1")
    manifest = json.loads((data / "manifest.json").read_text())["sources"]["web"]
    assert manifest["tokens"] == manifest["budget_tokens"] == 0 and manifest["held_out"]["documents"] == 80
    capsys.readouterr()
    assert main(["eval", str(trained), "--data", str(data), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["held_out"]
    assert found["loss"] == found["sources"]["web"]["loss"] > 0
    # Of training there is nothing to be had, and that is said.
    assert main(["train", "olmoe_tiny", "--data", str(data), "--out", str(folder / "none"), "--device", "cpu"]) == 2
    assert "there is nothing to train on" in capsys.readouterr().err
