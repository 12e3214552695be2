import math

import pytest
import torch

from trainer.config import OptimizerConfig, ScheduleConfig
from trainer.model import Olmoe
from trainer.optim import build_optimizer, learning_rate


def test_olmoe_schedule():
    schedule = ScheduleConfig(peak=4e-4, warmup_tokens=10_485_760_000, tokens=5_000_000_000_000, floor=0.1)
    total = 5_133_000_000_000
    assert learning_rate(schedule, 4_194_304, total) == pytest.approx(4e-4 / 2500)
    assert learning_rate(schedule, 10_485_760_000, total) == pytest.approx(4e-4)
    middle = (5_000_000_000_000 + 10_485_760_000) // 2
    assert learning_rate(schedule, middle, total) == pytest.approx((4e-4 + 4e-5) / 2)
    assert learning_rate(schedule, 5_000_000_000_000, total) == pytest.approx(4e-5)
    assert learning_rate(schedule, total, total) == pytest.approx(4e-5)


def test_annealing_is_linear_to_zero():
    schedule = ScheduleConfig(kind="linear_to_zero", peak=4e-5)
    assert learning_rate(schedule, 25, 100) == pytest.approx(3e-5)
    assert learning_rate(schedule, 100, 100) == 0.0
    assert learning_rate(ScheduleConfig(kind="constant", peak=1e-3), 70, 100) == 1e-3


def test_decay_is_on_everything_unless_spared(make_config):
    model = Olmoe(make_config(model={"vocab_size": 61}).model)
    named = {id(p): name for name, p in model.named_parameters()}

    def spared(**options) -> set[str]:
        groups = build_optimizer(model, OptimizerConfig(**options)).param_groups
        assert sum(len(g["params"]) for g in groups) == len(named)
        return {named[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}

    assert spared() == set()
    assert spared(decay_norms=False) == {name for name in named.values() if "norm" in name}
    assert spared(decay_embeddings=False) == {"embedding_VD"}
    assert len(spared(decay_norms=False, decay_embeddings=False)) == 1 + 2 * 4 + 1


def test_one_update_is_adamw(make_config):
    model = Olmoe(make_config(model={"vocab_size": 61}).model)
    model.init_weights(0)
    optimizer = build_optimizer(model, OptimizerConfig(eps=1e-5))
    before, grad = model.head_VD.detach().clone(), torch.randn_like(model.head_VD)
    model.head_VD.grad = grad.clone()
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    mean, square = 0.1 * grad, 0.05 * grad**2
    step = (mean / (1 - 0.9)) / ((square / (1 - 0.95)).sqrt() + 1e-5)
    torch.testing.assert_close(model.head_VD.detach(), before * (1 - 0.01 * 0.1) - 0.01 * step)
    assert math.isclose(optimizer.param_groups[0]["eps"], 1e-5)
