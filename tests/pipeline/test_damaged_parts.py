"""A bit that flips in a file between two stages: the next run that reads it says so, and makes nothing of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from pydoc_data.topics import topics

import orjson
import pytest
import yaml

from pipeline.cli import main

KINDS = {  # files of a run, and a setting with which the next run reads them
    "parts/web/0/*.kept.parquet": "tokenizer.train.vocab_size=350",
    "parts/web/0/*.dropped.parquet": "sources.web.steps.gopher_quality.words.min=10",
    "parts/dedup/web/dedup/removals-*.parquet": "tokenizer.train.vocab_size=350",
    "parts/web/tokens/*.train.tokens": "shards.bytes=8KB",
    "parts/web/tokens/*.train.parquet": "shards.bytes=8KB",
    "tokenizer/tokenizer.json": "tokenizer.rules.skip_empty=false",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    texts = sorted(topics.items())[:40]
    rows = [{"id": f"d{n}", "text": text} for n, (_, text) in enumerate([*texts, *texts[:10]])] + [
        {"id": "s", "text": "short"}
    ]
    (folder / "in.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    data = {
        "name": "damaged",
        "sources": {
            "web": {
                "read": {"paths": [str(folder / "in.jsonl")]},
                "steps": [{"gopher_quality": {"words": {"min": 5}}}, {"dedup": {"method": "exact"}}],
            }
        },
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"held_out": 0},
        "mixture": {},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    assert main(["run", str(folder / "recipe.yaml"), "--out", str(folder / "out"), "--inline", "--quiet"]) == 0
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_noticed_where_it_is_read(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    chance = random.Random(kind)
    command = ["run", str(finished / "recipe.yaml"), "--inline", "--quiet", "--set", KINDS[kind], "--out"]
    for attempt in range(3):
        out = tmp_path / str(attempt)
        shutil.copytree(finished / "out", out)
        path = sorted(out.glob(kind))[0]
        whole = path.read_bytes()
        bit = chance.randrange(8 * len(whole)) if attempt else 8 * (len(whole) - 20)  # the last bytes first: a footer
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        capsys.readouterr()
        assert main([*command, str(out)]) == 2, (kind, bit)
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}: damaged since it was written") and error.count("\n") == 1
        assert main([*command, str(out), "--verify"]) == 0, capsys.readouterr().err  # as the sentence says
    assert main([*command, str(tmp_path / "fresh")]) == 0
    assert (out / "manifest.json").read_bytes() == (tmp_path / "fresh/manifest.json").read_bytes()


def test_a_part_that_is_missing_is_named_with_the_command_that_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "The miller opens the gate, and the water of the river turns the wheel of the mill. "
    (tmp_path / "docs.jsonl").write_text("".join(f'{{"text": "{text * 3}{number}"}}\n' for number in range(20)))
    (tmp_path / "r.yaml").write_text(
        "name: r\nsources: {a: {read: {paths: [docs.jsonl]}, steps: [gopher_quality: {words: [5, 900]}]}}\n"
        "tokenizer: {train: {vocab_size: 300}}\nshards: {held_out: 0}\nmixture: {epochs: 1}\n"
    )
    run = ["run", "r.yaml", "--inline", "--quiet"]
    assert main(run) == 0
    (part,) = (tmp_path / "runs" / "r" / "parts" / "a" / "0").glob("*.kept.parquet")
    part.unlink()
    capsys.readouterr()

    assert main(["why", "runs/r", "docs.jsonl:3"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    command = f"python -m pipeline run {tmp_path}/r.yaml --out runs/r"
    assert f"{part.name} is missing; `{command}` makes it again" in said and "run.keep" not in said
    for question in (["report", "runs/r"], ["sweep", "runs/r", "--measure", "gopher_quality.words", "--side", "min"]):
        assert main(question) == 2
        said = capsys.readouterr().err
        assert part.name in said and f"`{command}` makes it again" in said

    assert main([*command.split()[3:], "--inline", "--quiet"]) == 0
    assert part.exists() and main(["report", "runs/r"]) == 0
