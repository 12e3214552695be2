"""What routers do, against counts made token by token in plain Python."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from trainer import checkpoint
from trainer.__main__ import main
from trainer.analyze.measures import MIN_SEEN, Counts, Saturation, most_coactive
from trainer.analyze.page import visible
from trainer.analyze.routing import Routed
from trainer.analyze.run import analyze
from trainer.config import plain
from trainer.inference import open_trained
from trainer.loader.data import open_data
from trainer.train import train


@pytest.fixture(scope="module")
def trained_folder(make_config, small_run, tmp_path_factory):
    config = make_config(
        checkpoint={"every_tokens": 1024, "keep": 10},
        train={"tokens": 3072},
        schedule={"peak": 2e-2, "warmup_tokens": 128},
        model={"vocab_multiple": 128},
    )
    out = tmp_path_factory.mktemp("trained")
    assert train(config, small_run, out, device="cpu") == 0
    assert len(checkpoint.all_checkpoints(out / "checkpoints")) == 3
    return out


def choices_of(trained, tokens_BT):
    """The experts of each token by layer, largest weight first, from the router's own weights: [L][N][K]."""
    found = []

    def keep(module, given, _out):
        logits = given[0].float() @ module.weight_ED.float().t()
        found.append(logits.argsort(-1, descending=True)[:, : trained.config.model.top_k].tolist())

    hooks = [layer.mlp.router.register_forward_hook(keep) for layer in trained.model.layers]
    with torch.no_grad():
        logits = trained.model(torch.from_numpy(tokens_BT))
    for hook in hooks:
        hook.remove()
    vocabulary = trained.data["vocab_size"]
    return found, logits[..., :vocabulary].argmax(-1).flatten().tolist()


@pytest.fixture(scope="module")
def plainly(trained_folder, small_run):
    """Every token on its own: (source, token, predicted, choices by layer, choices of the first checkpoint)."""
    paths = checkpoint.all_checkpoints(trained_folder / "checkpoints")
    first, last = open_trained(paths[0], "cpu"), open_trained(paths[-1], "cpu")
    data = open_data(small_run, 32)
    rows = []
    for source in data.sources:
        held_out = data.held_out[source]
        tokens = held_out.batch(0, len(held_out))
        choices, predicted = choices_of(last, tokens)
        early, _ = choices_of(first, tokens)
        for n, token in enumerate(tokens.reshape(-1).tolist()):
            rows.append((source, token, predicted[n], [layer[n] for layer in choices], [layer[n] for layer in early]))
    return rows


@pytest.fixture(scope="module", params=[32, 8192])
def found(request, trained_folder, small_run):
    return analyze([trained_folder], small_run, batch_tokens=request.param, device="cpu")[0]


LAYERS, EXPERTS, K = 2, 8, 2


def test_load_and_domains(found, plainly) -> None:
    sources = Counter(row[0] for row in plainly)
    assert dict(zip(found.sources, found.counts.tokens_S.tolist(), strict=True)) == dict(sources)
    for layer in range(LAYERS):
        routed, first = Counter(), Counter()
        for source, _, _, choices, _ in plainly:
            routed.update((source, expert) for expert in choices[layer])
            first[source, choices[layer][0]] += 1
        for number, source in enumerate(found.sources):
            for expert in range(EXPERTS):
                shares = (routed[source, expert] / sources[source], first[source, expert] / sources[source])
                ours = [found.counts.domain_specialisation(only)[layer, number, expert] for only in (False, True)]
                assert ours == pytest.approx(shares)
        for expert in range(EXPERTS):
            total = sum(routed[source, expert] for source in sources)
            assert found.counts.load()[layer, expert] == pytest.approx(total / (len(plainly) * K / EXPERTS))


def test_coactivation(found, plainly) -> None:
    for layer in range(LAYERS):
        own, both = Counter(), Counter()
        for _, _, _, choices, _ in plainly:
            own.update(choices[layer])
            both.update((i, j) for i in choices[layer] for j in choices[layer] if i != j)
        expected = [[both[i, j] / own[i] if own[i] else 0 for j in range(EXPERTS)] for i in range(EXPERTS)]
        assert found.counts.coactivation()[layer] == pytest.approx(np.array(expected))


def test_vocabulary(found, plainly) -> None:
    for kind, place in (("input", 1), ("output", 2)):
        for layer in range(LAYERS):
            experts_of = defaultdict(Counter)
            for row in plainly:
                experts_of[row[place]][row[3][layer][0]] += 1
            shares = [max(c.values()) / sum(c.values()) for c in experts_of.values()]
            ours = found.counts.vocabulary_specialisation(kind)[layer]
            assert ours == pytest.approx(sum(shares) / len(shares))
            listed = found.counts.tokens_of_expert(kind, layer, most=1000)
            for expert, tokens in enumerate(listed):
                for token, share, seen in tokens:
                    counter = experts_of[token]
                    assert seen == sum(counter.values()) >= MIN_SEEN
                    assert share == pytest.approx(counter[expert] / seen)
                    assert counter[expert] == max(counter.values())
                assert [t[1] for t in tokens] == sorted((t[1] for t in tokens), reverse=True)
            often = {token for token, counter in experts_of.items() if sum(counter.values()) >= MIN_SEEN}
            assert sum(map(len, listed)) == len(often)


def test_saturation(found, plainly) -> None:
    assert len(found.names) == 3
    assert found.tokens_seen == [1024, 2048, 3072]
    for layer in range(LAYERS):
        shared = [len(set(now[layer]) & set(then[layer])) / K for *_, now, then in plainly]
        same = [now[layer][0] == then[layer][0] for *_, now, then in plainly]
        assert found.saturation[0].all()[layer] == pytest.approx(sum(shared) / len(shared))
        assert found.saturation[0].first()[layer] == pytest.approx(sum(same) / len(same))
        assert found.saturation[0].all()[layer] < 1
    assert found.saturation[-1].all().tolist() == [1, 1]


def test_saturation_and_coactivation_by_hand() -> None:
    saturation = Saturation(1)
    saturation.add(np.array([[[0, 1], [2, 3]]]), np.array([[[1, 0], [2, 0]]]))
    assert saturation.all().tolist() == [0.75]
    assert saturation.first().tolist() == [0.5]
    counts = Counts(1, 1, 3, 5)
    counts.add(Routed(0, np.array([4, 4, 1]), np.array([0, 0, 0]), np.array([[[0, 1], [0, 2], [0, 1]]], np.int16)))
    assert counts.coactivation()[0] == pytest.approx(np.array([[0, 2 / 3, 1 / 3], [1, 0, 0], [1, 0, 0]]))
    assert most_coactive(counts.coactivation()[0]) == [1, 0, 2]
    assert counts.vocabulary_specialisation("input").tolist() == [1.0]


def test_the_command_writes_tables_pictures_and_a_page(trained_folder, small_run, tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    assert main(["analyze", str(trained_folder), "--data", str(small_run), "--out", str(out), "--device", "cpu"]) == 0
    assert "3 checkpoint(s)" in capsys.readouterr().out
    told = json.loads((out / "analysis.json").read_text())
    assert [one["tokens"] for one in told["checkpoints"]] == [1024, 2048, 3072]
    assert sorted(path.name for path in out.glob("*.png")) == [
        "coactivation.png", "domains.png", "load.png", "saturation.png", "vocabulary.png",
    ]  # fmt: skip
    with (out / "domain_specialisation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * LAYERS * EXPERTS
    for k in ("2", "1"):
        total = sum(float(r["share"]) for r in rows if r["k"] == k and r["layer"] == "0" and r["source"] == "web")
        assert total == pytest.approx(float(k), abs=1e-4)
    page = (out / "index.html").read_text()
    assert page.count('<div class="picture"><img alt="') == 5  # which scroll sideways on a phone, as wide as it says it is
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "<script" not in page
    assert 'src="http' not in page


def test_a_hugging_face_folder_is_analysed_as_its_checkpoint(trained_folder, small_run, tmp_path) -> None:
    assert main(["export", str(trained_folder), "--out", str(tmp_path / "hf")]) == 0
    theirs, _ = analyze([tmp_path / "hf"], small_run, hf=True, device="cpu")
    ours, _ = analyze([checkpoint.latest(trained_folder / "checkpoints")], small_run, device="cpu")
    assert np.array_equal(theirs.counts.routed_LSE, ours.counts.routed_LSE)
    assert np.array_equal(theirs.counts.output_LEV, ours.counts.output_LEV)


def test_what_has_no_routers_is_one_sentence(make_config, small_run, tmp_path, capsys) -> None:
    config = make_config(
        model={"n_experts": 0, "expert_width": 32}, train={"tokens": 256}, losses={"balance_instances": 0}
    )
    assert train(config, small_run, tmp_path / "dense", device="cpu") == 0
    capsys.readouterr()
    assert plain(config)["model"]["n_experts"] == 0
    assert (
        main(
            [
                "analyze",
                str(tmp_path / "dense"),
                "--data",
                str(small_run),
                "--out",
                str(tmp_path / "o"),
                "--device",
                "cpu",
            ]
        )
        == 2
    )
    assert "is a dense model, and has no experts to look at" in capsys.readouterr().err


def test_a_token_of_white_space_stays_on_its_line() -> None:
    assert visible(" a\n\t\x1b") == r" a\n\t\x1b"
