"""Kernels of other libraries in place of ours: `train.loss_kernel` and `train.expert_kernel`.

A library is taken where it is installed and, tried at start on random rows of this model's width, gives our values and
gradients; `fastest` takes what takes least time of those that do, ours among them. Ours is the default: with it a
training's bytes depend on no library and on no timing.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer import float8
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.losses import IGNORED, Rule, cross_entropy_sum, softmax_to_compile
from trainer.model import Criterion, Olmoe
from trainer.moe import Experts, MoE, Router, Routing, apply_experts
from trainer.processes import Processes

ROWS = 4096
"""Most rows on which kernels are tried and timed."""

Work = Callable[[], list[Tensor]]
"""A pass forward and backward: its value and its gradients."""


def use(model: Olmoe, config: Config, processes: Processes) -> list[str]:
    """Let the model work with the kernels that the configuration asks for. Returns sentences that say what was chosen.

    Raises TrainerError for one that is not installed, that does not work here, or that gives something else than ours.
    """
    train, told = config.train, []
    if train.float8:
        float8.use(model, processes.device)
        how = "" if processes.device.type == "cuda" else ", emulated on this device"
        told.append(f"products of attention and experts in float8{how}")
    for key, (made, work) in _candidates(config, processes).items():
        asked = getattr(train, key)
        if asked == "own":
            name, kernel = asked, made["own"]()
        else:
            name, kernel = _chosen(key, asked, made, work, processes)
            told.append(f"train.{key}: {name}")
        if key == "loss_kernel":
            model.criterion = kernel
        elif name != "own":
            for module in model.modules():
                if isinstance(module, MoE):
                    module.experts = kernel
    return told


def timings(config: Config, processes: Processes) -> Iterator[tuple[str, str, float | str]]:
    """Of each key and each kernel that it may name: seconds of a pass forward and backward, or why it cannot be taken."""
    for key, (made, work) in _candidates(config, processes).items():
        expected = work(made["own"]())()
        for name in made:
            try:
                yield key, name, _seconds(work(_tried(made[name], work, expected)), processes.device)
            except UNFIT as error:
                yield key, name, _reason(error)


Maker = Callable[[], Any]
UNFIT = ImportError, RuntimeError, AttributeError, TypeError, ValueError, AssertionError
"""What a library raises that is not there, or that does not fit this device, these shapes or this interface."""


def _candidates(config: Config, processes: Processes) -> dict[str, tuple[dict[str, Maker], Callable[[Any], Work]]]:
    """Of each key the kernels that it may name, ours first, and what they are tried with."""
    train, rule = config.train, Rule()
    if train.compile and processes.device.type == "cuda":
        rule.softmax = torch.compile(softmax_to_compile)
    own = functools.partial(cross_entropy_sum, chunk_mib=train.loss_chunk_mib, rule=rule)
    losses: dict[str, Maker] = {"own": lambda: own, "liger": _liger}
    experts: dict[str, Maker] = {"own": lambda: apply_experts, "scattermoe": _scattermoe, "sonicmoe": _sonicmoe}
    return {
        "loss_kernel": (losses, _loss_work(config, processes)),
        "expert_kernel": (experts, _expert_work(config, processes)),
    }


def _chosen(
    key: str, asked: str, made: dict[str, Maker], work: Callable[[Any], Work], processes: Processes
) -> tuple[str, Any]:
    """The kernel that is asked for, by name, after it was tried; or the fastest of those that work."""
    names = list(made) if asked == "fastest" else [asked]
    expected = work(made["own"]())()
    kernels, seconds = {}, []
    for name in names:
        try:
            kernels[name] = _tried(made[name], work, expected)
        except UNFIT as error:
            if asked != "fastest":
                raise TrainerError(f"train.{key} {name}: {_reason(error)}; leave it out, or set another") from None
            seconds.append(math.inf)
        else:
            seconds.append(_seconds(work(kernels[name]), processes.device) if len(names) > 1 else 0.0)
    taken = processes.sum(torch.tensor(seconds, device=processes.device)).tolist()  # so that all processes choose alike
    name = names[taken.index(min(taken))]
    return name, kernels[name]


def _tried(maker: Maker, work: Callable[[Any], Work], expected: Sequence[Tensor]) -> Any:
    kernel = maker()
    _require_equal(work(kernel)(), expected)
    return kernel


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _require_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Raise ValueError where a value or a gradient is another than ours, beyond what rounding does."""
    rounding = 3e-2 if any(ours.dtype == torch.bfloat16 for ours in expected) else 1e-4
    for number, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
        what, within = "gradient" if number else "value", min(rounding, 1e-3) if ours.dim() == 0 else rounding
        off = (theirs.float() - ours.float()).norm() / ours.float().norm().clamp(min=1e-30)
        if theirs.dtype != ours.dtype or theirs.shape != ours.shape or not off.item() <= within:
            raise ValueError(f"its {what} is not ours here (off by {off.item():.1e}, in {theirs.dtype})")


def _seconds(work: Work, device: torch.device) -> float:
    """Seconds of a pass, the least of five."""
    least = math.inf
    for _ in range(6):  # the first one warms up
        _wait(device)
        begun = time.perf_counter()
        work()
        _wait(device)
        least = min(least, time.perf_counter() - begun)
    return least


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rows(config: Config) -> int:
    return min(ROWS, config.train.micro_batch * config.data.sequence_length)


def _random(processes: Processes, config: Config, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal values in the type of computation, the same in every process; their gradients are asked for."""
    chance, dtype = torch.Generator(processes.device).manual_seed(0), getattr(torch, config.train.precision)
    made = (torch.randn(shape, generator=chance, device=processes.device) for shape in shapes)
    return [one.mul(shape[-1] ** -0.5).to(dtype).requires_grad_() for one, shape in zip(made, shapes, strict=True)]


def _loss_work(config: Config, processes: Processes) -> Callable[[Criterion], Work]:
    rows, vocabulary = _rows(config), config.model.padded_vocab

    def work(criterion: Criterion) -> Work:
        hidden, head = _random(processes, config, (rows, config.model.d_model), (vocabulary, config.model.d_model))
        targets = torch.arange(rows, device=hidden.device) % vocabulary
        targets[::7] = IGNORED

        def run() -> list[Tensor]:
            loss = criterion(hidden * 8, head, targets)
            return [loss.detach(), *torch.autograd.grad(loss * 0.5, [hidden, head])]

        return run

    return work


def _expert_work(config: Config, processes: Processes) -> Callable[[Experts], Work]:
    model, rows = config.model, _rows(config)

    def work(experts: Experts) -> Work:
        wide = (model.n_experts, 2 * model.expert_width, model.d_model)
        narrow = (model.n_experts, model.d_model, model.expert_width)
        router = (model.n_experts, model.d_model)
        x, gate_up, down, weight = _random(processes, config, (rows, model.d_model), wide, narrow, router)
        picks = Router(model).to(processes.device)
        picks.weight_ED.data = weight.detach().float()
        with torch.no_grad():
            routing, _ = picks(x * 8, rows)
        weights = routing.weight_of_slot.clone().requires_grad_()

        def run() -> list[Tensor]:
            out = experts(x * 8, routing._replace(weight_of_slot=weights), gate_up, down)
            slope = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=torch.float32).view_as(out)
            gradients = torch.autograd.grad(out, [x, gate_up, down, weights], slope.to(out.dtype))
            return [out.detach(), *gradients]

        return run

    return work


def _import(name: str, install: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"it cannot be imported ({error}); {install}") from None


def _liger() -> Criterion:
    """Liger's fused linear cross-entropy (BSD 2-clause): chunks as ours, and softmax with its gradient in one kernel. It
    waits for the device once a micro-batch, to count the targets."""
    fused = _import("liger_kernel.transformers.functional", "pip install liger-kernel").liger_fused_linear_cross_entropy

    def criterion(hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
        found = fused(hidden_ND, head_VD, targets_N, ignore_index=IGNORED, reduction="sum", accum_dtype=torch.float32)
        return found[0] if isinstance(found, tuple) else found

    return torch.compiler.disable(criterion)


def _scattermoe() -> Experts:
    """ScatterMoE's products (arXiv 2403.08245, Apache 2.0), which read tokens where they are instead of copying them."""
    product = _import("scattermoe", "pip install git+https://github.com/shawntan/scattermoe").parallel_linear

    def experts(x_ND: Tensor, routing: Routing, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
        order_S, expert_S, slot_NK = _in_slots(routing)
        ends_E = routing.counts.cumsum(0)
        top_k = slot_NK.shape[1]
        hidden_SG = product(x_ND, gate_up_EGD.mT, top_k, expert_S, order_S, ends_E, grouped_out=True)
        gate_SF, up_SF = hidden_SG.chunk(2, -1)
        act_SF = (F.silu(gate_SF) * up_SF * routing.weight_of_slot[:, None]).to(x_ND.dtype)
        return (
            product(act_SF, down_EDF.mT, 1, expert_S, order_S, ends_E, grouped_in=True).view(*slot_NK.shape, -1).sum(1)
        )

    return torch.compiler.disable(experts)


def _sonicmoe() -> Experts:
    """SonicMoE's fused experts (arXiv 2512.14080, Apache 2.0), for Hopper and later."""
    install = "pip install git+https://github.com/Dao-AILab/sonic-moe (Python 3.12, CUDA 12.9)"
    fused = _import("sonicmoe.functional", install).moe_general_routing_inputs
    kinds = _import("sonicmoe.enums", install).ActivationType
    known = inspect.signature(fused).parameters
    halves = next((name for name in ("concat_layout", "is_concatenated_gate_up") if name in known), None)
    if halves is None:
        raise ImportError("this version takes the rows of gate and up in turns; a later one is needed")

    def experts(x_ND: Tensor, routing: Routing, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
        _, expert_S, slot_NK = _in_slots(routing)
        choice = slot_NK.flatten()
        token = torch.arange(len(x_ND), device=x_ND.device).repeat_interleave(slot_NK.shape[1]).int()
        out_ND, _ = fused(
            x_ND,
            routing.weight_of_slot[choice].to(x_ND.dtype),
            token,
            expert_S[choice].int(),
            gate_up_EGD.permute(1, 2, 0),
            None,
            down_EDF.permute(1, 2, 0),
            None,
            E=len(down_EDF),
            stream_id=torch.cuda.current_stream(x_ND.device).cuda_stream if x_ND.is_cuda else 0,
            activation_type=kinds.SWIGLU,
            is_inference_mode_enabled=not torch.is_grad_enabled(),
            **{halves: True},
        )
        return out_ND

    return torch.compiler.disable(experts)


def _in_slots(routing: Routing) -> tuple[Tensor, Tensor, Tensor]:
    """Of each slot its place among all choices (token by token) and its expert; and the slot of each choice [N, K]."""
    slot_NK, slots = routing.slot_of_choice, len(routing.token_of_slot)
    if slot_NK is None:
        raise ValueError("it takes tokens that chose their experts")
    order_S = torch.empty_like(routing.token_of_slot)
    order_S[slot_NK.flatten()] = torch.arange(slots, device=order_S.device)
    numbers = torch.arange(len(routing.counts), device=order_S.device)
    return order_S, numbers.repeat_interleave(routing.counts, output_size=slots), slot_NK
