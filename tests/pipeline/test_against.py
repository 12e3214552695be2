"""Dedup against finished runs: what goes is what goes when old and new are deduplicated together, the old ones first."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dedup_corpus import altered, prose

import pipeline
from pipeline import storage
from pipeline.cli import main
from pipeline.plan import dedup as plan_dedup

METHODS: dict[str, dict[str, Any]] = {
    "exact": {"method": "exact"},
    "url": {"method": "url"},
    "minhash": {"method": "minhash", "ngram": 3, "bands": 10, "rows": 4},
    "longest": {"method": "exact", "keep": "longest"},
}


def crawls(folder: Path) -> None:
    """Three crawls of chains of copies: each text is one of an earlier text, a bit changed, or a new one."""
    rng = random.Random(7)
    texts = [prose(rng, 30) for _ in range(40)]
    for crawl in ("first", "second", "third"):
        for file in range(3):
            rows = []
            for number in range(30):
                text = rng.choice(texts) if rng.random() < 0.7 else prose(rng, 30)
                text = altered(rng, text, 2) if rng.random() < 0.5 else f" {text}  " if rng.random() < 0.3 else text
                texts.append(text)
                rows.append({"id": f"{crawl}{file}-{number}", "text": text, "url": f"http://a.example/{rng.randrange(150)}"})
            (folder / f"{crawl}-{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, name: str, crawls: list[str], settings: dict[str, Any], *more: str) -> Path:
    """The run of some crawls, deduplicated; read in small parts, scattered in small groups."""
    recipe = {
        "name": name,
        "sources": {"web": {"read": {"paths": [f"{crawl}-*.jsonl" for crawl in crawls]}, "steps": [{"dedup": settings}]}},
        "tokenizer": {"train": {"vocab_size": 300, "max_bytes": "10KB"}},
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "4KiB"},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    out = folder / "runs" / name
    assert main(["run", str(folder / f"{name}.yaml"), "--out", str(out), "--inline", "--quiet", *more]) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crawls")
    crawls(path)
    return path


@pytest.fixture(scope="module")
def first(folder: Path) -> Path:
    """A run that keeps an index of hashes."""
    return run(folder, "first-exact", ["first"], {"method": "exact", "save": True})


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_dedup, "SMALL_GROUP_BYTES", 9000)


def kept(out: Path) -> dict[str, str]:
    """Id and text of what stayed."""
    table = pipeline.open_run(str(out)).documents("web").read_all()
    return dict(zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True))


def removed(out: Path) -> dict[str, str]:
    """Id of what went, with the id of the document that it went for."""
    documents = pipeline.open_run(str(out)).documents("web", kept=False, dropped=True).read_all()
    return dict(zip(documents.column("id").to_pylist(), documents.column("representative").to_pylist(), strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_it_is_as_a_dedup_of_both_with_the_old_ones_first(folder: Path, name: str) -> None:
    asked = METHODS[name]
    first = run(folder, f"first-{name}", ["first"], {**asked, "save": True, "partitions": 3})
    against = {**asked, "against": [f"runs/first-{name}"], "partitions": 5, "save": True}
    second = run(folder, f"second-{name}", ["second"], against)
    both = run(folder, f"both-{name}", ["first", "second"], asked)
    old, new, together = kept(first), kept(second), kept(both)
    if name != "longest":
        assert new == {key: text for key, text in together.items() if key.startswith("second")}
        assert 10 < len(new) < 80
    gone, known = removed(second), removed(both)
    assert set(new) | set(gone) == {f"second{file}-{number}" for file in range(3) for number in range(30)}
    from_old = {key: kept_for for key, kept_for in gone.items() if " (" in kept_for}
    assert len(from_old) > 15 and len(gone) > len(from_old)
    for key, kept_for in from_old.items():
        found = re.fullmatch(rf"(\S+) \(first-{name}/web\)", kept_for)
        assert found and found[1] in old  # old documents never go
        assert name == "longest" or found[1] == known[key]
    if name != "minhash":
        return
    # A third crawl is compared with both, and the second knows what it was compared with itself.
    third = run(folder, f"third-{name}", ["third"], {**asked, "against": [f"runs/first-{name}", f"runs/second-{name}"]})
    alone = run(folder, f"alone-{name}", ["third"], {**asked, "against": [f"runs/second-{name}"]})
    whole = kept(run(folder, f"all-{name}", ["first", "second", "third"], asked))
    assert kept(third) == {key: text for key, text in whole.items() if key.startswith("third")}
    assert set(kept(third)) <= set(kept(alone))
    assert any(f"(first-{name}/web)" in kept_for for kept_for in removed(alone).values())


def test_why_and_clusters_name_the_old_run(folder: Path, first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(folder, "named", ["second"], {"method": "exact", "against": ["runs/first-exact"], "keep_old": True})
    key, kept_for = next(item for item in removed(out).items() if "first-exact" in item[1])
    capsys.readouterr()
    assert main(["why", str(out), key]) == 0
    assert f"the copy that stays is {kept_for}" in " ".join(capsys.readouterr().out.split())
    assert main(["clusters", str(out)]) == 0
    assert "first-exact/web" in capsys.readouterr().out
    assert main(["plan", str(folder / "named.yaml"), "--rates", str(out)]) == 0
    capsys.readouterr()
    for name in ("first-exact", "filter"):
        if name == "filter":
            run(folder, name, ["first"], {"method": "bff", "ngram": 4, "save": True})
            capsys.readouterr()
        assert main(["plan", str(folder / f"{name}.yaml"), "--rates", str(folder / "runs" / name)]) == 0
        told = re.search(r"keeps an index for later runs, of ([\d.]+) (kB|MB)", " ".join(capsys.readouterr().out.split()))
        files = storage.list_files(f"{folder}/runs/{name}/parts/dedup/*/*/{'index-*' if name != 'filter' else '*.bloom'}")
        size = sum(entry.size for entry in files)
        assert told and float(told[1]) * {"kB": 1e3, "MB": 1e6}[told[2]] > size - 2500 * len(files)


def test_nothing_is_done_twice_and_another_index_is_noticed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"method": "exact", "against": ["runs/early"]}
    run(folder, "early", ["first"], {"method": "exact", "save": True})
    before = kept(run(folder, "late", ["second"], settings))
    capsys.readouterr()
    run(folder, "late", ["second"], settings)
    assert "nothing to do" in capsys.readouterr().out
    run(folder, "early", ["first", "third"], {"method": "exact", "save": True})
    after = kept(run(folder, "late", ["second"], settings))
    anew = kept(run(folder, "late-anew", ["second"], settings))
    assert after == anew and set(after) <= set(before)
    part = next((folder / "runs" / "late").glob("parts/web/tokens/*.train.tokens"))
    part.write_bytes(part.read_bytes()[:-2] + b"\0\0")
    run(folder, "late", ["second"], settings, "--verify")
    assert kept(folder / "runs" / "late") == anew
    index = next((folder / "runs" / "early").glob("parts/dedup/*/*/index-*.keys"))
    index.write_bytes(index.read_bytes()[:-2] + b"\0\0")
    run(folder, "early", ["first", "third"], {"method": "exact", "save": True}, "--verify")
    run(folder, "late", ["second"], settings)
    assert kept(folder / "runs" / "late") == anew


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "exact", "against": ["runs/nobody"]}, "dedup.against: .*runs/nobody holds no finished run"),
        ({"method": "exact", "normalize": "none", "against": ["runs/first-exact"]}, "keeps no index of a dedup by exact with"),
        ({"method": "url", "against": ["runs/first-exact"]}, "keeps no index of a dedup by url .* with `save: true`"),
        ({"method": "minhash", "verify": 0.8, "against": ["runs/x"]}, "verify reads the texts of copies"),
        ({"method": "bff", "against": ["runs/first-exact"]}, "keeps no index of a dedup by bff .* with `save: true`"),
        ({"method": "bff", "against": ["runs/first-exact"], "load": "x.bloom"}, "load and against are both given"),
        ({"method": "exact", "against": ["runs/x"], "keep_old": False}, "keep_old is false: documents of the runs in"),
        ({"method": "substring", "against": ["runs/first-exact"]}, "against"),
    ],
)
def test_a_run_without_an_index_is_named(
    folder: Path, first: Path, settings: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError):
        run(folder, "wrong", ["second"], settings)
    assert re.search(expected, capsys.readouterr().err)


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "bff", "ngram": 4, "mode": "document"},
        {"method": "bff", "ngram": 4, "threshold": 0.5},
        {"method": "paragraphs"},
    ],
    ids=["document", "both", "paragraphs"],
)
def test_filters_of_several_runs_are_looked_into(folder: Path, asked: dict[str, Any], request: Any) -> None:
    """Each of the size that its own run needs; what a filter held is told by its run."""
    tag, asked = request.node.callspec.id, {**asked, "fp_rate": 1e-7}
    crawls = ["first", "second", "third"]
    names = [f"{crawl}-filter-{tag}" for crawl in crawls]
    out = None
    for number, (crawl, name) in enumerate(zip(crawls, names, strict=True)):
        against = {"against": [f"runs/{other}" for other in names[:number]]} if number else {}
        out = run(folder, name, [crawl], {**asked, **against, "save": True})
    assert out is not None
    whole = run(folder, f"all-filter-{tag}", crawls, asked)
    assert kept(out) == {key: text for key, text in kept(whole).items() if key.startswith("third")}
    gone, known = removed(out), removed(whole)
    assert gone.keys() == {key for key in known if key.startswith("third")}
    named = {told: known[key] for key, told in gone.items() if told and told.startswith("a document (")}
    for told, first in named.items():
        crawl = re.match(r"[a-z]+", first or "")
        assert crawl and told == f"a document ({crawl[0]}-filter-{tag}/web)"
    assert len(named) == 2
    for key, told in gone.items():
        assert told == known[key] or told in named


def test_an_index_is_of_a_bounded_size(folder: Path) -> None:
    """16 bytes a record and an id a document, before compression."""
    run(folder, "first-minhash", ["first"], {**METHODS["minhash"], "save": True, "partitions": 3})
    files = storage.list_files(f"{folder}/runs/first-minhash/parts/dedup/*/*/index-*")
    size = sum(entry.size for entry in files)
    assert len(files) > 4 and size < 90 * (10 * 16 + 60) + len(files) * 2500
