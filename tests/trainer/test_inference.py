"""Using a trained model: sampling, held-out scores, tasks, pictures, and the commands around them."""

import gzip
import json
import math

import pytest
import torch

from trainer import checkpoint
from trainer.__main__ import main
from trainer.errors import TrainerError
from trainer.inference import open_trained
from trainer.loader.data import open_data
from trainer.report import TasksAsked, evaluate_checkpoint
from trainer.sample import choose, generate
from trainer.tasks import Scorer, run_task
from trainer.train import train


@pytest.fixture(scope="module")
def out(tmp_path_factory, small_run, make_config, one_thread):
    folder = tmp_path_factory.mktemp("trained")
    assert train(make_config(), small_run, folder, device="cpu") == 0
    return folder


@pytest.fixture(scope="module")
def trained(out):
    return open_trained(out, "cpu")


def test_cache_writes_the_same_text(trained):
    for temperature in (0.0, 0.9):
        with_cache, without = (
            list(generate(trained, [5, 9, 20], 20, temperature, 0.9, seed=3, use_cache=use)) for use in (True, False)
        )
        assert with_cache == without
        assert with_cache and all(0 <= token < 61 for token in with_cache)


def test_it_has_learned_the_rule(trained):
    written = [12, *generate(trained, [12], 10, temperature=0.0)]
    rules = [{2 + (token * 3 + 7) % 59, 2 + (token * 4 + 7) % 59} for token in written[:-1]]
    assert sum(after in rule for after, rule in zip(written[1:], rules, strict=True)) >= len(rules) - 2


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    generator = torch.Generator().manual_seed(0)

    def seen(top_p: float, temperature: float = 1.0) -> set[int]:
        return {choose(logits, temperature, top_p, generator) for _ in range(300)}

    assert seen(0.4) == {0}
    assert seen(0.79) == {0, 1}
    assert seen(0.85) == {0, 1, 2}
    assert seen(1.0) == {0, 1, 2, 3}
    assert seen(1e-9) == {0}
    assert seen(1.0, temperature=0.0) == {0}
    assert seen(1.0, temperature=1e-40) == {0}  # 1 / 1e-40 is infinite in fp32


def test_generation_refuses_what_it_cannot_do(trained):
    for arguments, told in (
        (([1], 100), "more than the context of 32"),
        (([1], 0), "at least 1"),
        (([1], -4), "at least 1"),
        (([1], 3, math.nan), "temperature is nan"),
        (([1], 3, 1.0, math.nan), "top_p nan"),
        (([], 3), "prompt is empty"),
        (([1], 3, -1.0), "temperature is -1"),
        (([1], 3, 1.0, 0.0), "top_p 0"),
    ):
        with pytest.raises(TrainerError, match=told):
            generate(trained, *arguments)  # before anything is written


def test_a_model_that_has_diverged_says_so(trained, monkeypatch):
    monkeypatch.setattr(trained.model, "forward", lambda tokens, cache: torch.full((1, 1, 64), math.nan))
    with pytest.raises(TrainerError, match="not finite"):
        list(generate(trained, [5], 3))


def test_commands(out, small_run, tmp_path, capsys):
    assert main(["sample", str(out), "--prompt", "t5 t9", "--tokens", "5", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("t5 t9")
    assert main(["eval", str(out), "--data", str(small_run), "--limit", "3", "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["held_out"]["sources"]) == {"web", "code"}
    assert result["held_out"]["sources"]["web"]["tokens"] == 3 * 31
    assert main(["eval", str(out), "--device", "cpu"]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["export", str(out), "--out", str(tmp_path / "hf")]) == 0
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "again")]) == 0
    again = open_trained(tmp_path / "again", "cpu")
    assert torch.equal(again.model.head_VD, open_trained(out, "cpu").model.head_VD)
    assert main(["sample", str(tmp_path / "nowhere")]) == 2
    assert "no checkpoint there" in capsys.readouterr().err
    assert main(["sample", str(out), "--tokens", "99", "--device", "cpu"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "context of 32" in told.err
    for command in (["sample"], ["eval", "--data", str(small_run)]):
        assert main([*command, str(out), "--device", "tpu"]) == 2
        assert capsys.readouterr().err == "error: --device tpu: cpu or cuda\n"
    assert main(["eval", str(out), "--data", str(small_run), "--limit", "0", "--device", "cpu"]) == 2
    assert "--limit 0: at least 1" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence_in_every_command(out, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.hf._write_json", full)
    assert main(["export", str(out), "--out", str(tmp_path / "hf")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'hf'}: No space left on device\n"


def test_evaluation_says_what_it_leaves_out(out, make_run, tmp_path, capsys, monkeypatch):
    data = make_run(tmp_path / "run")
    monkeypatch.setattr("trainer.report.open_data", lambda *a, **b: without(open_data(*a, **b), "code"))
    found = evaluate_checkpoint(out, data, None, 2, False, "cpu")["held_out"]
    assert set(found["sources"]) == {"web"}
    (note,) = [note for note in found["notes"] if "near copies" not in note]
    assert note.startswith("no score for code: less held-out text than one instance of 32 tokens")
    assert f"note: {note}" in capsys.readouterr().out


def without(data, source):
    del data.held_out[source]
    return data


def test_evaluation_after_training_equals_the_last_one_of_training(out, small_run):
    from trainer import metrics

    lines = [line for line in metrics.read(out / "metrics.jsonl") if line["kind"] == "eval"]
    result = evaluate_checkpoint(out, small_run, None, 4, True, "cpu")
    assert result["held_out"]["loss"] == pytest.approx(lines[-1]["loss"], abs=1e-6)


def test_shards_and_tokenizer_of_another_vocabulary_are_refused(out, tmp_path, make_run, small_run, make_config):
    other = make_run(tmp_path / "other", vocab=50)
    with pytest.raises(TrainerError, match="shards of another tokenizer"):
        evaluate_checkpoint(out, other, None, 4, True, "cpu")
    assert train(make_config(train={"tokens": 128}), small_run, tmp_path / "x", device="cpu") == 0
    path = checkpoint.find(tmp_path / "x")
    (path / "tokenizer.json").write_bytes((other / "tokenizer" / "tokenizer.json").read_bytes())
    with pytest.raises(TrainerError, match="another tokenizer"):
        open_trained(path, "cpu").tokenizer()
    (path / "tokenizer.json").unlink()
    with pytest.raises(TrainerError, match=r"has no tokenizer\.json"):
        open_trained(path, "cpu").tokenizer()


def write_task(folder, rows, primary="acc_per_char"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"task_config": {"primary_metric": primary}}))
    with gzip.open(folder / "requests.jsonl.gz", "wt") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return folder


def request(doc_id, idx, context, continuation, label):
    asked = {"context": context, "continuation": continuation}
    return {"request_type": "loglikelihood", "doc_id": doc_id, "idx": idx, "label": label, "doc": {}, "request": asked}


def log_probability(trained, context, answer):
    """From whole logits, one token at a time; what does not fit is cut from the left."""
    tokens = [*context, *answer][-33:]
    places = range(len(tokens) - len(answer), len(tokens))
    return sum(
        trained.model(torch.tensor([tokens[:place]]))[0, -1].log_softmax(-1)[tokens[place]].item() for place in places
    )


def test_multiple_choice_is_scored_by_every_rule(trained, tmp_path):
    contexts = {0: "t5 t9 t20", 1: "t3 " * 40 + "t7"}
    answers = [" t11", " t44 t3 t60", " t21 t8"]
    rows = [request(d, i, contexts[d], answers[i], 1) for d in (0, 1) for i in range(3)]
    rows += [request(1_000_000 + d, i, "t2", answers[i], 1) for d in (0, 1) for i in range(3)]
    result = run_task(Scorer.of(trained), write_task(tmp_path / "mine" / "rc_0shot", rows))
    assert (result.name, result.documents, result.primary) == ("mine/rc_0shot", 2, "acc_per_char")

    ids = [[int(word[1:]) for word in answer.split()] for answer in answers]
    expected: dict[str, list[float]] = {name: [] for name in result.metrics}
    for context in contexts.values():
        given = [int(word[1:]) for word in context.split()]
        scores = [log_probability(trained, given, answer) for answer in ids]
        alone = [log_probability(trained, [2], answer) for answer in ids]
        rules = {
            "acc_raw": scores,
            "acc_per_char": [s / len(a) for s, a in zip(scores, answers, strict=True)],
            "acc_per_char_v1": [s / (len(a) - 1) for s, a in zip(scores, answers, strict=True)],
            "acc_per_token": [s / len(a) for s, a in zip(scores, ids, strict=True)],
            "acc_uncond": [s - a for s, a in zip(scores, alone, strict=True)],
        }
        for name, values in rules.items():
            expected[name].append(float(values.index(max(values)) == 1))
        expected["bits_per_byte"].append(-scores[1] / math.log(2) / len(answers[1]))
        expected["bits_per_byte_v1"].append(-scores[1] / math.log(2) / (len(answers[1]) - 1))
        expected["loss_per_token"].append(-scores[1] / 3)
    assert result.metrics == {name: pytest.approx(sum(v) / 2, abs=1e-5) for name, v in expected.items()}


def test_perplexity_task_and_limit(trained, tmp_path):
    rows = [request(d, 0, "t5 t9", f" t{11 + d}", ["t11"]) for d in range(4)]
    folder = write_task(tmp_path / "gold" / "bpb_0shot", rows, "bits_per_byte_corr")
    result = run_task(Scorer.of(trained), folder, limit=2)
    assert (result.documents, result.primary) == (2, "bits_per_byte")
    expected = [-log_probability(trained, [5, 9], [11 + d]) / math.log(2) / 4 for d in range(2)]
    assert result.metrics["bits_per_byte"] == pytest.approx(sum(expected) / 2, abs=1e-5)


def test_task_files_that_cannot_be_read(trained, tmp_path):
    with pytest.raises(TrainerError, match="no task there"):
        evaluate_checkpoint(trained.path, None, TasksAsked(tmp_path), None, True, "cpu")
    rows = [{**request(0, 0, "t5", " t9", 0), "request_type": "generate_until"}]
    with pytest.raises(TrainerError, match=r"row 1: request_type 'generate_until' is not supported"):
        run_task(Scorer.of(trained), write_task(tmp_path / "a" / "b", rows))
    with pytest.raises(TrainerError, match="KeyError: 'request'"):
        run_task(Scorer.of(trained), write_task(tmp_path / "a" / "c", [{"request_type": "loglikelihood", "doc_id": 0}]))
    folder = write_task(tmp_path / "a" / "d", [request(0, 0, "t5", " t9", 0)])
    data = (folder / "requests.jsonl.gz").read_bytes()
    (folder / "requests.jsonl.gz").write_bytes(data[:-9])
    with pytest.raises(TrainerError, match=r"requests\.jsonl\.gz: cannot be read"):
        run_task(Scorer.of(trained), folder)


def test_real_request_files_are_read(trained, shared_data):
    from trainer.tasks import find_tasks, read_choices

    folders = find_tasks(shared_data / "eval")
    assert len(folders) >= 5
    for folder in folders:
        assert list(read_choices(folder, trained.tokenizer(), trained.data["eos_id"], trained.context, 2))


def test_expert_choice_neither_writes_nor_answers(tmp_path, small_run, make_config):
    config = make_config(model={"routing": "expert_choice"}, train={"tokens": 128})
    assert train(config, small_run, tmp_path / "x", device="cpu") == 0
    trained = open_trained(tmp_path / "x", "cpu")
    with pytest.raises(TrainerError, match="expert choice"):
        list(generate(trained, [5], 3))
    with pytest.raises(TrainerError, match="expert choice"):
        run_task(Scorer.of(trained), tmp_path)
    _, note = evaluate_checkpoint(tmp_path / "x", small_run, None, 2, True, "cpu")["held_out"]["notes"]
    assert "too low" in note


def test_plot_draws(out, tmp_path):
    pytest.importorskip("matplotlib")
    from trainer.plot import plot

    written = plot(out)
    assert [path.name for path in written] == ["loss.png", "load.png", "experts.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000 for path in written)
    with pytest.raises(TrainerError, match="no training steps"):
        plot(tmp_path)
