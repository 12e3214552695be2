"""Preferences from a model's own answers, and what the key `adapt.nll` adds to them."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pair_runs
import pytest
import token_runs
import torch

from trainer import metrics
from trainer.__main__ import main
from trainer.adapt.config import AdaptConfig
from trainer.adapt.objectives import OverPreferences, log_probs_of
from trainer.adapt.pairs import Pairs
from trainer.adapt.source import PairSource, part_of
from trainer.config import load
from trainer.inference import open_trained
from trainer.losses import IGNORED
from trainer.processes import Processes

CONFIGS = Path(__file__).parents[2] / "configs" / "trainer" / "adapt"
SMALL = {
    "data.sequence_length": pair_runs.LENGTH,
    "train.batch_tokens": 4 * pair_runs.LENGTH,
    "train.micro_batch": 2,
    "train.precision": "float32",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return token_runs.train(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    return pair_runs.write_checkpoint(tmp_path_factory.mktemp("base"), tokenizer)


def sets(**more):
    return [
        part for name, value in {**SMALL, **more}.items() for part in ("--set", f"{name.replace('__', '.')}={value}")
    ]


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tokenizer, base):
    """A model that answers one of four words, about as often each, and the pairs that it was taught on."""
    folder = tmp_path_factory.mktemp("taught")
    rows = [
        {"id": f"word/{n}", "prompt": f"Say {pair_runs.WORDS[n % 8]}", "answer": str(n // 8 % 4), "final": str(n % 2)}
        for n in range(96)
    ]
    pairs = pair_runs.write_pairs(folder / "pairs", rows, tokenizer, held_out=0.2)
    command = [
        "adapt",
        str(CONFIGS / "sft.yaml"),
        "--from",
        str(base),
        "--data",
        str(pairs),
        "--out",
        str(folder / "out"),
    ]
    assert main([*command, "--device", "cpu", *sets(adapt__epochs=12, schedule__peak=1e-2)]) == 0
    return folder / "out", pairs


def test_right_answers_are_written_against_wrong_ones(taught, tmp_path, capsys) -> None:
    out, pairs = taught
    capsys.readouterr()
    file = tmp_path / "preferences.jsonl"
    asked = ["generate", str(out), "--pairs", str(pairs), "--split", "train", "--tokens", "8", "--temperature", "1.5"]
    assert main([*asked, "--samples", "12", "--preferences", str(file), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    records = {record.id: record for record in Pairs(pairs).train.records()}
    prompts = {record.prompt for record in records.values()}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines and f"{len(lines):,} preferences" in told and f"{len(prompts)} prompts: " in told
    for line in lines:
        record = records[line["id"].rsplit("/", 1)[0]]
        assert line["prompt"] == record.prompt and line["final"] == record.fields["final"]
        last = [re.findall(r"\d+", line[name])[-1:] for name in ("chosen", "rejected")]
        assert last[0] == [line["final"]] and last[1] != [line["final"]]
    assert len({line["id"] for line in lines}) == len(lines)
    # They are what the pipeline makes pairs of, and what dpo learns from.
    preferred = pair_runs.write_pairs(tmp_path / "made", lines, Path(pairs) / "tokenizer" / "tokenizer.json")
    assert Pairs(preferred).kind == "preferences" and len(Pairs(preferred).train)


def test_preferences_want_answers_that_are_right_or_wrong(taught, base, tokenizer, tmp_path, capsys) -> None:
    out, pairs = taught
    file = str(tmp_path / "p.jsonl")
    asked = ["generate", str(out), "--pairs", str(pairs), "--split", "train", "--tokens", "4", "--device", "cpu"]
    assert main([*asked, "--preferences", file]) == 2
    assert "--samples 1 is too few" in capsys.readouterr().err
    assert main([*asked[:2], "--prompt", "x", "--preferences", file]) == 2
    assert "--preferences judges the answers to --pairs" in capsys.readouterr().err
    rows = [{"prompt": f"Say {n}", "answer": str(n)} for n in range(20)]
    plain = pair_runs.write_pairs(tmp_path / "plain", rows, tokenizer)
    asked[3] = str(plain)
    assert main([*asked, "--samples", "2", "--preferences", file]) == 2
    assert "has neither final nor tests" in capsys.readouterr().err
    rows = [{"prompt": f"Say {n}", "answer": str(n), "final": "never"} for n in range(20)]
    asked[3] = str(pair_runs.write_pairs(tmp_path / "never", rows, tokenizer))
    assert main([*asked, "--samples", "2", "--limit", "2", "--preferences", file]) == 2
    assert "no prompt has both right and wrong answers" in capsys.readouterr().err
    assert not Path(file).exists()


def test_conversations_of_several_turns_are_left_out_and_counted(taught, tokenizer, tmp_path, capsys) -> None:
    out, _ = taught
    turns = [("user", "Say mill"), ("assistant", "0"), ("user", "Say wheel"), ("assistant", "1")]
    talk = {"id": "talk", "messages": [{"role": role, "content": text} for role, text in turns[2:]], "final": "1"}
    # The system's words stand before the first answer: the prompt is no user's message alone.
    told = {**talk, "id": "told", "messages": [{"role": "system", "content": "Be short."}, *talk["messages"]]}
    pairs = pair_runs.write_pairs(tmp_path / "pairs", [talk, told], tokenizer, held_out=0.0)
    file = tmp_path / "p.jsonl"
    asked = ["generate", str(out), "--pairs", str(pairs), "--split", "train", "--tokens", "4", "--device", "cpu"]
    main([*asked, "--samples", "8", "--temperature", "2", "--preferences", str(file)])
    assert "2 prompts: " in (printed := capsys.readouterr().out) and "1 of several turns" in printed


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_nll_adds_a_right_answers_own_loss_a_token(method, base, tokenizer, tmp_path) -> None:
    pairs = pair_runs.write_pairs(tmp_path / "pairs", pair_runs.preferring(12), tokenizer, held_out=0.0)
    gradients, log_probs, part = {}, None, None
    for weight in (0.0, 0.7):
        settings = [f"{name}={value}" for name, value in SMALL.items()]
        config = load(CONFIGS / f"{method}.yaml", [*settings, f"adapt.nll={weight}"], AdaptConfig)
        source = PairSource(config, Pairs(pairs), torch.device("cpu"), pair_runs.LENGTH)
        part = part_of(source.train.read(np.arange(8)), torch.device("cpu"), 0, "units", None)
        trained = open_trained(base, "cpu")
        trained.model.requires_grad_(True)
        reference = log_probs_of(trained.model, part, 128) - 1.0
        objective = OverPreferences(config, source, Processes(0, 1, torch.device("cpu")), lambda _, r=reference: r)
        loss = objective.loss(trained.model, part).summed
        loss.backward()
        gradients[weight] = [p.grad.clone() for p in trained.model.parameters()], loss.item()
        log_probs = log_probs_of(trained.model, part, 128)
    assert part is not None and (part.role_S == 1).any()
    # What is added, by autograd on the whole logits.
    trained = open_trained(base, "cpu")
    trained.model.requires_grad_(True)
    learned = part.targets_BT != IGNORED
    logits = trained.model(part.tokens_BT, documents=part.documents)
    of_token = torch.nn.functional.cross_entropy(logits[learned], part.targets_BT[learned], reduction="none")
    sequence = part.sequence_BT[learned]
    added = sum(of_token[sequence == s].mean() for s in range(part.sequences) if part.role_S[s] == 1)
    (0.7 * added).backward()
    assert gradients[0.7][1] - gradients[0.0][1] == pytest.approx(0.7 * added.item(), rel=1e-4)
    for with_it, without, own in zip(gradients[0.7][0], gradients[0.0][0], trained.model.parameters(), strict=True):
        assert torch.allclose(with_it - without, own.grad, atol=2e-5)
    assert log_probs is not None


def test_nll_is_a_setting_of_preferences(base, taught, tmp_path, capsys) -> None:
    _, pairs = taught
    command = [
        "adapt",
        str(CONFIGS / "sft.yaml"),
        "--from",
        str(base),
        "--data",
        str(pairs),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--device", "cpu", *sets(adapt__nll=0.5)]) == 2
    assert "nll is a setting of dpo and kto, and method is sft" in capsys.readouterr().err


def test_fine_tuning_is_watched_too(taught, base, tmp_path, capsys) -> None:
    """Tasks and routers, as in pretraining, on held-out pairs and in the context of the checkpoint."""
    _, pairs = taught
    folder = tmp_path / "tasks" / "word" / "rc_0shot"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"task_config": {"primary_metric": "acc_raw"}}))
    with gzip.open(folder / "requests.jsonl.gz", "wt") as file:
        for document in range(4):
            for choice in range(2):
                asked = {"context": f"Say {pair_runs.WORDS[document]}", "continuation": f" {choice}"}
                row = {"request_type": "loglikelihood", "doc_id": document, "idx": choice, "label": document % 2}
                file.write(json.dumps({**row, "request": asked}) + "\n")
    out = tmp_path / "out"
    command = ["adapt", str(CONFIGS / "sft.yaml"), "--from", str(base), "--data", str(pairs), "--out", str(out)]
    more = {"adapt__epochs": 2, "evaluate__tasks": tmp_path / "tasks", "checkpoint__keep_every_tokens": 1280}
    more |= {"checkpoint__every_tokens": 1280, "evaluate__every_tokens": 1280}
    assert main([*command, "--device", "cpu", *sets(**more)]) == 0
    found = metrics.read(out / "metrics.jsonl")
    tasks, experts = ([line for line in found if line["kind"] == kind] for kind in ("tasks", "experts"))
    assert len(tasks) == len(experts) >= 3 and tasks[-1]["macro"]["accuracy"]["score"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert "saturation" not in experts[0] and len(experts[-1]["saturation"]) == 2
    assert all(0 <= share <= 1 for share in experts[-1]["saturation"] + experts[-1]["coactivation"])
    capsys.readouterr()
    assert main(["eval", str(out), "--tasks", str(tmp_path / "tasks"), "--json", "--device", "cpu"]) == 0
    told = json.loads(capsys.readouterr().out)["tasks"]["word/rc_0shot"]["metrics"]
    assert told == pytest.approx(tasks[-1]["forms"]["word/rc_0shot"]["metrics"], abs=1e-5)
