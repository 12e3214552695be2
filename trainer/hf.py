"""Checkpoints to and from Hugging Face's OlmoeForCausalLM folders (config.json, safetensors, tokenizer).

Written with one tensor for each expert, the form that transformers 4 and 5 both read; read in that form and fused
(gate_up_proj [E, 2F, D] with the gate's rows first, down_proj [E, D, F]).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer import checkpoint
from trainer.config import Config, DataConfig, ModelConfig, TrainConfig, check, plain
from trainer.errors import TrainerError
from trainer.model import Olmoe
from trainer.processes import Processes

FILE_BYTES = 5 << 30
"""Weights go into files of at most about this size."""


def export(source: Path, out: Path, dtype: str = "float32") -> None:
    """Write a checkpoint as a folder that `OlmoeForCausalLM.from_pretrained` loads.

    Raises TrainerError if the checkpoint is damaged, if its architecture has no such form, or if `out` has content.
    """
    source = checkpoint.find(source)
    checkpoint.verify(source)
    state = checkpoint.read_state(source)
    config = check(state["config"], str(source))
    _require_olmoe(config.model, source)
    _empty_folder(out)
    read = checkpoint.reader(source)
    files, parts, size, total = {}, {}, 0, 0
    for name, tensor in _to_hf(config.model, read):
        tensor = tensor.to(getattr(torch, dtype)).contiguous()
        bytes_ = tensor.numel() * tensor.element_size()
        if parts and size + bytes_ > FILE_BYTES:
            _write_part(out, parts, files)
            parts, size = {}, 0
        parts[name] = tensor
        size, total = size + bytes_, total + bytes_
    _write_part(out, parts, files)
    _name_parts(out, files, total)
    _write_json(out / "config.json", hf_config(config, state["data"], dtype))
    _write_json(
        out / "generation_config.json",
        {"eos_token_id": state["data"]["eos_id"], "pad_token_id": state["data"]["pad_id"]},
    )
    if (source / "tokenizer.json").is_file():
        _write_tokenizer(source / "tokenizer.json", out, config, state["data"])


def hf_config(config: Config, data: dict[str, Any], dtype: str) -> dict[str, Any]:
    """config.json. intermediate_size and router_aux_loss_coef are always written: their defaults are not OLMoE's."""
    model = config.model
    return {
        "architectures": ["OlmoeForCausalLM"],
        "model_type": "olmoe",
        "vocab_size": model.padded_vocab,
        "hidden_size": model.d_model,
        "intermediate_size": model.expert_width,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_heads,
        "num_experts": model.n_experts,
        "num_experts_per_tok": model.top_k,
        "norm_topk_prob": False,
        "router_aux_loss_coef": config.losses.load_balancing,
        "output_router_logits": False,
        "max_position_embeddings": config.data.sequence_length,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "rms_norm_eps": model.norm_eps,
        "initializer_range": model.init_std,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": None,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": data["eos_id"],
        "pad_token_id": data["pad_id"],
        "torch_dtype": dtype,
    }


def import_(source: Path, out: Path) -> Path:
    """Turn a folder that `save_pretrained` wrote into a checkpoint without optimizer state, under `out`/checkpoints.

    Returns the checkpoint's folder. Raises TrainerError if a file is missing or damaged, or if the configuration asks
    for something that OLMoE does not have.
    """
    values = _read_json(source / "config.json")
    tokenizer = source / "tokenizer.json"
    config = _from_hf_config(values, source, tokenizer if tokenizer.is_file() else None)
    where = _locate(source)

    def read(name: str) -> Tensor:
        if name not in where:
            raise TrainerError(f"{source}: has no tensor {name}")
        with safe_open(where[name], "pt") as file:
            return file.get_tensor(name).float()

    model = Olmoe(config.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = _from_hf(name, config.model, read, where)
            if tensor.shape != parameter.shape:
                raise TrainerError(
                    f"{source}: {name} would have the shape {list(tensor.shape)}, not {list(parameter.shape)} as "
                    "config.json says"
                )
            parameter.copy_(tensor)
    eos = values.get("eos_token_id")
    data = {
        "fingerprint": None,
        "vocab_size": config.model.vocab_size,
        "eos_id": eos[0] if isinstance(eos, list) else eos,
        "pad_id": values.get("pad_token_id"),
    }
    state = {"step": 0, "updates": 0, "tokens": 0, "position": 0, "config": plain(config), "data": data}
    saver = checkpoint.Saver(out / "checkpoints", 1, Processes(0, 1, torch.device("cpu")), asynchronous=False)
    saver.save(model, None, state, tokenizer if tokenizer.is_file() else None)
    return out / "checkpoints" / checkpoint.step_name(0)


def _to_hf(config: ModelConfig, read: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield "model.embed_tokens.weight", read("embedding_VD")
    for layer in range(config.n_layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        for name, other in _NORMS.items():
            yield theirs + other, read(ours + name)
        for part, tensor in zip("qkv", read(ours + "attention.qkv.weight").chunk(3), strict=True):
            yield f"{theirs}self_attn.{part}_proj.weight", tensor
        yield f"{theirs}self_attn.o_proj.weight", read(ours + "attention.out.weight")
        yield f"{theirs}mlp.gate.weight", read(ours + "mlp.router.weight_ED")
        gate_up_EGD, down_EDF = read(ours + "mlp.gate_up_EGD"), read(ours + "mlp.down_EDF")
        for expert in range(config.n_experts):
            gate_FD, up_FD = gate_up_EGD[expert].chunk(2)
            parts = {"gate": gate_FD, "up": up_FD, "down": down_EDF[expert]}
            for part, tensor in parts.items():
                yield f"{theirs}mlp.experts.{expert}.{part}_proj.weight", tensor
    yield "model.norm.weight", read("final_norm.weight_D")
    yield "lm_head.weight", read("head_VD")


_NORMS = {
    "attention_norm.weight_D": "input_layernorm.weight",
    "mlp_norm.weight_D": "post_attention_layernorm.weight",
    "attention.q_norm.weight_D": "self_attn.q_norm.weight",
    "attention.k_norm.weight_D": "self_attn.k_norm.weight",
}
_OTHERS = {
    "embedding_VD": "model.embed_tokens.weight",
    "final_norm.weight_D": "model.norm.weight",
    "head_VD": "lm_head.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "mlp.router.weight_ED": "mlp.gate.weight",
}


def _from_hf(name: str, config: ModelConfig, read: Callable[[str], Tensor], where: dict[str, Path]) -> Tensor:
    """One of our parameters, put together from theirs."""
    if not name.startswith("layers."):
        return read(_OTHERS[name])
    _, layer, rest = name.split(".", 2)
    at = f"model.layers.{layer}."
    if rest == "attention.qkv.weight":
        return torch.cat([read(f"{at}self_attn.{part}_proj.weight") for part in "qkv"])
    if rest in ("mlp.gate_up_EGD", "mlp.down_EDF"):
        fused = f"{at}mlp.experts.{'gate_up' if rest == 'mlp.gate_up_EGD' else 'down'}_proj"
        if fused in where:
            return read(fused)
        parts = ("gate", "up") if rest == "mlp.gate_up_EGD" else ("down",)
        experts = (f"{at}mlp.experts.{expert}." for expert in range(config.n_experts))
        return torch.stack([torch.cat([read(f"{one}{part}_proj.weight") for part in parts]) for one in experts])
    return read(at + (_NORMS.get(rest) or _OTHERS[rest]))


def _from_hf_config(values: dict[str, Any], source: Path, tokenizer: Path | None) -> Config:
    def must(key: str, wanted: Any, default: Any) -> None:
        found = values.get(key, default)
        if found != wanted:
            raise TrainerError(f"{source}/config.json: {key} is {found!r}, and OLMoE has {wanted!r}")

    must("model_type", "olmoe", None)
    must("norm_topk_prob", False, False)
    must("attention_bias", False, False)
    must("tie_word_embeddings", False, False)
    must("clip_qkv", None, None)
    must("hidden_act", "silu", "silu")
    heads = values.get("num_attention_heads", 16)
    if values.get("num_key_value_heads") not in (None, heads):
        raise TrainerError(f"{source}/config.json: num_key_value_heads is not num_attention_heads, as OLMoE has it")
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise TrainerError(f"{source}/config.json: scaled RoPE ({rope}) is not what OLMoE has")
    rows = values.get("vocab_size", 50304)
    vocab = {"vocab_size": rows, "vocab_multiple": 1}
    if tokenizer is not None:
        from tokenizers import Tokenizer

        entries = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
        if -(-entries // 128) * 128 == rows:
            vocab = {"vocab_size": entries, "vocab_multiple": 128}
    model = {
        "d_model": values.get("hidden_size", 2048),
        "n_layers": values.get("num_hidden_layers", 16),
        "n_heads": heads,
        "n_experts": values.get("num_experts", 64),
        "top_k": values.get("num_experts_per_tok", 8),
        "expert_width": values.get("intermediate_size", 2048),
        "norm_eps": values.get("rms_norm_eps", 1e-5),
        "rope_theta": float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0),
        "init_std": values.get("initializer_range", 0.02),
        **vocab,
    }
    length = values.get("max_position_embeddings", 4096)
    return Config(
        name="imported",
        model=ModelConfig(**model),
        data=DataConfig(sequence_length=length),
        train=TrainConfig(batch_tokens=length),
    )


def _require_olmoe(model: ModelConfig, source: Path) -> None:
    wanted = {
        "routing": "token_choice",
        "n_shared_experts": 0,
        "norm": "rms",
        "qk_norm": True,
    }
    for key, value in wanted.items():
        if getattr(model, key) != value:
            raise TrainerError(f"{source}: OlmoeForCausalLM has no form for model.{key} = {getattr(model, key)!r}")
    if not model.n_experts:
        raise TrainerError(f"{source}: OlmoeForCausalLM has no form for a dense model (model.n_experts = 0)")


def _locate(folder: Path) -> dict[str, Path]:
    where: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                where |= dict.fromkeys(file.keys(), path)
        except (OSError, SafetensorError) as error:
            raise TrainerError(f"{path}: cannot be read ({error})") from None
    if not where:
        raise TrainerError(f"{folder}: holds no .safetensors file")
    return where


def _empty_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainerError(f"{out}: cannot be written ({error.strerror})") from None
    if any(out.iterdir()):
        raise TrainerError(f"{out}: is not empty; name a new folder")


def _write_part(out: Path, parts: dict[str, Tensor], files: dict[str, list[str]]) -> None:
    name = f"part-{len(files):05d}"
    try:
        save_file(parts, out / name, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        shutil.rmtree(out, ignore_errors=True)
        raise TrainerError(f"{out}: the weights could not be written ({error})") from None
    files[name] = list(parts)


def _name_parts(out: Path, files: dict[str, list[str]], total: int) -> None:
    """Rename the parts now that their number is known, with an index if there are several."""
    if len(files) == 1:
        (out / "part-00000").rename(out / "model.safetensors")
        return
    index = {}
    for number, (part, names) in enumerate(files.items(), start=1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        (out / part).rename(out / name)
        index |= dict.fromkeys(names, name)
    _write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _write_tokenizer(path: Path, out: Path, config: Config, data: dict[str, Any]) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    shutil.copyfile(path, out / "tokenizer.json")
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": tokenizer.id_to_token(data["eos_id"]),
            "pad_token": tokenizer.id_to_token(data["pad_id"]),
            "model_max_length": config.data.sequence_length,
            "clean_up_tokenization_spaces": False,
        },
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainerError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
