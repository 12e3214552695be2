"""`mix --split`: a source of a finished run split by what it measured, against a run whose recipe splits it so."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from split_runs import SPLIT, run, write

from pipeline.cli import main
from stages.tokens.shard_format import Manifest, load_manifest
from trainer.fetched import fetched
from trainer.loader.data import DataError, Packing, open_data
from trainer.loader.materialize import materialize

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"by": "gopher_quality.words", "at": [12, 40.5], "repeats": [0.5, 1, 3]}
RULES: dict[str, Any] = {
    "grid": SPLIT,
    "values": WORDS,
    "quantiles": {"by": "gopher_quality.words", "quantiles": [number / 20 for number in range(1, 20)]},
    "year and site": [{"by": "year", "at": [2012]}, {"by": "domain", "labels": {"news": ["news.example"]}}],
    "copies": {"by": "dedup.copies", "formula": "1 + log2(x)", "step": 0.5, "most": 3},
    "one": [],
}


def recipe(folder: Path, split: Any, **shards: Any) -> Path:
    """A recipe whose dedup counts copies."""
    path = write(folder, split, shards=shards)
    data = yaml.safe_load(path.read_text())
    data["sources"]["web"]["steps"][1]["dedup"]["copies"] = True
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that is not split, and one that is split otherwise than any rule."""
    folder = tmp_path_factory.mktemp("resplit")
    other = [{"by": "gopher_quality.words", "quantiles": [0.3]}, {"by": "domain", "labels": {"x": ["x.wiki.example"]}}]
    return {
        name: run(recipe(folder / name, split), folder / f"{name}-run")
        for name, split in (("whole", []), ("other", other))
    }


@pytest.fixture(scope="module", params=list(RULES))
def rule(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, runs: dict[str, Path]) -> tuple[Any, Path]:
    """A rule, and the run of a recipe that splits by it."""
    folder = tmp_path_factory.mktemp("rule")
    split = RULES[request.param]
    return split, run(recipe(folder / "in", split), folder / "run")


def mixed(run: Path, out: Path, split: Any, *more: str) -> Manifest:
    """The manifest of a mixture of a run whose source is split."""
    value = json.dumps(split)
    assert main(["mix", str(run), "--split", f"web={value}", "--out", str(out), *more]) == 0
    return load_manifest(out)


def bare(entry: Any) -> Any:
    """What a manifest says of a source, but for where its tokens lie."""
    shards = ("tokens", "documents", "text_bytes", "index", "index_sha256")
    found = {k: v for k, v in entry.items() if k not in ("shards", "held_out", "max_repeats")}
    return found | {s: [{k: one[k] for k in shards} for one in part["shards"]] for s, part in parts(entry)}


def parts(entry: Any) -> list[tuple[str, Any]]:
    return [("train", entry), ("held_out", entry["held_out"])]


@pytest.mark.parametrize("base", ["whole", "other"])
def test_a_source_split_afterwards_is_one_split_by_its_recipe(
    runs: dict[str, Path], rule: tuple[Any, Path], base: str, tmp_path: Path
) -> None:
    split, reference = rule
    ours, theirs = mixed(runs[base], tmp_path / "m", split), load_manifest(reference)
    assert ours["mixture"] == theirs["mixture"]
    for name, entry in theirs["sources"].items():
        assert bare(ours["sources"][name]) == bare(entry)
    read: tuple[tuple[int, Packing], ...] = ((2, "concatenate"), (7, "concatenate"), (64, "concatenate"), (16, "best_fit"))
    if not split and base == "whole":  # neighbours are one range: the source as one has hardly more of them than shards
        shards = ours["sources"]["web"]["shards"]
        assert sum(shard.get("ranges", 0) for shard in shards) < len(shards) + len(ours.get("whole", {})["web/train"])
    for length, packing in read:
        data = [open_data(folder, length, packing=packing) for folder in (tmp_path / "m", reference)]
        found = [one.train.read(0, len(one.train), documents=True) for one in data]
        for ours_, theirs_ in zip(*found, strict=True):
            assert ours_ is not None and theirs_ is not None and np.array_equal(ours_, theirs_)
        assert list(data[0].held_out) == list(data[1].held_out)
        for name, held in data[0].held_out.items():
            assert np.array_equal(held.batch(0, len(held)), data[1].held_out[name].batch(0, len(held)))


def test_no_token_is_written_and_all_commands_know_the_parts(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mixture = runs["other"], tmp_path / "m"
    manifest = mixed(out, mixture, SPLIT)
    assert {path.stat().st_ino for path in mixture.rglob("*.npy")} == {path.stat().st_ino for path in out.rglob("*.npy")}
    shard = manifest["sources"]["web-wiki-words3"]["shards"][0]
    assert shard["path"] == "tokens/web-wiki-words3/00000.ranges" and shard.get("ranges", 0) > 3
    tokens = open_data(mixture, 2).train
    export = ["export", str(mixture), "--format", "jsonl", "--tokens", "--compression", "none", "--out", str(tmp_path / "e")]
    assert main(["inspect", str(mixture), "--show", "1"]) == 0 and main(export) == 0
    assert "no problems" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "e/web-wiki-words3/00000.jsonl").open()]
    assert main(["trace", str(mixture), f"web-wiki-words3/00000:{len(rows[0]['tokens'])}", "--json"]) == 0
    traced = json.loads(capsys.readouterr().out)
    assert (traced["document"]["id"], traced["token"]) == (rows[1]["id"], rows[1]["tokens"][0])
    for packing in ("concatenate", "best_fit"):
        step = ["trace", str(mixture), "--step", "2", "--sequence-length", "16", "--batch", "4", "--packing", packing, "--json"]
        assert main(step) == 0
        told = json.loads(capsys.readouterr().out)["instances"]
        assert all(piece["shard"].endswith(".ranges") and piece["documents"] for one in told for piece in one["pieces"])
    # Mixed again, beside another split of the same run, and moved to where the run is not.
    again = ["mix", str(mixture), str(runs["whole"]), "--rename", f"{runs['whole']}/web=plain", "--out", str(tmp_path / "n")]
    assert main([*again, "--files", "copy"]) == 0
    assert main(["inspect", str(tmp_path / "n")]) == 0
    parts = load_manifest(tmp_path / "n")
    assert set(parts.get("whole", {})) == {"web/train", "web/held_out"} and "plain" in parts["sources"]
    found = open_data(tmp_path / "n", 2)
    mine = pickle.loads(pickle.dumps(found)).train
    mine.read(0, 8)
    again = pickle.loads(pickle.dumps(mine))  # as a worker gets it, with files opened
    count = len(mine)
    assert count > len(tokens) and np.array_equal(again.tokens(0, count), found.train.tokens(0, count))


def test_sources_of_one_name_are_split_each_by_itself(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(path) for path in runs.values()]
    asked = ["mix", *folders, "--split", f"{folders[0]}/web=[]", "--split", f"{folders[1]}/web=[]", "--out", str(tmp_path / "m")]
    assert main([*asked, "--rename", f"{folders[1]}/web=second"]) == 0
    assert main(["inspect", str(tmp_path / "m")]) == 0
    assert "no problems" in capsys.readouterr().out
    manifest = load_manifest(tmp_path / "m")
    assert set(manifest.get("whole", {})) == {"web/train", "web/held_out", "web/train_2", "web/held_out_2"}
    assert main(["mix", *folders, "--split", "web=[]"]) == 2
    assert f"--split web: a source of {folders[0]} and of {folders[1]}; write {folders[0]}/web" in capsys.readouterr().err


def test_materialized_parts_are_read_as_before(runs: dict[str, Path], tmp_path: Path) -> None:
    mixed(runs["whole"], tmp_path / "m", WORDS)
    ways: tuple[Packing, ...] = ("concatenate", "best_fit")
    for packing in ways:
        materialize(tmp_path / "m", tmp_path / packing, 16, packing)
        ours, theirs = (open_data(folder, 16, packing=packing) for folder in (tmp_path / packing, tmp_path / "m"))
        assert ours.fingerprint == theirs.fingerprint and list(ours.held_out) == list(theirs.held_out)
        count = len(theirs.train)
        assert np.array_equal(ours.train.tokens(0, count), theirs.train.tokens(0, count))
        assert main(["inspect", str(tmp_path / packing)]) == 0


def test_damage_is_found(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed(runs["whole"], tmp_path / "m", WORDS, "--files", "copy")
    ranges, file = tmp_path / "m/tokens/web-words2/00000.ranges", tmp_path / "m/tokens/whole/web/train/00000.npy"
    whole = ranges.read_bytes(), file.read_bytes()
    data = np.frombuffer(whole[0], "<i8").copy()
    data[load_manifest(tmp_path / "m")["sources"]["web-words2"]["shards"][0].get("ranges", 0)] += 1 << 40
    ranges.write_bytes(data.tobytes())
    assert main(["inspect", str(tmp_path / "m")]) == 1
    assert "its ranges hold 0 of" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"00000.ranges: its ranges do not lie in the files that they are of"):
        found = open_data(tmp_path / "m", 16).train
        found.read(0, len(found))
    ranges.write_bytes(whole[0][:-8])
    with pytest.raises(DataError, match=r"00000.ranges: \d+ bytes are not \d+ ranges of \d+ files; it is damaged"):
        open_data(tmp_path / "m", 16)
    ranges.write_bytes(whole[0])
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + whole[1][1:])
    assert main(["inspect", str(tmp_path / "m")]) == 1
    assert "whole/web/train/00000.npy: the tokens are not those that were written" in capsys.readouterr().out


def test_a_recipe_that_splits_otherwise_says_how(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path / "in", WORDS)
    assert main(["mix", str(runs["other"]), "--recipe", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {name: one["repeats"] for name, one in told["sources"].items()} == pytest.approx(
        {"web-words1": 0.5, "web-words2": 1, "web-words3": 3}, abs=0.01
    )
    (tmp_path / "split.yaml").write_text(yaml.safe_dump({"web": WORDS}))
    assert main(["mix", str(runs["other"]), "--split", str(tmp_path / "split.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"] == told["sources"]


def test_what_is_asked_of_the_whole_source_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "in", [], mixture={"epochs": 1, "per_source": {"web": {"repeats": 2}}}, run={"keep": "measures"})
    out = run(path, tmp_path / "run")
    capsys.readouterr()
    assert main(["mix", str(out), "--split", f"web={json.dumps(WORDS)}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"] == ["what was asked of web is left out: it is split otherwise now"]
    assert main(["mix", str(out), "--split", f"web={json.dumps(WORDS)}"]) == 0
    assert "gopher_quality.words: words1 below 12; words2 from 12 below 40.5; words3 from 40.5" in capsys.readouterr().out
    for wrong, sentence in (
        ('web={by: year, at: [2012]}', "sources.web: metadata: parts were let go (run.keep is measures)"),
        ('web={by: gopher_quality.word, at: [1]}', "gopher_quality has no measure 'word'; did you mean words?"),
        ('web={by: gopher_quality.words}', "is cut by one of at, quantiles, labels and formula, not by none"),
        ('wed={by: gopher_quality.words, at: [1]}', "there is no source 'wed'; did you mean web?"),
        ('web={by', "--split web={by: is no YAML"),
        ("nothing.yaml", "--split nothing.yaml: is no file"),
    ):
        assert main(["mix", str(out), "--split", wrong]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["mix", str(out), "--out", str(tmp_path / "m")]) == 0
    capsys.readouterr()
    assert main(["mix", str(tmp_path / "m"), "--split", "web={by: gopher_quality.words, at: [1]}"]) == 2
    assert "was made by `mix` and has no record of documents; name the run" in capsys.readouterr().err


def test_near_copies_that_a_run_dropped_are_in_no_part(tmp_path: Path) -> None:
    splits = (("plain", []), ("split", WORDS))
    found = [run(recipe(tmp_path / name, split, near_held_out="drop"), tmp_path / f"{name}-run") for name, split in splits]
    ours, theirs = mixed(found[0], tmp_path / "m", WORDS)["sources"], load_manifest(found[1])["sources"]
    assert {name: bare(one) for name, one in ours.items()} == {name: bare(one) for name, one in theirs.items()}


def test_a_grid_has_its_axes_in_their_order(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = [{"by": "gopher_quality.words", "at": [*range(4, 15), 20]}, SPLIT[0]]
    mixed(runs["whole"], tmp_path / "m", split)
    capsys.readouterr()
    assert main(["mix", str(tmp_path / "m"), "--json"]) == 0
    (grid,) = json.loads(capsys.readouterr().out)["grids"]
    assert grid["axes"] == ["gopher_quality.words", "domain"] and grid["columns"] == ["wiki", "news", "other"]
    assert list(grid["rows"]) == [f"words{number}" for number in range(1, 14)]
    assert list(grid["where"]["gopher_quality.words"].values())[:3] == ["below 4", "from 4 below 5", "from 5 below 6"]
    # The report of the run draws it, in place of the run's own mixture.
    assert main(["report", str(runs["whole"]), "--mixture", str(tmp_path / "m")]) == 0
    page = (tmp_path / "m/report.html").read_text()
    assert "web by gopher_quality.words and domain" in page and "web-words13-other" in page
    capsys.readouterr()
    assert main(["report", str(runs["other"]), "--mixture", str(tmp_path / "m")]) == 2
    assert "is no mixture that was made of" in capsys.readouterr().err


def test_a_run_on_s3_is_split_there(runs: dict[str, Path], tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    remote = run(recipe(tmp_path / "in", []), s3.uri("runs", "split"))  # type: ignore[arg-type]
    out = s3.uri("mixed")
    assert main(["mix", str(remote), "--split", f"web={json.dumps(WORDS)}", "--files", "copy", "--out", out]) == 0
    assert main(["inspect", out]) == 0
    mixed(runs["whole"], tmp_path / "m", WORDS)
    ours, theirs = open_data(fetched(out), 16), open_data(tmp_path / "m", 16)
    assert ours.fingerprint == theirs.fingerprint
    assert np.array_equal(ours.train.tokens(0, len(ours.train)), theirs.train.tokens(0, len(ours.train)))


def test_killed_it_goes_on(runs: dict[str, Path], tmp_path: Path) -> None:
    asked = ["mix", str(runs["whole"]), "--split", f"web={json.dumps(WORDS)}", "--out"]
    assert main([*asked, str(tmp_path / "once")]) == 0
    for count in (40, 150):
        command = [sys.executable, "tests/kill_at.py", str(count), *asked, str(tmp_path / "killed")]
        assert subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == -signal.SIGKILL
    assert main([*asked, str(tmp_path / "killed")]) == 0
    found = [{path.name: path.read_bytes() for path in (tmp_path / name / "tokens").rglob("*.*")} for name in ("once", "killed")]
    assert found[0] == found[1]
    assert load_manifest(tmp_path / "once") == load_manifest(tmp_path / "killed")
