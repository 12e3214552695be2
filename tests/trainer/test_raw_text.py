"""`trainer eval --text`: raw text scored document by document, as a plain loop would; and traps on the way to a comparison."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch

from trainer.__main__ import main
from trainer.inference import Trained, open_trained
from trainer.loader.data import open_data
from trainer.train import train

WORDS = [f"t{2 + number * 7 % 59}" for number in range(300)]
TEXTS = [" ".join(WORDS[start : start + count]) for start, count in ((0, 5), (11, 32), (3, 33), (40, 130), (7, 1))]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, small_run: Path, make_config, one_thread) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert train(make_config(train={"tokens": 1024}), small_run, folder, device="cpu") == 0
    return folder


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files of raw text: JSON lines, one of them without text, and a packed .txt."""
    rows = [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
    lines = [json.dumps(row) for row in [*rows, {"id": "empty", "text": ""}]]
    (tmp_path / "wiki.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "book.txt.gz").write_bytes(gzip.compress(TEXTS[3].encode()))
    return [tmp_path / "wiki.jsonl", tmp_path / "book.txt.gz"]


def plainly(trained: Trained, text: str) -> float:
    """Nats of a text, token by token: each from those before it in its window of the context."""
    ids = [trained.data["eos_id"], *trained.tokenizer().encode(text).ids]
    total = 0.0
    for place in range(1, len(ids)):
        begin = (place - 1) // trained.context * trained.context
        with torch.no_grad():
            logits = trained.model(torch.tensor([ids[begin:place]]))[0, -1]
        total -= torch.log_softmax(logits.double(), 0)[ids[place]].item()
    return total


def test_every_document_is_scored_as_token_by_token(
    out: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "scores" / "a.json"
    assert main(["eval", str(out), "--text", *map(str, files), "--device", "cpu", "--out", str(kept)]) == 0
    told = capsys.readouterr().out
    result, trained = json.loads(kept.read_text()), open_trained(out, "cpu")
    documents = {(one["file"], one["id"]): one for one in result["documents"]}
    assert list(documents) == [*(("wiki", f"d{n}") for n in range(5)), ("book", "book.txt.gz")]
    for number, text in enumerate(TEXTS):
        one = documents["wiki", f"d{number}"]
        assert (one["bytes"], one["tokens"]) == (len(text), len(text.split()))
        assert one["nats"] == pytest.approx(plainly(trained, text), rel=1e-4)
    wiki = result["text"]["wiki"]
    nats = sum(one["nats"] for key, one in documents.items() if key[0] == "wiki")
    assert wiki["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(map(len, TEXTS)))
    assert wiki["documents"] == 5 and wiki["standard_error"] > 0 and result["text"]["book"]["standard_error"] is None
    assert f"{wiki['bits_per_byte']:.4f}" in told


def test_several_checkpoints_are_kept_in_one_file(
    out: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", str(out), str(out), "--text", str(files[0]), "--device", "cpu", "--limit", "2"]
    assert main([*command, "--json", "--out", str(tmp_path / "b.json"), "--png", str(tmp_path / "b.png")]) == 0
    printed = json.loads(capsys.readouterr().out)
    kept = json.loads((tmp_path / "b.json").read_text())
    assert [len(one["documents"]) for one in kept["checkpoints"]] == [2, 2]
    assert all("documents" not in one for one in printed["checkpoints"])


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", b'{"text": 1}\n', "a.jsonl, line 1: has no string under `text`"),
        ("a.jsonl", b'{"text": "t2"}\n{\n', "a.jsonl, line 2: is no JSON"),
        ("a.jsonl", b'{"text": ""}\n', "a.jsonl: holds no text"),
        ("a.csv", b"text\n", "a.csv: raw text ends in .jsonl, .json, .txt"),
        ("a.txt", b"\xff\xfe", "a.txt: cannot be read"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz: cannot be read"),
        (None, b"", "absent: no such file"),
    ],
)
def test_what_is_no_text_is_named(
    out: Path, tmp_path: Path, name: str | None, data: bytes, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / (name or "absent")
    if name:
        path.write_bytes(data)
    assert main(["eval", str(out), "--text", str(path), "--device", "cpu"]) == 2
    assert expected in capsys.readouterr().err


def test_more_tokens_than_there_are_is_an_error_where_they_were_asked_for(
    small_run: Path, make_config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(make_config().model_dump_json())  # JSON is YAML
    there = len(open_data(small_run, 32).train) * 32
    command = ["train", str(path), "--data", str(small_run), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*command, "--set", f"train.tokens={2 * there}"]) == 2
    said = capsys.readouterr().err
    assert f"asks for {2 * there:,} tokens, and the mixture gives {there:,}" in said
    assert f"python -m pipeline mix {small_run} --set tokens={2 * there} --out NEW" in said
    assert not (tmp_path / "out" / "checkpoints").exists()
    # A configuration's own number is what it may take at most: a smaller run is trained on to its end.
    path.write_text(make_config(train={"tokens": 2 * there}, evaluate={"instances": 1}).model_dump_json())
    assert main(command) == 0
    told = capsys.readouterr().out
    assert f"train.tokens asks for {2 * there:,} tokens" in told
    assert "held-out bits per byte are of this data's own documents" in told
