"""`search-mixture`: mixtures drawn, a law fitted, the best one solved for, written and measured; gone on with, and used again."""

from __future__ import annotations

import csv
import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.ablate import train
from pipeline.cli import main
from pipeline.mixture_search.draw import draw
from pipeline.mixture_search.fit import LogLinear, choose, fit, rank_correlation
from pipeline.mixture_search.reuse import contents, known_proxies
from pipeline.mixture_search.solve import best_mixture, capped, objective
from pipeline.run_folder.manifest import read_manifest
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
    asked += ["--tokens", str(TOKENS), "--proxies", "12", "--seeds", "2", "--out", str(folder / out), "--inline", "--quiet"]
    return [*asked, "--jobs", "2", "--device", "cpu", *more, "--train-set", *TINY]


TRUE = {"wiki": {"prose": -0.9, "digits": 0.7, "code": 0.3}, "numbers": {"prose": 0.5, "digits": -0.9, "code": 0.4}}
FLOOR = 1.5


def loss(file: str, shares: dict[str, float], seed: int) -> float:
    """Bits per byte of a made-up model: a law, and what a seed does to it."""
    return FLOOR + np.exp(sum(TRUE[file][name] * share for name, share in shares.items())) + 0.002 * (seed % 3)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """In place of trainings: losses by a law of the mixture's shares. The folders that were trained in."""
    done: list[Path] = []

    def run_trainer(commands: Any, folder: Path, threads: int) -> None:
        train, evaluation = commands
        manifest = read_manifest(train[train.index("--data") + 1])
        asked = {name: entry["budget_tokens"] for name, entry in manifest["sources"].items()}
        shares = {name: tokens / sum(asked.values()) for name, tokens in asked.items()}
        bits = {file: loss(file, shares, int(folder.name.removeprefix("seed-"))) for file in TRUE}
        rows = [
            {"file": file, "id": f"{n}", "bytes": 1000, "tokens": 300, "nats": 1000 * (value + 1e-3 * n) * np.log(2)}
            for file, value in bits.items()
            for n in range(-2, 3)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        Path(evaluation[evaluation.index("--out") + 1]).write_text(json.dumps({"documents": rows}))
        done.append(folder)

    monkeypatch.setattr(train, "run_trainer", run_trainer)
    return done


def test_the_true_best_mixture_is_found_written_and_measured(
    tmp_path: Path, trained: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    capsys.readouterr()
    asked = command(tmp_path, "run", "--weights", "wiki=3", "numbers=1", "--max-repeats", "2", "--stay", "0")
    assert main(asked) == 0, capsys.readouterr()
    shown, out = capsys.readouterr().out, tmp_path / "out"
    found = json.loads((out / "search.json").read_text())
    assert len(found["proxies"]) == 12 and found["weights"] == {"wiki": 0.75, "numbers": 0.25}
    for proxy in found["proxies"]:
        assert sum(proxy["shares"].values()) == pytest.approx(1)
        folder = next((out / "arms").glob(f"{proxy['name']}/data-{proxy['fingerprint'][:12]}"))
        manifest = read_manifest(str(folder))
        asked_tokens = {source: entry["budget_tokens"] for source, entry in manifest["sources"].items()}
        for source, tokens in asked_tokens.items():
            share = proxy["shares"][found["sources"][source]["content"]]
            assert tokens == pytest.approx(share * sum(asked_tokens.values()), abs=1)
            assert tokens <= 2 * manifest["sources"][source]["tokens"]

    # It is as good as the best of all mixtures that keep to the repeats, by the law that losses are made of.
    caps = [one["cap"] for one in found["sources"].values()]
    grid = [np.array((a, b, 100 - a - b)) / 100 for a in range(101) for b in range(101 - a)]

    def true(shares: Any) -> float:
        by_name = dict(zip(found["sources"], shares, strict=True))
        return 0.75 * loss("wiki", by_name, 0) + 0.25 * loss("numbers", by_name, 0)

    best = min(true(one) for one in grid if (one <= caps).all())
    assert true([one["share"] for one in found["sources"].values()]) <= best + 0.01
    whole = found["measured"]["all"]
    assert whole["predicted_best"] == pytest.approx(whole["best"], abs=0.02) and whole["best"] < whole["natural"]
    assert not whole["difference"]["noise"] and not any("cannot tell" in note for note in found["notes"])
    parts = {name: one["difference"]["difference"] for name, one in found["measured"].items()}
    assert parts["all"] == pytest.approx(0.75 * parts["wiki"] + 0.25 * parts["numbers"])

    # What is written is what is told, for as many tokens as it is for; its shards are the run's own.
    written = read_manifest(str(out / "best"))
    assert written["mixture"]["tokens"] == TOKENS and written["fingerprint"] == found["fingerprint"]
    for source, entry in written["sources"].items():
        assert entry["budget_tokens"] / TOKENS == pytest.approx(found["sources"][source]["share"], abs=2e-3)
        shard = entry["shards"][0]["path"]
        assert (out / "best" / shard).stat().st_ino == (tmp_path / "run" / shard).stat().st_ino
    assert "the best mixture of 1,024 tokens" in shown and "fresh models, 2 seeds" in shown
    assert len(list(csv.DictReader((out / "search.csv").open()))) == 24 and (out / "search.png").stat().st_size > 1000

    # Measured are fresh models. Broken off, it goes on to the same bytes; nothing that is done is done again.
    assert {path.name for path in trained if path.parts[-3] == "best"} == {"seed-1", "seed-2"} and len(trained) == 16
    before = (out / "search.json").read_bytes()
    gone = next(path for path in trained if path.parts[-3] == "drawn-001")
    shutil.rmtree(gone)
    (out / "search.json").unlink()
    trained.clear()
    assert main(asked) == 0 and (out / "search.json").read_bytes() == before and trained == [gone]

    # More proxies are added to those that there are, and their mixture takes the other's place.
    assert main(["13" if word == "12" else word for word in asked]) == 0
    wider = json.loads((out / "search.json").read_text())
    assert wider["proxies"][:12] == found["proxies"] and len(wider["proxies"]) == 13
    assert read_manifest(str(out / "best"))["fingerprint"] == wider["fingerprint"]


def test_a_prediction_that_fresh_models_do_not_bear_out_is_told(
    tmp_path: Path, trained: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    capsys.readouterr()
    assert main(command(tmp_path, "run", "--stay", "0")) == 0
    assert "far from" not in capsys.readouterr().out
    seeds = train.run_trainer

    def worse(commands: Any, folder: Path, threads: int) -> None:
        seeds(commands, folder, threads)
        path = Path(commands[1][commands[1].index("--out") + 1])
        told = json.loads(path.read_text())
        for row in told["documents"]:
            row["nats"] += 300 * np.log(2) * (folder.parts[-3] == "best")
        path.write_text(json.dumps(told))

    monkeypatch.setattr(train, "run_trainer", worse)
    assert main(command(tmp_path, "run", "--stay", "0", out="worse")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "worse/search.json").read_text())
    whole = found["measured"]["all"]
    law, by = whole["predicted"], whole["difference"]
    assert law["far"] and law["low"] < law["difference"] < law["high"] < by["low"]
    assert law["difference"] == pytest.approx(whole["predicted_best"] - whole["predicted_natural"])
    assert by["difference"] == pytest.approx(law["difference"] + 0.3, abs=0.05)
    assert f"the prediction is far from what fresh models give: {law['difference']:+.4f} bits per byte were foretold" in shown
    assert f"{by['difference']:+.4f} measured ({by['low']:+.4f} to {by['high']:+.4f})" in shown and "were tried" not in shown
    assert "% at most of a mixture that was tried; more proxies, or a higher --stay" in shown


def test_what_earlier_searches_know_is_told_by_contents(tmp_path: Path) -> None:
    def searched(name: str, *proxies: tuple[str, str, dict[str, float]]) -> Path:
        (tmp_path / name).mkdir()
        told = [{"name": n, "fingerprint": f, "shares": shares, "losses": {"wiki": 1.0}} for n, f, shares in proxies]
        (tmp_path / name / "search.json").write_text(json.dumps({"identity": "same", "proxies": told}))
        return tmp_path / name

    first = searched("first", ("natural", "f1", {"a@1": 0.5, "b@1": 0.5}), ("drawn-000", "f2", {"a@1": 1.0, "c@1": 0.0}))
    second = searched("second", ("natural", "f1", {"a@1": 0.5, "b@1": 0.5}), ("drawn-000", "f3", {"a@1": 0.9, "b@1": 0.1}))
    known = known_proxies([first, second], "same")
    assert known is not None and [one.fingerprint for one in known.proxies] == ["f1", "f2", "f3"]
    assert known.columns == {"a@1", "b@1"}  # of c no proxy has seen anything
    with pytest.raises(UserError, match="so their losses cannot be compared"):
        known_proxies([first], "other")

    def digest(*shards: str) -> str:
        entry = {"shards": [{"sha256": one} for one in shards]}
        return contents([{"sources": {"web": entry}}])["web"]  # type: ignore[typeddict-item]

    assert digest("a", "b") == digest("a", "b") != digest("a", "c") and digest("a", "b") != digest("b", "a")


def test_proxies_are_used_again_where_one_source_changed(
    tmp_path: Path, trained: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    assert main(command(tmp_path, "run")) == 0
    found = json.loads((tmp_path / "out/search.json").read_text())
    trained.clear()
    run(tmp_path, "run_2", code="other")
    assert main(command(tmp_path, "run_2", "--reuse", str(tmp_path / "out"), out="again")) == 0, capsys.readouterr()
    again = json.loads((tmp_path / "again/search.json").read_text())
    assert again["proxies"][:12] == found["proxies"] and len(again["proxies"]) == 15  # the natural mixture, and two
    assert len(trained) == 3 + 4
    assert len(again["columns"]) == 4 and len({name.split("@")[0] for name in again["columns"]}) == 3
    new = again["sources"]["code"]
    assert all(proxy["shares"][new["content"]] >= new["natural"] - 1e-5 for proxy in again["proxies"][12:])
    assert any("12 proxies of earlier searches are used again" in note for note in again["notes"])
    assert again["measured"]["all"]["best"] <= again["measured"]["all"]["natural"]

    # Where nothing changed there is nothing to be tried but the mixture that was found.
    trained.clear()
    assert main(command(tmp_path, "run", "--reuse", str(tmp_path / "out"), out="same")) == 0
    same = json.loads((tmp_path / "same/search.json").read_text())
    assert same["proxies"] == found["proxies"] and same["fingerprint"] == found["fingerprint"]
    assert {path.name for path in trained} == {"seed-1", "seed-2"}

    # Proxies that were trained otherwise cannot be compared.
    assert main(command(tmp_path, "run_2", "--reuse", str(tmp_path / "out"), "--threads", "2", out="third")) == 2
    assert "cannot be compared with new ones" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_a_search_that_finds_nothing_says_so(
    tmp_path: Path, trained: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    rng = random.Random(1)
    monkeypatch.setitem(globals(), "loss", lambda *_: 3 + rng.gauss(0, 0.01))
    assert main(command(tmp_path, "run")) == 0
    assert "the search cannot tell its mixture from the natural one" in capsys.readouterr().out.replace("\n", " ")


def test_models_are_really_trained(tmp_path: Path) -> None:
    run(tmp_path)
    assert main(["2" if word in ("12",) else word for word in command(tmp_path, "run", "--seeds", "1")]) == 0
    found = json.loads((tmp_path / "out/search.json").read_text())
    logs = list((tmp_path / "out").glob("arms/*/*/seed-*/log.txt"))
    assert len(logs) == 4 and all(0 < proxy["losses"]["wiki"] < 20 for proxy in found["proxies"])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--for", "1B"], "sources may be repeated to"),
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
    for step in (-1e-4, 1e-4):  # and no small step from it is better
        assert mine <= cost(found.floor + step, found.weights)
        assert all(mine <= cost(found.floor, found.weights + step * way) for way in np.eye(3))
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
    assert 1 < np.sqrt(np.mean(np.square(choose(shares, noise)[1] - noise))) / noise.std() < 1.25


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
        assert found.sum() == pytest.approx(1) and (found <= caps + 1e-12).all()
        assert ((found == 0) | (found >= 1e-6)).all()
        mine = objective(laws, weights, natural, stay, found)
        brute = min(objective(laws, weights, natural, stay, one) for one in grid)
        assert mine <= brute + 1e-5 and gap < 1e-5


def test_shares_above_caps_go_to_the_others_in_proportion() -> None:
    assert capped(np.array([6.0, 3, 1]), np.array([0.4, 1, 1])) == pytest.approx([0.4, 0.45, 0.15])
    assert capped(np.array([6.0, 3, 1]), np.array([0.4, 0.42, 1])) == pytest.approx([0.4, 0.42, 0.18])
    assert capped(np.array([6.0, 3, 1]), np.array([0.5, 0.3, 0.2])) == pytest.approx([0.5, 0.3, 0.2])
