"""`ablate`: arms of a recipe, a model a seed on each, compared document by document; broken off and gone on with."""

from __future__ import annotations

import csv
import json
import math
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml

from pipeline.ablate import train
from pipeline.ablate.arms import arms_of, by_of
from pipeline.ablate.compare import Loss, difference, score
from pipeline.ablate.composition import explained
from pipeline.ablate.data import nearest
from pipeline.ablate.run import evaluation_hash, evaluation_texts
from pipeline.ablate.train import Plan, run_trainer, train_all
from pipeline.cli import main
from pipeline.engine.place import Placement
from pipeline.engine.ray_driver import Raised, Result
from pipeline.recipe.recipe import build_recipe, load_recipe
from stages.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["mill", "wheel", "water", "stone", "river", "grain", "turns", "stands", "at", "the", "of", "and"]
TINY = ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.n_experts=4", "model.top_k=2", "model.expert_width=16"]
TINY += ["data.sequence_length=32", "train.batch_tokens=128", "train.micro_batch=4", "evaluate.instances=1"]
TINY += ["schedule.warmup_tokens=128"]
TOKENS = 128 * 6


def text(number: int, words: int) -> str:
    rng = random.Random(number)
    return " ".join(rng.choice(WORDS) for _ in range(words))


def recipe(folder: Path) -> Path:
    """Prose, and for every third document a short one, which a step drops; a quarter comes twice."""
    rows = [{"id": f"d{number}", "text": text(number % 60, 6 if number % 3 == 0 else 60)} for number in range(80)]
    (folder / "web.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = [{"id": f"e{number}", "text": text(1000 + number, 40)} for number in range(4)]
    evaluation.append({"id": "seen", "text": text(1, 60)})
    (folder / "wiki.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluation))
    data = {
        "name": "trial",
        "sources": {
            "web": {
                "read": {"paths": ["web.jsonl"]},
                "steps": [
                    {"remove_urls": {}},
                    {"gopher_quality": {"words": {"min": 20}, "stop_words": None, "symbol_ratio": None}},
                    {"dedup": {"method": "exact"}},
                ],
            }
        },
        "tokenizer": {"train": {"vocab_size": 300, "max_bytes": "20KB"}},
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
    }
    (folder / "trial.yaml").write_text(yaml.safe_dump(data))
    return folder / "trial.yaml"


def command(folder: Path, arms: str, *more: str, out: str = "out", tokens: int = TOKENS) -> list[str]:
    asked = ["ablate", str(folder / "trial.yaml"), "--arms", arms, "--eval", str(folder / "wiki.jsonl"), "--tokens", str(tokens)]
    asked += ["--out", str(folder / out), "--inline", "--quiet", "--jobs", "2", "--device", "cpu"]
    return [*asked, *more, "--train-set", *TINY]


def test_arms_are_compared_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(tmp_path)
    arms = {"arms": {"full": None, "short": {"set": ["sources.web.steps.gopher_quality=null"], "mixture": ["seed=3"]}}}
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump(arms, sort_keys=False))
    asked = command(tmp_path, str(tmp_path / "arms.yaml"), "--seeds", "2")
    assert main(asked) == 0, capsys.readouterr()
    shown, out = capsys.readouterr().out, tmp_path / "out"
    found = json.loads((out / "ablation.json").read_text())
    assert list(found["arms"]) == ["full", "short"] and found["recipe"] == "trial"
    data = {name: arm["data"] for name, arm in found["arms"].items()}
    assert data["short"]["documents"] > data["full"]["documents"]
    assert data["full"]["near"]["documents"] == 1  # the evaluation text that is in training
    assert any("trained on documents of full, of which 1 are near copies" in note for note in found["notes"])
    assert len({one["fingerprint"] for one in data.values()}) == 2
    assert "wiki: bits per byte" in shown and "near the evaluation text" in shown

    # What is told is what the kept losses of documents say.
    for name, arm in found["arms"].items():
        kept = sorted((out / "arms" / name).glob("*/seed-*/scores.json"))
        losses = [json.loads(path.read_text())["documents"] for path in kept]
        values = [sum(d["nats"] for d in one) / math.log(2) / sum(d["bytes"] for d in one) for one in losses]
        assert len(kept) == 2 and arm["scores"]["wiki"]["seeds"] == pytest.approx(values)
        states = [json.loads(path.read_text()) for path in (out / "arms" / name).glob("*/seed-*/checkpoints/*/state.json")]
        assert max(state["tokens"] for state in states) == TOKENS
    rows = list(csv.DictReader((out / "ablation.csv").open()))
    assert len(rows) == 4 and {row["fingerprint"] for row in rows} == {one["fingerprint"] for one in data.values()}
    assert (out / "ablation.png").stat().st_size > 1000

    # The arms share one tokenizer, and what comes before their first difference.
    tokenizers = {(out / one["folder"] / "tokenizer/tokenizer.json").read_bytes() for one in data.values()}
    assert tokenizers == {(out / "tokenizer.json").read_bytes()}

    # Killed in the middle of a training, which ends with it, it goes on: what is done stays, the rest comes to the same result.
    before = (out / "ablation.json").read_bytes()
    gone = next((out / "arms" / "short").glob("*/seed-1"))
    there = {path: path.stat().st_mtime_ns for path in out.glob("arms/*/*/seed-*/scores.json") if path.parent != gone}
    shutil.rmtree(gone)
    (out / "ablation.json").unlink()
    kill_in_training([sys.executable, "-m", "pipeline", *asked], gone)
    assert not list(gone.glob("checkpoints/*")) and not (out / "ablation.json").exists()
    assert main(asked) == 0
    assert (out / "ablation.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in there} == there


def kill_in_training(command: list[str], folder: Path) -> None:
    """Start a command, kill it where the process that trains into a folder has begun, and wait for the end of that one too."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        while not (folder / "log.txt").exists():
            assert running.poll() is None
            time.sleep(0.01)
        running.kill()
    while subprocess.run(["pgrep", "-f", str(folder)], stdout=subprocess.DEVNULL, check=False).returncode == 0:
        time.sleep(0.05)


def losses(rng: np.random.Generator, shift: float = 0.0, count: int = 400) -> list[Loss]:
    sizes = np.random.default_rng(1).integers(50, 500, count)
    hard = np.random.default_rng(2).normal(1.5, 0.4, count)
    noise = rng.normal(0, 0.05, count)
    nats = sizes * (hard + shift + noise)
    return [Loss("wiki", f"d{n}", int(sizes[n]), int(sizes[n]) // 4, float(nats[n])) for n in range(count)]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    held = noise = 0
    for _ in range(200):
        base, arm = [losses(rng) for _ in range(3)], [losses(rng, 0.004) for _ in range(3)]
        found = difference(arm, base, {"wiki": 1.0})
        held += found.low <= 0.004 / math.log(2) <= found.high
        noise += difference([losses(rng) for _ in range(3)], base, {"wiki": 1.0}).noise
    assert held >= 180 and noise >= 180
    one = difference([losses(rng, 1.0)], [losses(rng)], {"wiki": 1.0})
    assert not one.noise and one.low < 1 / math.log(2) < one.high
    values = score([losses(rng), losses(rng, 0.5)], "wiki")
    assert values.mean == pytest.approx(sum(values.seeds) / 2)
    assert values.spread == pytest.approx(0.5 / math.log(2) / math.sqrt(2), rel=0.1)


def test_several_files_are_weighed_in_a_difference_and_in_its_interval() -> None:
    rng = np.random.default_rng(5)

    def both(first: float, second: float) -> list[Loss]:
        return [replace_file(one, file) for file, by in (("wiki", first), ("books", second)) for one in losses(rng, by)]

    weights = {"wiki": 0.75, "books": 0.25}
    arm, base = [both(0.01, -0.02)], [both(0.0, 0.0)]
    whole, parts = difference(arm, base, weights), {file: difference(arm, base, {file: 1.0}) for file in weights}
    assert whole.difference == pytest.approx(sum(w * parts[file].difference for file, w in weights.items()))
    width = math.sqrt(sum((w * (parts[file].high - parts[file].low)) ** 2 for file, w in weights.items()))
    assert whole.high - whole.low == pytest.approx(width)
    # Documents that all differ by the same, and seeds that do not: what is left is the spread of the seeds' weighted differences.
    shifts = [(0.01, 0.03), (0.02, -0.01), (0.04, 0.02)]
    plain = [Loss(file, f"d{n}", 100, 25, 100.0) for file in weights for n in range(9)]
    seeds = [[msgspec.structs.replace(one, nats=100 + 100 * by[one.file == "books"]) for one in plain] for by in shifts]
    found = difference(seeds, [plain] * 3, weights)
    each = [(0.75 * a + 0.25 * b) / math.log(2) for a, b in shifts]
    assert found.difference == pytest.approx(np.mean(each))
    assert found.high - found.difference == pytest.approx(1.96 * np.std(each, ddof=1) / math.sqrt(3), rel=1e-3)


def replace_file(loss: Loss, file: str) -> Loss:
    return msgspec.structs.replace(loss, file=file)


def steps(*names: dict[str, Any]) -> Any:
    source = {"read": {"paths": ["x"]}, "steps": list(names)}
    return build_recipe({"name": "r", "sources": {"a": source, "b": source}, "tokenizer": {"train": {}}, "mixture": {}})


def test_ready_plans() -> None:
    found = steps({"extract": {}}, {"limit_newlines": {}}, {"dedup": {"method": "exact"}})
    every = arms_of("all-but-one", found)
    assert [arm.name for arm in every] == ["all", "no-limit_newlines", "no-dedup"]
    assert every[1].assignments == ("sources.a.steps.limit_newlines=null", "sources.b.steps.limit_newlines=null")
    up = arms_of("cumulative", found)
    assert [(arm.name, len(arm.assignments)) for arm in up] == [("raw", 4), ("+limit_newlines", 2), ("+dedup", 0)]
    assert [nearest(up[place], up[:place]).name for place in (1, 2)] == ["raw", "+limit_newlines"]
    assert [len(arm.assignments) for arm in arms_of("dedup", found)] == [0, 2]
    engines = arms_of("extraction", found)
    assert [arm.name for arm in engines] == ["resiliparse", "blocks", "whole-page"]
    assert engines[1].assignments[::2] == ("sources.a.steps.extract.engine=blocks", "sources.b.steps.extract.engine=blocks")


def test_arms_that_come_with_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arms = arms_of("web_steps", load_recipe("web_steps", None))
    assert [arm.name for arm in arms][:2] == ["raw", "main_text"] and len(arms) == 7
    for arm in arms:
        found = load_recipe("web_steps", None, arm.assignments).sources["web"]
        assert arm.name != "raw" or [name for name, _ in found.steps] == ["extract"]


def test_buckets_and_cutoffs_of_a_measure() -> None:
    found = steps({"gopher_quality": {}}, {"quality": {"model": "m.bin"}})
    by = by_of(found)
    assert (by.source, by.column, by.quantiles) == ("a", "quality.score", (0.25, 0.5, 0.75))
    buckets = arms_of("buckets", found, by_of(found, "b.gopher_quality.words", (0.5, 0.9)))
    assert [arm.name for arm in buckets] == ["all", "words1", "words2", "words3"]
    assert {arm.assignments for arm in buckets} == {
        ("sources.b.steps.gopher_quality.words=null", "sources.b.split=[{by: gopher_quality.words, quantiles: [0.5, 0.9]}]")
    }
    assert buckets[2].mixture == ("per_source.b-words1.repeats=0", "per_source.b-words3.repeats=0")
    cutoffs = arms_of("cutoffs", found)
    assert [arm.name for arm in cutoffs] == ["all", "above-0.25", "above-0.5", "above-0.75"]
    assert [len(arm.mixture) for arm in cutoffs] == [0, 1, 2, 3]


@dataclass(frozen=True)
class Made:
    folder: str
    fingerprint: str


SITES = {"a.example": 15, "b.example": 30, "c.example": 60}  # words of each document


def sites(folder: Path, measure_sites: bool) -> Path:
    """Documents whose length, and so their number of words, is told by their site, or by nothing."""
    rows = []
    for number in range(90):
        site = list(SITES)[number % 3]
        words = SITES[site] if measure_sites else 15 + 45 * random.Random(number).randrange(3) // 2
        rows.append({"id": f"d{number}", "url": f"https://{site}/{number}", "text": text(number, words)})
    (folder / "web.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = yaml.safe_load((folder / "trial.yaml").read_text())
    data["sources"]["web"]["steps"] = [{"gopher_quality": {"words": {"min": 5}, "stop_words": None, "symbol_ratio": None}}]
    (folder / "trial.yaml").write_text(yaml.safe_dump(data))
    return folder


def test_a_score_that_sorts_by_domain_is_found_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(tmp_path)
    sites(tmp_path, measure_sites=True)
    asked = command(tmp_path, "buckets", "--by", "web.gopher_quality.words", "--at", "0.4", "0.8", "--seeds", "1")
    assert main(asked) == 0, capsys.readouterr()
    shown, found = capsys.readouterr().out, json.loads((tmp_path / "out/ablation.json").read_text())
    assert found["by"] == "web.gopher_quality.words" and list(found["arms"]) == ["all", "words1", "words2", "words3"]
    assert found["explained"] == {"documents": 90, "by_domain": 1.0, "by_length": pytest.approx(1.0, abs=0.05)}
    assert "web.gopher_quality.words sorts by domain" in shown
    made = {name: arm["data"]["composition"] for name, arm in found["arms"].items()}
    assert made["words1"]["largest"] == {"a.example": 1.0} and made["words3"]["largest"] == {"c.example": 1.0}
    tokens = {name: found["arms"][f"words{number}"]["data"]["sources"] for number, name in enumerate(SITES, start=1)}
    own = {name: max(one["asked"] / max(one["repeats"], 1e-9) for one in parts.values()) for name, parts in tokens.items()}
    shares = {name: one / sum(own.values()) for name, one in own.items()}  # of the tokens, and not of the documents
    assert made["all"]["domains"] == 3 and made["all"]["largest"] == pytest.approx(shares, abs=1e-6)
    assert list(made["all"]["largest"]) == ["c.example", "b.example", "a.example"]
    assert made["words1"]["lengths"][2] < made["words2"]["lengths"][0] < made["words3"]["lengths"][0]
    documents = {name: arm["data"]["documents"] for name, arm in found["arms"].items()}
    assert documents == {"all": 90, "words1": 30, "words2": 30, "words3": 30}


def test_what_domain_and_length_say_of_a_score(tmp_path: Path) -> None:
    recipe(tmp_path)
    sites(tmp_path, measure_sites=False)
    out = str(tmp_path / "run")
    assert main(["run", str(tmp_path / "trial.yaml"), "--set", "run.keep=all", "--out", out, "--inline", "--quiet"]) == 0
    found = explained(Path(out), "web", "gopher_quality.words")
    assert found.documents == 90 and found.by_domain is not None and found.by_domain < 0.1
    assert found.by_length is not None and found.by_length > 0.9


def test_models_are_trained_on_a_cluster_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe(tmp_path)
    called: list[str] = []

    class Cluster:
        """Ray, of one worker: calls are carried out when their outcomes are asked for."""

        cpus = 1

        def __init__(self) -> None:
            self.calls: list[tuple[int, tuple[Any, ...]]] = []

        def call(self, number: int, function: str, arguments: tuple[Any, ...], **more: Any) -> None:
            called.append(function)
            self.calls.append((number, arguments))

        def outcomes(self, seconds: float) -> list[Result | Raised]:
            number, arguments = self.calls.pop(0)
            try:
                return [Result(number, run_trainer(*pickle.loads(pickle.dumps(arguments))))]
            except UserError as error:
                return [Raised(number, error)]

        def cancel(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(train, "start_ray", lambda *_: Cluster())
    out = tmp_path / "out"
    assert main(command(tmp_path, "dedup", "--seeds", "1")) == 0
    before = (out / "ablation.json").read_bytes()
    read = [{path.stat().st_ino for path in (out / "runs").glob(f"{arm}-dedup/parts/web/0/*")} for arm in ("with", "without")]
    assert read[0] and read[0] == read[1]  # what comes before their first difference was done once
    for path in out.glob("arms/*/*/seed-0"):
        shutil.rmtree(path)
    plan = Plan("olmoe_tiny", tuple(TINY), TOKENS, (0,), (tmp_path / "wiki.jsonl",), 1, 1, "cpu")
    arms = {name: Made(arm["data"]["folder"], arm["data"]["fingerprint"]) for name, arm in json.loads(before)["arms"].items()}
    hashed = evaluation_hash(evaluation_texts([tmp_path / "wiki.jsonl"]))
    losses = train_all(plan, arms, out, hashed, Placement(address="somewhere:1"), print)
    assert called == ["pipeline.ablate.train:run_trainer"] * 2
    for name, arm in json.loads(before)["arms"].items():
        assert score(losses[name], "wiki").seeds == arm["scores"]["wiki"]["seeds"]
    with pytest.raises(UserError, match="the trainer ended with status"):
        train_all(replace(plan, settings=("model.d_model=3",)), arms, out, hashed, Placement(address="somewhere:1"), print)


@pytest.mark.parametrize(
    ("arms", "more", "tokens", "expected"),
    [
        ("all-but-one", [], TOKENS + 1, "--tokens 769: is no multiple of a batch's 128 (train.batch_tokens); 768 is the nearest"),
        ("nothing", [], TOKENS, "--arms nothing: is neither a file nor one of all-but-one, cumulative, dedup, extraction"),
        ("all-but-one", ["--seeds", "0"], TOKENS, "--seeds 0: at least 1 is needed"),
        ("all-but-one", ["--set", "mixture.epochs=x"], TOKENS, "mixture.epochs"),
        ("wrong.yaml", [], TOKENS, "arms.b.sett"),
        ("key.yaml", [], TOKENS, "arm b: "),
        ("buckets", [], TOKENS, "the recipe has no step `quality`: name the measure"),
        ("buckets", ["--by", "web.words"], TOKENS, "--by web.words: write SOURCE.STEP.MEASURE; the sources are web"),
        ("cutoffs", ["--by", "web.gopher_quality.words", "--at", "0.5", "0.2"], TOKENS, "--at 0.5 0.2: shares of the documents"),
        ("dedup", ["--at", "0.5"], TOKENS, "--by and --at belong to --arms cutoffs and buckets"),
        ("extraction", [], TOKENS, "--arms extraction: the recipe has no step `extract`"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_first_run(
    tmp_path: Path, arms: str, more: list[str], tokens: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(tmp_path)
    (tmp_path / "wrong.yaml").write_text("arms: {a: , b: {sett: [x=1]}}")
    (tmp_path / "key.yaml").write_text("arms: {a: , b: {set: [sources.web.steps.nothing=null]}}")
    plan = str(tmp_path / arms) if arms.endswith(".yaml") else arms
    assert main(command(tmp_path, plan, *more, tokens=tokens)) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_more_tokens_than_an_arm_may_repeat_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(tmp_path)
    assert main(command(tmp_path, "dedup", tokens=128 * 1000)) == 2
    assert "arm with-dedup: the mixture asks for more than there is: web: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "missing", "told"),
    [
        (["ablate", "web_steps"], "torch", r"--config olmoe_tiny: training needs PyTorch, .*headrace\[trainer\]"),
        (["ablate", "web_steps"], "matplotlib", r"needs matplotlib, .*headrace\[plots\]"),
        (["search-mixture", "run", "--out", "out"], "matplotlib", r"needs matplotlib, .*headrace\[plots\]"),
    ],
)
def test_what_is_not_installed_is_one_sentence(command: list[str], missing: str, told: str) -> None:
    """After the command that makes the environment of the pipeline alone."""
    start = f"import sys; sys.modules[{missing!r}] = None; from pipeline.cli import console; sys.exit(console())"
    asked = [*command, "--eval", "README.md", "--tokens", "65536"]
    done = subprocess.run([sys.executable, "-c", start, *asked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and re.search(f"^error: .*{told}", done.stderr) and len(done.stderr.splitlines()) == 1
