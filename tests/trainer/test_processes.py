"""Two processes give the losses of one, and either can go on from the other's checkpoint."""

from pathlib import Path

import forked
import pytest
import yaml

from trainer import checkpoint, metrics
from trainer.config import plain
from trainer.errors import TrainerError
from trainer.processes import Processes, spread
from trainer.train import train


def steps(out: Path) -> dict[int, dict]:
    return {line["step"]: line for line in metrics.read(out / "metrics.jsonl") if line["kind"] == "step"}


def together(config, data: Path, out: Path, *more: str, count: int = 2) -> str:
    """Train in so many processes; returns what they print."""
    out.mkdir(exist_ok=True)
    (out / "config.yaml").write_text(yaml.safe_dump(plain(config)))
    command = ["train", str(out / "config.yaml"), "--data", str(data), "--out", str(out), "--device", "cpu", *more]
    return forked.run(out / "said", "-m", "trainer", *command, count=count)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, small_run, make_config, one_thread):
    """Eight steps in one process."""
    out = tmp_path_factory.mktemp("alone")
    assert train(eight(make_config), small_run, out, device="cpu") == 0
    return steps(out)


def eight(make_config, **changes):
    changes["losses"] = {"repeated_ngrams": 2}  # instances without loss, more of them in one process than in the other
    changes["train"] = {"tokens": 8 * 128, "micro_batch": 1, **changes.get("train", {})}
    return make_config(**changes)


@pytest.mark.parametrize(("parallel", "before"), [("ddp", 0), ("fsdp", 2)])
def test_two_processes_train_as_one(tmp_path, small_run, make_config, alone, parallel, before):
    def until(step: int, **options):
        return eight(make_config, train={"tokens": step * 128, **options}, schedule={"tokens": 8 * 128})

    if before:  # from one process to two
        assert train(until(before), small_run, tmp_path, device="cpu") == 0
    said = together(until(5, parallel=parallel), small_run, tmp_path, "--resume")
    assert said.count("done: ") == 1  # said once, not by each
    saved = checkpoint.latest(tmp_path / "checkpoints")
    assert len(checkpoint.read_state(saved)["files"]) == 4
    assert train(until(8), small_run, tmp_path, resume=True, device="cpu") == 0  # and back to one
    found = steps(tmp_path)
    assert sorted(found) == list(range(1, 9))
    for step, line in found.items():
        for key in ("loss", "grad_norm", "load_balancing", "router_z"):
            assert line[key] == pytest.approx(alone[step][key], abs=2e-4), (step, key)


@pytest.mark.parametrize(
    ("count", "train"),
    [(2, {"reduce": "batch"}), (4, {"shard_over": 2}), (2, {"recompute": "activations"})],
    ids=lambda value: str(value),
)
def test_other_ways_to_share_the_work_train_as_one(tmp_path, small_run, make_config, alone, count, train):
    config = eight(make_config, train={"tokens": 3 * 128, "parallel": "fsdp", **train}, schedule={"tokens": 8 * 128})
    together(config, small_run, tmp_path, count=count)
    for step, line in steps(tmp_path).items():
        for key in ("loss", "grad_norm", "load_balancing", "router_z"):
            assert line[key] == pytest.approx(alone[step][key], abs=2e-4), (step, key)
    state = checkpoint.read_state(checkpoint.latest(tmp_path / "checkpoints"))
    size = sum(facts["bytes"] for facts in state["files"].values())
    assert size == pytest.approx(12 * 37_664, rel=0.35)  # written once, whatever the copies; the rest is headers


def test_copies_of_the_model_must_divide_the_processes(make_config):
    with pytest.raises(TrainerError, match=r"train\.shard_over 3 does not divide 4 processes"):
        spread(None, make_config(train={"parallel": "fsdp", "shard_over": 3}), Processes(0, 4, None))


def test_a_batch_must_divide_among_processes(make_config):
    with pytest.raises(TrainerError, match="4 instances does not divide among 3 processes"):
        spread(None, make_config(), Processes(0, 3, None))
    with pytest.raises(TrainerError, match="gets 2 instances of a batch, which are balanced 4 together"):
        spread(None, make_config(losses={"balance_instances": 4}, train={"micro_batch": 4}), Processes(0, 2, None))


def test_two_processes_train_on_packed_documents_as_one(tmp_path, make_run, make_config):
    data = make_run(tmp_path / "run", seed=5)  # not opened before: the first process packs, the other waits

    def config(way: str):
        changes = {"model": {"document_masking": True}, "data": {"packing": "best_fit"}}
        return make_config(**changes, train={"tokens": 2 * 128, "micro_batch": 1, "parallel": way})

    together(config("fsdp"), data, tmp_path / "two")
    assert train(config("ddp"), data, tmp_path / "one", device="cpu") == 0
    one, found = steps(tmp_path / "one"), steps(tmp_path / "two")
    for step in (1, 2):
        assert found[step]["loss"] == pytest.approx(one[step]["loss"], abs=2e-4)
        assert found[step]["grad_norm"] == pytest.approx(one[step]["grad_norm"], abs=2e-4)
