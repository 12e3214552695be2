"""Training as a whole: it learns, stops, resumes to the bit, and refuses what it cannot go on from."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

from trainer import checkpoint, metrics, pretrain, train
from trainer import config as configuration
from trainer.errors import TrainerError
from trainer.report import evaluate_checkpoint
from trainer.train import train as run
from trainer.training import Training

ROOT = Path(__file__).parents[2]


def lines(out: Path, kind: str) -> dict[int, dict]:
    return {line["step"]: line for line in metrics.read(out / "metrics.jsonl") if line["kind"] == kind}


def losses(out: Path) -> dict[int, float]:
    return {step: line["loss"] for step, line in lines(out, "step").items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_run, make_config, one_thread):
    """An uninterrupted run to compare with."""
    out = tmp_path_factory.mktemp("whole")
    torch.use_deterministic_algorithms(True)
    assert run(make_config(), small_run, out, device="cpu") == 0
    return out


def test_learns_below_the_unigram_entropy(whole):
    entropy = lines(whole, "start")[0]["unigram_entropy"]
    evaluations = lines(whole, "eval")
    assert min(evaluations) == 0
    assert evaluations[0]["loss"] > entropy - 0.2
    last = evaluations[max(evaluations)]
    assert last["loss"] < entropy - 0.4
    assert set(last["sources"]) == {"web", "code"}
    for source in last["sources"].values():
        # The run's text has 4 bytes for each token.
        assert source["bits_per_byte"] == pytest.approx(source["loss"] / 0.6931471805599453 / 4)


def test_metrics_hold_every_step_and_every_layer(whole):
    steps = lines(whole, "step")
    assert sorted(steps) == list(range(1, max(steps) + 1))
    assert {"loss", "lr", "grad_norm", "tokens_per_s", "load_balancing", "router_z", "tokens"} <= set(steps[1])
    routing = lines(whole, "routing")
    assert 2 in routing and max(steps) in routing
    layers = routing[2]
    assert len(layers["load"]) == 2 and all(len(row) == 8 for row in layers["load"])
    assert all(sum(row) == pytest.approx(8, abs=1e-3) for row in layers["load"])
    assert layers["max_load"] == [max(row) for row in layers["load"]]
    assert all(0 < entropy < 2.08 for entropy in layers["router_entropy"])
    assert all(len(layers[key]) == 2 for key in ("dead_experts", "load_balancing", "router_z"))


def test_resume_is_exact_after_kill_9(tmp_path, small_run, whole, make_config):
    config, out = tmp_path / "c.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump(configuration.plain(make_config())))
    command = [sys.executable, "-m", "trainer", "train", str(config), "--data", str(small_run), "--out", str(out)]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if line.startswith("step 7/"):
            child.kill()
            break
    child.wait()
    child.stdout.close()
    assert child.returncode == -signal.SIGKILL
    begun = checkpoint.latest(out / "checkpoints")
    assert begun is not None and checkpoint.read_state(begun)["step"] < max(losses(whole))
    assert run(make_config(), small_run, out, resume=True, device="cpu") == 0
    assert losses(out) == losses(whole)
    assert lines(out, "eval")[max(losses(whole))] == lines(whole, "eval")[max(losses(whole))]
    for name in ("model", "optimizer"):
        parts = [checkpoint.latest(o / "checkpoints") / f"{name}-00000-of-00001.safetensors" for o in (out, whole)]
        assert parts[0].read_bytes() == parts[1].read_bytes()


def test_sigterm_saves_and_resume_goes_on(tmp_path, small_run, whole, make_config, monkeypatch):
    config = make_config(checkpoint={"every_tokens": None})
    once = []

    def status(step, *rest):
        if step == 5 and not once:
            once.append(os.kill(os.getpid(), signal.SIGTERM))
        return ""

    monkeypatch.setattr(metrics, "status", status)
    handler = signal.getsignal(signal.SIGTERM)
    assert run(config, small_run, tmp_path, device="cpu") == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == handler
    saved = checkpoint.read_state(checkpoint.latest(tmp_path / "checkpoints"))["step"]
    assert saved in (5, 6)
    assert run(config, small_run, tmp_path, resume=True, device="cpu") == 0
    assert losses(tmp_path) == losses(whole)


def test_micro_batch_size_changes_nothing_but_rounding(tmp_path, small_run, whole, make_config):
    for size in (1, 4):
        out = tmp_path / str(size)
        short = make_config(train={"micro_batch": size, "tokens": 10 * 128})
        # The schedule is that of the whole run.
        short = short.model_copy(update={"schedule": short.schedule.model_copy(update={"tokens": _tokens(whole)})})
        assert run(short, small_run, out, device="cpu") == 0
        for step, loss in losses(out).items():
            assert loss == pytest.approx(losses(whole)[step], abs=2e-4)


def _tokens(out: Path) -> int:
    return max(line["tokens"] for line in lines(out, "step").values())


def test_resume_refuses_other_data_and_another_model(tmp_path, small_run, whole, make_run, make_config):
    other = make_run(tmp_path / "other", seed=5)
    with pytest.raises(TrainerError, match="other data"):
        run(make_config(), other, whole, resume=True, device="cpu")
    with pytest.raises(TrainerError, match=r"model\.top_k 2 -> 3"):
        run(make_config(model={"top_k": 3}), small_run, whole, resume=True, device="cpu")
    with pytest.raises(TrainerError, match="other data"):
        run(make_config(data={"seed": 9}), small_run, whole, resume=True, device="cpu")
    with pytest.raises(TrainerError, match="--resume"):
        run(make_config(), small_run, whole, device="cpu")
    before = losses(whole)
    assert run(make_config(), small_run, whole, resume=True, device="cpu") == 0
    assert losses(whole) == before


def test_corrupt_checkpoint_is_refused_and_the_one_before_works(tmp_path, small_run, make_config, capsys):
    config = make_config(train={"tokens": 6 * 128})
    assert run(config, small_run, tmp_path, device="cpu") == 0
    kept = checkpoint.all_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in kept] == ["step_00000004", "step_00000006"]
    before = losses(tmp_path)
    model = kept[-1] / "model-00000-of-00001.safetensors"
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(TrainerError, match="damaged") as error:
        run(config, small_run, tmp_path, resume=True, device="cpu")
    assert str(kept[0]) in str(error.value)
    assert run(config, small_run, tmp_path, resume=kept[0], device="cpu") == 0
    assert losses(tmp_path) == before
    checkpoint.verify(kept[-1])


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, small_run, make_config, monkeypatch):
    spoilt = pretrain.router_losses

    def router_losses(output, config):
        value = spoilt(output, config)
        return value * float("nan") if len(calls := seen) >= 7 or calls.append(1) else value

    seen: list[int] = []
    monkeypatch.setattr(pretrain, "router_losses", router_losses)
    with pytest.raises(TrainerError, match="step 4: ") as error:
        run(make_config(), small_run, tmp_path, device="cpu")
    good = checkpoint.latest(tmp_path / "checkpoints")
    assert good.name == "step_00000002" and str(good) in str(error.value)
    checkpoint.verify(good)


def test_a_model_that_its_last_update_ruined_is_not_kept(tmp_path, small_run, make_config):
    config = make_config(schedule={"peak": 1e30, "warmup_tokens": 0}, checkpoint={"every_tokens": 1})
    with pytest.raises(TrainerError, match=r"step 1: the loss is .* nan .*no checkpoint had been saved"):
        run(config, small_run, tmp_path, device="cpu")
    assert checkpoint.latest(tmp_path / "checkpoints") is None


def test_a_source_that_cannot_be_evaluated_is_named(tmp_path, small_run, make_config, capsys):
    entries = json.loads((small_run / "manifest.json").read_text())["sources"]
    (small, length), (_, more) = sorted(
        ((name, entry["held_out"]["tokens"]) for name, entry in entries.items()), key=lambda item: item[1]
    )
    assert length < more
    config = make_config(data={"sequence_length": length + 1}, train={"batch_tokens": 2 * (length + 1)})
    assert run(config, small_run, tmp_path, device="cpu") == 0
    assert f"note: {small} has no held-out instance of {length + 1} tokens" in capsys.readouterr().out


def test_a_full_disk_while_training_is_one_sentence(tmp_path, small_run, make_config, monkeypatch):
    def full(self, line):
        if line["step"] == 4:
            raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(metrics.Metrics, "write", full)
    with pytest.raises(TrainerError, match=r"metrics\.jsonl: No space left on device; the last good") as error:
        run(make_config(checkpoint={"asynchronous": False}), small_run, tmp_path, device="cpu")
    checkpoint.verify(checkpoint.latest(tmp_path / "checkpoints"))
    assert "step_00000002" in str(error.value)


def test_background_save_that_fails_stops_training(tmp_path, small_run, make_config, monkeypatch):
    real = checkpoint.save_file

    def full(tensors, path):
        if "step_00000004" in str(path):
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainerError, match="No space left on device"):
        run(make_config(), small_run, tmp_path, device="cpu")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
    assert max(losses(tmp_path)) < 12


def test_wrong_vocabulary_is_refused(tmp_path, small_run, make_config):
    with pytest.raises(TrainerError, match=r"61 entries, but model\.vocab_size is 50"):
        run(make_config(model={"vocab_size": 50}), small_run, tmp_path, device="cpu")


def test_annealing_starts_from_a_checkpoint_in_a_fresh_order(tmp_path, small_run, whole, make_config):
    config = make_config(
        data={"seed": 42}, schedule={"kind": "linear_to_zero", "peak": 1e-3, "warmup_tokens": 0}, start_from=str(whole)
    )
    assert run(config, small_run, tmp_path, device="cpu") == 0
    steps = lines(tmp_path, "step")
    assert steps[1]["loss"] < lines(tmp_path, "start")[0]["unigram_entropy"] - 0.4
    assert steps[max(steps)]["lr"] == pytest.approx(0, abs=1e-12)
    state = checkpoint.read_state(checkpoint.latest(tmp_path / "checkpoints"))
    before = checkpoint.read_state(checkpoint.latest(whole / "checkpoints"))
    assert state["updates"] == before["updates"] + state["step"]
    assert state["data"]["fingerprint"] != before["data"]["fingerprint"]
    with pytest.raises(TrainerError, match="another model"):
        run(config.model_copy(update={"model": make_config(model={"top_k": 3}).model}), small_run, tmp_path / "x")
    # Neither the first values nor document masking are part of the weights.
    other = make_config(model={"init": "normal", "document_masking": True}, train={"tokens": 128}, start_from=str(whole))
    assert run(other, small_run, tmp_path / "y", device="cpu") == 0
    assert losses(tmp_path / "y")[1] < lines(tmp_path, "start")[0]["unigram_entropy"]
    then, now = (checkpoint.reader(checkpoint.latest(o / "checkpoints")) for o in (whole, tmp_path / "y"))
    name = "embedding_VD.exp_avg_sq"  # the optimizer's state came along: v' = 0.95 v + 0.05 g^2
    assert then(name).max() > 0 and (now(name) >= 0.9499 * then(name)).all()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, small_run, whole, make_config, monkeypatch):
    """The first save is held back until four more steps are done; it must hold the values of its own step."""
    real, later = checkpoint.save_file, threading.Event()

    def slow(tensors, path):
        if "step_00000002" in str(path):
            assert later.wait(60), "training waits for the save"
        real(tensors, path)

    def told(step, *rest):
        if step == 6:
            later.set()
        return ""

    monkeypatch.setattr(checkpoint, "save_file", slow)
    monkeypatch.setattr(metrics, "status", told)
    config = make_config(
        train={"tokens": 8 * 128}, schedule={"tokens": _tokens(whole)}, checkpoint={"every_tokens": None, "keep": 9}
    )
    monkeypatch.setattr(Training, "_crossed", lambda self, every: self.progress.step == 2)
    assert run(config, small_run, tmp_path, device="cpu") == 0
    monkeypatch.undo()
    first = checkpoint.all_checkpoints(tmp_path / "checkpoints")[0]
    assert first.name == "step_00000002"
    before = losses(tmp_path)
    assert before == {step: losses(whole)[step] for step in range(1, 9)}
    assert run(config, small_run, tmp_path, resume=first, device="cpu") == 0
    assert losses(tmp_path) == before


def test_a_tokenizer_of_the_same_size_is_still_another(tmp_path, small_run, whole, make_run, make_config):
    other = make_run(tmp_path / "other", words="w")
    config = make_config(start_from=str(whole), train={"tokens": 128})
    with pytest.raises(TrainerError, match="another tokenizer"):
        run(config, other, tmp_path / "x", device="cpu")
    with pytest.raises(TrainerError, match="another tokenizer"):
        evaluate_checkpoint(whole, other, None, 4, True, "cpu")
    assert run(config, small_run, tmp_path / "y", device="cpu") == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_and_resumes(tmp_path, small_run, make_config):
    torch.use_deterministic_algorithms(False)  # as users train
    config = make_config(train={"precision": "bfloat16", "micro_batch": 4})
    assert run(config, small_run, tmp_path / "a", device="cuda") == 0
    entropy, found = lines(tmp_path / "a", "start")[0]["unigram_entropy"], losses(tmp_path / "a")
    assert lines(tmp_path / "a", "eval")[max(found)]["loss"] < entropy - 0.3
    kept = checkpoint.all_checkpoints(tmp_path / "a" / "checkpoints")
    assert run(config, small_run, tmp_path / "a", resume=kept[0], device="cuda") == 0
    for step, loss in losses(tmp_path / "a").items():
        assert loss == pytest.approx(found[step], abs=0.05)


def test_compiled_layers_train_the_same(tmp_path, small_run, make_config, monkeypatch):
    # Traced and differentiated as for a GPU, but run without making C++ of it, which takes most of a minute.
    whole = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: whole(self, backend="aot_eager"))
    config = make_config(model={"n_layers": 1}, train={"tokens": 3 * 128}, evaluate={"instances": 2})
    assert run(config, small_run, tmp_path / "plain", device="cpu") == 0
    config = config.model_copy(update={"train": config.train.model_copy(update={"compile": True})})
    compiled: Counter = torch._dynamo.utils.counters["frames"]
    before = compiled["ok"]
    assert run(config, small_run, tmp_path / "compiled", device="cpu") == 0
    assert compiled["ok"] > before
    for step, loss in losses(tmp_path / "plain").items():
        assert losses(tmp_path / "compiled")[step] == pytest.approx(loss, abs=1e-4)


def test_second_training_into_the_same_folder_is_refused(tmp_path, small_run, make_config):
    with train.only_one(tmp_path), pytest.raises(TrainerError, match="another training"):
        run(make_config(), small_run, tmp_path, device="cpu")


def test_command_line_prints_one_sentence(tmp_path, small_run, capsys):
    from trainer.__main__ import main

    (tmp_path / "c.yaml").write_text("name: c\nmodel: {d_modell: 3}\n")
    assert main(["train", str(tmp_path / "c.yaml"), "--data", str(small_run)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and "model.d_model" in told
    (tmp_path / "c.yaml").write_text("name: c\n")
    assert main(["train", str(tmp_path / "c.yaml"), "--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "manifest.json" in capsys.readouterr().err
    more = ["--data", str(small_run), "--out", str(tmp_path / "o")]
    assert main(["train", str(tmp_path / "c.yaml"), *more, "--resume", str(tmp_path / "none")]) == 2
    assert "none: no checkpoint there; name" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "c.yaml"), *more, "--device", "gpu"]) == 2
    assert capsys.readouterr().err == "error: --device gpu: cpu or cuda\n"


def test_command_line_names_what_is_not_installed(tmp_path, small_run, capsys, monkeypatch):
    from trainer.__main__ import main

    (tmp_path / "c.yaml").write_text("name: c\n")
    command = ["train", str(tmp_path / "c.yaml"), "--data", str(small_run), "--out", str(tmp_path / "o")]
    with monkeypatch.context() as missing:
        missing.delitem(sys.modules, "trainer.train")
        missing.setitem(sys.modules, "torch", None)
        assert main(command) == 2
    assert capsys.readouterr().err == "error: torch is not installed: pip install 'headrace[trainer]'\n"

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupted)
    assert main(command) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_metrics_leave_out_a_line_cut_off_by_a_kill(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "step", "step": 1}) + "\n" + '{"kind": "st')
    assert metrics.read(tmp_path / "metrics.jsonl") == [{"kind": "step", "step": 1}]


def test_speed_leaves_out_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    speed = metrics.Speed()
    speed.mark(0)
    now[0] = 10.0
    speed.pause(8.0)
    speed.mark(100)
    assert speed.rate == pytest.approx(50)


@pytest.mark.parametrize(("seconds", "text"), [(9, "9s"), (200, "3m 20s"), (7500, "2h 5m"), (356400, "4d 3h")])
def test_durations(seconds, text):
    assert metrics.duration(seconds) == text
