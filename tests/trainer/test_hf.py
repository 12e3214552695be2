"""Equality with transformers' OlmoeForCausalLM, both ways. Logits only: its auxiliary loss is another one."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainer import checkpoint, hf, metrics
from trainer.__main__ import main
from trainer.checkpoint import Saver
from trainer.config import check, plain
from trainer.errors import TrainerError
from trainer.model import Cache, Olmoe
from trainer.processes import Processes
from trainer.train import train

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
    [
        ("model_type", "llama"),
        ("attention_bias", True),
        ("hidden_act", "gelu"),
        ("head_dim", 10),
        ("hidden_size", 33),
        ("num_key_value_heads", 3),
        ("rope_parameters", {"rope_type": "dynamic", "factor": 2.0}),
        ("rope_scaling", {"type": "llama3", "factor": 2.0, "original_max_position_embeddings": 16}),
        ("rope_parameters", {"rope_type": "linear", "factor": "two"}),
        ("num_attention_heads", "four"),
        ("vocab_size", 61.5),
        ("num_experts", None),
        ("norm_topk_prob", "no"),
    ],
)
def test_import_refuses_what_the_model_cannot_be(tmp_path, make_config, key, value):
    save(tmp_path / "c", make_config(model={"vocab_size": 61}))
    hf.export(tmp_path / "c", tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    values = json.loads(path.read_text())
    if key == "rope_scaling":
        del values["rope_parameters"]
    path.write_text(json.dumps({**values, key: value}))
    told = {
        "head_dim": "heads of width 10",
        "num_key_value_heads": "n_kv_heads 3",
        "rope_parameters": "'dynamic'|factor is 'two'",
        "rope_scaling": "without low_freq_factor and high_freq_factor",
        "num_experts": r"model\.n_experts = None",
        "norm_topk_prob": r"model\.renormalize_top_k = 'no'",
    }
    with pytest.raises(TrainerError, match=told.get(key, key)):
        hf.import_(tmp_path / "hf", tmp_path / "again")
    assert not (tmp_path / "again" / "checkpoints").exists()


OTHERS = {
    "renormalised": {"norm_topk_prob": True},
    "clipped": {"clip_qkv": 0.4},
    "grouped": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3", "factor": 8.0, "rope_theta": 500.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0, "original_max_position_embeddings": 16, "beta_fast": 2.0,
        }
    },
    "yarn, as it is in DeepSeek": {
        "rope_parameters": {
            "rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0, "original_max_position_embeddings": 16,
            "mscale": 0.7, "mscale_all_dim": 1.0, "truncate": False,
        }
    },
    "all": {"norm_topk_prob": True, "clip_qkv": 0.5, "num_key_value_heads": 2, "tie_word_embeddings": True},
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_olmoe_models_come_in_and_go_out_with_the_same_logits(tmp_path, kind):
    config = transformers.OlmoeConfig(
        vocab_size=61, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_experts=8,
        num_experts_per_tok=3, max_position_embeddings=64, initializer_range=0.2, eos_token_id=[0, 5], **OTHERS[kind],
    )  # fmt: skip
    torch.manual_seed(1)
    theirs = transformers.OlmoeForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "hf")
    found = hf.import_(tmp_path / "hf", tmp_path / "c")
    model = Olmoe(check(checkpoint.read_state(found)["config"], "state").model)
    checkpoint.load(found, model)
    hf.export(found, tmp_path / "back")
    again = transformers.OlmoeForCausalLM.from_pretrained(tmp_path / "back")
    tokens = torch.randint(0, 61, (2, 40))
    with torch.no_grad():
        logits = theirs(tokens).logits
        torch.testing.assert_close(model(tokens), logits, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(again(tokens).logits, logits, atol=2e-5, rtol=1e-5)
        cache = Cache(model.config, 2, 40, torch.device("cpu"), torch.float32)
        parts = torch.cat([model(part, cache=cache) for part in tokens.split(13, 1)], 1)
        torch.testing.assert_close(parts, logits, atol=2e-5, rtol=1e-5)
        plain_ = Olmoe(model.config.model_copy(update=PLAIN)) if kind not in ("grouped", "one key head", "tied", "all") else None
        if plain_ is not None:  # the key does something
            checkpoint.load(found, plain_)
            assert (plain_(tokens) - logits).abs().max() > 1e-3


PLAIN = {"renormalize_top_k": False, "clip_qkv": None, "rope_scaling": None}


def test_another_form_of_olmoe_trains(tmp_path, small_run, make_config):
    scaling = {"kind": "yarn", "factor": 2.0, "original_context": 16}
    kind = {"n_kv_heads": 2, "clip_qkv": 1.0, "renormalize_top_k": True, "tie_embeddings": True, "rope_scaling": scaling}
    config = make_config(model=kind, train={"tokens": 12 * 128})
    assert train(config, small_run, tmp_path, device="cpu") == 0
    steps = [line["loss"] for line in metrics.read(tmp_path / "metrics.jsonl") if line["kind"] == "step"]
    assert steps[-1] < steps[0] - 0.1


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


def test_import_refuses_tensors_that_are_unknown_not_finite_or_given_twice(tmp_path, make_config, capsys):
    save(tmp_path / "c", make_config(model={"vocab_size": 61}))
    hf.export(tmp_path / "c", tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    whole = load_file(path)

    def told(tensors, **more) -> str:
        save_file({**tensors, **more}, path)
        assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "x")]) == 2
        assert not (tmp_path / "x" / "checkpoints").exists()
        return capsys.readouterr().err

    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    spoilt = whole[name].clone()
    spoilt[2, 5] = float("nan")
    assert f"{name} holds values that are not finite" in told({**whole, name: spoilt})
    extra = "model.layers.0.self_attn.q_proj.bias"
    assert extra in told(whole, **{extra: torch.zeros(32)}) and "no place for" in told(whole, **{extra: torch.zeros(32)})
    assert "model.layers.2.mlp.gate.weight" in told(whole, **{"model.layers.2.mlp.gate.weight": torch.zeros(8, 32)})
    assert "int8" in told({**whole, name: whole[name].to(torch.int8)})
    save_file({name: whole[name]}, tmp_path / "hf" / "zmore.safetensors")
    assert "which model.safetensors holds too" in told(whole)
    (tmp_path / "hf" / "zmore.safetensors").unlink()
    save_file({**whole, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, path)  # old files have it
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "x")]) == 0
