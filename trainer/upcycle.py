"""Sparse upcycling: a mixture of experts that begins as copies of a dense model's MLP (Komatsuzaki et al. 2022,
arXiv 2212.05055), with part of each copy replaced by noise so that experts differ (OLMoE, section 4.1.5)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from trainer import checkpoint
from trainer.config import Config, plain, stored_config
from trainer.errors import TrainerError
from trainer.model import Olmoe, fill_parameter
from trainer.processes import Processes


def upcycle(source: Path, config: Config, out: Path, noise: float = 0.5) -> Path:
    """Write a checkpoint of `config`'s model, made from a dense checkpoint, under `out`/checkpoints; returns it.

    Each expert is the dense MLP with a part `noise` of its values drawn anew from a normal distribution of the
    configuration's init_std. Routers are initialised, everything else is copied; there is no optimizer state.
    Raises TrainerError if `source` is not dense, or differs from the configuration in more than its MLPs.
    """
    if not 0.0 <= noise <= 1.0:
        raise TrainerError(f"noise is {noise}: it is the part of each expert's values that is replaced, 0 to 1")
    source = checkpoint.find(source)
    checkpoint.verify(source)
    state = checkpoint.read_state(source)
    dense = stored_config(state["config"], str(source)).model
    if dense.n_experts:
        raise TrainerError(f"{source}: is not dense (model.n_experts = {dense.n_experts})")
    target = config.model.model_copy(update={"vocab_size": dense.vocab_size})
    if not target.n_experts or target.n_shared_experts > 1:
        raise TrainerError("upcycling makes a model of routed experts with at most one shared one beside them")
    own = {"n_experts", "top_k", "n_shared_experts", "routing", "expert_capacity", "renormalize_top_k"}
    for key, value in plain(dense).items():
        if key not in own and plain(target)[key] != value:
            raise TrainerError(f"{source}: model.{key} is {value}, and {plain(target)[key]} in the configuration")
    read, seed = checkpoint.reader(source), config.train.seed
    model = Olmoe(target)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("router.weight_ED"):
                fill_parameter(name, parameter, target, seed)
            elif name.endswith(("mlp.gate_up_EGD", "mlp.down_EDF")):
                one = read(name.replace("_EGD", "_GD").replace("_EDF", "_DF"))
                for expert in range(target.n_experts):
                    parameter[expert] = _disturb(one, noise, target.init_std, f"{seed}:{name}:{expert}")
            else:
                parameter.copy_(read(name.replace(".shared", "")))
    written = config.model_copy(update={"model": target})
    state = {"step": 0, "updates": 0, "tokens": 0, "position": 0, "config": plain(written), "data": state["data"]}
    saver = checkpoint.Saver(out / "checkpoints", 1, Processes(0, 1, torch.device("cpu")), asynchronous=False)
    tokenizer = source / "tokenizer.json"
    saver.save(model, None, state, tokenizer if tokenizer.is_file() else None)
    return out / "checkpoints" / checkpoint.step_name(0)


def _disturb(values: Tensor, part: float, std: float, name: str) -> Tensor:
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1)
    chosen = torch.rand(values.shape, generator=generator) < part
    return torch.where(chosen, torch.empty_like(values).normal_(0.0, std, generator=generator), values)
