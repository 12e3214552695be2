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
from trainer.config import Config, ModelConfig, plain, stored_config
from trainer.errors import TrainerError
from trainer.hf_config import from_hf, require_form, to_hf
from trainer.inference import context_of
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
    config = stored_config(state["config"], str(source))
    require_form(config.model, source)
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
    _write_json(out / "config.json", to_hf(config, state["data"], dtype))
    _write_json(
        out / "generation_config.json",
        {"eos_token_id": state["data"]["eos_id"], "pad_token_id": state["data"]["pad_id"]},
    )
    if (source / "tokenizer.json").is_file():
        _write_tokenizer(source / "tokenizer.json", out, config, state["data"])


def import_(source: Path, out: Path) -> Path:
    """Turn a folder that `save_pretrained` wrote into a checkpoint without optimizer state, under `out`/checkpoints.

    Returns the checkpoint's folder. Raises TrainerError if a file is missing or damaged, if the configuration asks for
    something that the model does not have, and for a tensor that is unknown, of another shape, or not finite.
    """
    values = _read_json(source / "config.json")
    tokenizer = source / "tokenizer.json"
    config = from_hf(values, source, tokenizer if tokenizer.is_file() else None)
    where = _locate(source)
    used: set[str] = set()

    def read(name: str) -> Tensor:
        if name not in where:
            raise TrainerError(f"{source}: has no tensor {name}")
        used.add(name)
        with safe_open(where[name], "pt") as file:
            tensor = file.get_tensor(name)
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            raise TrainerError(f"{source}: {name} is of type {tensor.dtype}, which is not a weight as it was trained")
        if not bool(tensor.isfinite().all()):
            raise TrainerError(f"{source}: {name} holds values that are not finite (NaN or infinity)")
        return tensor.float()

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
    if config.model.tie_embeddings and _HEAD in where and not torch.equal(read(_HEAD), model.embedding_VD):
        raise TrainerError(f"{source}: config.json ties the embeddings, and {_HEAD} is another matrix")
    unknown = [name for name in where if name not in used and not name.endswith(_MADE_ANEW)]
    if unknown:
        told = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise TrainerError(f"{source}: has tensors that this model has no place for: {told}")
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
        kv = config.kv_heads * config.head_width
        qkv = read(ours + "attention.qkv.weight").split([config.d_model, kv, kv])
        for part, tensor in zip("qkv", qkv, strict=True):
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
    if not config.tie_embeddings:
        yield _HEAD, read("head_VD")


_HEAD = "lm_head.weight"
_MADE_ANEW = "rotary_emb.inv_freq"  # old files carry it; it follows from the configuration
_NORMS = {
    "attention_norm.weight_D": "input_layernorm.weight",
    "mlp_norm.weight_D": "post_attention_layernorm.weight",
    "attention.q_norm.weight_D": "self_attn.q_norm.weight",
    "attention.k_norm.weight_D": "self_attn.k_norm.weight",
}
_OTHERS = {
    "embedding_VD": "model.embed_tokens.weight",
    "final_norm.weight_D": "model.norm.weight",
    "head_VD": _HEAD,
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


def _locate(folder: Path) -> dict[str, Path]:
    where: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                names = list(file.keys())
        except (OSError, SafetensorError) as error:
            raise TrainerError(f"{path}: cannot be read ({error})") from None
        if twice := next((name for name in names if name in where), None):
            raise TrainerError(f"{path}: holds {twice}, which {where[twice].name} holds too")
        where |= dict.fromkeys(names, path)
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
            "model_max_length": context_of(config, data),
            "clean_up_tokenization_spaces": False,
            **_chat(tokenizer.id_to_token(data["eos_id"]), data.get("chat_template")),
        },
    )


def _chat(eos: str, template: str | None) -> dict[str, str]:
    """The chat template of a model that was fine-tuned with one, and the token that it begins with."""
    return {} if template is None else {"bos_token": eos, "chat_template": template}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainerError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
