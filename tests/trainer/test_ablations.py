"""Each ablation's file changes what it says, and a model of each kind trains."""

from pathlib import Path

import pytest
import torch

from trainer import checkpoint
from trainer.config import check, load, plain
from trainer.errors import TrainerError
from trainer.model import Olmoe, parameter_counts
from trainer.pretrain import router_losses
from trainer.resume import differences
from trainer.train import train
from trainer.upcycle import upcycle

CONFIGS = Path(__file__).parents[2] / "configs" / "trainer"
ABLATIONS = sorted(path.stem for path in (CONFIGS / "ablations").glob("*.yaml"))

CHANGES = {
    "dense": {"model.n_experts": 0, "model.expert_width": 640},
    "experts_8_1": {"model.n_experts": 8, "model.top_k": 1, "model.expert_width": 640},
    "experts_32_4": {},
    "experts_64_8": {"model.n_experts": 64, "model.top_k": 8, "model.expert_width": 80},
    "shared_expert": {"model.n_experts": 31, "model.n_shared_experts": 1, "model.top_k": 3},
    "expert_choice": {"model.routing": "expert_choice"},
    "upcycled": {"start_from": "runs/train/upcycled_start"},
    "no_load_balancing": {"losses.load_balancing": 0.0},
    "no_router_z": {"losses.router_z": 0.0},
    "router_z_original_code": {"losses.router_z_form": "original_code"},
    "normal_init": {"model.init": "normal"},
    "layernorm_nonparametric": {"model.norm": "layer_nonparametric"},
    "no_decay_norms": {"optimizer.decay_norms": False},
    "no_decay_embeddings": {"optimizer.decay_embeddings": False},
    "no_qk_norm": {"model.qk_norm": False},
    "adamw_eps_1e_5": {"optimizer.eps": 1e-5},
    "document_masking": {"model.document_masking": True},
}


def changed(name: str) -> dict:
    base, other = plain(load(CONFIGS / "olmoe_tiny.yaml")), plain(load(CONFIGS / "ablations" / f"{name}.yaml"))
    return {key: now for key, (_, now) in differences(base, other) if key != "name"}


def test_every_ablation_is_described():
    assert sorted(CHANGES) == ABLATIONS


@pytest.mark.parametrize("name", ABLATIONS)
def test_it_changes_this_and_nothing_else(name):
    assert changed(name) == CHANGES[name]


def counts(name: str) -> tuple[int, int]:
    model = load(CONFIGS / "ablations" / f"{name}.yaml").model
    return parameter_counts(model.model_copy(update={"vocab_size": 8192}))


def test_granularity_keeps_the_parameters():
    sizes = [counts(name) for name in ("experts_8_1", "experts_32_4", "experts_64_8")]
    router = 4 * 128
    assert len({total - router * n for (total, _), n in zip(sizes, (8, 32, 64), strict=True)}) == 1
    assert len({active - router * n for (_, active), n in zip(sizes, (8, 32, 64), strict=True)}) == 1


def test_dense_and_shared_expert_keep_the_active_parameters():
    tiny = load(CONFIGS / "olmoe_tiny.yaml").model.model_copy(update={"vocab_size": 8192})
    total, active = parameter_counts(tiny)
    assert counts("dense")[1] == active - 4 * 32 * 128
    assert counts("shared_expert") == (total - 4 * 128, active - 4 * 128)


# The same ablations on the tests' small model; what each must do to training is checked below.
SMALL = {
    **{name: {} for name in ABLATIONS},
    "dense": {"n_experts": 0},
    "experts_8_1": {"n_experts": 8, "top_k": 1},
    "experts_32_4": {"n_experts": 32, "top_k": 4},
    "experts_64_8": {"n_experts": 64, "top_k": 8},
    "shared_expert": {"n_experts": 7, "n_shared_experts": 1},
}


def weights(out: Path) -> dict[str, str]:
    state = checkpoint.read_state(checkpoint.latest(out / "checkpoints"))
    return {name: facts["sha256"] for name, facts in state["files"].items()}


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory, small_run, make_config, one_thread):
    out = tmp_path_factory.mktemp("unchanged")
    assert train(make_config(train={"tokens": 6 * 128}), small_run, out, device="cpu") == 0
    return weights(out)


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "upcycled"])
def test_it_trains_to_another_model_and_resumes(tmp_path, small_run, make_config, unchanged, name):
    sections: dict = {}
    for key, value in CHANGES[name].items():
        section, key = key.split(".")
        if key not in ("n_experts", "n_shared_experts", "top_k", "expert_width"):
            sections.setdefault(section, {})[key] = value
    sections["model"] = {**sections.get("model", {}), **SMALL[name]}
    sections["train"] = {"tokens": 6 * 128}
    config = make_config(**sections)
    assert train(config, small_run, tmp_path / "a", device="cpu") == 0
    half = config.model_copy(
        update={
            "train": config.train.model_copy(update={"tokens": 3 * 128}),
            "schedule": config.schedule.model_copy(update={"tokens": 6 * 128}),
        }
    )
    assert train(half, small_run, tmp_path / "b", device="cpu") == 0
    assert train(config, small_run, tmp_path / "b", resume=True, device="cpu") == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != unchanged


def loss_parts(config) -> tuple[torch.Tensor, object]:
    model = Olmoe(config.model)
    model.init_weights(0)
    tokens = torch.arange(32).view(2, 16)
    output = model(tokens, tokens)
    return router_losses(output, config), output


def test_losses_off_and_the_original_z(make_config):
    def parts(**losses):
        return loss_parts(make_config(model={"vocab_size": 61}, losses=losses))

    both, output = parts()
    balance, z = output.load_balancing_L.mean(), output.router_z_L.mean()
    torch.testing.assert_close(both, 0.01 * balance + 0.001 * z)
    torch.testing.assert_close(parts(load_balancing=0.0)[0], 0.001 * z)
    torch.testing.assert_close(parts(router_z=0.0)[0], 0.01 * balance)
    torch.testing.assert_close(parts(router_z_form="original_code")[0], 0.01 * balance + 0.001 * z / 2)


def test_upcycling_copies_the_dense_mlp(tmp_path, small_run, make_config):
    dense = make_config(model={"n_experts": 0}, train={"tokens": 20 * 128})
    assert train(dense, small_run, tmp_path / "dense", device="cpu") == 0
    sparse = make_config(start_from=str(tmp_path / "up"), train={"tokens": 4 * 128})
    path = upcycle(tmp_path / "dense", sparse, tmp_path / "up", noise=0.0)
    model = Olmoe(check(checkpoint.read_state(path)["config"], "state").model)
    checkpoint.load(path, model)
    source = checkpoint.reader(checkpoint.find(tmp_path / "dense"))
    one = source("layers.1.mlp.gate_up_GD")
    assert all(torch.equal(expert, one) for expert in model.layers[1].mlp.gate_up_EGD)
    assert torch.equal(model.layers[0].attention.qkv.weight, source("layers.0.attention.qkv.weight"))

    noisy = checkpoint.reader(upcycle(tmp_path / "dense", sparse, tmp_path / "noisy", noise=0.5))
    down = noisy("layers.1.mlp.down_EDF")
    kept = (down == source("layers.1.mlp.down_DF")).float()
    assert abs(kept.mean() - 0.5) < 0.05
    assert not torch.equal(down[0], down[1])
    assert train(sparse, small_run, tmp_path / "sparse", device="cpu") == 0

    with pytest.raises(TrainerError, match="is not dense"):
        upcycle(tmp_path / "sparse", sparse, tmp_path / "x")
    with pytest.raises(TrainerError, match=r"model\.expert_width is 16"):
        upcycle(tmp_path / "dense", make_config(model={"expert_width": 8}), tmp_path / "x")
    with pytest.raises(TrainerError, match="noise is 2"):
        upcycle(tmp_path / "dense", sparse, tmp_path / "x", noise=2)
