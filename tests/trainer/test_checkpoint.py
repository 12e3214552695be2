import json
import resource
import signal

import pytest
import torch

from trainer import checkpoint
from trainer.checkpoint import Saver
from trainer.config import OptimizerConfig
from trainer.errors import TrainerError
from trainer.model import Olmoe
from trainer.optim import build_optimizer
from trainer.processes import Processes

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture
def trained(make_config):
    """A model and its optimizer after one update."""
    model = Olmoe(make_config(model={"vocab_size": 61}).model)
    model.init_weights(0)
    optimizer = build_optimizer(model, OptimizerConfig())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    return model, optimizer


def save(folder, trained, steps=(1,), keep=2, asynchronous=False):
    saver = Saver(folder, keep, ALONE, asynchronous)
    for step in steps:
        saver.save(*trained, {"step": step, "updates": step}, None)
    saver.wait()
    return saver


@pytest.mark.parametrize("asynchronous", [False, True])
def test_everything_comes_back_to_the_bit(tmp_path, trained, make_config, asynchronous):
    model, optimizer = trained
    save(tmp_path, trained, asynchronous=asynchronous)
    path = checkpoint.latest(tmp_path)
    checkpoint.verify(path)
    other = Olmoe(model.config)
    other_optimizer = build_optimizer(other, OptimizerConfig())
    checkpoint.load(path, other, other_optimizer)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(optimizer.state[a][moment], other_optimizer.state[b][moment])


def test_background_save_holds_the_values_of_its_moment(tmp_path, trained):
    model, optimizer = trained
    before = model.head_VD.detach().clone()
    saver = Saver(tmp_path, 2, ALONE, True)
    saver.save(model, optimizer, {"step": 1, "updates": 1}, None)
    with torch.no_grad():
        model.head_VD.zero_()
    saver.wait()
    checkpoint.load(checkpoint.latest(tmp_path), model)
    assert torch.equal(model.head_VD, before)


def test_keeps_the_newest_and_leaves_no_parts(tmp_path, trained):
    (tmp_path / ".tmp-step_00000009").mkdir()
    (tmp_path / ".tmp-step_00000009" / "half").write_text("x")
    save(tmp_path, trained, steps=(1, 2, 10), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000002", "step_00000010"]
    assert checkpoint.find(tmp_path).name == "step_00000010"


def test_what_came_after_is_set_aside_and_nothing_is_written_over(tmp_path, trained):
    save(tmp_path, trained, steps=(2, 4, 6), keep=3)
    assert checkpoint.set_aside(tmp_path, tmp_path / "step_00000006", 6) is None
    assert checkpoint.set_aside(tmp_path, tmp_path / "step_00000002", 2) == tmp_path / "left-1"
    save(tmp_path, trained, steps=(3,), keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["left-1", "step_00000002", "step_00000003"]
    assert [p.name for p in checkpoint.all_checkpoints(tmp_path / "left-1")] == ["step_00000004", "step_00000006"]
    save(tmp_path, trained, steps=(3,))
    for path in (tmp_path / "step_00000003", tmp_path / "left-2" / "step_00000003"):
        checkpoint.verify(path)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        ("model-00000-of-00001.safetensors", _cut, "bytes and should have"),
        ("model-00000-of-00001.safetensors", _flip, "sha256"),
        ("optimizer-00000-of-00001.safetensors", lambda path: path.unlink(), "is missing"),
        ("state.json", _cut, "state.json cannot be read"),
        ("state.json", lambda path: path.write_text("{}"), "state.json cannot be read"),
    ],
)
def test_damage_is_named_with_a_way_out(tmp_path, trained, file, damage, told):
    save(tmp_path, trained, steps=(1, 2))
    damage(tmp_path / "step_00000002" / file)
    with pytest.raises(TrainerError, match=told) as error:
        checkpoint.verify(tmp_path / "step_00000002")
    assert "damaged" in str(error.value)
    assert f"--resume {tmp_path / 'step_00000001'}" in str(error.value)


def test_wrong_shape_and_missing_tensor(tmp_path, trained, make_config):
    save(tmp_path, trained)
    path = checkpoint.latest(tmp_path)
    with pytest.raises(TrainerError, match="shape"):
        checkpoint.load(path, Olmoe(make_config(model={"vocab_size": 80}).model))
    with pytest.raises(TrainerError, match=r"has no tensor layers\.2"):
        checkpoint.load(path, Olmoe(make_config(model={"vocab_size": 61, "n_layers": 3}).model))
    with pytest.raises(TrainerError, match="no checkpoint there"):
        checkpoint.find(tmp_path / "elsewhere")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_full_disk_leaves_the_last_good_checkpoint(tmp_path, trained, asynchronous):
    saver = save(tmp_path, trained)
    before = (tmp_path / "step_00000001" / "state.json").read_bytes()
    saver.asynchronous = asynchronous
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # No file may pass 10 kB: writes fail as they do on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(TrainerError, match="could not be written") as error:
            saver.save(*trained, {"step": 2, "updates": 2}, None)
            saver.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "the last good checkpoint is" in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
    assert (tmp_path / "step_00000001" / "state.json").read_bytes() == before
    checkpoint.verify(tmp_path / "step_00000001")


def test_what_goes_wrong_in_the_background_is_not_lost(tmp_path, trained, monkeypatch):
    def broken(tensors, path):
        raise MemoryError("no room")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(MemoryError, match="no room"):
        save(tmp_path, trained, asynchronous=True)


def test_state_names_every_file_with_its_sum(tmp_path, trained):
    save(tmp_path, trained)
    state = json.loads((tmp_path / "step_00000001" / "state.json").read_text())
    assert state["step"] == 1
    assert set(state["files"]) == {"model-00000-of-00001.safetensors", "optimizer-00000-of-00001.safetensors"}
