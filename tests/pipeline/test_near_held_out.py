"""Near copies of held-out documents: counted by source, or left out of training; by the command line, on small files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from stages.tokens.shard_format import load_manifest, read_index

WORDS = [
    f"{a}{b}"
    for a in ("mill", "wheel", "water", "stone", "river", "grain")
    for b in ("ing", "er", "wright", "bed", "s")
]
TEXTS = 60
SHARE = 0.3


def text(number: int) -> str:
    """200 words that no other text has in this order."""
    words = random.Random(number)
    return " ".join(words.choice(WORDS) for _ in range(200))


def edited(number: int) -> str:
    """The same text with a word changed in the middle and a sentence before it."""
    words = text(number).split()
    return "Copied from elsewhere. " + " ".join([*words[:100], "otherwise", *words[101:]])


def quoting(number: int) -> str:
    """Another text, with a few words of this one in it."""
    return f"{text(1000 + number)} {' '.join(text(number).split()[:30])}"


def write_recipe(folder: Path, name: str, **shards: str | float) -> Path:
    """A recipe over a.jsonl (60 texts) and b.jsonl (for each its edited copy, and one that quotes it)."""
    rows = {
        "a": [(f"t{i}", text(i)) for i in range(TEXTS)],
        "b": [row for i in range(TEXTS) for row in ((f"e{i}", edited(i)), (f"q{i}", quoting(i)))],
    }
    for source, some in rows.items():
        lines = (json.dumps({"id": id_, "text": content}) for id_, content in some)
        (folder / f"{source}.jsonl").write_text("\n".join(lines) + "\n")
    recipe = {
        "name": name,
        "sources": {source: {"read": {"paths": [str(folder / f"{source}.jsonl")]}, "steps": []} for source in rows},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "20KB"}},
        "shards": {"bytes": "64KB", "held_out": SHARE, **shards},
        "mixture": {"epochs": 1},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(recipe: Path, out: Path, *more: str) -> dict:
    """The manifest of a run, made in this process unless `more` says how many workers there are."""
    how = more if "--workers" in more else ("--inline", *more)
    assert main(["run", str(recipe), "--out", str(out), "--quiet", *how]) == 0
    return load_manifest(out)


def ids(out: Path, split: str) -> set[str]:
    """The ids of a split's documents, of all sources."""
    entries = load_manifest(out)["sources"].values()
    shards = [shard for entry in entries for shard in (entry if split == "train" else entry["held_out"])["shards"]]
    return {row.id for shard in shards for row in read_index(out / shard["index"])}


def without_b(recipe: dict) -> dict:
    """The recipe with its first source alone."""
    return {**recipe, "sources": {"a": recipe["sources"]["a"]}}


def tokens(manifest: dict) -> list[str]:
    """What the training shards hold."""
    return [shard["sha256"] for entry in manifest["sources"].values() for shard in entry["shards"]]


def held_and_copied(out: Path) -> set[str]:
    """Ids of training documents whose twin (edited copy, or what it is a copy of) is held out."""
    held = ids(out, "held_out")
    twins = {f"e{name[1:]}" if name[0] == "t" else f"t{name[1:]}" for name in held if name[0] in "te"}
    return twins - held


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counted")
    run(write_recipe(folder, "first"), folder / "run")
    return folder / "run"


def test_near_copies_are_counted_and_stay(counted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = held_and_copied(counted)
    assert len(planted) > 10 and planted <= ids(counted, "train")
    facts = load_manifest(counted)["held_out"]
    assert facts["near_copies"] == "count"
    assert {name: one["documents"] for name, one in facts["near"].items()} == {
        "a": sum(name[0] == "t" for name in planted),
        "b": sum(name[0] == "e" for name in planted),  # what quotes a few words is no copy
    }
    assert all(one["tokens"] > 100 * one["documents"] for one in facts["near"].values())
    summary = json.loads((counted / "summary.json").read_text())
    assert summary["held_out"] == facts


def test_the_run_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["run", str(write_recipe(tmp_path, "shown")), "--out", str(out), "--inline"]) == 0
    near = load_manifest(out)["held_out"]["near"]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("near copies of held-out"))
    assert f"in training: a {near['a']['documents']} (" in line and f", b {near['b']['documents']} (" in line


def test_drop_leaves_them_out_and_the_books_say_so(counted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    manifest = run(write_recipe(tmp_path, "first", near_held_out="drop"), out)
    planted = held_and_copied(counted)
    assert ids(out, "held_out") == ids(counted, "held_out")
    assert ids(out, "train") == ids(counted, "train") - planted
    assert manifest["held_out"]["near"] == load_manifest(counted)["held_out"]["near"]
    summary = json.loads((out / "summary.json").read_text())["sources"]
    dropped = {name: one["dropped"]["held_out.near_copy"]["documents"] for name, one in summary.items()}
    assert dropped == {name: one["documents"] for name, one in manifest["held_out"]["near"].items()}
    for name, one in summary.items():
        entry = manifest["sources"][name]
        assert one["documents_kept"] == entry["documents"] + entry["held_out"]["documents"]
    assert main(["inspect", str(out)]) == 0
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file())
    run(tmp_path / "first.yaml", out)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file())


def test_counting_decides_no_byte(counted: Path, tmp_path: Path) -> None:
    """Whether they are counted changes neither the fingerprint nor what was made; dropping them changes both."""
    recipe = write_recipe(tmp_path, "first", near_held_out="ignore")
    ignored = run(recipe, tmp_path / "run")
    assert ignored["held_out"] == {"share": SHARE, "salt": "headrace"}
    first = run(counted.parent / "first.yaml", counted)
    # The two recipes read files of different folders, which hash and indexes hold; the tokens are equal.
    assert tokens(ignored) == tokens(first)
    again = run(recipe, tmp_path / "run", "--set", "shards.near_held_out=count")
    assert again["fingerprint"] == ignored["fingerprint"] and again["held_out"]["near"] == first["held_out"]["near"]
    dropped = run(recipe, tmp_path / "run", "--set", "shards.near_held_out=drop")
    assert dropped["fingerprint"] != ignored["fingerprint"]
    back = run(recipe, tmp_path / "run")
    assert back["sources"] == ignored["sources"]


def test_recipes_of_other_names_hold_out_the_same(counted: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "second")
    recipe.write_text(yaml.safe_dump(without_b(yaml.safe_load(recipe.read_text()))))
    run(recipe, tmp_path / "run")
    held = ids(counted, "held_out")
    assert ids(tmp_path / "run", "held_out") == {name for name in held if name[0] == "t"} != set()


@pytest.mark.parametrize("how", [("--workers", "2"), ("--workers", "1")])
def test_the_same_bytes_with_workers_and_other_splits(tmp_path: Path, how: tuple[str, ...]) -> None:
    recipe = write_recipe(tmp_path, "same", near_held_out="drop")
    one = run(recipe, tmp_path / "one")
    other = run(recipe, tmp_path / "other", *how, "--set", "run.split_bytes=20KB", "run.keep=none")
    assert len(list((tmp_path / "one" / "parts").rglob("*.ngrams"))) == 1
    assert one["fingerprint"] == other["fingerprint"] and one["held_out"] == other["held_out"]
    for path in sorted((tmp_path / "one" / "tokens").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "other" / path.relative_to(tmp_path / "one")).read_bytes(), path
