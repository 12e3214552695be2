"""Tensors in pieces: any rows from any files, and checkpoints that each process writes and reads its part of."""

from __future__ import annotations

from pathlib import Path

import forked
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from trainer import checkpoint
from trainer.checkpoint import MOMENTS, Saver
from trainer.config import plain
from trainer.errors import TrainerError
from trainer.model import Olmoe
from trainer.optim import build_optimizer
from trainer.pieces import PieceError, PieceReader, held, writers_of
from trainer.processes import Processes


def cut(folder: Path, tensors: dict[str, torch.Tensor], *cuts: int) -> list[Path]:
    """The tensors by rows in as many files as there are pieces."""
    paths = []
    for number, (start, end) in enumerate(zip((0, *cuts), (*cuts, 99), strict=True)):
        parts = {f"{name}[{start}:{min(end, len(t))}]": t[start:end] for name, t in tensors.items() if start < len(t)}
        paths.append(folder / f"{number}.safetensors")
        save_file({key: part.contiguous() for key, part in parts.items()}, paths[-1])
    return paths


def test_any_rows_come_from_the_pieces_that_hold_them(tmp_path):
    tensors = {"a": torch.randn(10, 3), "b": torch.randn(7)}
    read = PieceReader(cut(tmp_path, tensors, 3, 4, 8))
    assert sorted(read.names()) == ["a", "b"] and read.shape("a") == [10, 3] and read.shape("b") == [7]
    for name, tensor in tensors.items():
        assert torch.equal(read.read(name), tensor)
        for start in range(len(tensor)):
            for end in range(start, len(tensor) + 1):
                assert torch.equal(read.rows(name, start, end), tensor[start:end])


def test_only_what_is_asked_for_is_read(tmp_path):
    read = PieceReader(cut(tmp_path, {"a": torch.randn(100, 3)}, 50))
    read.rows("a", 48, 52)
    assert read.bytes == 4 * 3 * 4


def test_a_missing_piece_is_named(tmp_path):
    paths = cut(tmp_path, {"a": torch.randn(10, 3)}, 3, 4)
    with pytest.raises(PieceError, match="rows 3 to 9 of a are missing"):
        PieceReader([paths[0], paths[2]]).read("a")
    with pytest.raises(PieceError, match="no tensor c"):
        PieceReader(paths).read("c")
    save_file({"a[0:5]": torch.zeros(4)}, tmp_path / "wrong")
    with pytest.raises(PieceError, match=r"a\[0:5\] has 4 rows"):
        PieceReader([tmp_path / "wrong"])


def test_scalars_and_empty_rows(tmp_path):
    save_file({"s": torch.tensor(3.0), "v": torch.arange(4.0)}, tmp_path / "f")
    read = PieceReader([tmp_path / "f"])
    assert read.read("s").item() == 3.0 and read.rows("v", 2, 2).shape == (0,)
    assert held(torch.tensor(3.0)).key("s") == "s"


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_whole_tensors_are_shared_out_by_size(count):
    sizes = [1000, 10, 10, 500, 500, 10, 1000, 3]
    chosen = writers_of(sizes, count)
    loads = [sum(size for size, who in zip(sizes, chosen, strict=True) if who == rank) for rank in range(count)]
    assert sum(loads) == sum(sizes) and max(loads) <= max(max(sizes), sum(sizes) / count * 1.4)


SCRIPT = """
import sys
from pathlib import Path
from trainer import checkpoint, processes as procs
from trainer.config import load
from trainer.optim import build_optimizer
from trainer.training import build_model

config, source, out = load(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
processes = procs.start("cpu")
model = build_model(config, processes)
optimizer = build_optimizer(model, config.optimizer)
read = checkpoint.load(source, model, optimizer)
saver = checkpoint.Saver(out, 2, processes, True)
processes.wait()
saver.save(model, optimizer, {"step": 1, "updates": 1}, None)
saver.wait()
processes.wait()
sys.stdout.write(f"{processes.rank} read {read}\\n")
sys.stdout.flush()
processes.close()
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_config):
    """A configuration that three processes can share, and a checkpoint of it from one process."""
    folder = tmp_path_factory.mktemp("saved")
    config = make_config(model={"vocab_size": 61}, train={"batch_tokens": 6 * 32, "micro_batch": 1})
    (folder / "c.yaml").write_text(yaml.safe_dump(plain(config)))
    model = Olmoe(config.model)
    model.init_weights(0)
    optimizer = build_optimizer(model, config.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    Saver(folder, 2, Processes(0, 1, torch.device("cpu")), False).save(model, optimizer, {"step": 1, "updates": 1}, None)
    return folder, config, model, optimizer


@pytest.mark.parametrize(("count", "parallel"), [(2, "fsdp"), (3, "fsdp"), (2, "ddp")])
def test_each_process_writes_and_reads_its_part(tmp_path, saved, count, parallel):
    folder, config, model, optimizer = saved
    config = config.model_copy(update={"train": config.train.model_copy(update={"parallel": parallel})})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(plain(config)))
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [str(tmp_path / name) for name in ("script.py", "c.yaml")]
    said = forked.run(tmp_path / "said", *command, str(folder / "step_00000001"), str(tmp_path / "out"), count=count)
    total = 3 * 4 * sum(parameter.numel() for parameter in model.parameters())
    read = [int(line.split()[-1]) for line in said.splitlines() if " read " in line]
    if parallel == "fsdp":  # all together read it once, but for the routers, which each process holds whole
        routers = 3 * 4 * sum(parameter.numel() for name, parameter in model.named_parameters() if "router" in name)
        assert routers < total / 20
        assert len(read) == count and sum(read) == total + (count - 1) * routers and max(read) < total / count * 1.15
    path = tmp_path / "out" / "step_00000001"
    checkpoint.verify(path)
    sizes = [facts["bytes"] for facts in checkpoint.read_state(path)["files"].values()]
    assert len(sizes) == 2 * count and total <= sum(sizes) < total + 20_000 * count  # it is written once too
    assert max(sizes) < total * 2 / 3 / count * 1.3
    # One process reads what several wrote, to the bit.
    other = Olmoe(config.model)
    other_optimizer = build_optimizer(other, config.optimizer)
    assert checkpoint.load(path, other, other_optimizer) == total
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert all(torch.equal(optimizer.state[a][moment], other_optimizer.state[b][moment]) for moment in MOMENTS)


def test_a_piece_that_is_not_there_is_damage(tmp_path, saved):
    _, config, model, optimizer = saved
    Saver(tmp_path, 2, Processes(0, 1, torch.device("cpu")), False).save(model, optimizer, {"step": 1, "updates": 1}, None)
    path = tmp_path / "step_00000001" / "model-00000-of-00001.safetensors"
    tensors = load_file(path)
    whole = tensors.pop("head_VD")
    save_file({**tensors, "head_VD[0:5]": whole[:5].clone(), "head_VD[6:64]": whole[6:].clone()}, path)
    with pytest.raises(TrainerError, match="damaged: rows 5 to 63 of head_VD are missing"):
        checkpoint.load(path.parent, Olmoe(config.model))
