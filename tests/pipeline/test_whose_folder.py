"""A run deletes nothing of anybody else's, and names are nothing but names: tried at the command line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from ledgers import entries

from pipeline.cli import main
from stages.tokens.shard_format import load_manifest
from stages.tokens.train_tokenizer import train_tokenizer

TEXTS = [" ".join(text.split()[:70]) for _, text in sorted(topics.items()) if len(text.split()) > 70]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place in ("en", "de"):
        (tmp_path / place).mkdir()
        rows = [json.dumps({"text": f"{place} {text}"}) + "\n" for text in TEXTS[:20]]
        (tmp_path / place / "part-0.jsonl").write_text("".join(rows))
    train_tokenizer(iter(TEXTS), tmp_path / "tokenizer.json", 300, 1 << 20)
    return tmp_path


def write(folder: Path, file: str, name: str = "mine", **changes: Any) -> Path:
    data = {
        "name": name,
        "sources": {"web": {"read": {"paths": [f"{folder}/*/part-*.jsonl"]}}},
        "tokenizer": {"path": str(folder / "tokenizer.json")},
        "mixture": {},
        **changes,
    }
    path = folder / file
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def run(recipe: Path, out: Path, *more: str) -> int:
    return main(["run", str(recipe), "--out", str(out), "--inline", "--quiet", *more])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_with_files_of_the_users_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    for name in ("parts/x", "tokens/web/00000.npy", "manifest.json"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("the user's own")
    before = files(out)
    assert run(write(folder, "a.yaml"), out) == 2
    error = capsys.readouterr().err
    assert "is not empty and holds no run" in error and "choose another --out" in error and error.count("\n") == 1
    assert {k: v for k, v in files(out).items() if k != "run.lock"} == before


@pytest.mark.parametrize("second", [{"name": "other"}, {"name": "mine", "seed": 5}])
def test_another_recipe_does_not_delete_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str], second: dict[str, Any]
) -> None:
    """One of another name, and one of the same name in another file."""
    out = folder / "out"
    assert run(write(folder, "a.yaml"), out) == 0
    before = files(out)
    other = write(folder, "b.yaml", **second)
    assert run(other, out) == 2
    error = capsys.readouterr().err
    assert "holds the run of" in error and "--take-over" in error and "--out" in error and error.count("\n") == 1
    assert files(out).keys() == before.keys() and all(files(out)[k] == v for k, v in before.items() if k != "run.lock")
    assert run(other, out, "--take-over") == 0
    assert run(folder / "a.yaml", out) == 2


def test_a_recipe_that_was_edited_or_copied_goes_on_in_its_folder(folder: Path) -> None:
    out = folder / "out"
    recipe = write(folder, "a.yaml")
    assert run(recipe, out) == 0
    assert run(recipe, out, "--set", "shards.held_out=0.2") == 0
    write(folder, "a.yaml", seed=7)
    assert run(recipe, out) == 0
    copy = folder / "copy.yaml"
    copy.write_text(recipe.read_text())
    assert run(copy, out) == 0


def test_files_of_the_users_beside_a_run_stay(folder: Path) -> None:
    """Notes that somebody put into a finished run's folder, among its parts too."""
    out = folder / "out"
    recipe = write(folder, "a.yaml")
    assert run(recipe, out) == 0
    notes = [out / "notes.txt", out / "parts/notes.txt", out / "tokens/web/notes.txt"]
    for note in notes:
        note.write_text("mine")
    assert run(recipe, out, "--set", "shards.held_out=0.3") == 0
    assert all(note.read_text() == "mine" for note in notes)


def test_sources_may_be_named_as_parts_of_the_run_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`tokenize`, `"0"`, `dedup`: names are never parsed back."""
    sources = {
        name: {"read": {"paths": [f"{folder}/{place}/*.jsonl"]}, "steps": [{"dedup": {"method": "exact"}}]}
        for name, place in (("tokenize", "en"), ("0", "de"))
    }
    out = folder / "out"
    assert run(write(folder, "a.yaml", sources=sources), out) == 0
    capsys.readouterr()
    assert main(["why", str(out), "part-0.jsonl:3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["documents"]
    assert sorted(d["source"] for d in found) == ["0", "tokenize"]
    assert main(["report", str(out), "--out", str(folder / "page.html")]) == 0
    assert "the ledger balances" in capsys.readouterr().out
    assert main(["status", str(out)]) == 0 and main(["inspect", str(out)]) == 0


def test_documents_without_an_id_are_told_apart_by_their_folders(folder: Path) -> None:
    out = folder / "out"
    assert run(write(folder, "a.yaml"), out) == 0
    parts = [pq.read_table(path, columns=["id"]) for path in out.glob("parts/web/0/*.kept.parquet")]
    ids = [name for part in parts for name in part.column("id").to_pylist()]
    assert len(set(ids)) == len(ids) == 40
    assert {"en/part-0.jsonl:1", "de/part-0.jsonl:1"} <= set(ids)


def test_recipes_of_two_names_hold_out_the_same_documents(folder: Path) -> None:
    held = {}
    for name in ("one", "two"):
        recipe = write(folder, f"{name}.yaml", name, shards={"held_out": 0.3})
        assert run(recipe, folder / name) == 0
        manifest = load_manifest(folder / name)
        held[name] = [shard["sha256"] for shard in manifest["sources"]["web"]["held_out"]["shards"]]
        assert manifest["sources"]["web"]["held_out"]["documents"] > 3
    assert held["one"] == held["two"]
    recipe = write(folder, "three.yaml", "three", shards={"held_out": 0.3, "held_out_salt": "another"})
    assert run(recipe, folder / "three") == 0
    shards = load_manifest(folder / "three")["sources"]["web"]["held_out"]["shards"]
    assert [shard["sha256"] for shard in shards] != held["one"]


STEPS = [{"gopher_quality": {"words": [5, 1000], "stop_words": None, "symbol_ratio": None}}, {"limit_newlines": {}}]


def test_a_step_set_to_null_is_taken_out(folder: Path) -> None:
    sources = {"web": {"read": {"paths": [f"{folder}/en/*.jsonl"]}, "steps": STEPS}}
    recipe, out = write(folder, "a.yaml", sources=sources), folder / "out"
    assert run(recipe, out, "--set", "sources.web.steps.gopher_quality=null") == 0
    steps = json.loads((out / "recipe.json").read_bytes())["sources"]["web"]["steps"]
    assert [name for name, _ in steps] == ["limit_newlines"]
    assert not any("gopher_quality" in c for p in out.glob("parts/web/0/*.kept.parquet") for c in pq.read_schema(p).names)


@pytest.mark.parametrize("value", ["false", "{}", "3", "[]"])
def test_a_step_set_to_nothing_else_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    sources = {"web": {"read": {"paths": [f"{folder}/en/*.jsonl"]}, "steps": STEPS}}
    recipe = write(folder, "a.yaml", sources=sources)
    assert run(recipe, folder / "out", "--set", f"sources.web.steps.gopher_quality={value}") == 2
    error = capsys.readouterr().err
    assert "sources.web.steps.gopher_quality" in error and "null takes the step out" in error and error.count("\n") == 1


def flipped(data: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def with_ids_swapped(data: bytes) -> bytes:
    """An index that reads as well as before: its first two documents have each other's ids."""
    rows = [line.split(",") for line in gzip.decompress(data).decode().splitlines()]
    rows[0][2], rows[1][2] = rows[1][2], rows[0][2]
    return gzip.compress("".join(",".join(row) + "\n" for row in rows).encode())


def test_damage_is_found_by_inspect_and_mended_by_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A byte of the tokenizer, two ids swapped in an index, a token: each is seen, and only what is damaged is made again."""
    out = folder / "out"
    recipe = write(folder, "a.yaml")
    assert run(recipe, out) == 0
    whole = files(out)
    tasks = len(entries(out))
    for name, damage in (
        ("tokenizer/tokenizer.json", flipped),
        ("tokens/web/00000.csv.gz", with_ids_swapped),
        ("tokens/web/00000.npy", flipped),
    ):
        (out / name).write_bytes(damage(whole[name]))
        capsys.readouterr()
        assert main(["inspect", str(out)]) == 1
        assert name in capsys.readouterr().out
        assert run(recipe, out, "--verify", "--json") == 0
        assert 1 <= json.loads(capsys.readouterr().out)["tasks_run"] < tasks / 2
        assert (out / name).read_bytes() == whole[name]
        assert main(["inspect", str(out)]) == 0
