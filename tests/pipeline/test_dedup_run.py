"""Dedup within whole runs: every method, paragraphs cut by bff, books that close, the same bytes however cut."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from dedup_corpus import new_word, prose
from ledgers import names
from rich.console import Console
from tokenizers import Tokenizer

from pipeline import storage
from pipeline.carry_out import Options, run_recipe
from pipeline.engine import place, room
from pipeline.progress import Progress
from pipeline.questions.clusters import clusters, show_clusters
from pipeline.recipe.overrides import RecipeError
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.run_summary import RunSummary
from stages.dedup import bff, edit, spec
from stages.errors import UserError
from stages.tokens.shard_format import load_manifest


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of one source, one of another: own paragraphs, a shared notice, copies within and across sources."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = random.Random(1)
    notice = prose(rng, 20, 99)
    own = [prose(rng, 40, 99) for _ in range(30)]
    web = [f"{text}\n{notice}" for text in own[:20]] + [own[3], own[4] + " " + new_word(rng)]
    rng.shuffle(web)
    for name, texts in (("web-0", web[:11]), ("web-1", web[11:]), ("notes", [*own[20:], own[0], own[0]])):
        rows = [json.dumps({"id": f"{name}-{i}", "text": text}) + "\n" for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    return folder


class Usage(NamedTuple):
    """What shutil.disk_usage tells."""

    total: int
    used: int
    free: int


def recipe(inputs: Path, web: list[Any], whole: list[Any] | None = None) -> dict[str, Any]:
    return {
        "name": "dedup",
        "sources": {
            "web": {"read": {"paths": [f"{inputs}/web-*.jsonl"]}, "steps": web},
            "notes": {"read": {"paths": [f"{inputs}/notes.jsonl"]}, "steps": []},
        },
        "dedup": whole or [],
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "100KB"}},
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
    }


def run(data: dict[str, Any], out: Path | str, *changes: str) -> RunSummary:
    return run_recipe(build_recipe(data, None, changes), Options(str(out), inline=True, progress=Progress(quiet=True)))


def texts(out: Path, source: str) -> dict[str, str]:
    """Id -> text of every document in a source's shards."""
    manifest = load_manifest(out)
    tokenizer = Tokenizer.from_file(str(out / manifest["tokenizer"]["path"]))
    found = {}
    for shard in manifest["sources"][source]["shards"]:
        tokens = np.fromfile(out / shard["path"], manifest["dtype"])
        for line in gzip.decompress((out / shard["index"]).read_bytes()).decode().splitlines():
            start, end, name, *_ = line.split(",")
            found[name] = tokenizer.decode(tokens[int(start) : int(end) - 1].tolist(), skip_special_tokens=False)
    return found


def test_threads_that_share_a_filter_change_no_byte_and_run_nothing_again(inputs: Path, tmp_path: Path, monkeypatch) -> None:
    dedup = {"dedup": {"method": "bff", "fp_rate": 0.001, "save": True}}
    alone = run(recipe(inputs, [dedup]), tmp_path / "alone")
    monkeypatch.setattr(spec, "SMALL_FILTER", 0)
    monkeypatch.setattr(place.os, "cpu_count", lambda: 3)
    begun: list[int] = []
    real = bff.start_threads
    monkeypatch.setattr(bff, "start_threads", lambda count: begun.append(count) or real(count))
    shared = run(recipe(inputs, [dedup]), tmp_path / "shared")
    assert begun == [3]  # of the 8 that the recipe allows
    assert shared.sources == alone.sources
    for name in ("alone", "shared"):
        assert (tmp_path / name / "manifest.json").read_bytes() == (tmp_path / "alone/manifest.json").read_bytes()
    run(recipe(inputs, [dedup]), tmp_path / "alone")  # the same keys
    assert begun == [3]


def digest(out: Path) -> str:
    manifest = json.loads((out / "manifest.json").read_bytes())
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


BFF = {"dedup": {"method": "bff", "fp_rate": 1e-6}}


def test_bff_cuts_paragraphs_and_the_books_close(inputs: Path, tmp_path: Path) -> None:
    summary = run(recipe(inputs, [BFF]), tmp_path / "a")
    web = summary.sources["web"]
    assert web.documents_in == 22
    assert {reason: amount.documents for reason, amount in web.dropped.items()} == {"dedup.bff": 2}
    left = texts(tmp_path / "a", "web")
    assert len(left) == 20
    assert sum("\n" in text for text in left.values()) == 1  # the notice stays where it stood first
    run(recipe(inputs, [BFF]), tmp_path / "b", "run.split_bytes=1KB", "run.batch_bytes=2KB", "run.keep=none")
    assert texts(tmp_path / "b", "web") == left
    assert digest(tmp_path / "b") == digest(tmp_path / "a")
    assert not list((tmp_path / "b").glob("parts/dedup/**/part-*.parquet"))


def test_substring_cuts_runs_of_words_across_sources_and_the_books_close(inputs: Path, tmp_path: Path) -> None:
    again = {"dedup": {"method": "substring", "length": 12, "min_left": 5}}
    summary = run(recipe(inputs, [], [again]), tmp_path / "a")
    dropped = {name: {reason: a.documents for reason, a in s.dropped.items()} for name, s in summary.sources.items()}
    assert dropped == {"web": {"dedup.substring": 2}, "notes": {"dedup.substring": 2}}  # one has a word of its own, too few
    left = texts(tmp_path / "a", "web")
    assert sum("\n" in text for text in left.values()) == 1
    found = clusters(str(tmp_path / "a"))
    assert (found.dedups[0].method, found.dedups[0].removed) == ("substring", 4)
    assert ("notes", "web") in [lost[:2] for lost in found.dedups[0].lost]
    console = Console(record=True, width=200)
    show_clusters(found, console)
    shown = console.export_text()
    assert f"and {found.dedups[0].paragraphs} passages of others" in shown and "removed a passage of web-" in shown
    run(recipe(inputs, [], [again]), tmp_path / "b", "run.split_bytes=1KB", "run.batch_bytes=2KB", "run.keep=none")
    assert texts(tmp_path / "b", "web") == left
    assert digest(tmp_path / "b") == digest(tmp_path / "a")
    with pytest.raises(UserError, match=r"dedup.substring, shard 0: .* more than the memory given, 65.5 kB: raise memory"):
        run(recipe(inputs, [], [{"dedup": again["dedup"] | {"memory": 1 << 16}}]), tmp_path / "c")


def test_a_dedup_whose_tokenizer_is_missing_is_refused_at_once(inputs: Path, tmp_path: Path) -> None:
    again = {"dedup": {"method": "substring", "unit": "tokens", "tokenizer": str(tmp_path / "none.json")}}
    with pytest.raises(UserError, match=r"dedup.dedup.tokenizer: .*none.json"):
        run(recipe(inputs, [], [again]), tmp_path / "a")
    assert not (tmp_path / "a" / "ledger").exists()


def test_dedups_follow_one_another(inputs: Path, tmp_path: Path) -> None:
    steps = [{"dedup": {"method": "minhash", "ngram": 3}}, BFF]
    summary = run(recipe(inputs, steps, [{"dedup": {"method": "exact"}}]), tmp_path / "a")
    dropped = {name: {reason: a.documents for reason, a in s.dropped.items()} for name, s in summary.sources.items()}
    assert dropped["notes"] == {"dedup.exact": 2}  # without the notice, a page of the web is the same note
    assert set(dropped["web"]) <= {"dedup.minhash", "dedup.bff"}
    again = run(recipe(inputs, steps, [{"dedup": {"method": "exact"}}]), tmp_path / "a")
    assert again.unchanged


@pytest.mark.parametrize("method", ["bff", "exact", "minhash"])
def test_unexpected_removal_replaces_nothing(inputs: Path, tmp_path: Path, method: str) -> None:
    """Neither in an empty folder nor in one with a finished run: that stays as it was, to the byte."""
    dedup = BFF["dedup"] if method == "bff" else {"method": method}
    wrong = recipe(inputs, [{"dedup": dedup | {"expected_removal": [0.5, 1]}}])
    with pytest.raises(UserError, match="expected_removal"):
        run(wrong, tmp_path / "a")
    assert not (tmp_path / "a" / "manifest.json").exists() and not (tmp_path / "a" / "tokens").exists()
    run(recipe(inputs, []), tmp_path / "b")
    finished = [path for path in (tmp_path / "b").rglob("*") if path.is_file() and "tokens" in str(path)]
    before = {path: path.read_bytes() for path in [*finished, tmp_path / "b" / "manifest.json"]}
    with pytest.raises(UserError, match="nothing was replaced"):
        run(wrong, tmp_path / "b")
    assert {path: path.read_bytes() for path in before} == before


def test_a_new_crawl_is_compared_with_the_filter_that_an_old_one_saved(inputs: Path, tmp_path: Path) -> None:
    save = {"dedup": BFF["dedup"] | {"save": True, "expected_ngrams": 20_000}}
    run(recipe(inputs, [save]), tmp_path / "old", "run.keep=none")
    (saved,) = (tmp_path / "old").rglob("*.bloom")
    again = recipe(inputs, [{"dedup": BFF["dedup"] | {"load": str(saved)}}])
    again["sources"]["notes"]["steps"] = [{"dedup": BFF["dedup"] | {"load": str(saved)}}]
    again["sources"]["web"]["allow_empty"] = True
    summary = run(again, tmp_path / "new")
    left = {name: s.documents_in - sum(amount.documents for amount in s.dropped.values()) for name, s in summary.sources.items()}
    assert left == {"web": 0, "notes": 10}  # all of the web was there before; of the notes, what was in the web, and a copy
    assert {name: set(s.dropped) for name, s in summary.sources.items()} == {"web": {"dedup.bff"}, "notes": {"dedup.bff"}}
    saved.unlink()
    with pytest.raises(UserError, match=r"sources\.web\.steps\.dedup\.load"):
        run(again, tmp_path / "newer")


def test_a_filter_that_is_too_small_replaces_nothing(inputs: Path, tmp_path: Path) -> None:
    run(recipe(inputs, []), tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="made for 20 n-grams and took"):
        run(recipe(inputs, [{"dedup": {"method": "bff", "expected_ngrams": 20}}]), tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before
    with pytest.raises(RecipeError, match="more than the memory given"):  # told when the recipe is read
        recipe_of = recipe(inputs, [{"dedup": {"method": "bff", "expected_ngrams": 10**9, "memory": 1 << 20}}])
        build_recipe(recipe_of, None, [])


def test_shuffles_go_through_the_storage_that_the_run_is_on(inputs: Path, tmp_path: Path, s3: Any) -> None:
    """On S3 as on disk: the same files at the same places, partitions of all dedups among them, and the same bytes."""
    near = {"method": "minhash", "ngram": 3, "partitions": 4, "verify": 0.5, "keep": "longest"}
    data = recipe(inputs, [{"dedup": near}, {"dedup": BFF["dedup"] | {"shards": 2}}], [{"dedup": {"method": "exact"}}])
    out = s3.uri("run")
    run(data, out)
    run(data, tmp_path / "local")
    assert storage.read_bytes(f"{out}/manifest.json") == (tmp_path / "local" / "manifest.json").read_bytes()
    ours = {entry.uri.removeprefix(out): storage.read_bytes(entry.uri) for entry in storage.list_files(out)}
    local = tmp_path / "local"
    theirs = {f"/{path.relative_to(local)}": path.read_bytes() for path in local.rglob("*") if path.is_file()}
    shuffled = {name for name in ours if name.startswith("/parts/dedup/")}
    assert len(shuffled) > 30 and {name for name in theirs if name.startswith("/parts/dedup/")} == shuffled
    assert all(ours[name] == theirs[name] for name in shuffled)


def test_a_task_that_no_machine_can_hold_is_refused_before_its_phase(inputs: Path, tmp_path: Path) -> None:
    huge = {"dedup": BFF["dedup"] | {"expected_ngrams": 10**13, "memory": 1 << 60}}
    with pytest.raises(UserError, match=r"dedup/web/dedup filter/00000 needs \d+\.?\d* TB of memory.*more shards"):
        run(recipe(inputs, [huge]), tmp_path)
    found = names(tmp_path)
    assert "dedup/web/dedup count/00000" in found and not any("filter" in name for name in found)


def test_parts_that_are_written_anew_leave_the_scratch_one_by_one(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = recipe(inputs, [{"dedup": {"method": "bff", "threshold": 0.5}}]) | {"run": {"split_bytes": "1KB"}}
    out, seen, edit_part = tmp_path / "run", [], edit._edit_part

    def watched(part: Any, *arguments: Any) -> Any:
        there = [path.name for path in (out / "parts/dedup/web/dedup").iterdir() if not path.name.startswith(".")]
        seen.append(sum(name.startswith("part-") for name in there))
        return edit_part(part, *arguments)

    monkeypatch.setattr(edit, "_edit_part", watched)
    run(data, out)
    assert seen == list(range(len(seen))) and len(seen) > 1  # by one task, each part with those before it in their place


@pytest.mark.parametrize(
    ("method", "phase", "runs", "documents"),
    [
        ({"method": "bff", "threshold": 0.5}, "count", 1, 0),
        ({"method": "bff", "threshold": 0.5}, "filter", 1, 4 * 32),  # spans, for twice the mean, twice on disk
        ({"method": "bff", "threshold": 0.5, "shards": 2}, "edit", 2, 0),  # a part as it is read and as it is written
        ({"method": "minhash", "bands": 4, "rows": 2}, "scatter", 1, 4 * (4 * 16 + 32)),
        ({"method": "substring", "length": 5}, "repeats", 1, 4 * 64),
    ],
)
def test_a_task_of_a_dedup_looks_whether_there_is_room(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any], phase: str, runs: int, documents: int
) -> None:
    data = recipe(inputs, [{"dedup": method}])
    texts = [[json.loads(line)["text"] for line in path.open()] for path in sorted(inputs.glob("web-*.jsonl"))]
    needed = runs * max(sum(map(len, some)) for some in texts) + documents * sum(map(len, texts))
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - needed, needed - 1))
    said = rf"no space left: {needed:,} bytes needed for dedup/web/dedup {phase}/00000, {needed - 1:,} bytes free"
    with pytest.raises(UserError, match=said):
        run(data, tmp_path / "run")
    assert (tmp_path / "run").exists() and not storage.exists(str(tmp_path / "run" / "manifest.json"))
