"""Equality with transformers' OlmoeForCausalLM, both ways. Logits only: its auxiliary loss is another one."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainer import checkpoint, hf
from trainer.checkpoint import Saver
from trainer.config import plain
from trainer.errors import TrainerError
from trainer.model import Olmoe
from trainer.processes import Processes

transformers = pytest.importorskip("transformers")
ALONE = Processes(0, 1, torch.device("cpu"))
DATA = {"fingerprint": "f", "vocab_size": 61, "eos_id": 0, "pad_id": 1}


def save(folder, config):
    """A checkpoint of random weights, large enough for every layer to matter."""
    model = Olmoe(config.model)
    model.init_weights(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(5) if "norm" not in name else parameter.uniform_(0.5, 1.5)
    state = {"step": 1, "updates": 1, "tokens": 0, "position": 0, "config": plain(config), "data": DATA}
    Saver(folder, 1, ALONE, False).save(model, None, state, None)
    return model


def tokenizer_file(folder):
    from tokenizers import Tokenizer, models

    entries = {f"t{number}": number for number in range(61)}
    path = folder / "tokenizer.json"
    Tokenizer(models.WordLevel(entries, "t2")).save(str(path))
    return path


@pytest.mark.parametrize("file_bytes", [5 << 30, 20_000])
def test_transformers_gives_the_same_logits_for_an_export(tmp_path, make_config, monkeypatch, file_bytes):
    monkeypatch.setattr(hf, "FILE_BYTES", file_bytes)
    config = make_config(model={"vocab_size": 61, "rope_theta": 500.0})
    model = save(tmp_path / "c", config)
    hf.export(tmp_path / "c", tmp_path / "hf")
    several = (tmp_path / "hf" / "model.safetensors.index.json").exists()
    assert several == (file_bytes == 20_000)
    theirs, told = transformers.OlmoeForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert theirs.config.intermediate_size == 16 and theirs.config.router_aux_loss_coef == 0.01
    tokens = torch.randint(0, 61, (2, 20))
    with torch.no_grad():
        logits = model(tokens)
        assert logits.std() > 0.5
        torch.testing.assert_close(theirs(tokens).logits, logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_import_gives_the_same_logits(tmp_path, fused):
    config = transformers.OlmoeConfig(
        vocab_size=61, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_experts=8,
        num_experts_per_tok=3, max_position_embeddings=64, initializer_range=0.1, eos_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 700.0},
    )  # fmt: skip
    theirs = transformers.OlmoeForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    if fused:
        tensors = {name: value for name, value in load_file(path).items() if ".experts." not in name}
        for number, layer in enumerate(theirs.model.layers):
            experts = f"model.layers.{number}.mlp.experts."
            tensors[experts + "gate_up_proj"] = layer.mlp.experts.gate_up_proj.detach()
            tensors[experts + "down_proj"] = layer.mlp.experts.down_proj.detach()
        save_file(tensors, path, metadata={"format": "pt"})
    with safe_open(path, "pt") as file:
        assert any(name.endswith("experts.gate_up_proj") for name in file.keys()) == fused  # noqa: SIM118
    found = hf.import_(tmp_path / "hf", tmp_path / "c")
    checkpoint.verify(found)
    state = checkpoint.read_state(found)
    from trainer.config import check

    model = Olmoe(check(state["config"], "state").model)
    assert model.config.rope_theta == 700.0
    checkpoint.load(found, model)
    tokens = torch.randint(0, 61, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


def test_export_then_import_is_the_same_to_the_bit(tmp_path, make_config):
    model = save(tmp_path / "c", make_config(model={"vocab_size": 61}))
    hf.export(tmp_path / "c", tmp_path / "hf")
    found = hf.import_(tmp_path / "hf", tmp_path / "again")
    other = Olmoe(model.config)
    checkpoint.load(found, other)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_document_masking_has_no_weights_and_is_exported(tmp_path, make_config):
    model = save(tmp_path / "c", make_config(model={"vocab_size": 61, "document_masking": True}))
    hf.export(tmp_path / "c", tmp_path / "hf")
    tokens = torch.randint(0, 61, (2, 20))  # one document each
    with torch.no_grad():
        logits = transformers.OlmoeForCausalLM.from_pretrained(tmp_path / "hf")(tokens).logits
        torch.testing.assert_close(logits, model(tokens), atol=1e-5, rtol=1e-5)


def test_tokenizer_travels_along(tmp_path, make_config):
    config = make_config(model={"vocab_size": 61, "vocab_multiple": 128})
    model = save(tmp_path / "c", config)
    state = {"step": 1, "updates": 1, "tokens": 0, "position": 0, "config": plain(config), "data": DATA}
    Saver(tmp_path / "c", 1, ALONE, False).save(model, None, state, tokenizer_file(tmp_path))
    hf.export(tmp_path / "c", tmp_path / "hf", "bfloat16")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.eos_token_id) == ("t0", "t1", 0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert theirs.dtype == torch.bfloat16
    state = checkpoint.read_state(hf.import_(tmp_path / "hf", tmp_path / "again"))
    assert state["config"]["model"]["vocab_size"] == 61
    assert state["config"]["model"]["vocab_multiple"] == 128


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_experts": 0}, "dense"),
        ({"n_shared_experts": 1}, r"model\.n_shared_experts = 1"),
        ({"qk_norm": False}, r"model\.qk_norm"),
        ({"norm": "layer_nonparametric"}, r"model\.norm"),
        ({"routing": "expert_choice"}, r"model\.routing"),
    ],
)
def test_export_refuses_what_olmoe_has_no_form_for(tmp_path, make_config, changes, told):
    save(tmp_path / "c", make_config(model={"vocab_size": 61, **changes}))
    with pytest.raises(TrainerError, match=told):
        hf.export(tmp_path / "c", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("norm_topk_prob", True), ("clip_qkv", 8.0), ("num_key_value_heads", 2), ("model_type", "llama")],
)
def test_import_refuses_what_is_not_olmoe(tmp_path, make_config, key, value):
    save(tmp_path / "c", make_config(model={"vocab_size": 61}))
    hf.export(tmp_path / "c", tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(TrainerError, match=key):
        hf.import_(tmp_path / "hf", tmp_path / "again")


def test_import_names_what_is_missing(tmp_path, make_config):
    with pytest.raises(TrainerError, match=r"config\.json: cannot be read"):
        hf.import_(tmp_path, tmp_path / "x")
    save(tmp_path / "c", make_config(model={"vocab_size": 61}))
    hf.export(tmp_path / "c", tmp_path / "hf")
    with pytest.raises(TrainerError, match="not empty"):
        hf.export(tmp_path / "c", tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path)
    with pytest.raises(TrainerError, match=r"no tensor lm_head\.weight"):
        hf.import_(tmp_path / "hf", tmp_path / "x")
    path.write_bytes(b"none")
    with pytest.raises(TrainerError, match="cannot be read"):
        hf.import_(tmp_path / "hf", tmp_path / "x")
