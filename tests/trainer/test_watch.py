"""What is looked at while a model trains: tasks from request files, and what its routers do."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
import yaml

from trainer import checkpoint, metrics
from trainer.__main__ import main
from trainer.inference import open_trained
from trainer.loader.data import open_data
from trainer.olmes import together
from trainer.tasks import TaskResult

LENGTH, BATCH = 32, 4 * 32


def write_task(folder: Path, documents: int, letters: bool, primary: str, seed: int = 0) -> None:
    """Multiple choice over three answers; with `letters`, each answer is one word."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"task_config": {"primary_metric": primary}}))
    with gzip.open(folder / "requests.jsonl.gz", "wt") as file:
        for document in range(documents):
            context = " ".join(f"t{n}" for n in rng.integers(2, 61, int(rng.integers(1, 50))))
            for choice in range(3):
                words = rng.integers(2, 61, 1 if letters else int(rng.integers(1, 5)))
                asked = {"context": context, "continuation": "".join(f" t{n}" for n in words)}
                row = {"request_type": "loglikelihood", "doc_id": document, "idx": choice, "label": 1, "request": asked}
                file.write(json.dumps(row) + "\n")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_task(folder / "thing" / "mc_5shot", 12, True, "acc_raw", 1)
    write_task(folder / "thing" / "rc_5shot", 12, False, "acc_per_char", 2)
    write_task(folder / "text" / "bpb_0shot", 8, False, "bits_per_byte", 3)
    return folder


@pytest.fixture
def go(tmp_path, make_config, small_run, tasks):
    """Train in a folder of this name, in a process of its own where there are several; returns the lines of a kind."""
    values = make_config(train={"tokens": 20 * BATCH}).model_dump(mode="json")
    values["evaluate"] |= {"every_tokens": 8 * BATCH, "instances": 2, "tasks": str(tasks), "routing_tokens": 8 * LENGTH}
    values["checkpoint"] |= {"every_tokens": 4 * BATCH, "keep_every_tokens": 8 * BATCH}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values))

    def trained(name: str, *more: str, processes: int = 1) -> Path:
        out = tmp_path / name
        command = ["train", str(file), "--data", str(small_run), "--out", str(out), "--device", "cpu"]
        command += [part for setting in more for part in (("--set", setting) if "=" in setting else (setting,))]
        if processes == 1:
            assert main(command) == 0
            return out
        forked.run(tmp_path / f"{name}.said", "-m", "trainer", *command, count=processes)
        return out

    return trained


def lines(out: Path, kind: str) -> list[dict]:
    return [line for line in metrics.read(out / "metrics.jsonl") if line["kind"] == kind]


def test_tasks_are_scored_at_intervals_as_eval_scores_them(go, tasks, capsys) -> None:
    out = go("out", "evaluate.tasks_every_tokens=1280")
    told = capsys.readouterr().out
    found = lines(out, "tasks")
    assert [line["step"] for line in found] == [0, 10, 20]
    assert [line["step"] for line in lines(out, "eval")] == [0, 8, 16, 20]
    assert main(["eval", str(out), "--tasks", str(tasks), "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    last = found[-1]
    assert last["forms"].keys() == result["tasks"].keys() == {"thing/mc_5shot", "thing/rc_5shot", "text/bpb_0shot"}
    for name, scores in result["tasks"].items():
        assert last["forms"][name]["metrics"] == pytest.approx(scores["metrics"], abs=1e-6)
    assert last["macro"]["accuracy"] == pytest.approx(result["olmes"]["macro"]["accuracy"])
    forms = [last["forms"][f"thing/{form}_5shot"] for form in ("mc", "rc")]
    better = max(form["metrics"][form["primary"]] for form in forms)
    assert last["tasks"]["thing/5shot"]["score"] == better == last["macro"]["accuracy"]["score"]
    assert f"tasks: accuracy {better:.4f}" in told


def test_items_that_the_corpus_held_are_scored_apart(go, tasks, tmp_path, capsys) -> None:
    out = go("out", "evaluate.every_tokens=null", "evaluate.tasks=null")
    capsys.readouterr()
    requests = tasks / "thing" / "mc_5shot" / "requests.jsonl.gz"
    digest = hashlib.blake2b(requests.read_bytes()).hexdigest()[:40]
    found_of_it = {"1": {"share": 1.0}, "10": {"share": 0.8}}  # rows 1 and 10: documents 0 and 3
    sets = {"mc": {"digest": digest, "by_item": found_of_it}, "other": {"digest": "0", "by_item": {}}}
    held = tmp_path / "held.json"
    held.write_text(json.dumps({"run": "runs/x", "steps": {"web.decontaminate": {"sets": sets}}}))
    asked = ["eval", str(out), "--tasks", str(tasks), "--device", "cpu"]
    assert main([*asked, "--contamination", str(held), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]
    assert main([*asked, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)["tasks"]
    mc = found["thing/mc_5shot"]
    assert (mc["documents"], mc["touched"]["documents"], mc["clean"]["documents"]) == (12, 2, 10)
    for metric, value in mc["metrics"].items():
        both = (2 * mc["touched"]["metrics"][metric] + 10 * mc["clean"]["metrics"][metric]) / 12
        assert value == pytest.approx(both) == pytest.approx(plain["thing/mc_5shot"]["metrics"][metric])
    assert "touched" not in found["thing/rc_5shot"] and "clean" not in plain["thing/mc_5shot"]
    assert main([*asked, "--contamination", str(held)]) == 0
    assert "found in the corpus: 2 documents, acc_raw" in capsys.readouterr().out
    held.write_text("{}")
    assert main([*asked, "--contamination", str(held)]) == 2
    assert "held.json: not what `contamination DIR --json` prints" in capsys.readouterr().err
    assert main(["eval", str(out), "--data", "x", "--contamination", str(held)]) == 2
    assert "--contamination goes with --tasks" in capsys.readouterr().err


def test_tasks_and_routers_are_the_same_on_two_processes(go) -> None:
    settings = ("losses.balance_instances=2", "train.micro_batch=2", "evaluate.routing_tokens=320")
    one = go("one", *settings)
    two = go("two", *settings, "train.parallel=fsdp", processes=2)
    for kind in ("tasks", "experts"):
        ours, theirs = lines(one, kind), lines(two, kind)
        assert len(ours) == len(theirs) == 4
    for ours, theirs in zip(lines(one, "tasks"), lines(two, "tasks"), strict=True):
        bits = [line["macro"]["bits_per_byte"]["score"] for line in (ours, theirs)]
        assert bits[0] == pytest.approx(bits[1], rel=1e-4)
    first, other = lines(one, "experts")[0], lines(two, "experts")[0]
    assert first["coactivation"] == pytest.approx(other["coactivation"], abs=1e-5)  # the same weights: the same choices
    for ours, theirs in zip(lines(one, "experts")[1:], lines(two, "experts")[1:], strict=True):
        assert ours.get("against") == theirs.get("against")
        if "saturation" in ours:
            assert ours["saturation"] == pytest.approx(theirs["saturation"], abs=0.05)


def test_the_better_form_and_averages_by_hand() -> None:
    def result(name: str, primary: str, errors: dict[str, float | None] | None = None, **scores: float) -> TaskResult:
        return TaskResult(name, 9, primary, scores, errors or dict.fromkeys(scores, 0.1))

    found = together(
        [
            result("arc_easy/mc_5shot", "acc_raw", acc_raw=0.3, bits_per_byte=1.0),
            result("arc_easy/rc_5shot", "acc_per_char", acc_raw=0.9, acc_per_char=0.4),
            result("arc_easy/rc_0shot", "acc_raw", acc_raw=0.2),
            # OLMES takes the unconditional score for this one's cloze form, whatever the file says.
            result("csqa/val_rc_5shot", "acc_per_char", acc_per_char=0.1, acc_uncond=0.6),
            result("csqa/val_mc_5shot", "acc_raw", acc_raw=0.5),
            result("lambada/bpb_0shot", "bits_per_byte", bits_per_byte=2.0),
            result("code/gold_bpb_3shot", "bits_per_byte", bits_per_byte=1.0),
        ]
    )
    assert {name: (one.form, one.metric, one.score) for name, one in found.tasks.items()} == {
        "arc_easy/5shot": ("rc", "acc_per_char", 0.4),
        "arc_easy/0shot": ("rc", "acc_raw", 0.2),
        "csqa/val_5shot": ("rc", "acc_uncond", 0.6),
        "lambada/bpb_0shot": ("", "bits_per_byte", 2.0),
        "code/gold_bpb_3shot": ("", "bits_per_byte", 1.0),
    }
    assert found.accuracy is not None and found.bits_per_byte is not None
    assert found.accuracy.score == pytest.approx(0.4)
    assert found.accuracy.standard_error == pytest.approx(math.sqrt(3 * 0.01) / 3)
    assert found.bits_per_byte.score == 1.5
    alone = together([result("a/rc_5shot", "acc_raw", {"acc_raw": None}, acc_raw=1.0)])
    assert alone.accuracy is not None and alone.accuracy.standard_error is None and alone.bits_per_byte is None


def chosen(out: Path, name: str, small_run: Path, tokens: int) -> np.ndarray:
    """The experts of a checkpoint for the first instances of the sources in turn, from its routers' weights: [L, N, K]."""
    trained = open_trained(out / "checkpoints" / name, "cpu")
    data = open_data(small_run, LENGTH)
    held = list(data.held_out.values())
    rows = [held[n % 2].batch(n // 2, 1) for n in range(tokens // LENGTH)]
    seen: list[torch.Tensor] = []
    for layer in trained.model.layers:
        layer.mlp.router.register_forward_pre_hook(lambda module, given: seen.append(given[0] @ module.weight_ED.T))
    with torch.no_grad():
        trained.model(torch.from_numpy(np.concatenate(rows)))
    return np.stack([scores.topk(2, dim=-1).indices.numpy() for scores in seen])


def test_routers_are_compared_with_the_last_checkpoint_that_stays(go, small_run, capsys) -> None:
    out = go("out", "checkpoint.keep=9", "evaluate.tasks=null")
    assert "saturation" in capsys.readouterr().out
    found = {line["step"]: line for line in lines(out, "experts")}
    assert list(found) == [0, 8, 16, 20]
    assert [found[step].get("against") for step in found] == [None, None, "step_00000008", "step_00000016"]
    now, then = (chosen(out, name, small_run, 8 * LENGTH) for name in ("step_00000020", "step_00000016"))
    last = found[20]
    for layer in range(2):
        pairs = list(zip(now[layer], then[layer], strict=True))
        assert last["saturation"][layer] == pytest.approx(np.mean([len({*a} & {*b}) / 2 for a, b in pairs]), abs=1e-5)
        assert last["saturation_first"][layer] == pytest.approx(np.mean([a[0] == b[0] for a, b in pairs]), abs=1e-5)
        shares = np.zeros((8, 8))
        for i in range(8):
            own = [{*row} for row in now[layer] if i in row]
            for j in range(8):
                if own and i != j:
                    shares[i, j] = sum(j in row for row in own) / len(own)
        assert last["coactivation"][layer] == pytest.approx(shares.max(1).mean(), abs=1e-5)
        assert last["coactivation_max"][layer] == pytest.approx(shares.max(), abs=1e-5)
        one, other = map(int, last["most_coactive"][layer].split("+"))
        assert shares[one, other] == shares.max()
    kept = out / "checkpoints" / "step_00000016" / checkpoint.CHOICES
    assert np.array_equal(np.sort(np.load(kept), 2), np.sort(then, 2))
    assert not (out / "checkpoints" / "step_00000020" / checkpoint.CHOICES).exists()


def test_a_resumed_training_compares_as_one_that_was_not_stopped(go) -> None:
    whole = go("whole", "schedule.kind=constant")
    parts = go("parts", "schedule.kind=constant", "train.tokens=1536")  # 12 steps: between one that stays and the next
    assert go("parts", "schedule.kind=constant", "--resume") == parts
    for kind in ("experts", "tasks"):
        assert [line for line in lines(parts, kind) if line["step"] != 12] == lines(whole, kind)


def test_what_cannot_be_watched_is_one_sentence(go, tmp_path, capsys) -> None:
    with pytest.raises(AssertionError):
        go("none", f"evaluate.tasks={tmp_path / 'nowhere'}")
    assert f"error: {tmp_path / 'nowhere'}: no task there" in capsys.readouterr().err
    with pytest.raises(AssertionError):
        go("choice", "model.routing=expert_choice")
    assert "evaluate.tasks: with expert choice" in capsys.readouterr().err
    out = go("off", "evaluate.routing_tokens=0", "evaluate.tasks=null")
    assert not lines(out, "experts") and not lines(out, "tasks")


def test_several_checkpoints_make_one_table_and_a_picture(go, tasks, small_run, capsys) -> None:
    pytest.importorskip("matplotlib")
    out = go("out", "checkpoint.keep=9")
    capsys.readouterr()
    asked = ["--data", str(small_run), "--tasks", str(tasks), "--limit", "4", "--device", "cpu"]
    assert main(["eval", str(out), "--all", *asked]) == 0
    *scored, head, seen, web, code, accuracy, macro, bits, average, picture = capsys.readouterr().out.splitlines()
    names = [f"step_{step:08d}" for step in (4, 8, 12, 16, 20)]
    assert len(scored) == 5 and head.split() == names
    assert seen.split()[2:] == ["512", "1,024", "1,536", "2,048", "2,560"]
    assert web.startswith("held-out bits per byte: web ") and code.startswith("held-out bits per byte: code ")
    assert accuracy.startswith("accuracy: thing/5shot ") and macro.startswith("accuracy: macro average ")
    assert bits.startswith("tasks' bits per byte: text/bpb_0shot ") and average.startswith("tasks' bits per byte: macro")
    last = lines(out, "eval")[-1]["sources"]["web"]["bits_per_byte"]
    assert main(["eval", str(out), *asked, "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert f"{alone['held_out']['sources']['web']['bits_per_byte']:.4f}" == web.split()[-1] and last > 0
    assert picture == str(out / "eval.png") and (out / "eval.png").read_bytes().startswith(b"\x89PNG")
    two = [str(out / "checkpoints" / name) for name in names[:2]]
    assert main(["eval", *two, *asked, "--json", "--png", str(out / "two.png")]) == 0
    found = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [Path(one["checkpoint"]).name for one in found] == names[:2] and (out / "two.png").is_file()


def test_plot_draws_tasks_and_experts(go) -> None:
    pytest.importorskip("matplotlib")
    from trainer.plot import plot

    written = plot(go("out"))
    assert [path.name for path in written] == ["loss.png", "load.png", "experts.png", "tasks.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
