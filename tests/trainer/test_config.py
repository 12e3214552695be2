from pathlib import Path

import pytest

from trainer.config import check, keys, load, plain
from trainer.errors import TrainerError

CONFIGS = Path(__file__).parents[2] / "configs" / "trainer"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_and_survives_json(path):
    config = load(path)
    assert config.name == path.stem
    assert check(plain(config), "again") == config


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model": {"n_expert": 3}}, ["model.n_expert", "3", "model.n_experts"]),
        ({"d_model": 3}, ["d_model", "model.d_model"]),
        ({"optimiser": {}}, ["optimiser", "optimizer"]),
        ({"train": {"peak_lr": 1e-3}}, ["train.peak_lr", "0.001"]),
        ({"model": {"n_layers": True}}, ["model.n_layers", "True", "integer"]),
        ({"model": {"n_layers": "4"}}, ["model.n_layers", "'4'"]),
        ({"model": {"n_layers": 2.5}}, ["model.n_layers", "2.5"]),
        ({"model": {"top_k": 70}}, ["top_k 70", "n_experts 64"]),
        ({"model": {"d_model": 100, "n_heads": 16}}, ["d_model 100", "n_heads 16"]),
        ({"schedule": {"peak": -1.0}}, ["schedule.peak", "-1.0"]),
        ({"schedule": {"kind": "cosin"}}, ["schedule.kind", "'cosin'", "'cosine'"]),
        ({"train": {"batch_tokens": 5000}}, ["5000", "data.sequence_length 4096"]),
        ({"losses": {"balance_instances": 3}}, ["balance_instances 3", "micro_batch 4"]),
    ],
)
def test_refuses_with_path_value_and_nearest_name(values, told):
    with pytest.raises(TrainerError) as error:
        check({"name": "x", **values}, "file.yaml")
    for part in ["file.yaml", *told]:
        assert part in str(error.value)


def test_numbers_as_people_write_them(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("name: c\nschedule: {peak: 4e-4, tokens: 5e12}\noptimizer: {eps: 1e-5, betas: [0.9, 0.95]}\n")
    config = load(path, ["train.tokens=1e6", "data.sequence_length=1_024", "model.qk_norm=false"])
    assert config.schedule.peak == 4e-4
    assert config.schedule.tokens == 5_000_000_000_000
    assert config.train.tokens == 1_000_000
    assert config.data.sequence_length == 1024
    assert config.model.qk_norm is False


def test_base_is_overridden_key_by_key(tmp_path):
    (tmp_path / "base.yaml").write_text("name: base\nmodel: {d_model: 64, n_heads: 2}\n")
    (tmp_path / "c.yaml").write_text("base: base.yaml\nname: c\nmodel: {n_heads: 4}\n")
    config = load(tmp_path / "c.yaml")
    assert (config.name, config.model.d_model, config.model.n_heads) == ("c", 64, 4)
    (tmp_path / "base.yaml").write_text("base: c.yaml\n")
    with pytest.raises(TrainerError, match="lead back to itself"):
        load(tmp_path / "c.yaml")


@pytest.mark.parametrize("text", ["name: [", "- 1\n", "base: 3\n"])
def test_refuses_files_that_are_no_configuration(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(TrainerError, match=r"c\.yaml"):
        load(path)


def test_refuses_missing_file_and_malformed_setting(tmp_path):
    with pytest.raises(TrainerError, match="No such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "c.yaml").write_text("name: c\n")
    with pytest.raises(TrainerError, match=r"name\.of\.key=value"):
        load(tmp_path / "c.yaml", ["train.tokens"])
    with pytest.raises(TrainerError, match="not a section"):
        load(tmp_path / "c.yaml", ["name.x=1"])


def test_keys_are_dotted_paths():
    assert {"model", "model.d_model", "checkpoint.keep"} <= set(keys())
