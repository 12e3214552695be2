"""How files are cut into splits, seen from outside: whatever the size of a split, the same documents and shards."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from told import first_source

from pipeline import storage
from pipeline.carry_out import Options, run_recipe
from pipeline.plan.corpus import Inputs, corpus
from pipeline.plan.node import Stage
from pipeline.plan.sources import list_files
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe

TEXTS = [" ".join(text.split()[:90]) for _, text in sorted(topics.items()) if len(text.split()) > 20][:60]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One plain file, its last line without an end, with an empty line and one that is no JSON."""
    lines = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(TEXTS)]
    lines[10:10] = ["", "no JSON"]
    path = tmp_path_factory.mktemp("plain") / "all.jsonl"
    path.write_text("\n".join(lines))
    return path


def run(data: dict[str, Any], out: Path) -> tuple[dict[str, str], list[tuple[Any, ...]], int]:
    """Digests of what the run made, the places of its documents, and how many parts they lie in."""
    summary = run_recipe(build_recipe(data), Options(str(out), inline=True, progress=Progress(quiet=True)))
    made = digests(out)
    parts = sorted(out.glob("parts/web/0/*.kept.parquet"))
    places = [tuple(row.values()) for p in parts for row in pq.read_table(p, columns=["id", "record", "offset"]).to_pylist()]
    assert first_source(summary).failed.documents == 1
    return made, places, len(parts)


def digests(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted([out / "manifest.json", *out.glob("tokens/*/*")])
    }


def recipe(path: str, split: str) -> dict[str, Any]:
    return {
        "name": "cut",
        "sources": {"web": {"read": {"paths": [path]}, "steps": [{"dedup": {"method": "exact"}}]}},
        "tokenizer": {"train": {"vocab_size": 400}},
        "mixture": {},
        "run": {"split_bytes": split, "failures": {"documents": 0.5}},
    }


def test_a_large_plain_file_is_read_by_several_tasks_with_the_same_result(plain: Path, tmp_path: Path) -> None:
    whole, places, parts = run(recipe(str(plain), "1GiB"), tmp_path / "whole")
    assert parts == 1 and len(places) == len(TEXTS)
    raw = plain.read_bytes()
    lines = raw.split(b"\n")
    for id, record, offset in places:  # counted over the whole file
        assert json.loads(lines[record - 1])["id"] == id
        assert raw[offset:].startswith(lines[record - 1])
    cut, same_places, parts = run(recipe(str(plain), "3KB"), tmp_path / "cut")
    assert parts > 5
    assert (cut, same_places) == (whole, places)


@pytest.mark.parametrize(("suffix", "place"), [(".jsonl.gz", "disk"), (".jsonl.zst", "S3"), (".jsonl.gz", "staged")])
def test_a_large_compressed_file_is_read_by_several_tasks_with_the_same_result(
    suffix: str, place: str, plain: Path, tmp_path: Path, s3: Any
) -> None:
    """A gzip file of one member, a zstd file of many frames; documents without ids are called by their lines."""
    draw = random.Random(0)
    noise = "".join(json.dumps({"n": "".join(draw.choices("abcdefghijklmnop", k=3000))}) + "\n" for _ in range(100)).encode()
    lines = [line + b"\n" + noise for line in plain.read_bytes().split(b"\n")]
    packed = gzip.compress(b"".join(lines), 1) if suffix.endswith("gz") else b"".join(map(zstandard.compress, lines))
    source = str(tmp_path / f"all{suffix}") if place == "disk" else s3.uri("packed", f"{place}{suffix}")
    storage.write_bytes(source, packed)
    data = recipe(source, "1GiB")
    data["run"]["stage_inputs"] = place == "staged"
    data["sources"]["web"]["read"]["id_field"] = None
    data["run"]["failures"]["documents"] = 1.0
    made = []
    for split in ("1GiB", "1MB"):
        data["run"]["split_bytes"] = split
        out = tmp_path / split
        run_recipe(build_recipe(data), Options(str(out), inline=True, progress=Progress(quiet=True)))
        parts = sorted(out.glob("parts/web/0/*.kept.parquet"))
        rows = [row for part in parts for row in pq.read_table(part, columns=["id", "record", "offset", "text"]).to_pylist()]
        made.append((len(parts), rows, digests(out)))
    assert (made[0][0], made[1][0] > 4) == (1, True)
    assert len(made[0][1]) == len(TEXTS) and made[0][1:] == made[1][1:]


def test_small_files_are_tasks_enough_for_many_cores(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS))
    for number in range(12):
        (tmp_path / f"{number:02d}.jsonl").write_text(lines * (7_600_000 // len(lines)))
    assert [len(split) for split in cut(tmp_path)] == [1] * 12
    assert max(sum(file.size for file in split) for split in cut(tmp_path, "20MB")) > 15_000_000


def cut(folder: Path, split: str | None = None) -> list[tuple[Any, ...]]:
    """The files of each of a source's splits."""
    data = recipe(f"{folder}/*.jsonl", "1GB")
    data["run"] = {"split_bytes": split} if split else {}
    found = build_recipe(data)
    files = {"web": list_files("web", [f"{folder}/*.jsonl"])}
    walk = corpus(found, Inputs(str(folder / "run"), files))
    request = next(walk)
    while not isinstance(request, Stage):
        request = walk.send(None)
    return [node.job.files for node in request.nodes]
