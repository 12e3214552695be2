"""config.json of OlmoeForCausalLM, and the trainer's configuration: each made from the other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from trainer.config import Config, ModelConfig, check
from trainer.errors import TrainerError
from trainer.inference import context_of


def to_hf(config: Config, data: dict[str, Any], dtype: str) -> dict[str, Any]:
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
        "num_key_value_heads": model.kv_heads,
        "num_experts": model.n_experts,
        "num_experts_per_tok": model.top_k,
        "norm_topk_prob": model.renormalize_top_k,
        "router_aux_loss_coef": config.losses.load_balancing,
        "output_router_logits": False,
        "max_position_embeddings": context_of(config, data),
        "rope_theta": model.rope_theta,
        "rope_parameters": _rope_to_hf(model),
        "rms_norm_eps": model.norm_eps,
        "initializer_range": model.init_std,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": model.clip_qkv,
        "tie_word_embeddings": model.tie_embeddings,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": data["eos_id"],
        "pad_token_id": data["pad_id"],
        "torch_dtype": dtype,
    }


def require_form(model: ModelConfig, source: Path) -> None:
    """Raise TrainerError for a model that OlmoeForCausalLM cannot be."""
    wanted = {"routing": "token_choice", "n_shared_experts": 0, "norm": "rms", "qk_norm": True}
    for key, value in wanted.items():
        if getattr(model, key) != value:
            raise TrainerError(f"{source}: OlmoeForCausalLM has no form for model.{key} = {getattr(model, key)!r}")
    if not model.n_experts:
        raise TrainerError(f"{source}: OlmoeForCausalLM has no form for a dense model (model.n_experts = 0)")


def from_hf(values: dict[str, Any], source: Path, tokenizer: Path | None) -> Config:
    """The configuration of a model that config.json describes. Raises TrainerError for what the model cannot be."""
    where = f"{source}/config.json"
    if not isinstance(values, dict):
        raise TrainerError(f"{where}: holds a {type(values).__name__}, not a model's configuration")
    for key in ("hidden_size", "num_attention_heads", "head_dim", "max_position_embeddings", "vocab_size"):
        if (found := values.get(key)) is not None and (type(found) is not int or found < 1):
            raise TrainerError(f"{where}: {key} is {found!r}, and should be a whole number of at least 1")
    for key, wanted, default in (
        ("model_type", "olmoe", None),
        ("attention_bias", False, False),
        ("hidden_act", "silu", "silu"),
    ):
        if (found := values.get(key, default)) != wanted:
            raise TrainerError(f"{where}: {key} is {found!r}, and this trainer has {wanted!r} only")
    width, heads = values.get("hidden_size", 2048), values.get("num_attention_heads", 16)
    head = values.get("head_dim") or (width // heads if heads else 0)
    if not heads or head * heads != width or head % 2:
        raise TrainerError(
            f"{where}: {heads} heads of width {head} with hidden_size {width}; heads must be of even width, and together as "
            "wide as hidden_size"
        )
    rope = _rope(values)
    length = values.get("max_position_embeddings", 4096)
    model = {
        "d_model": width,
        "n_layers": values.get("num_hidden_layers", 16),
        "n_heads": heads,
        "n_kv_heads": _unless(values.get("num_key_value_heads"), heads),
        "n_experts": values.get("num_experts", 64),
        "top_k": values.get("num_experts_per_tok", 8),
        "renormalize_top_k": values.get("norm_topk_prob", False),
        "expert_width": values.get("intermediate_size", 2048),
        "norm_eps": values.get("rms_norm_eps", 1e-5),
        "clip_qkv": None if values.get("clip_qkv") is None else float(values["clip_qkv"]),
        "rope_theta": float(rope.get("rope_theta") or values.get("rope_theta") or 10_000.0),
        "rope_scaling": _rope_from_hf(rope, length, where),
        "tie_embeddings": values.get("tie_word_embeddings", False),
        "init_std": values.get("initializer_range", 0.02),
        **_vocabulary(values.get("vocab_size", 50304), tokenizer),
    }
    asked = {"name": "imported", "model": model, "data": {"sequence_length": length}, "train": {"batch_tokens": length}}
    return check(asked, where)


def _unless(value: int | None, default: int) -> int | None:
    return None if value == default else value


def _vocabulary(rows: int, tokenizer: Path | None) -> dict[str, int]:
    """How many entries the rows are for: the tokenizer's, where padding to a multiple of 128 explains the rest."""
    if tokenizer is not None:
        from tokenizers import Tokenizer

        entries = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
        if -(-entries // 128) * 128 == rows:
            return {"vocab_size": entries, "vocab_multiple": 128}
    return {"vocab_size": rows, "vocab_multiple": 1}


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    """Their RoPE keys: `rope_parameters` since transformers 5, `rope_scaling` before."""
    found = values.get("rope_parameters") or values.get("rope_scaling") or {}
    return found if isinstance(found, dict) else {"rope_type": found}


def _rope_to_hf(model: ModelConfig) -> dict[str, Any]:
    scaling, base = model.rope_scaling, {"rope_theta": model.rope_theta}
    if scaling is None:
        return {"rope_type": "default", **base}
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor, **base}
    common = {"factor": scaling.factor, "original_max_position_embeddings": scaling.original_context, **base}
    if scaling.kind == "llama3":
        return {
            "rope_type": "llama3",
            "low_freq_factor": scaling.slow_turns,
            "high_freq_factor": scaling.fast_turns,
            **common,
        }
    return {
        "rope_type": "yarn",
        "beta_slow": scaling.slow_turns,
        "beta_fast": scaling.fast_turns,
        "attention_factor": scaling.temperature,
        "truncate": scaling.whole_pairs,
        **common,
    }


def _rope_from_hf(rope: dict[str, Any], length: int, where: str) -> dict[str, Any] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise TrainerError(f"{where}: RoPE of type {kind!r}; this trainer has default, linear, llama3 and yarn")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise TrainerError(f"{where}: partial_rotary_factor is {rope['partial_rotary_factor']}; heads are turned whole here")
    needed = ["factor"] + (["original_max_position_embeddings"] if kind != "linear" else [])
    needed += ["low_freq_factor", "high_freq_factor"] if kind == "llama3" else []
    numbers = (*needed, "beta_slow", "beta_fast", "attention_factor", "mscale", "mscale_all_dim")
    if missing := [key for key in needed if key not in rope]:
        raise TrainerError(f"{where}: RoPE of type {kind!r} without {' and '.join(missing)}")
    if wrong := [key for key in numbers if not isinstance(rope.get(key), int | float | None)]:
        raise TrainerError(f"{where}: RoPE's {wrong[0]} is {rope[wrong[0]]!r}, and should be a number")
    original = int(rope.get("original_max_position_embeddings") or length)
    factor = float(rope["factor"] or length / original)
    scaling: dict[str, Any] = {"kind": kind, "factor": factor, "original_context": original}
    if kind == "llama3":
        scaling |= {"slow_turns": float(rope["low_freq_factor"]), "fast_turns": float(rope["high_freq_factor"])}
    elif kind == "yarn":
        scaling |= {
            "slow_turns": float(rope.get("beta_slow") or 1),
            "fast_turns": float(rope.get("beta_fast") or 32),
            "temperature": _temperature(rope, factor),
            "whole_pairs": rope.get("truncate", True),
        }
    return scaling


def _temperature(rope: dict[str, Any], factor: float) -> float:
    """What cosines and sines are multiplied by: stated, or 0.1 ln(factor) + 1 (YaRN, section 3.4) for a ratio of scales."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
    return scale(1.0)
