"""Sub-sources: a source split by a measure and a label, against a plain reading of its documents; and mixtures of the parts."""

from __future__ import annotations

import json
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import yaml
from split_runs import FOUND, MEMBERS, SPLIT, listed, often, rows, run, write

import pipeline
from pipeline.cli import main
from stages.tokens.formula import evaluate
from stages.tokens.shard_format import load_manifest
from stages.tokens.split import quantile_cuts
from trainer.loader.data import open_data


def by_hand(out: Path, split: list[dict[str, Any]], trained: set[str]) -> dict[str, str]:
    """The member that each kept document belongs to, by a plain reading of the rule."""
    table = pipeline.open_run(str(out)).documents("web").read_all()
    ids, words, urls = (table.column(name).to_pylist() for name in ("id", "gopher_quality.words", "url"))
    ranked = sorted(value for name, value in zip(ids, words, strict=True) if name in trained)
    cuts = [ranked[int(Fraction(str(q)) * len(ranked))] for q in split[1]["quantiles"]]
    found = {}
    for name, value, url in zip(ids, words, urls, strict=True):
        host = (url or "//").split("/")[2].split(":")[0]
        topic = "wiki" if host.endswith(".wiki.example") else "news" if host == "news.example" else "other"
        found[name] = f"web-{topic}-words{1 + sum(value >= cut for cut in cuts)}"
    return found


def inodes(out: Path) -> dict[str, int]:
    """What tasks wrote before sub-sources were made."""
    return {path.name: path.stat().st_ino for kind in ("0", "1", "tokens") for path in (out / "parts" / "web" / kind).glob("*")}


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that is split, and the same without it."""
    folder = tmp_path_factory.mktemp("split")
    recipe = write(folder / "in", SPLIT)
    return run(recipe, folder / "run"), run(write(folder / "plain", []), folder / "whole")


def test_every_document_is_in_the_part_that_its_measures_say(cut: tuple[Path, Path]) -> None:
    out, whole = cut
    manifest = load_manifest(out)
    assert manifest["mixture"]["sources"] == MEMBERS
    plain = load_manifest(whole)["sources"]["web"]
    train = {name: listed(out, manifest["sources"][name]) for name in MEMBERS}
    held = {name: listed(out, manifest["sources"][name]["held_out"]) for name in MEMBERS}
    trained = {name for found in train.values() for name, _ in found}
    expected = by_hand(out, SPLIT, trained)
    assert len({len(train[name]) for name in MEMBERS}) > 3 and min(map(len, train.values())) > 0
    for member in MEMBERS:
        assert {expected[name] for name, _ in (*train[member], *held[member])} <= {member}
    # Nothing is lost, nothing is there twice, and each part stands in the source's own order.
    for found, all_of_them in ((train, listed(whole, plain)), (held, listed(whole, plain["held_out"]))):
        order = {document: place for place, document in enumerate(all_of_them)}
        assert sorted(document for part in found.values() for document in part) == sorted(all_of_them)
        assert all([order[one] for one in part] == sorted(order[one] for one in part) for part in found.values())
    assert sum(entry["text_bytes"] for entry in manifest["sources"].values()) == plain["text_bytes"]


def test_parts_are_members_of_the_mixture(cut: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = cut
    asked = ["epochs=1", "per_source.web-wiki-words3.repeats=3", "per_source.web-other-words1.repeats=0"]
    assert main(["mix", str(out), "--set", *asked, "--out", str(tmp_path / "m"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["sources"]
    there = {name: one["available"] for name, one in found.items()}
    want = there | {"web-wiki-words3": 3 * there["web-wiki-words3"], "web-other-words1": 0}
    assert {name: one["asked"] for name, one in found.items()} == want
    assert found["web-news-words2"]["part"] == {"domain": "news", "gopher_quality.words": "words2"}
    data = open_data(tmp_path / "m", 8)
    seen = np.bincount(data.train.source_of(0, len(data.train)), minlength=9)
    for number, name in enumerate(data.sources):
        assert abs(seen[number] - want[name] / 8) < 4
    assert main(["mix", str(tmp_path / "m")]) == 0
    shown = capsys.readouterr().out
    grid = [line.split() for line in shown.splitlines() if line.strip().startswith(("wiki ", "news ", "other "))]
    assert [line[0] for line in grid] == ["wiki", "news", "other"] and "words1" in shown
    cells = dict(zip(MEMBERS, [cell for line in grid for cell in line[1:] if cell.startswith("x")], strict=True))
    assert cells["web-wiki-words3"] == "x3" and cells["web-other-words1"] == "x0" and cells["web-news-words1"] == "x1"
    assert {path.stat().st_ino for path in (tmp_path / "m").rglob("*.npy")} == {
        path.stat().st_ino for path in out.rglob("*.npy")
    }


def test_other_cuts_tokenize_nothing_again(tmp_path: Path) -> None:
    recipe = write(tmp_path / "in", SPLIT)
    out = run(recipe, tmp_path / "run")
    before, tokenized = load_manifest(out), inodes(out)
    other = [SPLIT[0], {"by": "gopher_quality.words", "at": [20, 40.5]}]
    recipe = write(tmp_path / "in", other)
    run(recipe, out)
    assert inodes(out) == tokenized
    assert load_manifest(out)["fingerprint"] != before["fingerprint"]
    anew = run(recipe, tmp_path / "anew")
    assert load_manifest(anew)["fingerprint"] == load_manifest(out)["fingerprint"]
    back = run(write(tmp_path / "in", SPLIT), out)
    assert load_manifest(back)["fingerprint"] == before["fingerprint"]


def test_years_and_missing_values(tmp_path: Path) -> None:
    out = run(write(tmp_path / "in", {"by": "year", "at": [2012, 2014]}), tmp_path / "run")
    year = {row["id"]: int(row.get("date", "0")[:4]) for row in rows(300)}
    manifest = load_manifest(out)["sources"]
    for number, (low, high) in enumerate(((0, 2012), (2012, 2014), (2014, 9999)), start=1):
        found = [year[name] for name, _ in listed(out, manifest[f"web-year{number}"])]
        assert len(found) > 20 and all(low <= value < high for value in found)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ({"by": "gopher.words", "at": [1]}, "sources.web.split.gopher.words: the source has no step 'gopher'; did you mean"),
        ({"by": "gopher_quality.word", "at": [1]}, "gopher_quality has no measure 'word'; did you mean words?"),
        ({"by": "gopher_quality.words", "at": [2, 1]}, "at [2.0, 1.0]: must rise"),
        ({"by": "gopher_quality.words", "quantiles": [0.5, 1.5]}, "must rise, and lie between 0 and 1"),
        ({"by": "gopher_quality.words"}, "is cut by one of at, quantiles, labels and formula, not by none"),
        ({"by": "domain", "at": [1]}, "a domain is a label"),
        ({"by": "domain", "labels": ["a.b/c"]}, "'a.b/c' cannot name a part"),
        ({"by": "domain", "labels": {"a": ["x.y"], "b": ["x.y"]}}, "'x.y' is in two parts"),
        ([SPLIT[0], SPLIT[0]], "two axes are by the same measure"),
        ({"by": "dedup.copies", "at": [2]}, "a dedup has no measure but copies, and that with `copies: true`: add it to dedup"),
        ({"by": "gopher_quality.words", "at": [2], "repeats": [1, 2, 3]}, "repeats has 3 numbers, and there are 2 parts: words1"),
        ({"by": "gopher_quality.words", "at": [2], "repeats": {"words3": 1}}, "repeats: there is no part 'words3'"),
        ({"by": "gopher_quality.words", "at": [2], "repeats": [1, 9]}, "9 repeats in each of 1 epochs are 9, and 4 are allowed"),
        ({"by": "gopher_quality.words", "formula": "open('x')"}, "is no formula in x"),
        ({"by": "gopher_quality.words", "formula": "x", "step": 0.3}, "most 4 is no multiple of step 0.3"),
        ({"by": "gopher_quality.words", "formula": "x", "repeats": {}}, "formula and repeats both say"),
    ],
)
def test_what_cannot_be_split_by_is_refused(
    tmp_path: Path, split: Any, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(write(tmp_path / "in", split)), "--out", str(tmp_path / "run"), "--inline"]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_quantiles_of_many_files_are_those_of_all_values() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=200), [0.0, 0.0, -0.0, 1e300, -1e300, 5e-324, np.inf, -np.inf], np.ones(40)])
    files = [np.sort(part) for part in np.array_split(rng.permutation(values), 7)]
    shares = (0.01, 0.1, 0.5, 0.7, 0.95, 0.999)
    ranked = np.sort(values)
    assert quantile_cuts(files, shares) == tuple(ranked[int(Fraction(str(q)) * len(ranked))] for q in shares)


def documents_by(out: Path) -> dict[str, list[str]]:
    found = defaultdict(list)
    for name, entry in load_manifest(out)["sources"].items():
        found[name] += [document for document, _ in listed(out, entry)]
    return found


def test_commands_know_the_source_of_a_part(cut: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, _ = cut
    member, name = next((member, found[-1]) for member, found in documents_by(out).items() if member.startswith("web-news"))
    assert main(["why", str(out), name]) == 0
    assert f"kept: tokens/{member}/" in capsys.readouterr().out
    assert main(["trace", str(out), f"{member}/00000:3"]) == 0
    assert main(["inspect", str(out)]) == 0
    assert main(["compare", str(out), str(out)]) == 0
    assert main(["card", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "no problems" in shown
    page = tmp_path / "report.html"
    assert main(["report", str(out), "--out", str(page)]) == 0
    text = page.read_text()
    assert "web by domain and gopher_quality.words" in text and "web-wiki-words1" in text
    assert main(["sweep", str(out), "--measure", "gopher_quality.words"]) == 0
    assert main(["plan", str(out.parent / "in" / "cut.yaml"), "--rates", str(out)]) == 0
    export = ["export", str(out), "--format", "jsonl", "--documents", "--compression", "none", "--out", str(tmp_path / "e")]
    assert main(export) == 0
    written = [json.loads(line)["id"] for path in (tmp_path / "e" / "web").glob("*.jsonl") for line in path.open()]
    assert sorted(written) == sorted(document for found in documents_by(out).values() for document in found)
    assert pc.sum(pipeline.open_run(str(out)).documents("web").read_all().column("record")).as_py() > 0


@pytest.mark.parametrize("later", [[], [{"mask_pii": {}}]], ids=["last", "with a step behind"])
@pytest.mark.parametrize("over_all", [False, True], ids=["of the source", "of all"])
def test_documents_that_were_found_often_are_seen_more_often(tmp_path: Path, later: Any, over_all: bool) -> None:
    split = [
        {"by": "dedup.copies", "formula": "1 + log2(x)", "step": 0.5, "most": 3},
        {"by": "gopher_quality.words", "at": [12], "repeats": [1, 0.5]},
    ]
    path = often(tmp_path / "in", split, shards={"held_out": 0, "bytes": "4KiB"})
    recipe = yaml.safe_load(path.read_text())
    steps = recipe["sources"]["web"]["steps"]
    if over_all:
        recipe["dedup"] = [steps.pop(1)]
    steps += later
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    out = run(path, tmp_path / "run")
    manifest = load_manifest(out)["sources"]
    where = {name: (member, len(tokens)) for member, one in manifest.items() for name, tokens in listed(out, one)}
    assert {int(name[1:].split("-")[0]) for name in where} == set(range(60)) and len(where) == 60
    wanted = defaultdict(float)
    for name, (member, tokens) in where.items():
        text = int(name[1:].split("-")[0])
        times = min(3.0, int(2 * (1 + np.log2((FOUND * 6)[text]))) / 2)
        assert member.startswith(f"web-copies-x{times:g}-".replace(".", "_"))
        wanted[member] += Fraction(times) * tokens * (Fraction(1, 2) if text % 2 else 1)
    assert len(wanted) > 6
    for member, one in manifest.items():
        assert abs(one["budget_tokens"] - wanted[member]) < 1
    data = open_data(out, 4)
    seen = np.bincount(data.train.source_of(0, len(data.train)), minlength=len(data.sources))
    for number, member in enumerate(data.sources):
        assert abs(seen[number] - float(wanted[member]) / 4) < 4
    assert sum(one["tokens"] for one in manifest.values()) == sum(tokens for _, tokens in where.values())  # none is there twice


def test_what_the_mixture_says_of_a_part_goes_before_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = {"by": "dedup.copies", "at": [2, 5], "repeats": {"copies3": 3}}
    path = often(tmp_path / "in", split, mixture={"epochs": 1, "per_source": {"web-copies2": {"repeats": 2}}})
    out = run(path, tmp_path / "run")
    capsys.readouterr()
    assert main(["mix", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["sources"]
    assert {name: one["repeats"] for name, one in told.items()} == {"web-copies1": 1, "web-copies2": 2, "web-copies3": 3}
    tokens = inodes(out)
    before = load_manifest(out)
    run(often(tmp_path / "in", {**split, "repeats": [1, 0, 2]}, mixture={"epochs": 1}), out)
    after = load_manifest(out)
    assert inodes(out) == tokens and before["fingerprint"] != after["fingerprint"]
    assert [one["shards"] for one in before["sources"].values()] == [one["shards"] for one in after["sources"].values()]


def test_a_formula_is_read_as_python_reads_it() -> None:
    x = np.array([0.0, 1.0, 2.5, 1000.0, np.nan, -3.0])
    for formula in ("1 + log2(x)", "min(4, x / 2) - -1", "max(0, sqrt(x)) ** 2", "2", "exp(-x) * log10(x) + log(x)"):
        names = {"log2": np.log2, "log": np.log, "log10": np.log10, "sqrt": np.sqrt, "exp": np.exp}
        with np.errstate(all="ignore"):
            expected = eval(formula, {**names, "min": np.minimum, "max": np.maximum, "x": x})
        assert np.array_equal(evaluate(formula, x), np.broadcast_to(expected, x.shape), equal_nan=True)
    for wrong in ("y", "x.real", "x[0]", "log2(x, 2)", "x if x else 1", "True", "'a'", "1 +", "x @ x", "__import__('os')"):
        with pytest.raises(ValueError, match="formula in x"):
            evaluate(wrong, x)


def test_a_topic_of_a_classifier_is_split_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The likeliest label of a `quality` step with a name of its own; what asks a finished run knows that step."""
    path = write(tmp_path / "in", {"by": "topic.top_1", "labels": {"many": ["hq"]}})
    recipe = yaml.safe_load(path.read_text())
    for name, number in (("few", 0), ("many", 2)):
        recipe["sources"][name] = {"read": {"paths": [f"{number}.jsonl"]}}
    settings = {"dim": 4, "epoch": 3, "bucket": 100}
    train = {"positive": ["many"], "negative": ["few"], "settings": settings}
    recipe["sources"]["web"]["steps"].append({"quality": {"name": "topic", "train": train, "labels": 1, "score": 0}})
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    out = run(path, tmp_path / "run")
    table = pipeline.open_run(str(out)).documents("web").read_all()
    label = dict(zip(table.column("id").to_pylist(), table.column("topic.top_1").to_pylist(), strict=True))
    sources = load_manifest(out)["sources"]
    found = {member: {label[name] for name, _ in listed(out, sources[member])} for member in ("web-many", "web-other")}
    assert found == {"web-many": {"hq"}, "web-other": {"cc"}}
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0
    recipe["sources"]["web"]["split"]["by"] = "topic.top_2"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    capsys.readouterr()
    assert main(["run", str(path), "--out", str(out), "--inline"]) == 2
    assert "topic has no measure 'top_2'" in capsys.readouterr().err
