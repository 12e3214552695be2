"""Clusters of a finished run: sizes, samples and sources equal to what was planted, for methods that count and for bff."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from dedup_corpus import prose

from pipeline.carry_out import Options, run_recipe
from pipeline.progress import Progress
from pipeline.questions.clusters import clusters, size_ranges
from pipeline.recipe.recipe import build_recipe
from stages.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources: of `a`, one text five times and one twice, and a notice in three; `b` has two of its texts again."""
    folder = tmp_path_factory.mktemp("clusters")
    rng = random.Random(5)
    own = [prose(rng, 60, 99) for _ in range(8)]
    notice = prose(rng, 20, 99)
    texts = {"a": [own[0]] * 5 + [own[1]] * 2 + [f"{text}\n{notice}" for text in own[2:5]], "b": [own[0], own[1], *own[5:]]}
    for name, lines in texts.items():
        rows = [json.dumps({"id": f"{name}{i}", "text": text}) + "\n" for i, text in enumerate(lines)]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    recipe = {
        "name": "clusters",
        "sources": {
            "a": {"read": {"paths": [f"{folder}/a.jsonl"]}, "steps": [{"dedup": {"method": "bff", "fp_rate": 1e-6}}]},
            "b": {"read": {"paths": [f"{folder}/b.jsonl"]}, "steps": [{"dedup": {"method": "exact"}}]},
            "c": {"read": {"paths": [f"{folder}/a.jsonl"]}, "steps": []},
        },
        "dedup": [{"dedup": {"method": "minhash", "ngram": 3}}],
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "100KB"}},
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
    }
    run_recipe(build_recipe(recipe, None, []), Options(str(folder / "run"), inline=True, progress=Progress(quiet=True)))
    return folder / "run"


def test_clusters_across_sources(finished: Path) -> None:
    (found,) = clusters(str(finished), "all/dedup").dedups
    # What bff left of a: 0, 5, 7, 8, 9. With b and c: one text seven times, one four times; a's two others were cut.
    assert found.method == "minhash"
    assert sum(size * count for size, count in found.sizes) - sum(n for _, n in found.sizes) == found.removed
    largest = found.largest[0]
    assert largest.size == 7 and largest.by_source == {"b": 1, "c": 5}
    assert (largest.kept.source, largest.kept.id) == ("a", "a0")
    assert [(p.source, p.id) for p in largest.removed] == [("b", "b0"), ("c", "a0"), ("c", "a1")]
    assert {p.text for p in largest.removed} == {largest.kept.text}
    lost = {(source, kept): documents for source, kept, documents, _ in found.lost}
    assert sum(lost.values()) == found.removed and lost["b", "a"] == 2


def test_clusters_of_bff_name_the_paragraphs(finished: Path) -> None:
    (found,) = clusters(str(finished), "a").dedups
    assert (found.documents, found.removed, found.paragraphs) == (10, 5, 2)
    assert found.sizes == [(2, 1), (3, 1), (5, 1)]
    assert found.lost == [("a", "a", 5, 2)]
    first, second = found.largest[:2]
    assert (first.size, first.kept.id, [p.id for p in first.removed]) == (5, "a0", ["a1", "a2", "a3"])
    assert (second.size, second.kept.id) == (3, "a7")
    assert {(p.what, p.id) for p in second.removed} == {("paragraph", "a8"), ("paragraph", "a9")}
    notice = json.loads((finished.parent / "a.jsonl").read_text().splitlines()[8])["text"].splitlines()[1]
    assert {p.text for p in second.removed} == {notice}


def test_counting_in_passes_changes_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = clusters(str(finished))
    monkeypatch.setattr("pipeline.questions.clusters.PASS_BYTES", 48)
    assert clusters(str(finished)) == whole


def test_memory_and_disk_are_in_the_summary(finished: Path) -> None:
    for dedup in json.loads((finished / "summary.json").read_bytes())["dedup"].values():
        assert all(need["memory"] > 0 for need in dedup["needs"])


def test_the_command_shows_tables_and_writes_a_picture(finished: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "clusters", str(finished), "--svg", str(tmp_path / "c.svg")]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "dedup all/dedup (minhash)" in shown and "6 documents removed for one that stays: 1 of b, 5 of c" in shown
    picture = ElementTree.parse(tmp_path / "c.svg")
    titles = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text") if text.get("font-weight")]
    assert titles == ["a/dedup (bff): clusters by size; 5 of 10 documents removed", titles[1]]


def test_mistakes_are_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean all/dedup"):
        clusters(str(finished), "al/dedup")
    with pytest.raises(UserError, match="no finished run"):
        clusters(str(tmp_path))


def test_ranges_of_sizes_double() -> None:
    assert size_ranges([(2, 4), (5, 1), (8, 1), (40, 2)]) == [
        ("2", 4, 8), ("3", 0, 0), ("4", 0, 0), ("5-8", 2, 13), ("9-16", 0, 0), ("17-32", 0, 0), ("33-64", 2, 80),
    ]  # fmt: skip
    assert size_ranges([]) == []
