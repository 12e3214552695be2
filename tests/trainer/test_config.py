import tomllib
from pathlib import Path

import pytest

from trainer import config
from trainer.__main__ import _each_set
from trainer.adapt.config import AdaptConfig
from trainer.config import Config, check, keys, load, plain, stored_config
from trainer.errors import TrainerError
from trainer.units import quantity

CONFIGS = Path(__file__).parents[2] / "configs" / "trainer"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_and_survives_json(path):
    config = load(path, schema=AdaptConfig if path.parent.name == "adapt" else Config)
    assert config.name == path.stem
    assert stored_config(plain(config), "again") == config


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model": {"n_expert": 3}}, ["model.n_expert", "3", "model.n_experts"]),
        ({"d_model": 3}, ["d_model", "model.d_model"]),
        ({"optimiser": {}}, ["optimiser", "optimizer"]),
        ({"train": {"peak_lr": 1e-3}}, ["train.peak_lr", "0.001"]),
        ({"model": {"n_layers": True}}, ["model.n_layers", "True", "whole number"]),
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
    found = load(path, ["train.tokens=1e6", "data.sequence_length=1_024", "model.qk_norm=false"])
    assert found.schedule.peak == 4e-4
    assert found.schedule.tokens == 5_000_000_000_000
    assert found.train.tokens == 1_000_000
    assert found.data.sequence_length == 1024
    assert found.model.qk_norm is False


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
    with pytest.raises(TrainerError, match=r"--set train\.token=1: unknown key train\.token; did you mean train\.tokens\?"):
        load(tmp_path / "c.yaml", ["train.token=1"])
    with pytest.raises(TrainerError, match=r"unknown key trin\.tokens; did you mean train\.tokens\?"):
        load(tmp_path / "c.yaml", ["trin.tokens=1"])
    with pytest.raises(TrainerError, match=r"model = 3: is a section"):
        load(tmp_path / "c.yaml", ["model=3"])
    (tmp_path / "c.yaml").write_text("name: c\ntrain: {tokens: 1, tokens: 2}\n")
    with pytest.raises(TrainerError, match="tokens is given twice"):
        load(tmp_path / "c.yaml")


@pytest.mark.parametrize(("text", "number"), [("1B", 10**9), ("5.133T", 5_133 * 10**9), ("2k", 2000), ("0.5M", 500_000)])
def test_letters_stand_for_powers_of_ten_everywhere(tmp_path, text, number):
    path = tmp_path / "c.yaml"
    path.write_text(f"name: c\nschedule: {{tokens: {text}}}\n")
    config = load(path, [f"train.tokens={text}", f"evaluate.every_tokens={text}"])
    assert config.schedule.tokens == config.train.tokens == config.evaluate.every_tokens == number
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["1.5", "1X", "B", "0.0001K", "4"])
def test_what_is_no_whole_number_is_refused(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(f"name: c\ntrain: {{tokens: '{text}'}}\n")
    with pytest.raises(TrainerError, match=r"train\.tokens"):
        load(path)


def test_shipped_configurations_are_found_by_name_and_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("olmoe_tiny", "olmoe_tiny.yaml", "configs/trainer/olmoe_tiny.yaml"):
        assert load(Path(name)).name == "olmoe_tiny"
    assert load(Path("ablations/dense")).name == "dense"
    with pytest.raises(TrainerError, match="did you mean olmoe_tiny"):
        load(Path("olmoe_tyny"))
    (tmp_path / "olmoe_tiny.yaml").write_text("name: mine\n")
    assert load(Path("olmoe_tiny.yaml")).name == "mine"


def test_shipped_configurations_are_found_when_installed(tmp_path, monkeypatch):
    """Without the checkout: where the installation's data files lie, which pyproject.toml names."""
    target = tmp_path / "share" / "headrace" / "configs" / "trainer"
    target.mkdir(parents=True)
    (target / "small.yaml").write_text("name: small\n")
    monkeypatch.setattr(config.sysconfig, "get_path", lambda name: str(tmp_path))
    assert load(Path("small")).name == "small"
    files = tomllib.loads((CONFIGS.parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    listed = {path for where, patterns in files.items() for pattern in patterns for path in CONFIGS.parents[1].glob(pattern)
              if where == f"share/headrace/{path.parent.relative_to(CONFIGS.parents[1])}"}  # fmt: skip
    assert set(CONFIGS.rglob("*.yaml")) <= listed


def test_one_set_flag_takes_several_keys():
    assert _each_set(["train", "c", "--set", "a.b=1", "c=2", "--out", "x", "--set=d=3", "e=4", "f"]) == [
        "train", "c", "--set", "a.b=1", "--set", "c=2", "--out", "x", "--set=d=3", "--set", "e=4", "f",
    ]  # fmt: skip


def test_keys_are_dotted_paths():
    assert {"model", "model.d_model", "checkpoint.keep", "model.rope_scaling.factor"} <= set(keys())
