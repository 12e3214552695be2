"""The loop by itself, on a source and an objective that are not pretraining's; and its methods one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer import checkpoint, metrics
from trainer.errors import TrainerError
from trainer.objective import Evaluation, Loss, Totals
from trainer.processes import Processes
from trainer.train import Work, run
from trainer.training import Progress, Training, build_model

ALONE = Processes(0, 1, torch.device("cpu"))
LENGTH = 8


@dataclass(frozen=True)
class Answers:
    """A prompt of zeros with an answer, of which alone there is a loss."""

    tokens: Tensor
    targets: Tensor
    instances: int
    counted: int

    def to(self, device: torch.device) -> Answers:
        return self


class Repeat:
    """Instance i: half an instance of token 2, then of token 3 + i % 4."""

    instances, instance_tokens, tokenizer = 40, LENGTH, None

    def __init__(self) -> None:
        self.identity = {"fingerprint": "repeat"}
        self.asked: list[tuple[int, int]] = []

    def read(self, first: int, count: int, micro_batch: int) -> list[Answers]:
        self.asked.append((first, count))
        parts = []
        for start in range(first, first + count, micro_batch):
            size = min(micro_batch, first + count - start)
            tokens = torch.full((size, LENGTH), 2)
            tokens[:, LENGTH // 2 :] = 3 + torch.arange(start, start + size)[:, None] % 4
            targets = tokens.roll(-1, 1)
            targets[:, : LENGTH // 2] = targets[:, -1] = -100
            parts.append(Answers(tokens, targets, size, int((targets != -100).sum())))
        return parts

    def facts(self) -> dict[str, Any]:
        return {"answers": 40}

    def notes(self) -> list[str]:
        return ["answers to learn"]


class Doubled:
    """Twice the cross-entropy of the answers, through a criterion of its own, and no router's loss."""

    def __init__(self) -> None:
        self.scored = 0

    def loss(self, model: nn.Module, part: Answers) -> Loss:
        def criterion(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
            return 2 * nn.functional.cross_entropy(hidden @ head.T, targets, reduction="sum")

        output = model(part.tokens, part.targets, criterion=criterion)
        nothing = output.loss_sum.new_zeros(())
        return Loss(output.loss_sum, nothing, {"seen": torch.tensor(part.instances)}, {"mean": output.loss_sum * 0 + 5.0})

    def numbers(self, totals: dict[str, Tensor]) -> dict[str, float]:
        return {"seen": totals["seen"].item(), "five": totals["mean"].item()}

    def details(self, totals: dict[str, Tensor]) -> dict[str, Any] | None:
        return None

    def evaluate(self, model: nn.Module, stopped: Callable[[], bool]) -> Evaluation | None:
        self.scored += 1
        return Evaluation("scored", {"score": 1.0})

    def watched(self) -> int:
        return 0

    def watch(self, model: nn.Module, rows: range) -> Tensor | None:
        return None


@pytest.fixture
def config(make_config):
    return make_config(
        model={"vocab_size": 16, "vocab_multiple": 1},
        data={"sequence_length": LENGTH},
        train={"batch_tokens": 4 * LENGTH, "micro_batch": 3},
        schedule={"warmup_tokens": 0, "peak": 2e-2},
        checkpoint={"every_tokens": None},
    )


def training(config, out, received=None) -> Training:
    return Training(config, Repeat(), Doubled(), ALONE, out, received if received is not None else [])


def test_another_objective_and_source_train_save_and_resume(tmp_path, config):
    source, objective = Repeat(), Doubled()
    assert run(lambda _: Work(config, source, objective), tmp_path, device="cpu") == 0
    lines = metrics.read(tmp_path / "metrics.jsonl")
    steps = [line for line in lines if line["kind"] == "step"]
    assert source.asked == [(4 * n, 4) for n in range(10)]
    assert [line["seen"] for line in steps] == [4] * 10 and steps[0]["five"] == pytest.approx(5.0)
    assert steps[-1]["loss"] < steps[0]["loss"] / 2  # it learns
    assert objective.scored == 2 and next(line for line in lines if line["kind"] == "start")["answers"] == 40
    path = checkpoint.latest(tmp_path / "checkpoints")
    assert checkpoint.read_state(path)["data"] == {"fingerprint": "repeat"}
    other = Repeat()
    other.identity = {"fingerprint": "another"}
    with pytest.raises(TrainerError, match="other data"):
        run(lambda _: Work(config, other, objective), tmp_path, resume=True, device="cpu")


def test_a_step_is_one_update_whatever_its_parts(tmp_path, config):
    found = []
    for size in (1, 3, 4):
        one = config.model_copy(update={"train": config.train.model_copy(update={"micro_batch": size})})
        with training(one, tmp_path / str(size)) as at:
            at.set_up()
            assert at.train_step(at.source.read(0, 4, size))
            assert at.progress == Progress(1, 1, 4) and at.tokens == 4 * LENGTH and at.steps_left == 9
            found.append([parameter.detach().clone() for parameter in at.bare.parameters()])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_a_step_that_is_told_to_stop_changes_nothing(tmp_path, config):
    received: list[int] = []
    with training(config, tmp_path, received) as at:
        at.set_up()
        parts = at.source.read(0, 4, 3)
        assert at.train_step(parts)
        before = [parameter.detach().clone() for parameter in at.bare.parameters()]
        asked = iter([False, True])  # between the first part and the second
        at.stopped = lambda: next(asked)
        assert not at.train_step(at.source.read(4, 4, 3))
        assert all(torch.equal(a, b) for a, b in zip(before, at.bare.parameters(), strict=True))
        assert at.progress == Progress(1, 1, 4)
        assert all(parameter.grad is None for parameter in at.bare.parameters())
        received.append(15)
        assert at._stop(parts) == 143
    assert checkpoint.read_state(checkpoint.latest(tmp_path / "checkpoints"))["step"] == 1


def test_a_step_is_saved_once(tmp_path, config):
    with training(config, tmp_path) as at:
        at.set_up()
        parts = at.source.read(0, 4, 3)
        at.train_step(parts)
        at.save(parts)
        at.saver.wait()
        state = checkpoint.latest(tmp_path / "checkpoints") / "state.json"
        written = state.stat().st_mtime_ns
        at.save(parts)
        at.saver.wait()
        assert state.stat().st_mtime_ns == written


def test_too_little_data_for_a_batch_is_said(tmp_path, config):
    large = config.model_copy(update={"train": config.train.model_copy(update={"batch_tokens": 41 * LENGTH})})
    with pytest.raises(TrainerError, match=r"320 tokens to train on are less than one batch of 328"):
        training(large, tmp_path)


def test_a_built_model_has_the_settings_of_its_training(config):
    low = config.model_copy(update={"train": config.train.model_copy(update={"precision": "bfloat16"})})
    model = build_model(low, ALONE)
    assert model.dtype == torch.bfloat16 and all(not parameter.is_meta for parameter in model.parameters())


def test_totals_add_sums_and_weigh_means():
    totals = Totals()
    for loss, count, weight in ((1.0, 2, 0.25), (3.0, 4, 0.75)):
        value = torch.tensor(loss)
        totals.add(Loss(value, torch.tensor(0.0), {"n": torch.tensor([count, 1])}, {"m": value}), weight)
    found = totals.finish(ALONE)
    assert found["loss"].item() == 4.0 and found["n"].tolist() == [6, 2] and found["m"].item() == 2.5
