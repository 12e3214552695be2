"""`trainer adapt` from the command line: what is learned, what is resumed, what is refused."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import forked
import numpy as np
import pair_runs
import pytest
import token_runs
import torch
from safetensors.torch import load_file

from trainer import checkpoint
from trainer.__main__ import main
from trainer.adapt.config import AdaptConfig
from trainer.adapt.objectives import log_probs_of
from trainer.adapt.packed import Packed
from trainer.adapt.pairs import Pairs
from trainer.adapt.source import PairSource, part_of
from trainer.config import load
from trainer.inference import open_trained
from trainer.losses import IGNORED

CONFIGS = Path(__file__).parents[2] / "configs" / "trainer" / "adapt"
METHODS = ("sft", "dpo", "kto", "iqlearn")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return token_runs.train(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    return pair_runs.write_checkpoint(tmp_path_factory.mktemp("base"), tokenizer)


@pytest.fixture(scope="module")
def answers(tmp_path_factory, tokenizer):
    return pair_runs.write_pairs(tmp_path_factory.mktemp("answers") / "pairs", pair_runs.copying(60), tokenizer)


@pytest.fixture(scope="module")
def preferences(tmp_path_factory, tokenizer):
    return pair_runs.write_pairs(tmp_path_factory.mktemp("preferences") / "pairs", pair_runs.preferring(60), tokenizer)


@pytest.fixture
def data(answers, preferences):
    return {"sft": answers, "iqlearn": answers, "dpo": preferences, "kto": preferences}


SETTINGS = {
    "data.sequence_length": pair_runs.LENGTH,
    "train.batch_tokens": 4 * pair_runs.LENGTH,
    "train.micro_batch": 2,
    "train.precision": "float32",
    "schedule.peak": 3e-3,
    "evaluate.instances": 8,
    "checkpoint.asynchronous": "false",
}


def command(method, base, data, out, *more, **settings):
    chosen = {**SETTINGS, **{name.replace("__", "."): value for name, value in settings.items()}}
    sets = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    config = CONFIGS / f"{method}.yaml"
    return [
        "adapt",
        str(config),
        "--from",
        str(base),
        "--data",
        str(data),
        "--out",
        str(out),
        "--device",
        "cpu",
        *sets,
        *more,
    ]


def lines(out, kind):
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def weights(out):
    (file,) = (checkpoint.latest(out / "checkpoints")).glob("model-*.safetensors")
    return load_file(file)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_what_is_held_out(method, base, data, tmp_path) -> None:
    assert main(command(method, base, data[method], tmp_path, adapt__epochs=4)) == 0
    first, *_, last = lines(tmp_path, "eval")
    assert last["loss"] < first["loss"]
    if method in ("dpo", "kto"):
        assert first["margin"] == pytest.approx(0, abs=1e-4)
        assert last["margin"] > 0.05
        assert lines(tmp_path, "step")[-1]["margin"] > lines(tmp_path, "step")[0]["margin"]
    if method == "dpo":
        assert last["right"] > 0.9


@pytest.mark.parametrize("method", [*METHODS, "online"])
def test_a_killed_fine_tuning_goes_on_to_the_same_bits(method, base, data, tmp_path) -> None:
    more = {"adapt__epochs": 2, "checkpoint__every_tokens": 8 * pair_runs.LENGTH}
    if method == "online":
        method, more = "iqlearn", more | {"adapt__online": 0.3, "adapt__online_tokens": 4}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(command(method, base, data[method], whole, **more)) == 0
    arguments = command(method, base, data[method], killed, **more)
    with forked.started(tmp_path / "said", "-m", "trainer", *arguments) as process:
        deadline = time.monotonic() + 120
        while not checkpoint.all_checkpoints(killed / "checkpoints") and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == [-signal.SIGKILL], process.printed("err")
    assert checkpoint.all_checkpoints(killed / "checkpoints")
    saved = checkpoint.read_state(checkpoint.latest(killed / "checkpoints"))["step"]
    assert main([*arguments, "--resume"]) == 0
    assert 0 < saved < len(lines(whole, "step"))
    assert same(weights(whole), weights(killed))
    assert [line["loss"] for line in lines(whole, "step")] == [line["loss"] for line in lines(killed, "step")]


def test_iqlearn_without_its_regulariser_is_sft_to_the_last_bit(base, answers, tmp_path) -> None:
    assert main(command("sft", base, answers, tmp_path / "sft")) == 0
    assert main(command("iqlearn", base, answers, tmp_path / "zero", adapt__iq_lambda=0.0)) == 0
    assert main(command("iqlearn", base, answers, tmp_path / "some", adapt__iq_lambda=0.1)) == 0
    assert same(weights(tmp_path / "sft"), weights(tmp_path / "zero"))
    assert not same(weights(tmp_path / "sft"), weights(tmp_path / "some"))


def test_a_batch_is_the_same_in_parts_of_any_size(base, answers, tmp_path) -> None:
    for size in (1, 4):
        assert main(command("iqlearn", base, answers, tmp_path / str(size), train__micro_batch=size)) == 0
    losses = [[line["loss"] for line in lines(tmp_path / str(size), "step")] for size in (1, 4)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_entropy_bonus_keeps_entropy(base, answers, tmp_path) -> None:
    for bonus in (0.0, 1.0):
        assert (
            main(
                command(
                    "sft",
                    base,
                    answers,
                    tmp_path / str(bonus),
                    adapt__epochs=4,
                    schedule__peak=0.02,
                    adapt__entropy_bonus=bonus,
                )
            )
            == 0
        )
    plain, rewarded = (lines(tmp_path / str(bonus), "eval")[-1]["entropy"] for bonus in (0.0, 1.0))
    assert rewarded > plain + 0.1


def test_the_reference_is_the_same_stored_or_in_memory(base, preferences, tmp_path) -> None:
    for way in ("stored", "copy"):
        assert main(command("dpo", base, preferences, tmp_path / way, adapt__reference=way)) == 0
    one, two = ([line["loss"] for line in lines(tmp_path / way, "step")] for way in ("stored", "copy"))
    assert one == pytest.approx(two, rel=1e-5)
    assert (tmp_path / "stored" / "reference-held_out.npy").is_file()
    assert not (tmp_path / "copy" / "reference-train.npy").exists()


def test_sequences_in_one_instance_know_nothing_of_each_other(base, preferences) -> None:
    config = load(CONFIGS / "dpo.yaml", [f"{k}={v}" for k, v in SETTINGS.items()], AdaptConfig)
    source = PairSource(config, Pairs(preferences), torch.device("cpu"), pair_runs.LENGTH)
    part = part_of(source.train.read(np.arange(3)), torch.device("cpu"), 0, "units", None)
    model = open_trained(base, "cpu").model
    found = log_probs_of(model, part, 1)
    at = 0
    for unit in dict.fromkeys(part.unit_S.tolist()):
        for _, tokens, mask in source.train.parts(unit):
            with torch.no_grad():
                log_probs = model(torch.from_numpy(tokens)[None])[0].log_softmax(-1)
            targets = torch.from_numpy(tokens[1:])[mask[1:]]
            alone = log_probs[:-1][torch.from_numpy(mask[1:])].gather(1, targets[:, None]).sum()
            assert found[at].item() == pytest.approx(alone.item(), abs=1e-3)
            at += 1
    assert at == part.sequences


@pytest.mark.parametrize("method", METHODS)
def test_each_pair_is_in_one_instance_whole_in_every_epoch(method, data) -> None:
    pairs = Pairs(data[method])
    packed = Packed(pairs.train, method, pairs.kind, pair_runs.LENGTH, pair_runs.LENGTH, IGNORED, pairs.pad_id)
    read = packed.read(np.arange(len(packed)))
    units = read.unit_S[np.flatnonzero(np.diff(read.unit_S, prepend=-1))]
    assert sorted(units.tolist()) == list(range(packed.units))
    assert packed.left_out == 0
    for sequence in range(len(read.role_S)):
        rows, columns = np.nonzero(read.sequence_BT == sequence)
        assert len(set(rows)) == 1
        assert np.array_equal(columns, np.arange(columns[0], columns[-1] + 1))
    if method == "kto":  # each answer's prompt stands with an answer of another pair
        sequences = pairs.train
        for unit in range(packed.units):
            parts = packed.parts(unit)
            assert len(parts) == 2
            prompt = sequences.prompt(unit)
            assert np.array_equal(parts[1][1][: len(prompt)], prompt)
            assert sequences.pair[packed.second[unit]] != sequences.pair[unit]


def test_labels_teach_kto(base, tokenizer, tmp_path) -> None:
    rows = [
        {"prompt": row["prompt"], "answer": row[which], "label": which == "chosen"}
        for row in pair_runs.preferring(40)
        for which in ("chosen", "rejected")
    ]
    pairs = pair_runs.write_pairs(tmp_path / "labels", rows, tokenizer)
    assert main(command("kto", base, pairs, tmp_path / "out", adapt__epochs=3)) == 0
    assert lines(tmp_path / "out", "step")[-1]["margin"] > 0


@pytest.mark.parametrize(
    ("method", "more", "told"),
    [
        ("dpo", {}, "holds answers; dpo learns from preferences"),
        ("kto", {}, "holds answers; kto learns from preferences or labels"),
        ("sft", {"adapt__beta": "x"}, "adapt.beta = 'x'"),
        ("sft", {"adapt__lambda": 1}, "unknown key adapt.lambda; did you mean adapt.iq_lambda?"),
        ("sft", {"adapt__online": 0.1}, "online is a setting of iqlearn, and method is sft"),
        ("sft", {"model__d_model": 64}, "the model is the checkpoint's"),
        ("sft", {"start_from": "x"}, "leave start_from out"),
        (
            "sft",
            {"data__sequence_length": 8, "train__batch_tokens": 32},
            "none of its 51 pairs fits into an instance of 8 tokens",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(method, more, told, base, answers, tmp_path, capsys) -> None:
    assert main(command(method, base, answers, tmp_path / "out", **more)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_folders_and_tokenizers_of_something_else_are_one_sentence(base, answers, tokenizer, tmp_path, capsys) -> None:
    run = token_runs.write_run(tmp_path / "run", tokenizer, token_runs.TEXTS)
    assert run
    assert main(command("sft", base, tmp_path / "run", tmp_path / "out")) == 2
    assert "holds no pairs, but documents" in capsys.readouterr().err
    other = token_runs.train(tmp_path / "other" / "tokenizer.json", vocab_size=500)
    pairs = pair_runs.write_pairs(tmp_path / "others", pair_runs.copying(20), other)
    assert main(command("sft", base, pairs, tmp_path / "out")) == 2
    assert "its tokenizer has 500 entries, the model was trained with 600" in capsys.readouterr().err
    assert main(command("sft", tmp_path / "nowhere", answers, tmp_path / "out")) == 2
    assert "no checkpoint there" in capsys.readouterr().err


def test_pairs_longer_than_an_instance_are_told_of(base, tokenizer, tmp_path, capsys) -> None:
    long = [{"id": "long", "prompt": "word " * 40, "answer": "x " * 40}]
    pairs = pair_runs.write_pairs(
        tmp_path / "pairs", [*pair_runs.copying(40), *long], tokenizer, max_tokens=400, held_out=0.0
    )
    assert main(command("sft", base, pairs, tmp_path / "out")) == 0
    told = capsys.readouterr().out
    assert "note: 1 pairs are longer than an instance or the context: left out" in told
    assert "note: there are no held-out pairs, so nothing is evaluated" in told


def test_an_adapted_model_is_exported_with_its_template_and_judged(base, answers, tmp_path, capsys) -> None:
    transformers = pytest.importorskip("transformers")
    assert main(command("sft", base, answers, tmp_path / "out", adapt__epochs=4)) == 0
    assert main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "hf")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    messages = [{"role": "user", "content": "Copy: mill"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|endoftext|><|user|>\nCopy: mill\n<|assistant|>\n"
    tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    ours = open_trained(tmp_path / "out", "cpu").model
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, ours(tokens), atol=1e-4)
    capsys.readouterr()
    checked = [str(tmp_path / "out"), "--pairs", str(answers), "--device", "cpu", "--json", "--tokens", "8"]
    assert main(["eval", *checked, "--samples", "2", "--temperature", "1", "--judge", "text"]) == 0
    judged = json.loads(capsys.readouterr().out)["pairs"]
    assert judged["samples"] == 2
    assert {"f1", "rouge1", "rougeL", "self_bleu", "entropy"} <= judged["scores"].keys()
    assert main(["rewards", *checked, "--samples", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    out = Path(told["out"])
    assert out.parent == answers / "rewards"
    values = np.fromfile(out / "held_out.rewards.npy", "<f4")
    table = [json.loads(line) for line in (out / "held_out.rewards.jsonl").read_text().splitlines()]
    held = Pairs(answers).held_out
    assert len(table) == told["sequences"] == len(held)
    for number, row in enumerate(table):
        tokens, mask = held.read(number)
        assert row["end"] - row["first"] == mask.sum()
        with torch.no_grad():
            logits = ours(torch.from_numpy(tokens)[None])[0].double()
        places = np.flatnonzero(mask[1:])
        q, v = logits[places, tokens[places + 1]], logits[places].logsumexp(-1)
        expected = q - torch.cat([v[1:], v.new_zeros(1)])
        assert values[row["first"] : row["end"]] == pytest.approx(expected.numpy(), abs=1e-3)
        assert row["sum"] == pytest.approx(expected.sum().item(), abs=1e-2)
    assert told["samples"]["answers"] == 2 * len(held)


@pytest.mark.parametrize(("method", "parallel"), [("iqlearn", "fsdp"), ("kto", "ddp"), ("dpo", "fsdp")])
def test_two_processes_fine_tune_as_one(method, parallel, base, data, tmp_path) -> None:
    asked = {"adapt__epochs": 1, "train__parallel": parallel}
    # KTO's estimate of the KL is over all that goes through the models at once: 4 instances either way.
    assert main(command(method, base, data[method], tmp_path / "one", **asked, train__micro_batch=4)) == 0
    arguments = command(method, base, data[method], tmp_path / "two", **asked, train__micro_batch=2)
    forked.run(tmp_path / "said", "-m", "trainer", *arguments, count=2)
    one, two = (lines(tmp_path / name, "step") for name in ("one", "two"))
    assert len(one) == len(two) > 2
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    ends = [lines(tmp_path / name, "eval")[-1]["loss"] for name in ("one", "two")]
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_works_in_half_precision(method, base, data, tmp_path) -> None:
    assert main(command(method, base, data[method], tmp_path, adapt__epochs=2, train__precision="bfloat16")) == 0
    first, *_, last = lines(tmp_path, "eval")
    assert last["loss"] < first["loss"]


def test_the_context_stays_the_checkpoints_whatever_is_packed_into_an_instance(base, preferences, tmp_path) -> None:
    longer = {"data__sequence_length": 2 * pair_runs.LENGTH, "train__batch_tokens": 4 * pair_runs.LENGTH}
    assert main(command("dpo", base, preferences, tmp_path / "out", **longer)) == 0
    assert open_trained(tmp_path / "out", "cpu").context == pair_runs.LENGTH
    assert main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "hf")]) == 0
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["max_position_embeddings"] == pair_runs.LENGTH
    assert main(command("sft", tmp_path / "out", preferences, tmp_path / "again", **longer)) == 0
    assert open_trained(tmp_path / "again", "cpu").context == pair_runs.LENGTH
