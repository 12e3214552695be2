"""What a training does when something changes while it is under way: from the command line, as users meet it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from trainer import checkpoint, failures, host, metrics, training
from trainer.__main__ import main
from trainer.config import ScheduleConfig, load, plain
from trainer.errors import TrainerError
from trainer.optim import learning_rate

ROOT = Path(__file__).parents[2]
STEP = 128  # tokens
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def go(tmp_path, small_run, make_config, capsys):
    """Train into `out` with settings; returns (status, what was printed, what was complained of)."""
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(plain(make_config(evaluate={"instances": 1}))))

    def run(out: str, *more: str) -> tuple[int, str, str]:
        command = ["train", str(config), "--data", str(small_run), "--device", "cpu", "--out", str(tmp_path / out)]
        capsys.readouterr()
        status = main([*command, *more])
        return status, *capsys.readouterr()

    run.config, run.data = config, small_run
    return run


def steps(out: Path) -> dict[int, dict]:
    return {line["step"]: line for line in metrics.read(out / "metrics.jsonl") if line["kind"] == "step"}


def until(step: int) -> list[str]:
    return ["--set", f"train.tokens={step * STEP}", f"schedule.tokens={24 * STEP}"]


@pytest.mark.parametrize(("batch", "further"), [(2 * STEP, 4), (STEP // 2, 16)])
def test_another_batch_reads_the_rest_of_the_data_once(tmp_path, go, batch, further):
    assert go("out", *until(16))[0] == 0
    status, told, _ = go("out", *until(24), f"train.batch_tokens={batch}", "--resume")
    assert status == 0 and f"train.batch_tokens was {STEP}" in told
    found = steps(tmp_path / "out")
    assert max(found) == 16 + further
    assert [found[step]["tokens"] for step in range(17, 17 + further)] == [
        16 * STEP + (number + 1) * batch for number in range(further)
    ]
    state = checkpoint.read_state(checkpoint.latest(tmp_path / "out" / "checkpoints"))
    assert (state["position"], state["step"], state["tokens"]) == (96, 16 + further, 24 * STEP)
    # The learning rate is that of the position, whatever the batch.
    go("whole", *until(24))
    assert found[max(found)]["lr"] == pytest.approx(steps(tmp_path / "whole")[24]["lr"])


def test_tokens_that_fill_no_batch_are_told(tmp_path, go):
    assert "fill no batch" not in go("out", *until(4))[1]
    for told in (go("out", *until(6), f"train.batch_tokens={3 * STEP // 2}", "--resume")[1] for _ in range(2)):
        assert f"the last {STEP // 2:,} tokens fill no batch and are not trained on" in told
    assert "already trained to step 5, the end of its data" in told


def test_going_on_from_an_older_checkpoint_keeps_the_newer_ones(tmp_path, go):
    keep = ["checkpoint.keep=9"]
    assert go("out", *until(6), *keep)[0] == 0
    folder = tmp_path / "out" / "checkpoints"
    newest = (folder / "step_00000006" / "state.json").read_bytes()
    before = steps(tmp_path / "out")
    status, told, _ = go("out", *until(4), *keep, "--resume", str(folder / "step_00000002"))
    assert status == 0
    assert "step_00000004, step_00000006 and their metrics" in told and str(folder / "left-1") in told
    assert sorted(path.name for path in folder.iterdir()) == ["left-1", "step_00000002", "step_00000004"]
    assert (folder / "left-1" / "step_00000006" / "state.json").read_bytes() == newest
    assert steps(folder / "left-1") == before
    # Both histories can be gone on from.
    assert go("out", *until(8), *keep, "--resume", str(folder / "left-1" / "step_00000006"))[0] == 0
    assert (folder / "left-2" / "step_00000004").is_dir() and (folder / "step_00000008").is_dir()
    after = steps(tmp_path / "out")
    assert sorted(after) == list(range(1, 9)) and {step: after[step] for step in before} == before
    assert "resuming from" in go("out", *until(8), "--resume")[1] and not (folder / "left-3").exists()


def test_some_checkpoints_stay_for_good(tmp_path, go):
    settings = ["checkpoint.every_tokens=256", "checkpoint.keep=1", "checkpoint.keep_every_tokens=600"]
    assert go("out", *until(10), *settings)[0] == 0
    folder = tmp_path / "out" / "checkpoints"
    assert [path.name for path in checkpoint.all_checkpoints(folder)] == ["step_00000006", "step_00000010"]
    assert go("out", *until(16), *settings, "--resume")[0] == 0
    names = [path.name for path in checkpoint.all_checkpoints(folder)]
    assert names == ["step_00000006", "step_00000010", "step_00000016"]


def test_without_held_out_text_there_is_no_figure(tmp_path, go, capsys):
    entries = json.loads((go.data / "manifest.json").read_text())["sources"]
    length = 1 + max(entry["held_out"]["tokens"] for entry in entries.values())
    settings = ["--set", f"data.sequence_length={length}", f"train.batch_tokens={length}", f"train.tokens={2 * length}"]
    status, told, _ = go("out", *settings)
    assert status == 0 and "held-out loss" not in told and "no held-out instance" in told
    assert not [line for line in metrics.read(tmp_path / "out" / "metrics.jsonl") if line["kind"] == "eval"]
    assert main(["eval", str(tmp_path / "out"), "--data", str(go.data), "--device", "cpu"]) == 2
    told = capsys.readouterr()
    assert "no source has a held-out instance" in told.err and "0.0000" not in told.out
    assert main(["plot", str(tmp_path / "out")]) == 0


def start(go, out: Path, *more: str, torchrun: bool = False) -> subprocess.Popen:
    command = [sys.executable, "-m"]
    if torchrun:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["trainer", "train", str(go.config), "--data", str(go.data), "--out", str(out), "--device", "cpu", *more]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def stop_after(child: subprocess.Popen, begin: str, number: int, pid: int | None = None) -> str:
    """Send the signal once a line begins so; returns all that was said after it."""
    for line in child.stdout:
        if line.startswith(begin):
            os.kill(pid or child.pid, number)
            break
    told = child.stdout.read()
    child.wait(60)
    child.stdout.close()
    return told


LONG = ["--set", f"train.batch_tokens={30 * STEP}", "train.micro_batch=1", "checkpoint.every_tokens=null"]  # 120 parts


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, small_run, make_config, one_thread):
    """The steps of a training that nobody stops, in one process."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "c.yaml").write_text(yaml.safe_dump(plain(make_config(evaluate={"instances": 1}))))
    command = ["train", str(folder / "c.yaml"), "--data", str(small_run), "--device", "cpu", "--out", str(folder / "out")]
    assert main([*command, *LONG]) == 0
    return steps(folder / "out")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_between_two_micro_batches(tmp_path, go, uninterrupted, number, status):
    child = start(go, tmp_path / "out", *LONG)
    told = stop_after(child, "step 1/", number)
    assert child.returncode == status
    assert "step 2/" not in told and "saved step 1; go on with --resume" in told
    assert go("out", *LONG, "--resume")[1].startswith("resuming from")
    out = steps(tmp_path / "out")
    assert [line["loss"] for line in out.values()] == [line["loss"] for line in uninterrupted.values()]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_torchrun_passes_the_signal_on_and_all_processes_save(tmp_path, go, uninterrupted, parallel):
    settings = [*LONG, f"train.parallel={parallel}"]
    child = start(go, tmp_path / "out", *settings, torchrun=True)
    told = stop_after(child, "step 1/", signal.SIGTERM)
    assert "saved step 1; go on with --resume" in told and "step 2/" not in told
    assert "forcefully" not in told  # torchrun did not have to kill
    path = checkpoint.latest(tmp_path / "out" / "checkpoints")
    assert path.name == "step_00000001"
    checkpoint.verify(path)
    assert go("out", *settings, "--resume")[0] == 0  # one process goes on
    for step, line in uninterrupted.items():
        assert steps(tmp_path / "out")[step]["loss"] == pytest.approx(line["loss"], abs=2e-4)


def test_one_process_that_is_told_stops_all_with_143(tmp_path, go):
    child = start(go, tmp_path / "out", *LONG, torchrun=True)
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    for line in child.stdout:
        if line.startswith("step 1/"):
            worker = max(int(pid) for pid in children.read_text().split())
            os.kill(worker, signal.SIGTERM)
            break
    told = child.communicate(timeout=60)[0]
    assert "saved step 1" in told
    codes = set(re.findall(r"exitcode\s*:\s*(-?\d+)", told))
    # torchrun tells the others too, at the moment when the first is gone: one that has saved and restored its handlers by
    # then ends by the signal itself, which a shell calls 143 as well.
    assert "143" in codes and codes <= {"143", "-15"}
    checkpoint.verify(checkpoint.latest(tmp_path / "out" / "checkpoints"))


def test_a_save_too_long_for_torchrun_says_what_to_set(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert host.torchrun_too_hasty(1000) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert host.torchrun_too_hasty(3) is None
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=180 " in host.torchrun_too_hasty(70)
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "180")
    assert host.torchrun_too_hasty(70) is None


def test_warm_up_begins_where_it_is_told(tmp_path, go):
    settings = ["schedule.warmup_tokens=512", "schedule.warmup_from=0.1", "schedule.peak=0.01", "schedule.kind=constant"]
    assert go("out", *until(5), *settings)[0] == 0
    rates = [line["lr"] for line in steps(tmp_path / "out").values()]
    assert rates == pytest.approx([0.00325, 0.0055, 0.00775, 0.01, 0.01])
    # allenai/OLMo: initial * 0.1, then linear to the peak.
    olmoe = load(Path("olmoe_1b_7b")).schedule
    assert learning_rate(olmoe, 0, 10**13) == pytest.approx(4e-5)
    assert learning_rate(olmoe, 1250 * 4_194_304, 10**13) == pytest.approx(4e-5 + (4e-4 - 4e-5) / 2)
    assert ScheduleConfig(warmup_tokens=100).warmup_from == 0.0


def test_start_from_can_leave_the_optimizer_behind(tmp_path, go):
    go("first", *until(4))
    more = [f"start_from={tmp_path / 'first'}", "schedule.warmup_tokens=0", "schedule.kind=constant", "schedule.peak=1e-3"]
    states = {}
    for kind in ("keep", "reset"):
        status, told, _ = go(kind, *until(1), *more, f"start_optimizer={kind}")
        assert status == 0 and ("with a new optimizer" in told) == (kind == "reset")
        states[kind] = checkpoint.latest(tmp_path / kind / "checkpoints")
    assert checkpoint.read_state(states["keep"])["updates"] == 5 and checkpoint.read_state(states["reset"])["updates"] == 1
    begin = checkpoint.latest(tmp_path / "first" / "checkpoints")
    first, kept, new = (checkpoint.reader(path) for path in (begin, states["keep"], states["reset"]))
    name = "layers.0.attention.qkv.weight"
    # After one update of a new AdamW: m = 0.1 g and v = 0.05 g^2, and every weight has moved by the learning rate.
    torch.testing.assert_close(new(f"{name}.exp_avg_sq"), 0.05 * (new(f"{name}.exp_avg") / 0.1) ** 2, atol=1e-12, rtol=1e-3)
    assert (kept(f"{name}.exp_avg_sq") >= 0.9499 * first(f"{name}.exp_avg_sq")).all()
    moved = (new(name) - first(name) * (1 - 1e-3 * 0.1)).abs()
    assert moved.median() == pytest.approx(1e-3, rel=1e-2)


def test_a_model_too_large_for_memory_is_not_a_matter_of_the_micro_batch(tmp_path, go):
    status, _, told = go("out", "--set", "model.expert_width=10000000000", "model.n_layers=1")
    assert status == 2 and told.startswith("error: ") and told.count("\n") == 1
    assert "out of memory in making the model and its optimizer" in told and "micro_batch" not in told


def test_what_runs_out_of_memory_is_named_and_other_errors_are_not_touched(tmp_path, go, monkeypatch):
    real = training.Training._accumulate

    def refuse(error):
        def accumulate(self, *rest):
            if self.progress.step == 2:
                raise error
            return real(self, *rest)

        return accumulate

    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ):
        monkeypatch.setattr(training.Training, "_accumulate", refuse(error))
        status, _, told = go(f"out{type(error).__name__}", *until(4))
        assert status == 2 and "out of memory in a step" in told and "train.micro_batch" in told
        assert "step_00000002" in told
    for text in ("could not allocate a port", "an allocation table is damaged", "alloc"):
        monkeypatch.setattr(training.Training, "_accumulate", refuse(RuntimeError(text)))
        with pytest.raises(RuntimeError, match=text):
            go(f"out{len(text)}", *until(4))


def test_each_activity_has_its_advice(tmp_path):
    for doing in failures.Doing:
        told = re.escape(f"out of memory in {doing.what}: {doing.advice}")
        with pytest.raises(TrainerError, match=told), failures.failures_told(tmp_path, lambda doing=doing: doing):
            raise MemoryError
