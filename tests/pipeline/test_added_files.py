"""Files that are added to a source: what was there is not read, filtered, signed or tokenized again; the bytes are those of a
fresh run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from dedup_corpus import altered, prose
from ledgers import entries

from pipeline import storage
from pipeline.cli import main
from pipeline.jobs.cut import Gathered
from pipeline.jobs.dedup_call import CallReport
from pipeline.jobs.inputs import SourceFile
from pipeline.plan.sources import Piece, gather
from stages.tokens.train_tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
METHODS: dict[str, dict[str, Any]] = {
    "exact": {"method": "exact"},
    "url": {"method": "url"},
    "minhash": {"method": "minhash", "ngram": 3, "bands": 6, "rows": 4},
    "bff": {"method": "bff", "ngram": 8, "fp_rate": 1e-9},
}
TWO = ("minhash", "bff")  # exact and url go minhash's way
SIGNS = {"exact": "scatter", "url": "scatter", "minhash": "scatter", "bff": "count"}


def write_files(folder: str, names: str, apart: bool = False) -> None:
    """Files of copies of one another, each the same whenever it is written; apart: of copies within each alone."""
    for name in names:
        rng = random.Random(f"{name} apart" if apart else 9)
        texts = [prose(rng, 40) for _ in range(30)]
        rng = random.Random(name)
        rows = []
        for number in range(25):
            text = rng.choice(texts) if rng.random() < 0.6 else prose(rng, 40)
            text = altered(rng, text, 2) if rng.random() < 0.4 else text
            rows.append({"id": f"{name}{number}", "text": text, "url": f"http://a{name * apart}.example/{rng.randrange(60)}"})
        storage.write_bytes(f"{folder}/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def recipe(folder: Path, paths: str, method: str) -> Path:
    """A recipe with a filter before and one after the dedup."""
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(iter(prose(random.Random(1), 400).split(". ")), folder / "tokenizer.json", 300)
    first = {"gopher_quality": {"words": {"min": 3}, "stop_words": {"min": 0}, "mean_word_length": {"max": 1000}}}
    steps = [first, {"dedup": METHODS[method]}, {"mask_pii": {}}]
    data = {
        "name": "added",
        "sources": {"web": {"read": {"paths": [f"{paths}/*.jsonl"]}, "steps": steps}},
        "tokenizer": {"path": str(folder / "tokenizer.json")},
        "shards": {"held_out": 0.1, "near_held_out": "ignore"},
        "mixture": {"epochs": 1},
    }
    (folder / f"{method}.yaml").write_text(yaml.safe_dump(data))
    return folder / f"{method}.yaml"


def run(recipe: Path, out: str, *more: str) -> None:
    assert main(["run", str(recipe), "--out", out, "--inline", "--quiet", *more]) == 0


def result(out: str) -> dict[str, bytes]:
    """The bytes that a run is for, by name."""
    names = [entry.uri for entry in storage.list_files(f"{out}/tokens/*/*")]
    found = {name.removeprefix(out): storage.read_bytes(name) for name in names}
    manifest = json.loads(storage.read_bytes(f"{out}/manifest.json"))
    return found | {"fingerprint": manifest["fingerprint"].encode()}


def made(out: str, before: set[str]) -> Counter[tuple[str, str]]:
    """The tasks that ran since, by kind and stage."""
    new = [entry for entry in entries(out) if entry.key not in before]
    return Counter((entry.ref.kind, entry.ref.stage.rpartition(" ")[2]) for entry in new)


def signed(out: str, before: set[str]) -> int:
    """The parts that tasks signed or counted since."""
    new = [entry for entry in entries(out) if entry.key not in before and entry.ref.stage.endswith(("scatter", "count"))]
    results = [json.loads(bytes(entry.report_as(CallReport).result)) for entry in new]
    return sum(one["documents"] // 20 if "documents" in one else len(one) for one in results)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("later", ["f", "b", "0"])  # behind the others, between them, before them
@pytest.mark.parametrize("apart", [False, True], ids=["copies", "apart"])
def test_only_the_new_file_is_read_filtered_signed_and_tokenized(
    tmp_path: Path, method: str, later: str, apart: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    files, out = str(tmp_path / "files"), str(tmp_path / "out")
    write_files(files, "ace")
    asked = recipe(tmp_path, files, method)
    run(asked, out)
    before = {entry.key for entry in entries(out)}
    write_files(files, later, apart)
    capsys.readouterr()
    run(asked, out)
    told = capsys.readouterr().out
    again = made(out, before)
    assert again["documents", "0"] == 1 and again["dedup", SIGNS[method]] == signed(out, before) == 1
    ran = sum(count for (kind, _), count in again.items() if kind not in ("cut size", "dedup layout", "dedup result"))
    assert f"{ran} tasks run" in told
    if apart or (later == "f" and method != "bff"):  # no document that was there goes for one of the new file, or for another one
        assert again["documents", "1"] == 1 and again["tokenize", ""] == 1
    run(asked, str(tmp_path / "fresh"))
    assert result(out) == result(str(tmp_path / "fresh"))
    assert main(["clusters", out]) == main(["clusters", str(tmp_path / "fresh")]) == 0
    assert main(["run", str(asked), "--out", out, "--inline", "--quiet"]) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("method", TWO)
def test_files_on_s3_and_a_run_there(tmp_path: Path, s3: Any, method: str) -> None:
    files, out = s3.uri("added", method), s3.uri("runs", method)
    write_files(files, "ac")
    asked = recipe(tmp_path, files, method)
    run(asked, out)
    before = {entry.key for entry in entries(out)}
    write_files(files, "b")
    run(asked, out)
    again = made(out, before)
    assert again["documents", "0"] == again["dedup", SIGNS[method]] == 1
    run(asked, str(tmp_path / "fresh"))
    assert result(out) == result(str(tmp_path / "fresh"))


@pytest.mark.parametrize("method", TWO)
def test_killed_while_a_file_is_added(tmp_path: Path, method: str) -> None:
    """Killed at many places, each time a bit later, and started again: what is there stays, and the bytes are the same."""
    files, out = str(tmp_path / "files"), str(tmp_path / "out")
    write_files(files, "ac")
    asked = recipe(tmp_path, files, method)
    run(asked, out)
    before = {entry.key for entry in entries(out)}
    write_files(files, "b")
    kills = 0
    for count in (5, 25, 60, 90, 120):
        command = [sys.executable, "tests/kill_at.py", str(count), "run", str(asked), "--out", out, "--inline", "--quiet"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        kills += done.returncode == -signal.SIGKILL
    assert kills > 3
    run(asked, out)
    assert before & {entry.key for entry in entries(out) if entry.ref.kind == "documents" and entry.ref.stage == "0"}
    assert made(out, before)["documents", "0"] == 1
    run(asked, str(tmp_path / "fresh"))
    assert result(out) == result(str(tmp_path / "fresh"))


def test_in_whatever_order_files_come_groups_are_whole_and_stay() -> None:
    """Of many small files some are gathered; a file that comes changes one group at most, and none where it comes at an end."""
    rng = random.Random(5)
    for _ in range(30):
        names = rng.sample(range(1000), 60)
        sizes = {name: rng.choice([0, 10, 100, 900, 3000]) for name in names}

        def pieces(names: list[int], sizes: dict[int, int] = sizes) -> list[Piece]:
            return [Piece(SourceFile(f"{n}", f"{n:04d}", sizes[n], "", "")) for n in sorted(names)]

        there = names[:20]
        groups = gather(pieces(there), 1000)
        for name in names[20:]:
            known = [Gathered(first=group[0].place, last=group[-1].place) for group in groups]
            there.append(name)
            now = gather(pieces(there), 1000, known, 1 << 30)
            assert [piece for group in now for piece in group] == pieces(there)
            changed = [group for group in groups if group not in now]
            inside = any(group[0].file.name < f"{name:04d}" < group[-1].file.name for group in groups)
            assert len(changed) == inside
            groups = now
        fresh = gather(pieces(there), 1000)
        assert all(len(group) == 1 or sum(piece.file.size for piece in group) <= 1000 for group in fresh)
        assert all(sum(p.file.size for p in (*a, b[0])) > 1000 for a, b in pairwise(fresh))
