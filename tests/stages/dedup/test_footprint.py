"""What a dedup says that it needs is no less than what it takes."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from dedup_corpus import deduplicate, prose, write_parts

from stages.dedup.footprint import footprint, suffix_memory
from stages.dedup.phases import phases
from stages.dedup.spec import read_spec
from stages.dedup.tasks import group_parts

SPECS = [
    {"method": "minhash"},
    {"method": "minhash", "verify": 0.9, "keep": "longest"},
    {"method": "exact"},
    {"method": "bff"},
    {"method": "substring", "length": 40},
]
SHARDS = {"bff": 100, "substring": 10_000}


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_disk_is_bounded(tmp_path, spec) -> None:
    rng = random.Random(3)
    texts = [prose(rng, 40, 20) for _ in range(1500)]
    documents = [{"text": t} for t in texts + texts]
    parts = write_parts(tmp_path / "in", documents, 1500)
    summary, removed = deduplicate(tmp_path / "out", spec, parts, 1 << 30)
    assert len(removed) >= 1500
    size = sum(p["bytes"] for p in parts)
    needs = footprint(read_spec(spec), len(documents), size, len(group_parts(parts, 1 << 30)))
    rounds = summary.get("rounds", 0) + 1
    stated = sum(n.disk * (rounds if n.phase == "components" else 1) for n in needs)
    taken = sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
    assert taken < stated


@pytest.mark.parametrize(("unit", "factor"), [("words", 5), ("bytes", 9)])
def test_a_suffix_array_takes_what_is_stated(tmp_path, unit, factor) -> None:
    rng = random.Random(4)
    text = prose(rng, 120_000, 20)
    texts = [text[i : i + 4000] for i in range(0, len(text), 4000)]
    parts = write_parts(tmp_path / "in", [{"text": t} for t in texts + texts[:40]], 20)
    spec = {"method": "substring", "unit": unit, "min_left": 0}
    running = phases(spec, [parts], str(tmp_path))
    counting = next(running)
    counted = [task.function(**task.arguments) for task in counting.tasks]
    (task,) = running.send(counted).tasks
    stated = suffix_memory(unit, task.arguments["sequence_bytes"], task.arguments["documents"])
    assert stated == factor * task.arguments["sequence_bytes"] + 17 * task.arguments["documents"]
    task.function(**task.arguments, **task.outputs)  # libraries and kernels, loaded once
    tracemalloc.start()
    try:
        task.function(**task.arguments, **task.outputs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.9 * stated < peak < stated + (2 << 20)  # and a batch of texts, small here


def test_full_corpus_of_dclm_fits_a_node() -> None:
    documents, size = 3_080_000_000, 16 * 10**12
    for spec in SPECS:
        shards = {"shards": SHARDS[spec["method"]]} if spec["method"] in SHARDS else {}
        needs = footprint(read_spec(spec | shards), documents, size, 1000)
        assert all(n.memory < 64 << 30 for n in needs)
        assert sum(n.disk for n in needs) < 20 * 10**12


def test_groups_are_consecutive_and_few() -> None:
    parts = [{"ordinal": i, "path": "", "source": "", "documents": 1, "bytes": 10} for i in range(5000)]
    groups = group_parts(parts, 25)
    assert [p["ordinal"] for g in groups for p in g] == list(range(5000))
    assert len(groups) <= 1000
    assert [len(g) for g in group_parts(parts[:5], 25)] == [2, 2, 1]
