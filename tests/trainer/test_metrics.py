"""What training tells: loads and entropy by hand, utilisation, and who else listens."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from trainer import metrics
from trainer.config import load
from trainer.metrics import status
from trainer.model import flops_per_token
from trainer.train import train as run

CONFIGS = Path(__file__).parents[2] / "configs" / "trainer"


def test_routing_numbers_by_hand():
    totals = {
        "counts": torch.tensor([[4, 0, 0, 4], [2, 2, 2, 2]]),
        "entropy": torch.tensor([0.5, 1.25]),
        "load_balancing": torch.tensor([2.0, 1.0]),
        "router_z": torch.tensor([3.0, 4.0]),
    }
    assert metrics.routing_numbers(totals, 2) == {
        "load": [[2.0, 0.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]],
        "max_load": [2.0, 1.0],  # against the mean, which is 1
        "dead_experts": [2, 0],
        "router_entropy": [0.5, 1.25],
        "load_balancing": [2.0, 1.0],
        "router_z": [3.0, 4.0],
    }


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("AMD Instinct MI300X", 1307e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_go_by_whole_words_of_the_name(name, peak):
    assert metrics.peak_flops(name) == peak


def test_utilisation_of_olmoe_on_an_h100_by_hand(monkeypatch):
    # 6 x (1,282,017,280 active - 103,022,592 of the embedding) + 6 x 16 layers x 2048 x 4096 of causal attention
    flops = flops_per_token(load(CONFIGS / "olmoe_1b_7b.yaml").model, 4096)
    assert flops == 6 * 1_178_994_688 + 805_306_368 == 7_879_274_496
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    used = metrics.utilisation(2 * 23_600, flops, torch.device("cuda"), 2)
    assert used == pytest.approx(23_600 * 7_879_274_496 / 989e12) == pytest.approx(0.188, abs=1e-3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert metrics.utilisation(23_600, flops, torch.device("cuda"), 1) is None
    assert metrics.utilisation(23_600, flops, torch.device("cpu"), 1) is None


def test_status_line_says_loss_speed_and_time_left():
    numbers = {"loss": 2.5, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 1234.0, "mfu": None}
    assert status(3, 10, numbers, 200.0) == (
        "step 3/10  loss 2.5000  lr 1.00e-03  grad 1.00  1,234 tokens/s  left 3m 20s"
    )
    assert "  MFU 18.8%  " in status(3, 10, {**numbers, "mfu": 0.188}, 200.0)


class Listener:
    """Stands for W&B's module and for TensorBoard's writer, and keeps what it is told."""

    def __init__(self, *arguments, **options):
        self.arguments, self.options, self.seen, self.closed = arguments, options, {}, False
        made.append(self)

    def log(self, numbers, step):
        for key, value in numbers.items():
            self.seen[key, step] = value

    def add_scalar(self, key, value, step):
        self.seen[key, step] = value

    def close(self):
        self.closed = True

    finish = close


made: list[Listener] = []


@pytest.fixture
def listeners(monkeypatch):
    made.clear()
    for name, module in (("wandb", {"init": Listener}), ("torch.utils.tensorboard", {"SummaryWriter": Listener})):
        fake = ModuleType(name)
        fake.__dict__.update(module)
        monkeypatch.setitem(sys.modules, name, fake)
        top = name.rpartition(".")[2]
        if top != name:
            monkeypatch.setitem(sys.modules, top, fake)
        fake.__spec__ = ModuleSpec(top, None)
    monkeypatch.setenv("WANDB_PROJECT", "here")


def test_tensorboard_and_wandb_get_every_number(tmp_path, small_run, make_config, listeners):
    def until(step: int):
        return make_config(train={"tokens": step * 128}, schedule={"tokens": 8 * 128})

    assert run(until(2), small_run, tmp_path, device="cpu") == 0
    board, wandb = made
    assert board.closed and wandb.closed
    assert board.seen == wandb.seen
    for line in metrics.read(tmp_path / "metrics.jsonl"):
        for key in ("loss", "tokens_per_s", "load_balancing", "router_z"):
            if key in line and not isinstance(line[key], list):
                assert board.seen[f"{line['kind']}/{key}", line["step"]] == line[key]
        if line["kind"] == "routing":
            assert board.seen["routing/dead_experts/1", line["step"]] == line["dead_experts"][1]
            assert board.seen["routing/load/1/7", line["step"]] == line["load"][1][7]
        if line["kind"] == "eval":
            assert board.seen["eval/sources/web/bits_per_byte", line["step"]] == line["sources"]["web"]["bits_per_byte"]
    assert run(until(4), small_run, tmp_path, resume=True, device="cpu") == 0
    assert run(until(2), small_run, tmp_path / "other", device="cpu") == 0
    first, again, other = (listener.options["id"] for listener in made[1::2])
    assert first == again != other
    assert made[2].options["purge_step"] == 3


def test_wandb_is_left_alone_unless_set_up(tmp_path, small_run, make_config, listeners, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT")
    assert run(make_config(train={"tokens": 128}), small_run, tmp_path, device="cpu") == 0
    assert len(made) == 1  # the writer of TensorBoard
