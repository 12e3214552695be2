"""`search-mixture`: mixtures drawn, a law fitted, the best one solved for, written and measured; gone on with, and used again."""

from __future__ import annotations

import csv
import itertools
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from pipeline.manifest import read_manifest
from pipeline.mixture_search.draw import draw
from pipeline.mixture_search.fit import LogLinear, choose, fit, rank_correlation
from pipeline.mixture_search.solve import best_mixture, capped, objective
from stages.errors import UserError

TINY = [
    "model.d_model=16",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.n_experts=4",
    "model.top_k=2",
    "model.expert_width=16",
]
TINY += ["data.sequence_length=32", "train.batch_tokens=128", "train.micro_batch=4", "evaluate.instances=1"]
TINY += ["schedule.warmup_tokens=128"]
TOKENS = 128 * 8
WORDS = {
    "prose": ["mill", "wheel", "water", "stone", "river", "grain", "turns", "of"],
    "digits": [str(number) for number in range(10, 90, 7)],
    "code": ["def", "return", "for", "x", "in", "range", "(", ")"],
}


def text(kind: str, number: int, words: int) -> str:
    rng = random.Random(f"{kind}{number}")
    return " ".join(rng.choice(WORDS[kind]) for _ in range(words))


def run(folder: Path, name: str = "run", code: str = "code") -> Path:
    for kind in WORDS:
        rows = [{"id": f"{kind}{n}", "text": text(kind, n if kind != "code" else n + len(code), 50)} for n in range(30)]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = [{"id": f"e{n}", "text": text("prose", 1000 + n, 40)} for n in range(4)]
    (folder / "wiki.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluation))
    (folder / "numbers.jsonl").write_text(json.dumps({"id": "n", "text": text("digits", 1000, 60)}) + "\n")
    tokenizer = {"train": {"vocab_size": 300, "max_bytes": "20KB"}}
    if (folder / "run").exists():
        tokenizer = {"path": str(folder / "run/tokenizer/tokenizer.json")}
    sources = {kind: {"read": {"paths": [f"{kind}.jsonl"]}} for kind in WORDS}
    data = {
        "name": "trial",
        "sources": sources,
        "tokenizer": tokenizer,
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
    }
    (folder / "trial.yaml").write_text(yaml.safe_dump(data))
    assert main(["run", str(folder / "trial.yaml"), "--out", str(folder / name), "--inline", "--quiet"]) == 0
    return folder / name


def command(folder: Path, name: str, *more: str, out: str = "out") -> list[str]:
    asked = ["search-mixture", str(folder / name), "--eval", str(folder / "wiki.jsonl"), str(folder / "numbers.jsonl")]
    asked += [
        "--tokens",
        str(TOKENS),
        "--proxies",
        "5",
        "--seeds",
        "2",
        "--out",
        str(folder / out),
        "--inline",
        "--quiet",
    ]
    return [*asked, "--jobs", "2", "--device", "cpu", *more, "--train-set", *TINY]


def test_a_mixture_is_found_written_measured_and_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    capsys.readouterr()
    asked = command(tmp_path, "run", "--weights", "wiki=3", "numbers=1", "--max-repeats", "2")
    assert main(asked) == 0, capsys.readouterr()
    shown, out = capsys.readouterr().out, tmp_path / "out"
    found = json.loads((out / "search.json").read_text())
    assert len(found["proxies"]) == 5 and found["weights"] == {"wiki": 0.75, "numbers": 0.25}
    for proxy in found["proxies"]:
        assert sum(proxy["shares"].values()) == pytest.approx(1)
        name = next((out / "arms").glob(f"{proxy['name']}/data-{proxy['fingerprint'][:12]}"))
        manifest = read_manifest(str(name))
        asked_tokens = {source: entry["budget_tokens"] for source, entry in manifest["sources"].items()}
        for source, tokens in asked_tokens.items():
            share = proxy["shares"][found["sources"][source]["content"]]
            assert tokens == pytest.approx(share * sum(asked_tokens.values()), abs=1)
            assert tokens <= 2 * manifest["sources"][source]["tokens"]

    # The mixture that is written is the one that is told, and a model can be trained on it; its shards are the run's own.
    best = read_manifest(str(out / "best"))
    assert best["mixture"]["tokens"] == TOKENS and best["fingerprint"] == found["fingerprint"]
    for source, entry in best["sources"].items():
        assert entry["budget_tokens"] / TOKENS == pytest.approx(found["sources"][source]["share"], abs=2e-3)
        shard = entry["shards"][0]["path"]
        assert (out / "best" / shard).stat().st_ino == (tmp_path / "run" / shard).stat().st_ino

    # Measured are fresh models: the difference of all is that of the files, by their weights.
    parts = {name: one["difference"]["difference"] for name, one in found["measured"].items()}
    assert parts["all"] == pytest.approx(0.75 * parts["wiki"] + 0.25 * parts["numbers"])
    seeds = {path.name for path in out.glob("arms/best/*/seed-*")}
    assert seeds == {"seed-1", "seed-2"} and len(list(out.glob("arms/natural/*/seed-*"))) == 3
    noise = found["measured"]["all"]["difference"]["noise"]
    assert any("cannot tell its mixture from the natural one" in note for note in found["notes"]) == noise
    assert "the best mixture of 1,024 tokens" in shown and "fresh models, 2 seeds" in shown
    rows = list(csv.DictReader((out / "search.csv").open()))
    assert len(rows) == 10 and (out / "search.png").stat().st_size > 1000

    # Broken off, it goes on to the same bytes; nothing that is done is done again.
    before = (out / "search.json").read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("arms/*/*/seed-*/scores.json")}
    gone = next(path for path in kept if "drawn-001" in str(path))
    shutil.rmtree(gone.parent)
    shutil.rmtree(out / "best")
    (out / "search.json").unlink()
    assert main(asked) == 0 and (out / "search.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in kept if path != gone} == {p: t for p, t in kept.items() if p != gone}

    # One source changes: the proxies of the others count again, and two mixtures that hold the new one are tried.
    run(tmp_path, "run_2", code="other")
    capsys.readouterr()
    more = ["--weights", "wiki=3", "numbers=1", "--max-repeats", "2", "--reuse", str(out)]
    assert main(command(tmp_path, "run_2", *more, out="again")) == 0, capsys.readouterr()
    again = json.loads((tmp_path / "again/search.json").read_text())
    assert again["proxies"][:5] == found["proxies"] and len(again["proxies"]) == 8  # the natural mixture, and two
    assert len(again["columns"]) == 4 and len({name.split("@")[0] for name in again["columns"]}) == 3
    new = again["sources"]["code"]["content"]
    assert all(proxy["shares"][new] > 0 for proxy in again["proxies"][5:])
    assert any("5 proxies of earlier searches are used again" in note for note in again["notes"])

    # Proxies that were trained otherwise cannot be compared.
    assert main(command(tmp_path, "run_2", "--reuse", str(out), "--threads", "2", out="third")) == 2
    assert "cannot be compared with new ones" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--for", "1G"], "sources may be repeated to"),
        (["--weights", "books=1"], "--weights books: there is no such evaluation file; they are wiki, numbers"),
        (["--weights", "wiki"], "--weights wiki: write NAME=NUMBER"),
        (["--strength", "3", "1"], "--strength 3 1: two numbers above 0 are needed"),
        (["--reuse", "nowhere"], "--reuse nowhere: holds no search.json"),
        (["--proxies", "1"], "--proxies 1: at least 2 is needed"),
    ],
)
def test_what_cannot_be_searched_is_told_before_the_first_model(
    tmp_path: Path, more: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    assert main(command(tmp_path, "run", *more)) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_draws_keep_to_the_caps_and_are_the_same_again() -> None:
    natural, caps = np.array([0.6, 0.3, 0.1]), np.array([0.8, 0.6, 0.2])
    found = draw(natural, caps, 200, (0.5, 20.0), 1)
    assert found.shape == (200, 3) and np.allclose(found.sum(axis=1), 1)
    assert (found <= caps).all() and (found >= 0).all()
    assert np.array_equal(found, draw(natural, caps, 200, (0.5, 20.0), 1))
    near = draw(natural, np.ones(3), 2000, (2000.0, 2000.0), 1).mean(axis=0)
    assert np.allclose(near, natural**0.5 / (natural**0.5).sum(), atol=0.01)
    with pytest.raises(UserError, match="keep to the repeats"):
        draw(natural, natural, 5, (0.5, 1.0), 0)


def law(rng: np.random.Generator, shares: np.ndarray, noise: float) -> np.ndarray:
    return 1.8 + np.exp(shares @ np.array([-0.4, 0.2, 0.7])) + rng.normal(0, noise, len(shares))


def test_the_law_is_that_of_a_search_over_all_parameters() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([0.7] * 3, 12)
    losses = law(rng, shares, 0.01)
    ridge = 1e-4
    found = fit(shares, losses, ridge)

    def cost(floor: float, weights: np.ndarray) -> float:
        errors = floor + np.exp(shares @ weights) - losses
        return float(errors @ errors + ridge * len(losses) * np.square(weights - weights.mean()).sum())

    mine = cost(found.floor, found.weights)
    grids = [np.linspace(center - 0.3, center + 0.3, 13) for center in found.weights]
    floors = np.linspace(0, losses.min() * 0.999, 40)
    brute = min(cost(floor, np.array(weights)) for floor in floors for weights in itertools.product(*grids))
    assert mine <= brute + 1e-9 and mine <= cost(1.8, np.array([-0.4, 0.2, 0.7]))
    assert found.predict(shares) == pytest.approx(losses, abs=0.04)


def test_mixtures_that_were_left_out_are_predicted() -> None:
    rng = np.random.default_rng(1)
    shares, fresh = rng.dirichlet([0.7] * 3, 24), rng.dirichlet([0.7] * 3, 200)
    found, predicted = choose(shares, law(rng, shares, 0.01))
    truth = law(rng, fresh, 0.0)
    assert np.abs(found.predict(fresh) - truth).max() < 0.05 * np.ptp(truth)
    assert rank_correlation(predicted, law(rng, shares, 0.0)) > 0.95
    noise = rng.normal(3, 0.01, 24)  # nothing to be told
    assert np.sqrt(np.mean(np.square(choose(shares, noise)[1] - noise))) < 1.25 * noise.std()


@pytest.mark.parametrize("stay", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("most", [1.0, 0.45])
def test_the_best_mixture_is_that_of_a_search_over_all(stay: float, most: float) -> None:
    rng = np.random.default_rng(2)
    natural, caps = np.array([0.5, 0.3, 0.2]), np.array([most, 1.0, most])
    grid = np.array([(a, b, 200 - a - b) for a in range(201) for b in range(201 - a)]) / 200
    grid = grid[(grid <= caps).all(axis=1)]
    for _ in range(5):
        laws = [LogLinear(1.0, rng.normal(0, 1, 3), 0.0) for _ in range(2)]
        weights = rng.dirichlet([1, 1])
        found, gap = best_mixture(laws, weights, natural, caps, stay)
        assert found.sum() == pytest.approx(1) and (found <= caps + 1e-9).all() and (found >= 0).all()
        mine = objective(laws, weights, natural, stay, found)
        brute = min(objective(laws, weights, natural, stay, one) for one in grid)
        assert mine <= brute + 1e-5 and gap < 1e-5


def test_shares_above_caps_go_to_the_others_in_proportion() -> None:
    assert capped(np.array([6.0, 3, 1]), np.array([0.4, 1, 1])) == pytest.approx([0.4, 0.45, 0.15])
    assert capped(np.array([6.0, 3, 1]), np.array([0.4, 0.42, 1])) == pytest.approx([0.4, 0.42, 0.18])
    assert capped(np.array([6.0, 3, 1]), np.array([0.5, 0.3, 0.2])) == pytest.approx([0.5, 0.3, 0.2])
